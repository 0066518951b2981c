"""A snapshot: what a response has come to, as its log tells it.

For readers who want the present and not the history. A log is read from its end backwards, and no
further than until all is known: items are told by a lifecycle event after them (the first of an
attempt has all items so far), by their `done`, by what the store has of finished ones, and those
that are open by all events since their `added`.
"""

from collections.abc import Mapping
from typing import Any

from longrun.assembly.from_log import events_in
from longrun.assembly.items import Item
from longrun.assembly.kinds import ANNOTATION, ITEM_ADDED, ITEM_DONE, JSONObject
from longrun.jsontext import Encoded


class Snapshot:
    """Takes a log page by page, the newest first.

    Args:
        finished: the finished items that were stored before the log was looked at, as JSON texts
            by output index.
    """

    def __init__(self, finished: Mapping[int, str]) -> None:
        self._finished = finished
        self._length = max(finished, default=-1) + 1
        """How many output indexes are known to be used."""
        self._before: list[JSONObject] | None = None
        """The items of the newest lifecycle event, each at its output index."""
        self._added: dict[int, JSONObject] = {}
        self._done: dict[int, JSONObject] = {}
        self._told: dict[int, list[list[JSONObject]]] = {}
        """What the pages tell of items that are open, the newest page first."""

    def take(self, data: bytes) -> None:
        """Take the page before those that were taken: events, newline-separated."""
        told: dict[int, list[JSONObject]] = {}
        for event in events_in(data):
            if "response" in event:
                # What was said before is in it.
                self._before = event["response"]["output"]
                told.clear()
            elif "output_index" in event:
                told.setdefault(event["output_index"], []).append(event)
        if self._before is not None:
            self._length = max(self._length, len(self._before))
        for index, events in told.items():
            self._length = max(self._length, index + 1)
            self._take_of_item(index, events)

    def _take_of_item(self, index: int, events: list[JSONObject]) -> None:
        if events[0]["type"] == ITEM_ADDED:
            self._added[index] = events[0]["item"]
        if events[-1]["type"] == ITEM_DONE:
            self._done[index] = events[-1]["item"]
        elif index not in self._done:
            self._told.setdefault(index, []).append(events)

    @property
    def is_complete(self) -> bool:
        """Whether earlier pages would say nothing more.

        Items are added in the order of their output indexes, so all from the first one on whose
        `added` was read are known. One that was added before may be open, and nothing said of it
        since; that is why the first `added` is waited for.
        """
        if self._before is not None:
            return True
        first = min(self._added, default=None)
        return first is not None and all(
            index in self._done or index in self._finished for index in range(first)
        )

    @property
    def output(self) -> list[Any]:
        """The items so far, each at its output index; those that are open, as far as they got."""
        return [self._item(index) for index in range(self._length)]

    def _item(self, index: int) -> Any:
        if index in self._done:
            return self._done[index]
        if index in self._added:
            return self._open(index)
        if self._before is not None and index < len(self._before):
            return self._before[index]
        return Encoded(self._finished[index])

    def _open(self, index: int) -> JSONObject:
        item = Item.from_log(index, self._added[index])
        annotations = []
        for events in reversed(self._told[index]):
            for event in events:
                if event["type"] == ANNOTATION:
                    annotations.append(event)
                elif event["type"] != ITEM_ADDED:
                    item.event(event["type"], event)
        shown = item.so_far
        for event in annotations:
            part = shown["content"][event["content_index"]]
            part["annotations"] = [*part["annotations"], event["annotation"]]
        return shown
