"""What Chat Completions takes of a context, by way of the Agents SDK's converter.

The converter raises on every type of item that it does not know, and on a model's message without
an id; the API wants all answers to a model's calls right behind them.
"""

from collections import deque
from collections.abc import Sequence
from typing import Any, Final

from longrun.history.cleaning import kind_of
from longrun.history.faces import PLACEHOLDER_ID
from longrun.history.mending import Call, answered_by, call_of

Item = dict[str, Any]

_TYPES: Final = frozenset({"function_call", "function_call_output", "message", "reasoning"})

_GIVEN_PARTS: Final = frozenset({"output_text", "refusal"})


def taken(item: Item, *, own: bool) -> Item | None:
    """An item as the converter takes it; None if it cannot be given.

    Args:
        own: it comes from the very provider that is to get it: no other makes anything of its
            reasoning.
    """
    kind = kind_of(item)
    if kind not in _TYPES or (kind == "reasoning" and not own):
        return None
    return _message(item) if kind == "message" else item


def _message(item: Item) -> Item | None:
    content = item.get("content")
    if item.get("role") != "assistant" or isinstance(content, str):
        return {key: value for key, value in item.items() if key in ("role", "content", "type")}
    if not content:
        return None
    if all(part.get("type") in _GIVEN_PARTS for part in content):
        return item
    texts = [part.get("text") or part.get("refusal") or "" for part in content]
    return {"role": "assistant", "content": "".join(map(str, texts))}


def with_placeholder(item: Item) -> Item:
    """A model's message with an id: without one the converter takes it for a user's."""
    if item.get("role") != "assistant" or not isinstance(item.get("content"), list):
        return item
    return item if item.get("id") else {**item, "type": "message", "id": PLACEHOLDER_ID}


def ordered(items: Sequence[Item]) -> list[int]:
    """The places of the items, with all outputs of a model's calls right behind these, before
    anything else is said."""
    outputs: dict[Call, deque[int]] = {}
    for place, item in enumerate(items):
        if (answered := answered_by(item)) is not None:
            outputs.setdefault(answered, deque()).append(place)
    made: list[int] = []
    waiting: list[Call] = []
    answering, spoken = False, False
    for place, item in enumerate(items):
        call, answered = call_of(item), answered_by(item)
        if answered is not None:
            if answered in waiting:
                waiting.remove(answered)
                made.append(outputs[answered].popleft())
                answering = True
            continue
        speaks = kind_of(item) == "message"
        # The converter joins a text to the calls before it, if these have none of their own.
        if answering or (speaks and (spoken or _is_others(item))):
            made += [outputs[each].popleft() for each in waiting if outputs.get(each)]
            waiting, answering, spoken = [], False, False
        spoken = (spoken or speaks) and not (speaks and _is_others(item))
        if call is not None:
            waiting.append(call)
        made.append(place)
    return made + [outputs[each].popleft() for each in waiting if outputs.get(each)]


def _is_others(item: Item) -> bool:
    """Whether a message is none of the model's."""
    return item.get("role") != "assistant"
