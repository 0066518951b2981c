"""What a response leaves in its conversation."""

import json
from typing import Any

import pytest

from longrun import ids
from longrun.history.conversation import left_of

RESPONSE = ids.new_response_id()

MESSAGE = {"type": "message", "id": "msg"}
REASONING = {"type": "reasoning", "id": "rs"}


def call(name: str, kind: str = "function_call") -> dict[str, Any]:
    return {"type": kind, "id": name, "call_id": name}


def output(name: str, kind: str = "function_call_output") -> dict[str, Any]:
    return {"type": kind, "id": f"{name}_out", "call_id": name}


def left(items: list[dict[str, Any]], *, whole: bool) -> list[int]:
    shown = {index: json.dumps(item) for index, item in enumerate(items)}
    return [place for place, _ in left_of(RESPONSE, [], shown, whole=whole)]


def test_input_comes_before_output_each_with_its_id() -> None:
    given = [{"role": "user", "content": "a"}, {"type": "function_call_output", "call_id": "c"}]
    shown = {2: json.dumps(MESSAGE), 5: json.dumps(call("fc"))}
    assert left_of(RESPONSE, given, shown, whole=True) == [
        (-1, ids.input_item_id(RESPONSE, 0, "message")),
        (-2, ids.input_item_id(RESPONSE, 1, "function_call_output")),
        (2, "msg"),
        (5, "fc"),
    ]


@pytest.mark.parametrize(
    ("items", "stays"),
    [
        ([call("a"), call("b"), output("a")], [0, 2]),
        ([call("a", "shell_call"), MESSAGE], [1]),
        ([output("a"), MESSAGE], [1]),
        ([REASONING, call("a")], []),
        ([REASONING, call("a"), call("b"), output("b")], [0, 2, 3]),
        ([REASONING, call("a"), output("a"), REASONING, call("b")], [0, 1, 2]),
        ([REASONING, MESSAGE, call("a")], [0, 1]),
        ([MESSAGE, REASONING], [0]),
        ([{"type": "mcp_call", "id": "mcp"}, {"type": "web_search_call", "id": "ws"}], [0, 1]),
    ],
)
def test_what_was_under_way_is_left_out_of_what_broke_off(
    items: list[dict[str, Any]], stays: list[int]
) -> None:
    assert left(items, whole=False) == stays
    assert left(items, whole=True) == list(range(len(items)))
