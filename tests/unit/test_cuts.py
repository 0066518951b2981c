"""Where items stand in the chunks that are sent with them."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from longrun.jsontext import Encoded, dumps
from longrun.store.batch import append_columns, share_of
from longrun.store.cuts import SHORTEST, WHOLE, cut
from longrun.store.records import Chunk
from longrun.store.run_log import Entry, RunLog

DONE = "response.output_item.done"


def event(number: int, kind: str, **fields: Any) -> bytes:
    return dumps({"type": kind, "sequence_number": number, **fields})


def done(number: int, item: str) -> bytes:
    return event(number, DONE, output_index=number, item=Encoded(item))


def item(text: str) -> str:
    return dumps({"id": "fco_1", "type": "function_call_output", "output": text}).decode()


def row(chunks: list[Chunk], where: Any) -> bytes:
    """What Postgres takes."""
    chunk, start, length = where
    return chunks[chunk - 1].data[start - 1 : start - 1 + length]


TEXTS = st.text(st.characters(), max_size=30).map(lambda text: item(text * 60))


@given(
    st.lists(st.lists(st.one_of(TEXTS, st.none()), max_size=4), min_size=1, max_size=6),
    st.sampled_from([1, 500, 3000, 100_000]),
)
def test_each_item_is_found_where_it_is(entries: list[list[str | None]], chunk_bytes: int) -> None:
    """None: an event without an item, of which some items' events have many around them."""
    run = RunLog("resp_1", 1, 7, wake=lambda _: None, buffer_bytes=1 << 30, max_item_bytes=1 << 20)
    given_items = []
    for entry in entries:
        first, lines, items = run.next_sequence, [], []
        for place, text in enumerate(entry):
            lines.append(event(first + 2 * place, "response.output_text.delta", delta="é"))
            if text is None:
                lines.append(done(first + 2 * place + 1, '{"status":"incomplete"}'))
            else:
                lines.append(done(first + 2 * place + 1, text))
                items.append((len(given_items), text))
                given_items.append(text)
        run.append(lines, items=items)
    share = share_of(run, 1 << 30, chunk_bytes)
    assert share is not None
    columns = append_columns([share, share])
    assert columns["item_indexes"] == [*range(len(given_items))] * 2
    chunks = [Chunk(0, 0, data) for data in columns["chunk_data"]]
    wheres = zip(*(columns[f"item_{name}s"] for name in WHOLE._fields), strict=True)
    for text, sent, where in zip(given_items * 2, columns["items"], wheres, strict=True):
        if len(text.encode()) < SHORTEST:
            assert (sent, where) == (text, WHOLE)
        else:
            assert sent is None
            assert row(chunks, where) == text.encode()


def test_what_is_not_in_its_event_byte_for_byte_is_sent_itself() -> None:
    wanted, spaced = item("x" * 1000), item("x" * 1000).replace(":", ": ")
    lines = [
        event(0, "response.output_item.added", item=Encoded(wanted)),
        event(1, DONE, item=Encoded(wanted[:-1] + ',"status":"completed"}')),
        event(2, DONE, item=Encoded(wanted), more=1),
        event(3, DONE, inner={"item": Encoded(wanted)}),
        done(4, spaced),
    ]
    for line in lines:
        chunk = [Chunk(0, 0, line)]
        assert cut([Entry([line], 0, [(0, wanted)])], chunk) == [WHOLE]
    assert cut([Entry([], 0, [(0, wanted)])], []) == [WHOLE]


def test_of_one_that_is_not_there_the_next_is_sent_too() -> None:
    """They are looked for in order: what a run appends is small, or in order."""
    one, two = item("a" * 1000), item("b" * 1000)
    lines = [done(0, one), done(1, two)]
    [chunk] = [Chunk(0, 1, b"\n".join(lines))]
    found = cut([Entry(lines, 0, [(0, one), (1, two)])], [chunk])
    assert [row([chunk], where).decode() for where in found] == [one, two]
    assert cut([Entry(lines, 0, [(1, two), (0, one)])], [chunk])[1] == WHOLE
