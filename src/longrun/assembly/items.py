"""Output items while they are streamed: what was said of each, and what still has to be.

The rules are those of openai's `responses.stream()` (openai/lib/streaming/responses): a part is
added before its deltas, deltas add up to the finished text, `done` keeps the identity of `added`.
"""

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from longrun.assembly.kinds import (
    ANNOTATION,
    CALL_EVENTS,
    CALL_KEYS,
    LISTS,
    NEVER_IN_PROGRESS,
    OWN_CALLS,
    PART_EVENTS,
    TEXT_OF_EVENT,
    TEXT_OF_PART,
    UNFINISHED,
    WITH_CALL_ID,
    WITH_STATUS,
    JSONObject,
    Text,
    plain,
    text_of,
    with_detail,
    with_lists,
)

Event = tuple[str, JSONObject]


@dataclass(slots=True)
class _Part:
    text: Text
    place: int  # among the item's parts of its index: ours, without gaps
    pieces: list[str] = field(default_factory=list)
    said: bool = False  # the text's own `done`
    done: bool = False  # the part's `done`

    @property
    def so_far(self) -> str:
        return "".join(self.pieces)

    def takes(self, text: Text | None) -> bool:
        """Whether more of this kind of text may still be said."""
        return self.text is text and not self.said and not self.done

    def at(self, **fields: Any) -> JSONObject:
        return {self.text.index: self.place, **fields}

    def as_json(self, text: str) -> JSONObject:
        return with_lists({"type": self.text.part, self.text.key: text})


