"""Conversations: what comes before a response that is on one, and what it leaves there."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from longrun import ids
from longrun.history.cleaning import cleaned, kind_of
from longrun.history.continuation import Stored
from longrun.history.mending import answered_by, call_of
from longrun.jsontext import loads

Item = dict[str, Any]

Exchanges = list[tuple[list[Item], list[Stored]]]
"""Inputs, each with the outputs that came of it, in order."""

NO_STEERS: Final[Mapping[int, int | None]] = MappingProxyType({})
"""Nothing was put into a response while it was made."""


class Said(NamedTuple):
    """A row of `conversation_items`: an item under its id there, and its model's face."""

    id: str
    item: str
    model: str | None

    @property
    def is_output(self) -> bool:
        """Whether a response gave it; else a request or a client brought it."""
        place = ids.place_of_item(self.id)
        return place is not None and ids.input_place(place[1]) is None


@dataclass(frozen=True, slots=True)
class Before:
    """What comes before a response.

    Attributes:
        named: the items of ours in it, by the ids by which inputs may name them; references among
            them as they are.
    """

    exchanges: Exchanges
    named: Mapping[str, Stored]

    @classmethod
    def of(cls, said: Iterable[Said], chain: Exchanges) -> "Before":
        """What was said in a conversation, then what a chain has."""
        exchanges: Exchanges = []
        named: dict[str, Stored] = {}
        for each in said:
            item = loads(each.item)
            if each.is_output:
                stored = Stored(item, each.model)
                exchanges.append(([], [stored]))
            elif kind_of(item) == "item_reference":
                stored = Stored(item)
                exchanges.append(([item], []))
            else:
                stored = Stored({**cleaned(item), "id": each.id})
                exchanges.append(([item], []))
            named[each.id] = stored
        for given, output in chain:
            exchanges.append((given, output))
            named.update((stored.item["id"], stored) for stored in output)
        return cls(exchanges, named)


def left_of(
    response_id: str,
    given: Sequence[Item],
    output: Mapping[int, str],
    steers: Mapping[int, int | None] = NO_STEERS,
    *,
    whole: bool,
) -> list[tuple[int, str]]:
    """The parts that stay, in order, each under the id that it has in the conversation.

    A part is named by its output index; -1, -2, … are the first, the second, … item of the input.
    References add nothing to what they refer to.

    Args:
        output: the response's finished items, as JSON by output index, in order.
        steers: before which output index each message stands that was put into it, by its number;
            None: behind all.
        whole: its run came to its end; else what was under way is left out: calls that nobody
            answers any more, and the reasoning that led to nothing else.
    """
    parts = [
        (-1 - place, ids.input_item_id(response_id, place, kind_of(item)))
        for place, item in enumerate(given)
        if kind_of(item) != "item_reference"
    ]
    items = {index: loads(text) for index, text in output.items()}
    left_out: frozenset[int] = frozenset() if whole else _under_way(items)
    left: list[tuple[tuple[float, bool, int], tuple[int, str]]] = [
        ((index, True, 0), (index, item["id"]))
        for index, item in items.items()
        if index not in left_out
    ]
    for number, index in steers.items():
        place = ids.steer_place(number)
        name = ids.input_item_id(response_id, place, "message")
        left.append(((inf if index is None else index, False, number), (-1 - place, name)))
    return parts + [part for _, part in sorted(left, key=lambda each: each[0])]


def _under_way(items: Mapping[int, Item]) -> frozenset[int]:
    """The indexes of calls without outputs, of outputs without calls, and of reasoning of which
    nothing came but these."""
    calls = {index: call_of(item) for index, item in items.items()}
    answers = {index: answered_by(item) for index, item in items.items()}
    whole = set(calls.values()) & set(answers.values())
    found: set[int] = set()
    led_to: set[int] = set()
    for index, item in reversed(list(items.items())):
        if kind_of(item) == "reasoning":
            if led_to <= found:
                found.add(index)
            led_to = set()
            continue
        if (calls[index] or answers[index]) and (calls[index] or answers[index]) not in whole:
            found.add(index)
        led_to = led_to | {index} if calls[index] else {index}
    return frozenset(found)


def parted(
    given: list[Item], output: Sequence[tuple[int, Stored]], said: Sequence[tuple[int | None, Item]]
) -> Exchanges:
    """A response's input and output, parted where something was said in between.

    Args:
        output: by output index, in order.
        said: each message with the output index before which it stands; None: behind all.
    """
    exchanges: Exchanges = [(given, [])]
    left = list(output)
    for before, message in said:
        while left and (before is None or left[0][0] < before):
            exchanges[-1][1].append(left.pop(0)[1])
        if exchanges[-1][1]:
            exchanges.append(([], []))
        last_given, last_output = exchanges[-1]
        exchanges[-1] = ([*last_given, message], last_output)
    exchanges[-1][1].extend(stored for _, stored in left)
    return exchanges
