"""One model turn: which of its items an event, or an item of the model's final output, is about."""

from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Final, Protocol

from longrun.assembly.gathered import Gathered
from longrun.assembly.items import Item, unannounced
from longrun.assembly.kinds import Event, JSONObject, item_of_event, type_of

NEAREST: Final = 64
"""Items that their ids do not tell apart: the texts of this many are compared."""


class NewItem(Protocol):
    """Makes an item, by what it is (`Item`)."""

    def __call__(self, raw: JSONObject, *, late: bool = False) -> Item: ...


class Turn:
    """The items of one model turn. What comes is told to the item that it is about.

    Models identify their items badly: with one id for all, with index 0 for all, without `added`,
    with ids that change from event to event, with call ids that come late. What comes is always
    about an item of its own type. Among those it is, in this order:

    1. the item with its call id; never one that has another call id.
    2. While it is streamed: the item that came last at its output index. If that one is done,
       only a `done` under the same id is about it (said twice); if it is open, only an `added`
       under another id is not.
    3. In the final output, what is sure first: an item with the same id whose streamed texts it
       continues. Then a call whose call id did not come until now; then an item with the
       same id; then any. Among several, the first whose streamed texts it continues.

    What is found to be none of them is a new item. All of these are lookups, so that the cost of a
    turn grows with its items, and not with their square.
    """

    def __init__(self, new_item: NewItem) -> None:
        self._new_item = new_item
        self._items: list[Item] = []
        self._by_call: dict[tuple[str, Any], Item] = {}
        self._by_index: dict[tuple[int | None, str], Item] = {}

    @property
    def finished(self) -> list[Item]:
        """The items that the model finished."""
        return [item for item in self._items if item.finished]

    def added(self, index: int | None, raw: JSONObject) -> list[Event]:
        """The model announces an item."""
        if self._find(index, raw, ended=False) is not None:
            return []
        return self._new(self._new_item(raw), index).begin()

    def event(self, kind: str, fields: JSONObject) -> Sequence[Event]:
        """The model tells more of an item."""
        index, item_type = fields.get("output_index"), item_of_event(kind, fields)
        item = self._by_index.get((index, item_type))
        if item is not None:
            return item.event(kind, fields)
        raw, late = unannounced(item_type)
        raw.setdefault("id", fields.get("item_id"))
        item = self._new(self._new_item(raw, late=late), index)
        return [*item.begin(), *item.event(kind, fields)]

    def gathered(self, kind: str, fields: JSONObject) -> Gathered | None:
        """Where the text of the part that a delta is about is gathered; None: nowhere.

        Args:
            fields: the event's, as the model gave it.
        """
        item = self._by_index.get((fields.get("output_index"), item_of_event(kind, fields)))
        return None if item is None else item.gathered(kind, fields)

    def done(self, index: int | None, raw: JSONObject) -> list[Event]:
        """The model has finished an item."""
        item = self._find(index, raw, ended=True)
        if item is None:
            item = self._new(self._new_item(raw), index)
        return self._finish(item, raw, "completed")

    def complete(self, output: Iterable[JSONObject], status: str) -> Iterator[list[Event]]:
        """The model's final output: finishes what the stream left open, shows what it never
        showed. What is not in it stays open.

        Yields:
            The events of an item; nothing while it is looked for what is sure.
        """
        told = list(_once(output))
        streamed = _Streamed(self._items, self._by_call)
        # Those that are sure come first: what is left is then anybody's guess.
        sure: list[Item | None] = []
        for raw in told:
            sure.append(streamed.match_surely(raw))
            yield []
        for raw, found in zip(told, sure, strict=True):
            item = found or streamed.match(raw) or self._new(self._new_item(raw), None)
            yield self._finish(item, raw, status)

    def close(self) -> list[Event]:
        """Ends what the model left open, unfinished."""
        return [event for item in self._items if not item.done for event in item.close()]

    def give_up(self) -> list[Event]:
        """Ends all that clients wait for: nothing comes of this turn."""
        return [event for item in self._items if item.is_open for event in item.close()]

    def _find(self, index: int | None, raw: JSONObject, *, ended: bool) -> Item | None:
        item_type, call_id = type_of(raw), raw.get("call_id")
        if call_id and (item_type, call_id) in self._by_call:
            return self._by_call[item_type, call_id]
        item = self._by_index.get((index, item_type))
        if item is None or item.call_id:
            return None
        same_id = item.raw.get("id") == raw.get("id")
        if item.done:
            return item if ended and same_id else None
        return item if ended or item.late or same_id else None

    def _new(self, item: Item, index: int | None) -> Item:
        self._items.append(item)
        self._by_index[index, item.type] = item
        self._known_by_call(item)
        return item

    def _finish(self, item: Item, raw: JSONObject, status: str) -> list[Event]:
        if item.done:
            return []
        events = item.finish(raw, status)
        self._known_by_call(item)
        return events

    def _known_by_call(self, item: Item) -> None:
        if item.call_id:
            self._by_call.setdefault((item.type, item.call_id), item)