class OpenItem:
    """An output item from its `added` to its `done`.

    Args:
        item: as the model first showed it.
        held: nothing is emitted yet, since its identity is not known: a call without a call id,
            or an item that was never added.
    """

    __slots__ = (
        "_call_done",
        "_call_pieces",
        "_in_order",
        "_parts",
        "done",
        "finished",
        "held",
        "item",
        "item_id",
        "output_index",
        "type",
    )

    def __init__(self, item: JSONObject, *, held: bool = False) -> None:
        self.item = item
        self.type: str = item.get("type", "message")
        self.held = held or (self.type in WITH_CALL_ID and not item.get("call_id"))
        self.done = False
        self.finished = False
        self.output_index = -1
        self.item_id = ""
        self._parts: dict[tuple[str, Hashable], _Part] = {}  # by the model's own index
        self._in_order: dict[str, list[_Part]] = {"summary_index": [], "content_index": []}
        self._call_pieces: list[str] = []
        self._call_done = False

    @classmethod
    def guess(cls, item_type: str) -> "OpenItem":
        """The item of an event that came without an `added`."""
        if item_type == "reasoning":
            return cls({"type": item_type, "summary": []})
        if item_type == "message":
            return cls({"type": item_type, "role": "assistant", "content": []})
        return cls({"type": item_type}, held=True)

    def is_shown_again(self, item: JSONObject) -> bool:
        """Whether another `added` of this type, at the same index, means this very item."""
        known = self.item.get("call_id")
        if known or self.done:
            return bool(known) and known == item.get("call_id")
        return self.held or self.item.get("id") == item.get("id")

    def is_finished_by(self, item: JSONObject) -> bool:
        """Whether a `done` of this type, at the same index, means this item."""
        known = self.item.get("call_id")
        if known:
            return bool(known == item.get("call_id"))
        return not self.done or self.item.get("id") == item.get("id")

    def could_be(self, item: JSONObject) -> bool:
        """Whether all that was streamed of this item is the beginning of that one's texts."""
        for key, index in LISTS:
            said = [part.so_far for part in self._in_order[index]]
            texts = (text_of(part) for part in item.get(key) or ())
            whole = [text for text in texts if text is not None]
            if len(said) > len(whole) or not all(map(str.startswith, whole, said)):
                return False
        return True

    def before(self, kind: str, fields: JSONObject) -> Iterable[Event]:
        """What has to be said before this event: a part never added, the rest of a text."""
        if kind in TEXT_OF_EVENT:
            text, what = TEXT_OF_EVENT[kind]
            part = self._part(text.index, fields)
            if part is None or what == "done":
                return self._before_text(text, what, fields)
        elif kind in PART_EVENTS and PART_EVENTS[kind][1] == "done":
            return self._before_part_done(PART_EVENTS[kind][0], fields)
        elif kind == ANNOTATION and self._part("content_index", fields) is None:
            return self._add(TEXT_OF_PART["output_text"], fields["content_index"])
        elif kind in CALL_EVENTS and CALL_EVENTS[kind] == "done" and not self._call_done:
            return self._catch_up_call(fields)
        return ()

    def _before_text(self, text: Text, what: str, fields: JSONObject) -> Iterator[Event]:
        raw_index = fields[text.index]
        if (text.index, raw_index) not in self._parts:
            yield from self._add(text, raw_index)
        part = self._parts[text.index, raw_index]
        if what == "done" and part.takes(text):
            yield from _catch_up(part, fields.get(text.key) or "")

    def _before_part_done(self, index: str, fields: JSONObject) -> Iterator[Event]:
        raw = plain(fields.get("part") or {})
        text = TEXT_OF_PART.get(raw.get("type", ""))
        part = self._part(index, fields)
        if part is None and text is not None and text.index == index:
            yield from self._add(text, fields[index])
            part = self._parts[index, fields[index]]
        if part is not None and part.takes(text):
            yield from self._say(part, raw.get(part.text.key) or part.so_far)

    def take(self, kind: str, fields: JSONObject) -> bool:
        """Note an event, and put our index into it. False: it must not go out."""
        if kind in TEXT_OF_EVENT:
            return self._take_text(kind, fields)
        if kind in PART_EVENTS:
            return self._take_part(kind, fields)
        if kind == ANNOTATION:
            part = self._parts["content_index", fields["content_index"]]
            fields["content_index"] = part.place
            return part.text.part == "output_text" and not part.done
        if kind in CALL_EVENTS:
            return self._take_call(kind, fields)
        return True

    def _take_text(self, kind: str, fields: JSONObject) -> bool:
        text, what = TEXT_OF_EVENT[kind]
        part = self._parts[text.index, fields[text.index]]
        if not part.takes(text):
            return False
        fields[text.index] = part.place
        for key in text.extra:
            if fields.get(key) is None:
                fields[key] = text.extra[key]
        if what == "delta":
            if fields.get("delta") is None:
                return False
            part.pieces.append(fields["delta"])
        else:
            part.said = True
            fields[text.key] = fields.get(text.key) or part.so_far
        return True

    def _take_part(self, kind: str, fields: JSONObject) -> bool:
        index, what = PART_EVENTS[kind]
        part = self._part(index, fields)
        raw = plain(fields.get("part") or {})
        text = TEXT_OF_PART.get(raw.get("type", ""))
        if text is None or text.index != index:
            return False
        if what == "added":
            if part is not None:
                return False
            part = self._new_part(text, fields[index])
            # What it already holds comes again in its deltas, or else is made up for.
            fields["part"], fields[index] = part.as_json(""), part.place
            return True
        if part is None or part.done or part.text is not text:
            return False
        part.done = True
        raw[text.key] = raw.get(text.key) or part.so_far
        fields["part"], fields[index] = with_lists(raw), part.place
        return True

    def _take_call(self, kind: str, fields: JSONObject) -> bool:
        if self._call_done:
            return False
        if CALL_EVENTS[kind] == "delta":
            if fields.get("delta") is None:
                return False
            self._call_pieces.append(fields["delta"])
        else:
            self._call_done = True
        return True

    def _part(self, index: str, fields: JSONObject) -> _Part | None:
        """The part that an event is about; one without an index means the first."""
        if fields.get(index) is None:
            fields[index] = 0
        return self._parts.get((index, fields[index]))

    def rest(self, item: JSONObject | None) -> Iterator[Event]:
        """What is still to be said before `done`. Without an item: just close what is open."""
        if item is not None:
            if self.type in ("message", "reasoning"):
                yield from self._rest_of_parts(item)
            elif (self.type in OWN_CALLS or self._call_pieces) and not self._call_done:
                self._call_done = True
                yield from self._catch_up_call(item)
                yield self._call_end(item)
        for part in self._parts.values():
            yield from self._finish(part, part.so_far)

    def _rest_of_parts(self, item: JSONObject) -> Iterator[Event]:
        for key, index in LISTS:
            place = -1
            for raw in item.get(key) or ():
                text = TEXT_OF_PART.get(raw.get("type", ""))
                if text is None or text.index != index:
                    continue
                place += 1
                if place == len(self._in_order[index]):
                    yield from self._add(text, (place, "at the end"))
                part = self._in_order[index][place]
                if part.text is text:
                    yield from self._finish(part, raw.get(text.key) or "", raw)

    def _catch_up_call(self, item: JSONObject) -> Iterator[Event]:
        key, events = CALL_KEYS[self.type]
        missing = _missing(item.get(key) or "", "".join(self._call_pieces))
        if missing:
            self._call_pieces.append(missing)
            yield f"{events}.delta", {"delta": missing}

    def _call_end(self, item: JSONObject) -> Event:
        key, events = CALL_KEYS[self.type]
        done = {key: item.get(key) or ""}
        if self.type == "function_call":
            done["name"] = item.get("name") or ""
        return f"{events}.done", done

    def _new_part(self, text: Text, raw_index: Hashable) -> _Part:
        siblings = self._in_order[text.index]
        part = self._parts[text.index, raw_index] = _Part(text, len(siblings))
        siblings.append(part)
        return part

    def _add(self, text: Text, raw_index: Hashable) -> Iterator[Event]:
        part = self._new_part(text, raw_index)
        yield f"{text.parts}.added", part.at(part=part.as_json(""))

    def _say(self, part: _Part, whole: str) -> Iterator[Event]:
        """The rest of a text, and its `done`."""
        yield from _catch_up(part, whole)
        part.said = True
        said = part.at(**{part.text.key: whole}, **part.text.extra)
        yield f"{part.text.events}.done", said

    def _finish(self, part: _Part, whole: str, raw: JSONObject | None = None) -> Iterator[Event]:
        if not part.said:
            yield from self._say(part, whole)
        if not part.done:
            part.done = True
            shown = with_lists(raw) if raw else part.as_json(whole)
            yield f"{part.text.parts}.done", part.at(part=shown)

    def as_far_as_known(self) -> JSONObject:
        """The item with what was streamed of it, for one that will never be finished."""
        item = dict(self.item)
        if self.type == "message":
            item["content"] = self._shown("content_index")
        elif self.type == "reasoning":
            item["summary"] = self._shown("summary_index")
            if self._in_order["content_index"]:
                item["content"] = self._shown("content_index")
        elif self.type in CALL_KEYS:
            item[CALL_KEYS[self.type][0]] = "".join(self._call_pieces)
        return item

    def _shown(self, index: str) -> list[JSONObject]:
        return [part.as_json(part.so_far) for part in self._in_order[index]]


