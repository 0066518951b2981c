"""Output items: each is told what comes of it, and says which events are to be emitted.

An item's events leave in the order that openai's `responses.stream()` insists on: `added`, its
parts and deltas, `done`, all with one identity.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final, Protocol

from longrun import ids
from longrun.assembly.arguments import Arguments
from longrun.assembly.gathered import Gathered
from longrun.assembly.kinds import (
    CALL_KEYS,
    ITEM_ADDED,
    ITEM_DONE,
    NEVER_FAILED,
    NEVER_IN_PROGRESS,
    OWN_CALLS,
    UNFINISHED,
    WITH_CALL_ID,
    WITH_STATUS,
    Event,
    JSONObject,
    is_output,
    type_of,
    with_detail,
    with_lists,
)
from longrun.assembly.texts import Texts

GIVEN: Final = "given"
"""The key in a finished item's `done` under which the item is as the model gave it: for the
assembler, not for clients."""


class Places:
    """Gives out the output indexes of a response, each once, and the item ids that go with them."""

    def __init__(self, response_id: str, next_index: int = 0) -> None:
        self._response_id = response_id
        self._next_index = next_index

    @property
    def upcoming(self) -> int:
        """The output index of the next item."""
        return self._next_index

    def next(self, item_type: str) -> JSONObject:
        """`item_id` and `output_index` of the next item."""
        index = self._next_index
        self._next_index += 1
        item_id = ids.item_id(self._response_id, index, item_type)
        return {"item_id": item_id, "output_index": index}


class Item:
    """One output item, from the first that is heard of it to its `done`.

    Every method that is told something returns the events to emit for it, in order, with our
    item id and output index in them.

    Args:
        raw: as the model first showed it.
        late: it is shown at its end only, since an event came before it was known what it is. So
            are calls without a call id: `done` has to keep the identity of `added`.

    Attributes:
        raw: as the model last showed it.
        done: nothing more is said of it.
        finished: the model finished it; what else is done was left open by it.
    """

    __slots__ = (
        "_content",
        "_identity",
        "_places",
        "done",
        "finished",
        "late",
        "raw",
        "type",
    )

    def __init__(self, raw: JSONObject, places: Places, *, late: bool = False) -> None:
        self.raw = raw
        self.type = type_of(raw)
        self.late = late or (self.type in WITH_CALL_ID and not raw.get("call_id"))
        self.done = False
        self.finished = False
        self._places = places
        self._identity: JSONObject = {}
        self._content = _content(self.type, self._identity)

    @classmethod
    def from_log(cls, index: int, shown: JSONObject) -> "Item":
        """An item that an earlier attempt has added (`shown`: in that event), and did not finish.

        Its later events are told to `event`; what that returns is in the log already.
        """
        item = cls(shown, Places(""))
        item.late = False
        item._identity.update(item_id=shown["id"], output_index=index)
        return item

    @property
    def output_index(self) -> int:
        """-1 while it is not shown."""
        index: int = self._identity.get("output_index", -1)
        return index

    @property
    def call_id(self) -> Any:
        return self.raw.get("call_id")

    def begin(self) -> list[Event]:
        """Its `added`, with a place and an id of ours."""
        return [] if self.late else self._announce()

    def event(self, kind: str, fields: JSONObject) -> Sequence[Event]:
        """A delta or the like. `fields` are changed into those of the event that leaves."""
        if self.late or self.done:
            return ()
        fields.update(self._identity)
        return self._content.event(kind, fields)

    def gathered(self, kind: str, fields: JSONObject) -> Gathered | None:
        """Where the text that a delta is about is gathered, while more of it may come and be
        shown; else None. `fields` are the model's."""
        return None if self.late or self.done else self._content.gathered(kind, fields)

    def finish(self, raw: JSONObject, status: str = "completed") -> list[Event]:
        """What of the item was not streamed yet, then `done`.

        Args:
            raw: as the model finished it.
            status: for an item that says none.
        """
        return [*self._tell_rest(raw), self._finished(status)]

    def close(self) -> list[Event]:
        """`done` for an item that will never be finished: `incomplete`, as far as it got.

        It has this status even if its type knows none (openai's models take further fields): it
        is how clients see that it does not stay.
        """
        self.done = True
        if not self._identity:
            return []
        events = list(self._content.close())
        final = self._shaped(self.so_far)
        final["status"] = UNFINISHED.get(self.type, "incomplete")
        events.append((ITEM_DONE, {"output_index": self.output_index, "item": final}))
        return events

    @property
    def so_far(self) -> JSONObject:
        """The item as far as it got: as it was first shown, with what was streamed since."""
        return {**self.raw, **self._content.so_far(self.raw)}

    @property
    def is_open(self) -> bool:
        """Whether clients wait for its `done`."""
        return not self.done

    def begins(self, raw: JSONObject) -> bool:
        """Whether all that was streamed of this item is the beginning of that one."""
        return self._content.begins(raw)

    def _tell_rest(self, raw: JSONObject) -> list[Event]:
        """All of an item that the model has finished, but for its `done`."""
        self.done = self.finished = True
        shown = bool(self._identity)
        if not shown:
            self.raw = raw
        events = [] if shown else self._announce()
        events += self._content.rest(raw)
        self.raw = raw
        return events

    def _finished(self, status: str) -> Event:
        final = self._shaped(self.raw)
        kind = final.get("type", "")
        has_status = kind in WITH_STATUS or "status" in final
        if has_status and final.get("status") in (None, "in_progress"):
            final["status"] = UNFINISHED.get(kind, status) if status == "incomplete" else status
        elif kind in NEVER_FAILED and final.get("status") == "failed":
            final["status"] = "completed"
        return ITEM_DONE, {"output_index": self.output_index, "item": final, GIVEN: self.raw}

    def _announce(self) -> list[Event]:
        self._identity.update(self._places.next(self.type))
        opened = _opened(self.raw, self._identity["item_id"])
        return [(ITEM_ADDED, {"output_index": self.output_index, "item": opened})]

    def _shaped(self, raw: JSONObject) -> JSONObject:
        """An item for its `done` event and for the output, but for its status."""
        shaped = {**raw, "id": self._identity["item_id"]}
        shaped.pop("provider_data", None)
        kind = shaped.get("type", "")
        if kind == "message":
            shaped["content"] = [with_lists(part) for part in shaped.get("content") or ()]
            shaped.setdefault("role", "assistant")
        elif kind == "reasoning":
            shaped["summary"] = shaped.get("summary") or []
        elif kind in OWN_CALLS:
            shaped[CALL_KEYS[kind][0]] = shaped.get(CALL_KEYS[kind][0]) or ""
        elif isinstance(shaped.get("output"), list):
            shaped["output"] = [with_detail(part) for part in shaped["output"]]
        return shaped