def _once(output: Iterable[JSONObject]) -> Iterator[JSONObject]:
    """A model's final output, in which the SDK makes two of a call whose `done` was said twice."""
    calls = set()
    for raw in output:
        call = (type_of(raw), raw.get("call_id"))
        if call[1] and call in calls:
            continue
        calls.add(call)
        yield raw


class _Streamed:
    """The items that were streamed, each to be found once for the model's final output."""

    def __init__(self, items: Iterable[Item], by_call: Mapping[tuple[str, Any], Item]) -> None:
        self._items = list(items)
        self._by_call = by_call
        self._matched: set[Item] = set()
        self._next = 0

    def match_surely(self, raw: JSONObject) -> Item | None:
        """The item that this one is, by its call id, or by its id and its texts."""
        return self._take(self._in_order(raw) or self._same(raw))

    def match(self, raw: JSONObject) -> Item | None:
        """The item that this one is. Criteria as `Turn` says."""
        return self._take(self._find(type_of(raw), raw))

    def _take(self, item: Item | None) -> Item | None:
        if item is not None:
            self._matched.add(item)
        return item

    def _same(self, raw: JSONObject) -> Item | None:
        item_type, call_id = type_of(raw), raw.get("call_id")
        if call_id:
            item = self._by_call.get((item_type, call_id))
            return None if item in self._matched else item
        if raw.get("id") is None:
            return None
        item = self._first(self._queues.get((item_type, raw["id"])), raw)
        return item if item is not None and item.begins(raw) else None

    def _in_order(self, raw: JSONObject) -> Item | None:
        """Most models tell their items in order: the next one, if it fulfils all criteria."""
        while self._next < len(self._items) and self._items[self._next] in self._matched:
            self._next += 1
        if self._next == len(self._items):
            return None
        item = self._items[self._next]
        same = (item.type, item.call_id, item.raw.get("id")) == (
            (type_of(raw), raw.get("call_id"), raw.get("id"))
        )
        return item if same and item.begins(raw) else None

    def _find(self, item_type: str, raw: JSONObject) -> Item | None:
        call_id = raw.get("call_id")
        if not call_id:
            same_id = self._first(self._queues.get((item_type, raw.get("id"))), raw)
            return same_id or self._first(self._queues.get((item_type,)), raw)
        item = self._by_call.get((item_type, call_id))
        if item is not None and item not in self._matched:
            return item
        return self._first(self._queues.get((item_type, "nameless", None)), raw)

    @cached_property
    def _queues(self) -> dict[Hashable, deque[Item]]:
        """The items by type; by type and id; and those whose call id did not come."""
        queues: dict[Hashable, deque[Item]] = {}
        for item in self._items:
            queues.setdefault((item.type,), deque()).append(item)
            queues.setdefault((item.type, item.raw.get("id")), deque()).append(item)
            if item.late and not item.done and not item.call_id:
                queues.setdefault((item.type, "nameless", None), deque()).append(item)
        return queues

    def _first(self, items: deque[Item] | None, raw: JSONObject) -> Item | None:
        """The first whose streamed texts this item continues; else the first."""
        passed: list[Item] = []
        found: Item | None = None
        while items and found is None and len(passed) < NEAREST:
            item = items.popleft()
            if item not in self._matched:
                passed.append(item)
                found = item if item.begins(raw) else None
        if items is None or not passed:
            return None
        found = found or passed[0]
        passed.remove(found)
        items.extendleft(reversed(passed))
        return found
