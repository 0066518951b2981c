"""What a response leaves in its conversation: what its request brought, then what it gave."""

from collections.abc import Mapping, Sequence
from typing import Any

from longrun import ids
from longrun.jsontext import loads

Item = dict[str, Any]


def left_of(
    response_id: str, given: Sequence[Item], output: Mapping[int, str], *, whole: bool
) -> list[tuple[int, str]]:
    """The parts that stay, in order, each under the id that it has in the conversation.

    A part is named by its output index; -1, -2, … are the first, the second, … item of the input.

    Args:
        output: the response's finished items, as JSON by output index, in order.
        whole: its run came to its end; else what was under way is left out: calls that nobody
            answers any more, and the reasoning that led to nothing else.
    """
    parts = [
        (-1 - place, ids.input_item_id(response_id, place, item.get("type", "message")))
        for place, item in enumerate(given)
    ]
    items = {index: loads(text) for index, text in output.items()}
    left_out: frozenset[int] = frozenset() if whole else _under_way(items)
    return parts + [(index, item["id"]) for index, item in items.items() if index not in left_out]


def _under_way(items: Mapping[int, Item]) -> frozenset[int]:
    """The indexes of calls without outputs, of outputs without calls, and of reasoning of which
    nothing came but these."""
    calls = {item["call_id"] for item in items.values() if _is_call(item)}
    answered = {item.get("call_id") for item in items.values() if _is_output(item)}
    found: set[int] = set()
    led_to: set[int] = set()
    for index, item in reversed(list(items.items())):
        if item.get("type") == "reasoning":
            if led_to <= found:
                found.add(index)
            led_to = set()
            continue
        if item.get("call_id") and item["call_id"] not in calls & answered:
            found.add(index)
        led_to = led_to | {index} if _is_call(item) else {index}
    return frozenset(found)


def _is_call(item: Item) -> bool:
    return bool(item.get("call_id")) and not _is_output(item)


def _is_output(item: Item) -> bool:
    return str(item.get("type")).endswith("_output")
