"""The texts of a message or a reasoning item while they are streamed, part by part.

The rules are those of openai's `responses.stream()` (openai/lib/streaming/responses): a part is
added before its deltas, the deltas add up to the finished text, and a part ends once.
"""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from longrun.assembly.gathered import Gathered
from longrun.assembly.kinds import (
    ANNOTATION,
    LISTS,
    PART_EVENTS,
    TEXT_OF_EVENT,
    TEXT_OF_PART,
    Event,
    JSONObject,
    Text,
    missing,
    plain,
    text_of,
    with_lists,
)


@dataclass(slots=True)
class _Part:
    text: Text
    place: int  # among the item's parts of its index: ours, without gaps
    gathered: Gathered = field(default_factory=Gathered)
    whole: str | None = None  # what was gathered, once nothing more comes
    said: bool = False  # the text's own `done`
    done: bool = False  # the part's `done`

    @property
    def so_far(self) -> str:
        return self.gathered.getvalue() if self.whole is None else self.whole

    def settle(self, text: str) -> None:
        """Nothing more is gathered: most often it is this text of the model's, which is there
        already, and need not be held twice."""
        said = self.so_far
        self.whole, self.gathered = text if text == said else said, Gathered()
        self.said = True

    def is_open(self, text: Text | None) -> bool:
        """Whether more of this kind of text may still be said."""
        return self.text is text and not self.said and not self.done

    def as_json(self, text: str) -> JSONObject:
        return with_lists({"type": self.text.part, self.text.key: text})


