"""Histories without holes: each call has its output behind it, each output its call before it.

A run that was cancelled, failed, or was taken over, leaves calls that nobody answered; a response
that was deleted, or a client that cuts its history, leaves either half. Model providers refuse a
whole conversation for one of them, so what has lost its other half is left out. (What has lost the
reasoning that it belongs to depends on the model that gets it: `targets.py`.)
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from typing import Any, Final

from longrun.history.cleaning import kind_of
from longrun.pieces import Pieces, at_once

Item = dict[str, Any]

ANSWERED_BY: Final = {
    "apply_patch_call": "apply_patch_call_output",
    "computer_call": "computer_call_output",
    "custom_tool_call": "custom_tool_call_output",
    "function_call": "function_call_output",
    "local_shell_call": "local_shell_call_output",
    "mcp_approval_request": "mcp_approval_response",
    "program": "program_output",
    "shell_call": "shell_call_output",
    "tool_search_call": "tool_search_output",
}
"""The calls that somebody has to answer, and the items that do."""

ANSWERS: Final = {answer: call for call, answer in ANSWERED_BY.items()}

_BY_PROVIDER: Final = frozenset({"tool_search_call"})
"""What the provider may answer itself: then neither half has a call id."""

Call = tuple[str, str]
"""The type of a call, and the id by which its output names it."""


def call_of(item: Item) -> Call | None:
    """Which call an item is; None for what nobody answers."""
    kind = kind_of(item)
    if kind not in ANSWERED_BY or (kind in _BY_PROVIDER and item.get("call_id") is None):
        return None
    return kind, str(item.get("id" if kind == "mcp_approval_request" else "call_id"))


def answered_by(item: Item) -> Call | None:
    """Which call an item answers; None for what is no output."""
    kind = ANSWERS.get(kind_of(item))
    if kind is None or (kind in _BY_PROVIDER and item.get("call_id") is None):
        return None
    if kind == "mcp_approval_request":
        return kind, str(item.get("approval_request_id"))
    # OpenAI's type of a local shell's output has the call's id as its own.
    return kind, str(item.get("call_id") or (item.get("id") if kind == "local_shell_call" else ""))


def mended(items: Iterable[Item]) -> list[Item]:
    """The items without halves of calls, each with a call id of its own, and each item once.

    Of several items with one id the first stays: a client may send again what it continues. What a
    user says between a call and its output, as one who puts a message into a live run may, stands
    behind the output: Chat Completions takes nothing in between.
    """
    return at_once(mending(items))


def mending(items: Iterable[Item]) -> Pieces[list[Item]]:
    """The items as `mended` gives them, in pieces: each goes through all of them once."""
    once = _each_once(items)
    yield
    pairs = _pairs(once)
    yield
    if any(place + 1 < other for place, other in pairs.items()):
        once = _answered_first(once, pairs)
        pairs = _pairs(once)
        yield
    alone = {
        place
        for place, item in enumerate(once)
        if place not in pairs and (call_of(item) or answered_by(item))
    }
    yield
    kept = _with_own_call_ids(once, pairs)
    return [item for place, item in enumerate(kept) if place not in alone]


def paired(items: Iterable[Item]) -> list[Item]:
    """The items of a run without halves of calls. They are its own, and each is there once,
    whatever ids their models gave them."""
    all_ = list(items)
    pairs = _pairs(all_)
    return [
        item
        for place, item in enumerate(all_)
        if place in pairs or not (call_of(item) or answered_by(item))
    ]


def unmade(items: Sequence[Item], own: int) -> tuple[int, Call] | None:
    """The first call that an output among the last `own` items answers and nobody made, with the
    place of that output among them."""
    made: set[Call] = set()
    for place, item in enumerate(items, own - len(items)):
        call, answered = call_of(item), answered_by(item)
        if call is not None:
            made.add(call)
        elif answered is not None and place >= 0 and answered not in made:
            return place, answered
    return None


def _each_once(items: Iterable[Item]) -> list[Item]:
    seen: set[tuple[str, str]] = set()
    kept = []
    for item in items:
        item_id = item.get("id")
        if isinstance(item_id, str) and kind_of(item) != "local_shell_call_output":
            key = (kind_of(item), item_id)
            if key in seen:
                continue
            seen.add(key)
        kept.append(item)
    return kept


def _answered_first(items: list[Item], pairs: dict[int, int]) -> list[Item]:
    """The items, what a user says between a call and its output behind that."""
    last = -1
    kept: list[Item] = []
    waiting: list[Item] = []
    for place, item in enumerate(items):
        last = max(last, pairs.get(place, -1))
        if place < last and item.get("role") == "user":
            waiting.append(item)
            continue
        kept.append(item)
        if place >= last and waiting:
            kept += waiting
            waiting = []
    return kept


def _pairs(items: Sequence[Item]) -> dict[int, int]:
    """Of each call that is answered, and each output that answers one, the place of the other."""
    open_calls: dict[Call, deque[int]] = {}
    pairs: dict[int, int] = {}
    for place, item in enumerate(items):
        call, answered = call_of(item), answered_by(item)
        if call is not None:
            open_calls.setdefault(call, deque()).append(place)
        elif answered is not None and (waiting := open_calls.get(answered)):
            asked = waiting.popleft()
            pairs[asked], pairs[place] = place, asked
    return pairs


def _with_own_call_ids(items: list[Item], pairs: dict[int, int]) -> Iterator[Item]:
    """The items, with other ids for calls whose id another call has had: the Agents SDK takes two
    calls with one id for one."""
    used: set[Any] = set()
    other: dict[int, str] = {}
    for place, item in enumerate(items):
        call_id = item.get("call_id")
        if place in other:
            yield {**item, "call_id": other[place]}
            continue
        if call_of(item) and place in pairs and isinstance(call_id, str):
            if call_id in used:
                call_id = next(n for n in _numbered(call_id) if n not in used)
                item, other[pairs[place]] = {**item, "call_id": call_id}, call_id
            used.add(call_id)
        yield item


def _numbered(call_id: str) -> Iterator[str]:
    return (f"{call_id[:56]}_{n}" for n in count(2))
