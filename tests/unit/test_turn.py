"""Which item of a turn is meant, where models hardly say it, and what it costs to find out."""

import gc
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.streams import (
    CREATED,
    FAKE,
    Assembly,
    JSONObject,
    Streamed,
    assembled,
    call,
    completed,
    hosted,
    message,
    raw,
    reasoning,
    turn,
)


class TestFinalOutput:
    def test_call_ids_are_known_by_type(self) -> None:
        """A hosted shell's call and its output have one call id; neither is the other one."""
        asked: JSONObject = {
            "type": "shell_call",
            "id": "sh_1",
            "call_id": "call_sh",
            "action": {"commands": ["ls"], "max_output_length": None, "timeout_ms": None},
            "environment": {"type": "local"},
            "status": "completed",
        }
        answer: JSONObject = {
            "type": "shell_call_output",
            "id": "sho_1",
            "call_id": "call_sh",
            "status": "completed",
            "max_output_length": 100,
            "output": [{"stdout": "a", "stderr": "", "outcome": {"type": "exit", "exit_code": 0}}],
        }
        stream = assembled([CREATED, completed(asked, answer)])
        assert [item["type"] for item in stream.output] == ["shell_call", "shell_call_output"]

    def test_a_repeated_call_does_not_take_the_place_of_one_without_a_call_id(self) -> None:
        first, second = call(call_id="c1"), call(call_id="", index=1)
        stream = assembled(
            [CREATED, *first.events, second.events[0], completed(first, first, call(call_id="c2"))]
        )
        assert [item["call_id"] for item in stream.output] == ["c1", "c2"]

    def test_one_that_was_streamed_is_not_taken_for_another_that_says_nothing(self) -> None:
        """Neither was announced; the one without texts comes first in the end."""
        silent = reasoning(id="rs_0")
        told = reasoning(content=["thought"], id="rs_1", index=1)
        stream = assembled([CREATED, *told.events[1:-1], completed(silent, told)])
        assert sorted(len(item.get("content") or ()) for item in stream.output) == [0, 1]

    def test_one_id_for_all_and_another_order_in_the_end(self) -> None:
        told = [message(text, id=FAKE, index=n) for n, text in enumerate(["one", "two", "three"])]
        events = [event for item in told for event in item.events]
        stream = assembled([CREATED, *events, completed(*reversed(told))])
        texts = [item["content"][0]["text"] for item in stream.output]
        assert texts == ["one", "two", "three"]

    def test_whole_items_after_streamed_ones_of_the_same_id(self) -> None:
        streamed, whole = message("one", id=FAKE), message("two", id=FAKE)
        stream = assembled([CREATED, *streamed.events, completed(streamed, whole, whole)])
        texts = [item["content"][0]["text"] for item in stream.output]
        assert texts == ["one", "two", "two"]


def test_every_event_names_its_item() -> None:
    """openai-node raises on one that does not."""
    told = message("Hello, world.")
    for event in told.events:
        event.pop("item_id", None)
    stream = assembled(turn(told))
    assert {event["item_id"] for event in stream.events[3:-2]} == {stream.output[0]["id"]}


def _calls(count: int) -> list[Streamed]:
    return [call(index=n, call_id=f"call_{n}", id=FAKE) for n in range(count)]


def _messages(count: int) -> list[Streamed]:
    return [message(f"text {n}", index=n, id=FAKE) for n in range(count)]


def _searches(count: int) -> list[Streamed]:
    return [
        hosted({"type": "web_search_call", "id": f"ws_{n}", "status": "completed"}, index=n)
        for n in range(count)
    ]


def _in_order(items: list[Streamed]) -> list[JSONObject]:
    return turn(*items)


def _in_another_order(items: list[Streamed]) -> list[JSONObject]:
    return [*turn(*items)[:-1], completed(*items[1:], items[0])]


def _at_the_end(items: list[Streamed]) -> list[JSONObject]:
    return [CREATED, completed(*items)]


@pytest.mark.parametrize("told", [_in_order, _in_another_order, _at_the_end])
@pytest.mark.parametrize("items", [_calls, _messages, _searches])
def test_the_cost_of_a_turn_grows_with_its_items_and_not_with_their_square(
    items: Callable[[int], list[Streamed]], told: Callable[[list[Streamed]], list[JSONObject]]
) -> None:
    few, many = (told(items(count)) for count in (500, 2000))
    assert _seconds(many) < 8 * _seconds(few), "four times the items"


def _seconds(events: list[JSONObject]) -> float:
    """CPU time of the turn and of the SDK's word about each of its messages."""
    events_of_model: list[Any] = [raw(event) for event in events]
    messages = [item for item in events_of_model[-1].response.output if item.type == "message"]
    best = float("inf")
    for _ in range(2):
        assembly = Assembly()
        gc.collect()
        gc.disable()
        try:
            started = time.process_time()
            for event in events_of_model:
                assembly.assembler.raw_event(event)
            for said in messages:
                assembly.assembler.local_message(said)
            best = min(best, time.process_time() - started)
        finally:
            gc.enable()
    return best
