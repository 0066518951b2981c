"""Deltas that wait for a commit: merged or not, they say the same, and no number is left out."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longrun.assembly.assembler import Assembler
from longrun.assembly.kinds import DELTAS
from longrun.pending import ENVELOPE, LONGEST, Delta, Pending, lines, numbered, pending
from longrun.store.batch import share_of
from longrun.store.records import Step
from longrun.store.run_log import ENTRY_BYTES, RunLog
from tests.unit.streams import (
    CREATED,
    IN_PROGRESS,
    JSONObject,
    Streamed,
    call,
    completed,
    custom_call,
    interleaved,
    message,
    raw,
    reasoning,
    refusal_part,
    request,
    text_part,
)

TEXT = "response.output_text.delta"


def log(first: int = 0, *, merge: bool = True, buffer_bytes: int = 1 << 30) -> RunLog:
    return RunLog(
        "resp_1",
        1,
        first,
        wake=lambda _: None,
        buffer_bytes=buffer_bytes,
        max_item_bytes=1 << 24,
        merge_deltas=merge,
    )


def delta(text: str, kind: str = TEXT, **fields: Any) -> Pending:
    where = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    given = {"type": kind, "sequence_number": 0, **where, "delta": text, "logprobs": [], **fields}
    return pending(given, is_delta=True)


def taken(run: RunLog) -> list[bytes]:
    """What a commit takes of it."""
    share = share_of(run, 1 << 30, 1 << 20)
    if share is None:
        return []
    run.settle(share.entries)
    return [line for chunk in share.chunks for line in chunk.data.split(b"\n")]


def numbers(written: Iterable[bytes]) -> list[int]:
    return [json.loads(line)["sequence_number"] for line in written]


def merged(*events: Pending) -> list[JSONObject]:
    run = log()
    for event in events:
        run.append([event])
    return [json.loads(line) for line in taken(run)]


class TestWhatIsMerged:
    def test_deltas_of_one_part_become_one_event(self) -> None:
        [event] = merged(delta("a"), delta("b"), delta("c"))
        assert event == json.loads(numbered(delta("abc"), 0))

    def test_its_fields_keep_their_order(self) -> None:
        run = log(7)
        run.append([delta("a")])
        run.append([delta("b")])
        assert taken(run) == [numbered(delta("ab"), 7)]

    @pytest.mark.parametrize(
        "other",
        [
            {"output_index": 1},
            {"content_index": 1},
            {"item_id": "msg_2"},
            {"kind": "response.refusal.delta"},
            {"unheard_of": 1},
        ],
        ids=str,
    )
    def test_nothing_is_merged_across_an_item_or_a_part(self, other: dict[str, Any]) -> None:
        events = merged(delta("a"), delta("b", **other), delta("c"))
        assert [event["delta"] for event in events] == ["a", "b", "c"]

    def test_nothing_is_merged_across_another_event(self) -> None:
        between = b'{"type":"response.output_text.annotation.added","sequence_number":0}'
        events = merged(delta("a"), between, delta("b"))
        assert [event.get("delta") for event in events] == ["a", None, "b"]
        assert [event["sequence_number"] for event in events] == [0, 1, 2]

    def test_nothing_is_merged_across_a_step(self) -> None:
        run = log()
        run.append([delta("a")])
        run.append([], steps=[Step("", "tool", "call_1", "{}", "{}")])
        run.append([delta("b")])
        run.append([delta("c")])
        share = share_of(run, 1 << 30, 1 << 20)
        assert share is not None
        first, second = share.entries
        assert [json.loads(line)["delta"] for line in first.events] == ["a"]
        assert [json.loads(line)["delta"] for line in second.events] == ["bc"]
        assert (first.first, second.first) == (0, 1)

    def test_nothing_is_merged_with_what_is_taken(self) -> None:
        run = log()
        run.append([delta("a")])
        run.append([delta("b")])
        assert [json.loads(line)["delta"] for line in taken(run)] == ["ab"]
        run.append([delta("c")])
        assert taken(run) == [numbered(delta("c"), 1)]

    def test_logprobs_and_obfuscation_are_joined(self) -> None:
        one, two = {"token": "a", "logprob": -1.0}, {"token": "b", "logprob": -2.0}
        [event] = merged(
            delta("a", logprobs=[one], obfuscation="xy"),
            delta("", logprobs=[], obfuscation=""),
            delta("b", logprobs=[two], obfuscation="z"),
        )
        assert (event["delta"], event["obfuscation"]) == ("ab", "xyz")
        assert event["logprobs"] == [one, two]

    @pytest.mark.parametrize("logprobs", [1, "ab", {"a": 1}], ids=str)
    def test_odd_logprobs_stay_where_they_are(self, logprobs: Any) -> None:
        events = merged(delta("a", logprobs=logprobs), delta("b", logprobs=logprobs))
        assert [event["logprobs"] for event in events] == [logprobs, logprobs]

    def test_a_long_text_makes_several_events(self) -> None:
        events = merged(*[delta("x" * 1000) for _ in range(100)])
        assert 2 <= len(events) < 5
        assert "".join(event["delta"] for event in events) == "x" * 100_000
        assert max(len(event["delta"]) for event in events) <= ENTRY_BYTES + LONGEST

    def test_a_very_long_delta_is_an_event_of_its_own(self) -> None:
        texts = ["a", "x" * (LONGEST + 1), "b"]
        assert [event["delta"] for event in merged(*map(delta, texts))] == texts

    def test_switched_off_each_delta_is_an_event(self) -> None:
        run = log(merge=False)
        for text in "abc":
            run.append([delta(text)])
        assert taken(run) == [numbered(delta(text), number) for number, text in enumerate("abc")]


class TestSizes:
    def test_what_waits_is_counted_and_what_is_committed_is_not(self) -> None:
        run = log(buffer_bytes=20_000)
        for _ in range(19):
            run.append([delta("é" * 500)])
            assert not run.must_wait
        run.append([delta("é" * 500)])
        assert run.must_wait
        share = share_of(run, 1 << 30, 1 << 20)
        assert share is not None
        assert share.size == len(share.chunks[0].data)
        run.settle(share.entries)
        assert not run.must_wait
        assert run._pending_bytes == 0

    def test_small_pieces_count_what_they_take_in_memory(self) -> None:
        run = log(buffer_bytes=200 + 9 * 1000)
        for _ in range(1000):
            assert not run.must_wait
            run.append([delta("x")])
        assert run.must_wait

    @given(st.lists(st.text(st.characters(), max_size=3), min_size=1, max_size=20))
    def test_a_delta_says_what_it_holds(self, texts: list[str]) -> None:
        first, *others = (delta(text) for text in texts)
        assert isinstance(first, Delta)
        size = first.size
        for other in others:
            assert isinstance(other, Delta)
            size += first.join(other) or 0
        bare = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
        assert first.size == size
        assert bare <= size - ENVELOPE <= bare + 8 * len(texts)


def test_an_event_is_the_same_but_for_its_number() -> None:
    event = b'{"type":"x","sequence_number":0,"inner":{"sequence_number":5}}'
    assert numbered(event, 0) is event
    assert numbered(event, 123) == event.replace(b'"sequence_number":0', b'"sequence_number":123')


# -- whatever a model says, and whenever it is committed -----------------------------------

TEXTS = st.text(st.sampled_from('aé€\U0001f600\u2028\x00"\\ \ud83d\ude00'), max_size=40)


@st.composite
def spoken(draw: st.DrawFn) -> list[JSONObject]:
    """The events of a turn, with items one after the other or all at the same time."""
    makers = [
        lambda n: message(text_part(draw(TEXTS)), refusal_part(draw(TEXTS)), index=n, id=f"m{n}"),
        lambda n: reasoning(draw(TEXTS), draw(TEXTS), content=[draw(TEXTS)], index=n, id=f"r{n}"),
        lambda n: call(arguments=draw(TEXTS), call_id=f"call_{n}", index=n, id=f"f{n}"),
        lambda n: call("ours", draw(TEXTS), call_id=f"call_{n}", index=n, id=f"o{n}"),
        lambda n: custom_call(given=draw(TEXTS), call_id=f"call_{n}", index=n),
    ]
    made: list[Streamed] = [
        draw(st.sampled_from(makers))(n) for n in range(draw(st.integers(1, 4)))
    ]
    events = (
        interleaved(*made) if draw(st.booleans()) else [e for each in made for e in each.events]
    )
    for event in events:
        if event["type"] == TEXT and draw(st.booleans()):
            token = {"token": event["delta"], "logprob": -1.0, "top_logprobs": []}
            event["logprobs"] = [token] * draw(st.integers(1, 2))
        if event["type"] in DELTAS and draw(st.booleans()):
            event["obfuscation"] = draw(st.sampled_from(["", "xyz"]))
    return [CREATED, IN_PROGRESS, *events, completed(*made)]


@given(spoken(), st.data())
@settings(max_examples=150, deadline=None)
def test_merged_or_not_the_log_says_the_same(events: list[JSONObject], data: st.DataObject) -> None:
    """Whatever a model says, and wherever one commit ends and the next begins."""
    asked = request()
    assembler = Assembler(asked.response_id, asked.document, client_tools=["search"])
    assembler.next_agent("agent")
    plain: list[bytes] = []
    apart: list[int] = []
    runs = [log(), log(merge=False)]
    written: tuple[list[bytes], list[bytes]] = ([], [])
    assembler.lifecycle("in_progress")

    def write(*, commit: bool) -> None:
        emission = assembler.collect()
        plain.extend(lines(emission.events, len(plain)))
        # What comes with an item is merged with nothing, nor is what comes with other events: the
        # first half of a character, whose second has not come when its part is done.
        beside = sum(isinstance(event, Delta) for event in emission.events)
        together = bool(emission.items) or len(emission.events) > 1
        apart.append(commit + (max(1, beside) if together else 0))
        for run, so_far in zip(runs, written, strict=True):
            run.append(emission.events, items=emission.items, models=emission.models)
            if commit:
                so_far += taken(run)

    ends = data.draw(st.sets(st.integers(0, len(events) - 1), max_size=4))
    for place, event in enumerate(events):
        assembler.raw_event(raw(event))
        write(commit=place in ends)
    assembler.end("completed", None, 1)
    write(commit=True)
    with_merging, without = written
    assert without == plain
    assert numbers(with_merging) == list(range(len(with_merging)))
    assert said(with_merging) == said(without)
    assert len(with_merging) <= len(said(without)) + sum(apart), "what could be merged was"


def part_of(event: JSONObject) -> tuple[Any, ...]:
    keys = ("type", "item_id", "output_index", "content_index", "summary_index")
    return tuple(map(event.get, keys))


def said(written: Sequence[bytes]) -> list[Any]:
    """What a log says: its events, without numbers, and what consecutive deltas of a part add up
    to, as the reader of a stream puts them together."""
    found: list[Any] = []
    for line in written:
        event = json.loads(line)
        del event["sequence_number"]
        if event["type"] not in DELTAS:
            found.append(event)
            continue
        last = found[-1] if found else {}
        if last.get("type") == event["type"] and part_of(last) == part_of(event):
            last["delta"] += event["delta"]
            last["logprobs"] = [*last.get("logprobs", ()), *event.get("logprobs", ())]
            last["obfuscation"] = last.get("obfuscation", "") + event.get("obfuscation", "")
        else:
            found.append({"logprobs": [], "obfuscation": "", **event})
    for event in found:
        if event["type"] in DELTAS:
            # A character outside the BMP may be in two deltas, half each.
            text = event["delta"].encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            event["delta"] = text
    return found
