"""The input of a response that continues another: that one's input and output, then its own."""

from collections.abc import Iterable
from typing import Any, Final

Item = dict[str, Any]

_CALLS: Final = frozenset({"function_call", "custom_tool_call"})


def continued(given: list[Item], output: Iterable[Item], new: list[Item]) -> list[Item]:
    """All input items of the next run.

    A call without an output (its run was cancelled, or failed) is left out: models reject a
    conversation with an unanswered call.
    """
    items = [*given, *(item for each in output if (item := _as_input(each)) is not None), *new]
    answered = {item.get("call_id") for item in items if _is_output(item)}
    return [
        item for item in items if item.get("type") not in _CALLS or item.get("call_id") in answered
    ]


def _as_input(item: Item) -> Item | None:
    """An output item as input, or None where it cannot be.

    Its id is one of ours, which no model's provider knows, so it is left out. A reasoning item
    is nothing without its provider's memory of it, unless it carries its content encrypted.
    """
    if item.get("type") == "reasoning":
        return item if item.get("encrypted_content") else None
    return {key: value for key, value in item.items() if key not in ("id", "status")}


def _is_output(item: Item) -> bool:
    return str(item.get("type")).endswith("_output")