class _Content(Protocol):
    """What of an item is streamed piece by piece."""

    def event(self, kind: str, fields: JSONObject) -> Sequence[Event]: ...
    def gathered(self, kind: str, fields: JSONObject) -> Gathered | None: ...
    def rest(self, raw: JSONObject) -> Iterable[Event]: ...
    def close(self) -> Iterable[Event]: ...
    def so_far(self, raw: JSONObject) -> JSONObject: ...
    def begins(self, raw: JSONObject) -> bool: ...


class _Whole:
    """Of items that come whole: their events pass as they are."""

    def event(self, kind: str, fields: JSONObject) -> Sequence[Event]:
        return ((kind, fields),)

    def gathered(self, kind: str, fields: JSONObject) -> Gathered | None:
        return None

    def rest(self, raw: JSONObject) -> Sequence[Event]:
        return ()

    def close(self) -> Sequence[Event]:
        return ()

    def so_far(self, raw: JSONObject) -> JSONObject:
        return {}

    def begins(self, raw: JSONObject) -> bool:
        return True


def _content(item_type: str, identity: JSONObject) -> _Content:
    if item_type in ("message", "reasoning"):
        return Texts(identity)
    if item_type in CALL_KEYS:
        return Arguments(item_type, identity, always=item_type in OWN_CALLS)
    return _Whole()


def _opened(raw: JSONObject, item_id: str) -> JSONObject:
    """An item for its `added` event: with our id, and empty of what its deltas or its `done` will
    bring."""
    opened = {**raw, "id": item_id}
    opened.pop("provider_data", None)
    kind = opened.get("type")
    if kind == "message":
        opened["content"] = []
    elif kind == "reasoning":
        opened["summary"] = []
        opened.pop("content", None)
    elif kind in CALL_KEYS:
        opened[CALL_KEYS[kind][0]] = ""
    elif kind == "compaction":
        opened["encrypted_content"] = ""
    elif is_output(opened) and opened.get("output"):
        # `done` follows at once: a long output would be sent, and stored, twice as often.
        opened["output"] = _emptied(opened["output"])
    if (kind in WITH_STATUS or "status" in opened) and kind not in NEVER_IN_PROGRESS:
        opened["status"] = "in_progress"
    return opened


def _emptied(output: Any) -> Any:
    """What stands for a tool's output before it is shown: empty, of the same shape."""
    if isinstance(output, dict):
        return {"type": output["type"]} if "type" in output else {}
    return [] if isinstance(output, list) else ""


def unannounced(item_type: str) -> tuple[JSONObject, bool]:
    """What is known of an item of which an event came without an `added`, and whether it can be
    shown at its end only."""
    if item_type == "reasoning":
        return {"type": item_type, "summary": []}, False
    if item_type == "message":
        return {"type": item_type, "role": "assistant", "content": []}, False
    return {"type": item_type}, True


def closed_empty(added: JSONObject) -> JSONObject:
    """An item that does not stay, by its `added` event: it says only that it was there."""
    return {**added, "status": UNFINISHED.get(type_of(added), "incomplete")}
