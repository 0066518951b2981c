"""What becomes of the events of a log when its deltas go."""

import json
from typing import Any

from longrun.jsontext import dumps
from longrun.store import abridged
from longrun.store.abridged import (
    NUMBER_BITS,
    NUMBERED_FROM,
    Abridger,
    end_before,
    length_before,
    moved_by,
    terminal_event,
)
from longrun.store.records import Chunk


def delta(text: Any, index: int = 0, kind: str = "output_text", **more: Any) -> dict[str, Any]:
    return {
        "type": f"response.{kind}.delta",
        "sequence_number": 0,
        "item_id": f"msg_{index}",
        "output_index": index,
        "content_index": 0,
        "delta": text,
        **more,
    }


def other(kind: str, **more: Any) -> dict[str, Any]:
    return {"type": f"response.{kind}", "sequence_number": 0, **more}


def abridge(*events: dict[str, Any]) -> list[dict[str, Any]]:
    """Those that are left of these, which are numbered here, as theirs are checked to be."""
    abridger, found = Abridger(), []
    for number, event in enumerate(events):
        found += abridger.take(dumps({**event, "sequence_number": number}))
    left = [json.loads(each) for each in found]
    assert [each["sequence_number"] for each in left] == list(range(abridger.count))
    return left


def said(events: list[dict[str, Any]]) -> list[Any]:
    return [event.get("delta", event["type"].removeprefix("response.")) for event in events]


def test_deltas_of_a_part_become_one() -> None:
    left = abridge(
        other("created"), *(delta(text) for text in "abc"), other("output_text.done", text="abc"),
        delta("d"), delta("e"), other("completed"),
    )  # fmt: skip
    assert said(left) == ["created", "abc", "output_text.done", "de", "completed"]


def test_of_parts_at_once_each_becomes_one() -> None:
    kinds = ("output_text", "function_call_arguments", "mcp_call_arguments")
    events = [delta(f"{n}{index}", index, kinds[index]) for n in range(3) for index in range(3)]
    left = abridge(*events, other("completed"))
    assert said(left) == ["001020", "011121", "021222", "completed"]
    assert [event.get("output_index") for event in left] == [0, 1, 2, None]


def test_what_deltas_say_besides() -> None:
    """Log probabilities are kept; what hides the lengths of deltas hides nothing any more."""
    left = abridge(
        delta("a", logprobs=[{"token": "a"}], obfuscation="x" * 9),
        delta("b", logprobs=[], obfuscation="yy"),
        delta("c", logprobs=[{"token": "c"}]),
        delta("d", new_field="which says something"),
        other("completed"),
    )
    assert said(left) == ["abc", "d", "completed"]
    assert left[0]["logprobs"] == [{"token": "a"}, {"token": "c"}]
    assert "obfuscation" not in left[0]
    assert left[1]["new_field"] == "which says something"


def test_what_is_no_text_is_left_alone() -> None:
    events = [
        delta({"odd": 1}),
        delta("a", kind="audio"),
        delta("b", kind="audio"),
        other("completed"),
    ]
    assert said(abridge(*events)) == [{"odd": 1}, "a", "b", "completed"]


def test_odd_texts() -> None:
    texts = ["\ud800", "x", "\udc00", "\0", "\u2028", "é", ""]
    assert said(abridge(*map(delta, texts), other("completed")))[0] == "".join(texts)


def test_a_large_text_is_several() -> None:
    left = abridge(*(delta("x" * 1000) for _ in range(1000)), other("completed"))
    assert 3 <= len(left) - 1 <= 5
    assert sum(len(event["delta"]) for event in left[:-1]) == 1_000_000
    assert all(len(event["delta"]) <= abridged.WHOLE_BYTES + 1000 for event in left[:-1])


def test_where_the_log_before_ended() -> None:
    first = 100 << NUMBER_BITS
    chunk = Chunk(
        first + 3, first + 5, b'{"type":"a","sequence_number":4}\n{"type":"b","sequence_number":5}'
    )
    assert (length_before(chunk), end_before(chunk), moved_by(chunk)) == (100, 99, first)
    assert terminal_event(chunk) == Chunk(99, 99, b'{"type":"b","sequence_number":99}')
    whole = Chunk(NUMBERED_FROM - 2, NUMBERED_FROM - 1, b"")
    assert (length_before(whole), end_before(whole), moved_by(whole)) == (None, whole.last, 0)
