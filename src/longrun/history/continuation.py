"""The context of a response that continues others: what each was given, and what it gave.

Two things keep a model from taking a history: ids that its provider never gave, and calls without
their outputs. The first are left out where an exchange is read; the second are mended when the
whole input of a run is known, since a request may answer a call of the response before it.
"""

from collections.abc import Iterable
from typing import Any, Final

Item = dict[str, Any]

_CALLS: Final = frozenset({"function_call", "custom_tool_call"})


def context_of(exchanges: Iterable[tuple[list[Item], list[Item]]]) -> list[Item]:
    """What comes before a request's own input, of (input, output) of each response in order."""
    found: list[Item] = []
    for given, output in exchanges:
        found += given
        found += [item for each in output if (item := _as_input(each)) is not None]
    return found


def conversation_context(said: Iterable[Item]) -> list[Item]:
    """What comes before a response's own input, of all items of its conversation in order."""
    return [item for each in said if (item := _as_input(each)) is not None]


def mended(items: list[Item]) -> list[Item]:
    """All input items of a run, without the calls that nobody answered (their run was cancelled, or
    failed): models refuse a conversation in which one stands open."""
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
