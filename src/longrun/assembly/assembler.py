"""The assembler: makes ONE response of all the turns that the Agents SDK streams.

The SDK emits one `response.created` … `response.completed` for each model turn, with indexes
that start again and ids that may be placeholders. A client sees one response: one `created`,
`output_index` growing over all turns, ids of ours, tool results as items, nothing added that is
left open, one final snapshot and one terminal event (contract, "Streams").

Models differ in how much they say: some stream every part, some only a `response.completed`.
What is missing is made up for, so that the deltas of a stream always add up to its items.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, get_args

from openai.types.responses import ResponseStreamEvent

from longrun import ids
from longrun.assembly.items import OpenItem, finished_item, opened_item
from longrun.assembly.kinds import item_of_event, plain, texts_of
from longrun.assembly.usage import UsageSum
from longrun.jsontext import Encoded, dumps
from longrun.protocol import TERMINAL_EVENT_OF, Status

JSONObject = dict[str, Any]


def _known_types() -> frozenset[str]:
    union = get_args(ResponseStreamEvent)[0]
    return frozenset(
        get_args(event.model_fields["type"].annotation)[0] for event in get_args(union)
    )


KNOWN_TYPES: Final = _known_types()
"""Event types of the Responses API; openai-node throws on any other, so no other leaves."""

_OF_THE_TURN: Final = frozenset(
    {
        "response.created",
        "response.queued",
        "response.in_progress",
        "response.completed",
        "response.incomplete",
        "response.failed",
        "error",
    }
)
"""Raw events about the model's own response; what they mean for ours is decided here."""

_WITHOUT_ITEM: Final = "response.audio"
"""Events that begin so belong to no item."""


class Emission(NamedTuple):
    """Encoded events, and the items (output_index, JSON text) that became finished with them."""

    events: list[bytes]
    items: list[tuple[int, str]]


@dataclass(slots=True)
class _Turn:
    """One model turn: its items by the model's own output_index and their type, and in order.

    Models that always say index 0 are told apart by the type.
    """

    by_index: dict[tuple[int | None, str], OpenItem] = field(default_factory=dict)
    items: list[OpenItem] = field(default_factory=list)


