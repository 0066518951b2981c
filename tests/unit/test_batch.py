"""Shares of a batch: which entries stay together, and where their chunks end."""

from typing import Any

import pytest

from longrun.key_ring import KeyRing
from longrun.store.batch import (
    Share,
    append_columns,
    event_columns,
    first_steps,
    is_small,
    last_chunks,
    of_events_alone,
    share_of,
)
from longrun.store.records import Ending, Step, Taken
from longrun.store.run_log import RunLog
from longrun.store.sealing import Sealing

CHUNK = 1000


def run_log(first: int = 1, response_id: str = "resp_1", attempt: int = 1) -> RunLog:
    return RunLog(
        response_id, attempt, first, wake=lambda _: None, buffer_bytes=1, max_item_bytes=1 << 30
    )


def line(size: int) -> bytes:
    """An event of so many bytes, with a number of one digit."""
    return b'{"type":"x","sequence_number":0,"x":"%b"}' % (b"x" * (size - 39))


def step(key: str, result: str = "{}") -> Step:
    return Step("", "tool", key, "{}", result)


def taken(run: RunLog, limit: int = 1 << 30) -> Share:
    share = share_of(run, limit, CHUNK)
    assert share is not None
    return share


def test_nothing_pending_is_no_share() -> None:
    assert share_of(run_log(), 100, CHUNK) is None


def test_small_entries_share_a_chunk_and_large_ones_have_their_own() -> None:
    run = run_log()
    for size in (300, 300, 300, 300, 2500, 300):
        run.append([line(size // 2)] * 2, steps=[step("")])
    share = taken(run)
    assert [len(piece.entries) for piece in share.pieces] == [3, 1, 1, 1]
    assert [(chunk.first, chunk.last) for chunk in share.chunks] == [
        (1, 6),
        (7, 8),
        (9, 9),
        (10, 10),
        (11, 12),
    ]
    assert share.first == 1


def test_cutting_a_share_moves_no_end_of_a_chunk() -> None:
    """An append that was given up, and what is sent in its place, have their first key in
    common."""
    run = run_log(first=7)
    for _ in range(20):
        run.append([line(100)] * 3, steps=[step("")])
    share = taken(run)
    cut = [Share(run, [piece]) for piece in share.pieces]
    assert [chunk for each in cut for chunk in each.chunks] == share.chunks
    assert [each.first for each in cut[1:]] == [each.chunks[-1].last + 1 for each in cut[:-1]]


def test_what_a_step_or_an_item_weighs_counts_too() -> None:
    run = run_log()
    run.append([line(50)], items=[(0, "y" * 600)])
    run.append([line(50)], steps=[step("1", "z" * 600)])
    run.append([line(50)], items=[(1, "y" * 100)])
    share = taken(run)
    assert [len(piece.entries) for piece in share.pieces] == [1, 2]
    assert share.size == 3 * 50 + 600 + 600 + 100


def test_of_more_than_the_limit_the_rest_waits() -> None:
    run = run_log()
    for _ in range(5):
        run.append([line(400)], steps=[step("")])
    assert len(list(taken(run, 900).entries)) == 2
    assert len(list(taken(run, 1).entries)) == 1
    assert taken(run).first == 4


def test_the_columns_name_each_run_by_its_number() -> None:
    one, two = run_log(first=5), run_log(first=3, attempt=2)
    one.append([line(50), line(51)], items=[(0, "{}")])
    two.append([], steps=[step("call_1")])
    two.append([line(52)], ending=Ending("completed", "{}"))
    columns = append_columns([taken(one), taken(two)])
    at_5 = line(50).replace(b":0", b":5") + b"\n" + line(51).replace(b":0", b":6")
    at_3 = line(52).replace(b":0", b":3")
    assert columns["response_ids"] == ["resp_1", "resp_1"]
    assert columns["attempts"] == [1, 2]
    assert columns["firsts"] == [5, 3]
    assert (columns["chunk_runs"], columns["chunk_firsts"]) == ([1, 2], [5, 3])
    assert (columns["chunk_lasts"], columns["chunk_data"]) == ([6, 3], [at_5, at_3])
    assert (columns["item_runs"], columns["step_runs"], columns["ending_runs"]) == ([1], [2], [2])


def test_what_tells_whether_a_share_is_committed() -> None:
    with_events, without = run_log(first=5), run_log(first=9, attempt=2)
    with_events.append([line(50), line(51)], steps=[step("call_1")])
    without.append([], steps=[step("call_2"), step("call_3")])
    shares = [taken(with_events), taken(without)]
    assert last_chunks(shares) == [["resp_1"], [6], [1]]
    assert first_steps(shares) == [["resp_1"], [""], ["tool"], ["call_2"], [2]]


def test_a_batch_of_events_alone_has_no_columns_for_anything_else() -> None:
    alone, with_step = run_log(), run_log()
    alone.append([line(50)])
    with_step.append([line(50)], steps=[step("call_1")])
    short, whole = append_columns([taken(alone)]), append_columns([taken(with_step)])
    for columns in (short, whole):
        of_events_alone(columns)
    assert (short["item_runs"], short["step_results"], short["ending_statuses"]) == (None,) * 3
    assert short["chunk_runs"] == [1]
    assert (whole["item_runs"], whole["step_runs"], whole["ending_runs"]) == ([], [1], [])


def test_what_is_small_is_one_chunk_of_each_run_and_nothing_else() -> None:
    one, two = run_log(first=5), run_log(first=3, attempt=2)
    one.append([line(50), line(51)])
    two.append([line(52)])
    batch = [taken(one), taken(two)]
    assert is_small(batch)
    columns, whole = event_columns(batch, Sealing(KeyRing())), append_columns(batch)
    for name in ("response_ids", "attempts", "firsts"):
        assert columns[name] == whole[name]
    assert (columns["lasts"], columns["data"]) == (whole["chunk_lasts"], whole["chunk_data"])


@pytest.mark.parametrize(
    "more",
    [
        {"items": [(0, "{}")]},
        {"steps": [step("call_1")]},
        {"ending": Ending("completed", "{}")},
        {"taken": Taken(0, 1, 0, 1)},
    ],
    ids=lambda more: next(iter(more)),
)
def test_what_brings_more_than_events_is_not_small(more: dict[str, Any]) -> None:
    run = run_log()
    run.append([line(50)], **more)
    assert not is_small([taken(run)])


def test_what_is_large_is_not_small() -> None:
    run = run_log()
    run.append([line(70_000)])
    assert not is_small([taken(run)])