class Texts:
    """What was streamed of an item's texts, and what still has to be.

    Every method that is told something returns the events to emit for it, in order.

    Args:
        identity: `item_id` and `output_index`, for the events that the model left out.
    """

    def __init__(self, identity: JSONObject) -> None:
        self._identity = identity
        self._parts: dict[tuple[str, Hashable], _Part] = {}  # by the model's own index
        self._in_order: dict[str, list[_Part]] = {"summary_index": [], "content_index": []}

    # -- events of the model --------------------------------------------------------------

    def event(self, kind: str, fields: JSONObject) -> Sequence[Event]:
        """One event of the item, with our identity in it; our part's place is put in here."""
        streamed = TEXT_OF_EVENT.get(kind)
        if streamed is not None:
            text, what = streamed
            of_text = self._delta if what == "delta" else self._text_done
            return of_text(kind, fields, text)
        if kind in PART_EVENTS:
            index, what = PART_EVENTS[kind]
            raw = plain(fields.get("part") or {})
            part_text = TEXT_OF_PART.get(raw.get("type", ""))
            if part_text is None or part_text.index != index:
                return ()
            of_part = self._part_added if what == "added" else self._part_done
            return of_part(kind, fields, part_text, raw)
        if kind == ANNOTATION:
            return self._annotation(kind, fields)
        return ((kind, fields),)

    def gathered(self, kind: str, fields: JSONObject) -> Gathered | None:
        """Where the deltas of a part are gathered; None: they are not, not now, or not any
        more."""
        text, _ = TEXT_OF_EVENT.get(kind, (None, ""))
        if text is None:
            return None
        index = fields.get(text.index)
        part = self._parts.get((text.index, 0 if index is None else index))
        if part is None or part.gathered.half or not part.is_open(text):
            return None
        return part.gathered

    def _delta(self, kind: str, fields: JSONObject, text: Text) -> list[Event]:
        part, events = self._part_or_new(text, fields)
        delta = fields.get("delta")
        if delta is None or not part.is_open(text):
            return events
        fields["delta"] = part.gathered.take(delta)
        events.append((kind, _placed(part, fields)))
        return events

    def _text_done(self, kind: str, fields: JSONObject, text: Text) -> list[Event]:
        part, events = self._part_or_new(text, fields)
        if part.is_open(text):
            events += self._catch_up(part, fields.get(text.key) or "")
            fields[text.key] = fields.get(text.key) or part.so_far
            part.settle(fields[text.key])
            events.append((kind, _placed(part, fields)))
        return events

    def _part_added(
        self, kind: str, fields: JSONObject, text: Text, raw: JSONObject
    ) -> Sequence[Event]:
        if self._part(text.index, fields) is not None:
            return ()
        part = self._new_part(text, fields[text.index])
        # What it already holds comes again in its deltas, or else is made up for.
        fields["part"], fields[text.index] = part.as_json(""), part.place
        return ((kind, fields),)

    def _part_done(self, kind: str, fields: JSONObject, text: Text, raw: JSONObject) -> list[Event]:
        part, events = self._part_or_new(text, fields)
        if part.text is text and not part.done:
            whole = raw.get(text.key) or part.so_far
            if not part.said:
                events += self._say(part, whole)
            part.done = True
            raw[text.key] = whole
            fields["part"], fields[text.index] = with_lists(raw), part.place
            events.append((kind, fields))
        return events

    def _annotation(self, kind: str, fields: JSONObject) -> list[Event]:
        part, events = self._part_or_new(TEXT_OF_PART["output_text"], fields)
        if part.text.part == "output_text" and not part.done:
            fields["content_index"] = part.place
            events.append((kind, fields))
        return events

    # -- the item's end -------------------------------------------------------------------

    def rest(self, raw: JSONObject) -> Iterator[Event]:
        """What is still to be said of an item that the model finished like this."""
        for key, index in LISTS:
            place = -1
            for raw_part in raw.get(key) or ():
                text = TEXT_OF_PART.get(raw_part.get("type", ""))
                if text is None or text.index != index:
                    continue
                place += 1
                if place == len(self._in_order[index]):
                    yield self._add(text, (place, "at the end"))
                part = self._in_order[index][place]
                if part.text is text:
                    yield from self._finish(part, raw_part.get(text.key) or "", raw_part)
        yield from self.close()

    def close(self) -> Iterator[Event]:
        """The ends of all parts that are open, as far as they got."""
        for part in self._parts.values():
            yield from self._finish(part, part.so_far)

    def so_far(self, raw: JSONObject) -> JSONObject:
        """What was streamed, by the keys of the item (`raw`: as it was first shown)."""
        content, summary = (
            [part.as_json(part.so_far) for part in self._in_order[index]]
            for index in ("content_index", "summary_index")
        )
        if raw.get("type") == "reasoning":
            return {"summary": summary, "content": content} if content else {"summary": summary}
        return {"content": content}

    def begins(self, raw: JSONObject) -> bool:
        """Whether all that was streamed is the beginning of this item's texts."""
        for key, index in LISTS:
            said = [part.so_far for part in self._in_order[index]]
            texts = (text_of(part) for part in raw.get(key) or ())
            whole = [text for text in texts if text is not None]
            if len(said) > len(whole) or not all(map(str.startswith, whole, said)):
                return False
        return True

    # -- parts ----------------------------------------------------------------------------

    def _part(self, index: str, fields: JSONObject) -> _Part | None:
        """The part that an event is about; one without an index means the first."""
        if fields.get(index) is None:
            fields[index] = 0
        return self._parts.get((index, fields[index]))

    def _part_or_new(self, text: Text, fields: JSONObject) -> tuple[_Part, list[Event]]:
        """The part that an event is about, and its `added` if the model never said that."""
        part = self._part(text.index, fields)
        if part is not None:
            return part, []
        added = self._add(text, fields[text.index])
        return self._in_order[text.index][-1], [added]

    def _new_part(self, text: Text, raw_index: Hashable) -> _Part:
        siblings = self._in_order[text.index]
        part = self._parts[text.index, raw_index] = _Part(text, len(siblings))
        siblings.append(part)
        return part

    def _add(self, text: Text, raw_index: Hashable) -> Event:
        part = self._new_part(text, raw_index)
        return f"{text.parts}.added", self._at(part, part=part.as_json(""))

    def _catch_up(self, part: _Part, whole: str) -> Iterator[Event]:
        """The rest of a text, as one more delta."""
        rest = missing(whole, part.so_far)
        if rest:
            part.gathered.write(rest)
            yield f"{part.text.events}.delta", self._at(part, delta=rest, **part.text.extra)

    def _say(self, part: _Part, whole: str) -> Iterator[Event]:
        """The rest of a text, and its `done`."""
        yield from self._catch_up(part, whole)
        part.settle(whole)
        said = self._at(part, **{part.text.key: whole}, **part.text.extra)
        yield f"{part.text.events}.done", said

    def _finish(self, part: _Part, whole: str, raw: JSONObject | None = None) -> Iterator[Event]:
        if not part.said:
            yield from self._say(part, whole)
        if not part.done:
            part.done = True
            shown = with_lists(raw) if raw else part.as_json(whole)
            yield f"{part.text.parts}.done", self._at(part, part=shown)

    def _at(self, part: _Part, /, **fields: Any) -> JSONObject:
        return {**self._identity, part.text.index: part.place, **fields}


def _placed(part: _Part, fields: JSONObject) -> JSONObject:
    """An event of the model with our place of its part, and the lists that clients expect."""
    fields[part.text.index] = part.place
    for key, value in part.text.extra.items():
        if fields.get(key) is None:
            fields[key] = value
    return fields