class Assembler:
    """Turns the SDK's stream into the events of one response.

    Methods queue events; `take` hands them over, numbered and encoded. All of it is plain
    computation: no input or output happens here.

    Args:
        document: the Response object without `output`; `status` and the end are filled in.
        next_sequence, output: where an earlier attempt got to: the end of its log and the items
            that stay.
        next_index: the first output index that was never used.
    """

    def __init__(
        self,
        response_id: str,
        document: JSONObject,
        *,
        next_sequence: int = 0,
        next_index: int = 0,
        output: Mapping[int, str] | None = None,
    ) -> None:
        self.response_id = response_id
        self.incomplete_details: JSONObject | None = None
        self.usage = UsageSum()
        self._document = document
        self._sequence = next_sequence
        self._next_index = next_index
        self._output: dict[int, str] = dict(output or {})
        self._turn = _Turn()
        self._last_texts: list[list[str]] = []
        self.turn_indexes: list[int] = []
        self._answered: set[str] = set()
        self._dropped_calls: set[str] = set()
        self._events: list[bytes] = []
        self._items: list[tuple[int, str]] = []

    # -- what the runner calls ------------------------------------------------------------

    def take(self) -> Emission:
        """What was queued since the last call."""
        emission = Emission(self._events, self._items)
        self._events, self._items = [], []
        return emission

    def lifecycle(self, status: Status) -> None:
        """`created` (first of a log), `queued`, `in_progress`, with the items so far."""
        if self._sequence == 0:
            self._emit("response.created", response=self._snapshot(status))
        if self._sequence == 1 or status == "in_progress":
            self._emit(f"response.{status}", response=self._snapshot(status))

    def raw_event(self, event: Any) -> None:
        """One raw event of a model's stream."""
        kind: str = event.type
        if kind in _OF_THE_TURN:
            self._turn_event(kind, event)
        elif kind == "response.output_item.added":
            self._item_added(event)
        elif kind == "response.output_item.done":
            self._item_done(event)
        elif kind in KNOWN_TYPES:
            self._item_event(kind, event)

    def tool_output(self, raw_item: Any) -> None:
        """The result of a tool call or a handoff, an item of its own; once per call."""
        item = self._plain(raw_item)
        call_id = item.get("call_id")
        if call_id is not None:
            if call_id in self._answered:
                return
            self._answered.add(call_id)
        self._whole_item(item)

    def local_message(self, raw_item: Any) -> None:
        """A message that the SDK made without a model (a blocked output, an error's answer).

        The SDK reports the model's own messages in the same way; those were streamed already.
        """
        item = plain(raw_item)
        if texts_of(item) not in self._last_texts:
            self._whole_item(item)

    def replayed_turn(self, response: Any) -> None:
        """A turn that an earlier attempt finished: its events are in the log already."""
        self.usage.add(response.usage)
        self._last_texts = [texts_of(plain(raw)) for raw in response.output or ()]

    def carry_on(
        self,
        left_open: Sequence[OpenItem],
        answered: Iterable[str],
        dropped_calls: Iterable[str] = (),
    ) -> None:
        """Take over from an earlier attempt.

        Args:
            left_open: the items that it added and never finished; closed here, `incomplete`.
            answered: the call ids whose outputs are among the items.
            dropped_calls: the call ids that clients have seen on items that do not stay.
        """
        self._answered.update(answered)
        self._dropped_calls.update(dropped_calls)
        self._turn.items.extend(left_open)
        self.close_open_items()
        self._turn = _Turn()

    def end(self, status: Status, error: JSONObject | None, completed_at: int | None) -> str:
        """The terminal event. Open items are closed `incomplete` and stay out of the output.

        Returns:
            The final document, without the output.
        """
        self.close_open_items()
        details = self.incomplete_details if status == "incomplete" else None
        self._document = {
            **self._document,
            "status": status,
            "completed_at": completed_at if status == "completed" else None,
            "error": error,
            "incomplete_details": details,
            "usage": self.usage.as_json(),
        }
        self._emit(TERMINAL_EVENT_OF[status], response=self._snapshot(status))
        return dumps(self._document).decode()

    def close_open_items(self) -> None:
        """`done` with status `incomplete` for whatever was added and not finished."""
        for shown in self._turn.items:
            if not shown.done:
                self._close(shown, None, "incomplete")

    # -- a model's turn -------------------------------------------------------------------

    def _turn_event(self, kind: str, event: Any) -> None:
        if kind == "response.created":
            self._begin_turn()
        elif kind == "response.completed":
            self._complete_turn(event.response)
        elif kind == "response.incomplete":
            self._complete_turn(event.response, "incomplete")
            details = event.response.incomplete_details
            self.incomplete_details = plain(details) if details else {"reason": None}

    def _begin_turn(self) -> None:
        """A new turn, or a model request that is tried again: what was open stays unfinished."""
        self.close_open_items()
        self._turn = _Turn()

    def _complete_turn(self, response: Any, status: str = "completed") -> None:
        """Finish what the stream left open, and show what it never showed."""
        self.usage.add(response.usage)
        unmatched = list(self._turn.items)
        call_ids: set[str] = set()
        for raw in response.output or ():
            item = self._plain(raw)
            shown = _match(item, unmatched)
            if shown is not None:
                unmatched.remove(shown)
                if not shown.done:
                    self._close(shown, item, status)
            elif item.get("call_id") not in call_ids:
                self._whole_item(item, status)
            if item.get("call_id"):
                call_ids.add(item["call_id"])
        for shown in unmatched:
            if not shown.done:
                self._close(shown, None, "incomplete")
        self._last_texts = [texts_of(plain(raw)) for raw in response.output or ()]
        self.turn_indexes = [shown.output_index for shown in self._turn.items if shown.finished]
        self._turn = _Turn()

    def _item_added(self, event: Any) -> None:
        if event.item is None:
            return
        item = self._plain(event.item)
        shown = self._shown(event.output_index, item)
        if shown is None or not shown.is_shown_again(item):
            self._open(event.output_index, OpenItem(item))

    def _shown(self, raw_index: int | None, item: JSONObject) -> OpenItem | None:
        """What was streamed under this item's call id, else at this index."""
        item_type = item.get("type", "message")
        if item.get("call_id"):
            for shown in self._turn.items:
                if shown.type == item_type and shown.item.get("call_id") == item["call_id"]:
                    return shown
        return self._turn.by_index.get((raw_index, item_type))

    def _open(self, raw_index: int | None, shown: OpenItem) -> OpenItem:
        self._turn.by_index[raw_index, shown.type] = shown
        self._turn.items.append(shown)
        if not shown.held:
            self._show(shown)
        return shown

    def _show(self, shown: OpenItem) -> None:
        """Give an item its place and its id, and say that it is there."""
        shown.output_index = self._next_index
        self._next_index += 1
        shown.item_id = ids.item_id(self.response_id, shown.output_index, shown.type)
        shown.held = False
        self._emit(
            "response.output_item.added",
            output_index=shown.output_index,
            item=opened_item(shown.item, shown.item_id),
        )

    def _item_event(self, kind: str, event: Any) -> None:
        """A delta or the like: the same event, at our index and with our id."""
        fields: JSONObject = {"type": kind, "sequence_number": 0, **event.__dict__}
        if event.__pydantic_extra__:
            fields.update(event.__pydantic_extra__)
        if not kind.startswith(_WITHOUT_ITEM) and not self._place(kind, fields):
            return
        fields["sequence_number"] = self._sequence
        self._events.append(dumps({k: v for k, v in fields.items() if v is not None}))
        self._sequence += 1

    def _place(self, kind: str, fields: JSONObject) -> bool:
        """Put an event of an item in its place. False: it must not go out (yet)."""
        raw_index, item_type = fields.get("output_index"), item_of_event(kind, fields)
        shown = self._turn.by_index.get((raw_index, item_type))
        if shown is None:
            shown = self._open(raw_index, OpenItem.guess(item_type))
        if shown.held or shown.done:
            return False
        for before_kind, before in shown.before(kind, fields):
            self._emit_for(shown, before_kind, before)
        fields["output_index"] = shown.output_index
        if "item_id" in fields:
            fields["item_id"] = shown.item_id
        return shown.take(kind, fields)

    def _item_done(self, event: Any) -> None:
        if event.item is None:
            return
        item = self._plain(event.item)
        shown = self._shown(event.output_index, item)
        if shown is None or not shown.is_finished_by(item):
            shown = self._open(event.output_index, OpenItem(item))
        if not shown.done:
            self._close(shown, item, "completed")

    def _plain(self, raw: Any) -> JSONObject:
        """An item of the SDK's, with a call id that no dropped item has had.

        A turn that is asked again may give the same call ids again, which openai's client takes
        for one item at two indexes. The next free of `id`, `id_2`, … is always the same one, so
        that calls and their outputs still find each other, in every attempt.
        """
        item = plain(raw)
        call_id = item.get("call_id")
        if call_id in self._dropped_calls:
            n = 2
            while f"{call_id}_{n}" in self._dropped_calls:
                n += 1
            item = {**item, "call_id": f"{call_id}_{n}"}
        return item

    # -- items ----------------------------------------------------------------------------

    def _whole_item(self, item: JSONObject, status: str = "completed") -> None:
        """An item that comes all at once."""
        shown = OpenItem(item)
        self._turn.items.append(shown)
        self._close(shown, item, status)

    def _close(self, shown: OpenItem, item: JSONObject | None, status: str) -> None:
        """Finish an item: what of it was not streamed yet, then `done`.

        Args:
            item: as the model finished it; None when it never did.
        """
        shown.done = True
        if shown.held:
            if item is None:
                return
            shown.item = item
        if shown.item_id == "":
            self._show(shown)
        for kind, fields in shown.rest(item):
            self._emit_for(shown, kind, fields)
        final = finished_item(shown, item, status)
        self._emit("response.output_item.done", output_index=shown.output_index, item=final)
        if item is not None:
            shown.item = item
            shown.finished = True
            text = dumps(final).decode()
            self._output[shown.output_index] = text
            self._items.append((shown.output_index, text))

    # -- events ---------------------------------------------------------------------------

    def _emit_for(self, shown: OpenItem, kind: str, fields: Mapping[str, Any]) -> None:
        self._emit(kind, item_id=shown.item_id, output_index=shown.output_index, **fields)

    def _emit(self, kind: str, **fields: Any) -> None:
        """`type` and `sequence_number` come first in every event: readers rely on it."""
        self._events.append(dumps({"type": kind, "sequence_number": self._sequence, **fields}))
        self._sequence += 1

    def _snapshot(self, status: Status) -> JSONObject:
        output = [Encoded(self._output[index]) for index in sorted(self._output)]
        return {**self._document, "status": status, "output": output}


def _match(item: JSONObject, shown: Sequence[OpenItem]) -> OpenItem | None:
    """Which streamed item this one of the model's final output is."""
    alike = [candidate for candidate in shown if candidate.type == item.get("type")]
    if item.get("call_id"):
        for candidate in alike:
            if candidate.item.get("call_id") == item["call_id"]:
                return candidate
        return next((candidate for candidate in alike if candidate.held), None)
    same_id = [candidate for candidate in alike if candidate.item.get("id") == item.get("id")]
    # Of adapters that give all items one id, what they said tells.
    candidates = same_id or alike
    fitting = [candidate for candidate in candidates if candidate.could_be(item)]
    return next(iter(fitting or candidates), None)