def opened_item(item: JSONObject, item_id: str) -> JSONObject:
    """An item for its `added` event: with our id, and empty of what its deltas will bring."""
    opened = {**item, "id": item_id}
    kind = opened.get("type")
    if kind == "message":
        opened["content"] = []
    elif kind == "reasoning":
        opened["summary"] = []
        opened.pop("content", None)
    elif kind in CALL_KEYS:
        opened[CALL_KEYS[kind][0]] = ""
    elif isinstance(opened.get("output"), list):
        opened["output"] = [with_detail(part) for part in opened["output"]]
    if (kind in WITH_STATUS or "status" in opened) and kind not in NEVER_IN_PROGRESS:
        opened["status"] = "in_progress"
    return opened


def finished_item(shown: OpenItem, item: JSONObject | None, status: str) -> JSONObject:
    """An item for its `done` event and for the output."""
    finished = {**(shown.as_far_as_known() if item is None else item), "id": shown.item_id}
    kind = finished.get("type", "")
    if kind == "message":
        finished["content"] = [with_lists(part) for part in finished.get("content") or ()]
        finished.setdefault("role", "assistant")
    elif kind == "reasoning":
        finished["summary"] = finished.get("summary") or []
    elif kind in OWN_CALLS:
        finished[CALL_KEYS[kind][0]] = finished.get(CALL_KEYS[kind][0]) or ""
    elif isinstance(finished.get("output"), list):
        finished["output"] = [with_detail(part) for part in finished["output"]]
    unfinished = item is None or finished.get("status") in (None, "in_progress")
    if unfinished and (kind in WITH_STATUS or "status" in finished):
        finished["status"] = UNFINISHED.get(kind, status) if status == "incomplete" else status
    return finished


def _catch_up(part: _Part, whole: str) -> Iterator[Event]:
    """The rest of a text, as one more delta."""
    missing = _missing(whole, part.so_far)
    if missing:
        part.pieces.append(missing)
        yield f"{part.text.events}.delta", part.at(delta=missing, **part.text.extra)


def _missing(whole: str, said: str) -> str:
    """What of a text was not said yet; nothing where the two do not fit together."""
    return whole[len(said) :] if whole.startswith(said) else ""
