"""The assembler: makes ONE response of all the turns that the Agents SDK streams.

The SDK emits one `response.created` … `response.completed` for each model turn, with indexes
that start again and ids that may be placeholders. A client sees one response: one `created`,
`output_index` growing over all turns, ids of ours, tool results as items, nothing added that is
left open, one final snapshot and one terminal event (contract, "Streams").

Models differ in how much they say: some stream every part, some only a `response.completed`.
What is missing is made up for, so that the deltas of a stream always add up to its items.

An event's way: the assembler tells it to the turn, which finds the item that it is about; the
item says what is to be emitted. The log numbers that.
"""

import functools
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from longrun.assembly.items import GIVEN, Item, Places, closed_empty
from longrun.assembly.kinds import (
    DELTAS,
    ITEM_ADDED,
    ITEM_DONE,
    KNOWN_TYPES,
    Event,
    JSONObject,
    fields_of,
    is_output,
    plain,
    texts_of,
    type_of,
)
from longrun.assembly.server_calls import FACE, FunctionCall, RunningCall, ServerCalls
from longrun.assembly.streak import Streak
from longrun.assembly.turn import NewItem, Turn
from longrun.assembly.usage import UsageSum
from longrun.history.approvals import REQUEST, request_item
from longrun.history.faces import Face
from longrun.jsontext import Encoded, dumps, loads
from longrun.pending import Delta, Pending, pending
from longrun.pieces import Pieces, at_once
from longrun.protocol import TERMINAL_EVENT_OF, Status

_OF_THE_TURN: Final = frozenset(
    {
        "response.created",
        "response.queued",
        "response.in_progress",
        "response.failed",
        "error",
    }
)
"""Other raw events about the model's own response; what they mean for ours is decided here."""

TURN_ENDS: Final = frozenset({"response.completed", "response.incomplete"})
"""Raw events that end a turn, with all of its items."""

_WITHOUT_ITEM: Final = "response.audio"
"""Events that begin so belong to no item."""


class Emission(NamedTuple):
    """Events that have no numbers yet, and the items (output_index, JSON text) that became finished
    with them.

    `models` has, by output index, how the model gave those items, where that differs
    (`history/faces.py`).
    """

    events: list[Pending]
    items: list[tuple[int, str]]
    models: dict[int, str]


class Assembler:
    """Turns the SDK's stream into the events of one response.

    Methods queue events; `collect` hands them over. All of it is plain computation: no input or
    output happens here.

    Attributes:
        refused: the output indexes of items that do not stay, as a guardrail has refused them.
        origin: which provider gives the raw events that come now, as the tap names it.
        given_call_ids: by the call ids of raw events, what the model gave, where that differs.
        withdrawn_calls: the call ids that clients saw of calls that do not stay.
        unkept: the output indexes of finished items of model turns that broke off, which their
            provider may not have kept.

    Args:
        document: the Response object without `output`; `status` and the end are filled in.
        next_sequence, output: where an earlier attempt got to: the end of its log and the items
            that stay.
        next_index: the first output index that was never used.
        client_tools: the names of the tools that the client executes: calls of all others are shown
            as `mcp_call`. None: all are `function_call`, and their outputs items of their own.

    Attributes:
        turn_indexes: the output indexes of the items that the last turn finished.
        turn_calls: of these, those whose tools run here now, by call id.
        upcoming: gives the number that the next event will have, as far as that is known.
    """

    def __init__(
        self,
        response_id: str,
        document: JSONObject,
        *,
        next_sequence: int = 0,
        next_index: int = 0,
        output: Mapping[int, str] | None = None,
        client_tools: Collection[str] | None = None,
    ) -> None:
        self.response_id = response_id
        self.incomplete_details: JSONObject | None = None
        self.usage = UsageSum()
        self.turn_indexes: list[int] = []
        self.turn_calls: dict[str, RunningCall] = {}
        self._document = document
        self._created = next_sequence > 0
        self._places = Places(response_id, next_index)
        self._output: dict[int, str] = dict(output or {})
        self._calls = ServerCalls(client_tools or ())
        make = Item if client_tools is None else self._calls.item
        self._new_item: NewItem = functools.partial(make, places=self._places)
        self._turn = Turn(self._new_item)
        self._said: set[Hashable] = set()
        self._answered: set[str] = set()
        self._withdrawn: dict[int, JSONObject] = {}
        self.withdrawn_calls: set[str] = set()
        self.origin: str | None = None
        self.given_call_ids: Mapping[str, Any] = {}
        self._renamed: dict[str, str] = {}
        self._reasoning: set[int] = set()
        self.refused: list[int] = []
        self.unkept: list[int] = []
        self._asked: set[int] = set()
        self._streak: Streak | None = None
        self._events: list[Pending] = []
        self._items: list[tuple[int, str]] = []
        self._models: dict[int, str] = {}
        self.upcoming: Callable[[], int] = lambda: 0

    def collect(self) -> Emission:
        """What was queued since the last call."""
        emission = Emission(self._events, self._items, self._models)
        self._events, self._items, self._models = [], [], {}
        return emission

    @property
    def output(self) -> Mapping[int, str]:
        """The finished items that stay, as JSON by output index, in order."""
        return {index: self._output[index] for index in sorted(self._output)}

    @property
    def next_index(self) -> int:
        """The output index of the next item."""
        return self._places.upcoming

    # -- the response's life --------------------------------------------------------------

    def lifecycle(self, status: Status) -> None:
        """`created` (first of a log), `queued`, `in_progress`, with the items so far.

        After a takeover `in_progress` has an item at every output index so far, for clients to go
        on from in place of what they had: openai-node 6 does, and then looks for later items by
        position. Items that do not stay are `incomplete` in it, and empty; calls whose tools run
        are `in_progress`.
        """
        first, self._created = not self._created, True
        if first:
            self._emit("response.created", {"response": self._snapshot(status)})
        if first or status == "in_progress":
            snapshot = self._snapshot(status, {**self._withdrawn, **self._calls.so_far})
            self._emit(f"response.{status}", {"response": snapshot})

    def take_over(
        self,
        left_open: Iterable[Item],
        answered: Iterable[str],
        withdrawn: Mapping[int, JSONObject],
        running: Mapping[str, FunctionCall] = MappingProxyType({}),
    ) -> None:
        """Go on with what an earlier attempt began.

        Args:
            left_open: the items that it added and never finished; closed here, `incomplete`.
            answered: the call ids whose outputs are among the items.
            withdrawn: the items that clients have seen and that do not stay (those left open, and
                those of turns that are asked again), as they were added, by output index.
            running: the calls whose tools run again, or whose outputs are recorded, by call id.
        """
        self._calls.resume(running)
        self._answered.update(answered)
        self._withdrawn = {index: closed_empty(added) for index, added in withdrawn.items()}
        self.withdrawn_calls = {
            added["call_id"]
            for added in withdrawn.values()
            if added.get("call_id") and not is_output(added)
        }
        for item in left_open:
            self._emit_all(item.close())

    def end(self, status: Status, error: JSONObject | None, completed_at: int | None) -> str:
        """The terminal event. Open items are closed `incomplete` and stay out of the output.

        Returns:
            The final document, without the output.
        """
        self._streak = None
        if status == "failed":
            self._broke_off()
        self._emit_all(self._turn.give_up())
        self._emit_finished(self._calls.failures(), by_model=False)
        self._emit_all(self._calls.close())
        details = self.incomplete_details if status == "incomplete" else None
        self._document = {
            **self._document,
            "status": status,
            "completed_at": completed_at if status == "completed" else None,
            "error": error,
            "incomplete_details": details,
            "usage": self.usage.as_json(),
        }
        self._emit(TERMINAL_EVENT_OF[status], {"response": self._snapshot(status)})
        return dumps(self._document).decode()

    def forget(self) -> None:
        """The response has ended, and nobody asks for its items any more."""
        self._output, self._turn = {}, Turn(self._new_item)

    def _snapshot(self, status: Status, also: Mapping[int, JSONObject] | None = None) -> JSONObject:
        items: dict[int, Any] = {index: Encoded(text) for index, text in self._output.items()}
        items.update(also or {})
        output = [items[index] for index in sorted(items)]
        return {**self._document, "status": status, "output": output}

    # -- what comes of the run ------------------------------------------------------------

    def raw_event(self, event: Any) -> None:
        """One raw event of a model's stream."""
        if self._streak is not None:
            delta = self._streak.next(event)
            if delta is not None:
                self._events.append(delta)
                return
            self._streak = None
        kind: str = event.type
        if kind in DELTAS:
            self._delta(kind, event)
        elif kind in TURN_ENDS:
            at_once(self.turn_end(event))
        elif kind in _OF_THE_TURN:
            self._turn_event(kind)
        elif kind == ITEM_ADDED:
            if event.item is not None:
                self._emit_all(self._turn.added(event.output_index, self._plain(event.item)))
        elif kind == ITEM_DONE:
            if event.item is not None:
                self._emit_finished(self._turn.done(event.output_index, self._plain(event.item)))
        elif kind in KNOWN_TYPES:
            fields = fields_of(kind, event)
            if kind.startswith(_WITHOUT_ITEM):
                self._emit(kind, fields)
            else:
                self._emit_all(self._turn.event(kind, fields))

    def _delta(self, kind: str, event: Any) -> None:
        """A delta; those of the same part that follow it are a streak."""
        fields = fields_of(kind, event)
        events = self._turn.event(kind, fields)
        self._emit_all(events)
        last = self._events[-1] if events else None
        if isinstance(last, Delta) and last.fields is fields:
            gathered = self._turn.gathered(kind, event.__dict__)
            if gathered is not None:
                self._streak = Streak.after(event, last.fields, gathered)

    def tool_output(self, raw_item: Any) -> None:
        """The result of a tool call or a handoff, once per call: the end of its `mcp_call`, or an
        item of its own."""
        raw = self._plain(raw_item)
        call_id = raw.get("call_id")
        if call_id is not None:
            if call_id in self._answered:
                return
            self._answered.add(call_id)
        events = self._calls.answer(raw)
        if events is None:
            events = Item(raw, self._places).finish(raw)
        self._emit_finished(events, by_model=False)

    def ask_approval(self, label: str, name: str, arguments: str) -> int:
        """An `mcp_approval_request` of ours; of which agent, for which call. Gives the output index
        by which it is answered (`store/records.py`, `Parked`)."""
        raw = request_item(label, name, arguments)
        item = Item(raw, self._places)
        self._emit_finished(item.finish(raw), by_model=False)
        return item.output_index

    def compaction(self, content: str) -> int:
        """A `compaction` item of ours, with this `encrypted_content`. Gives its output index."""
        raw: JSONObject = {"type": "compaction", "encrypted_content": content}
        item = Item(raw, self._places)
        self._emit_finished(item.finish(raw), by_model=False)
        return item.output_index

    def provider_request(self, raw: JSONObject) -> int | None:
        """The output index of the `mcp_approval_request` that a model's provider made, as the SDK
        has it; of several alike, the first that was not asked for yet."""
        said = [raw.get(key) for key in ("server_label", "name", "arguments")]
        for index, text in self._output.items():
            item = loads(text)
            same = [item.get(key) for key in ("server_label", "name", "arguments")] == said
            if same and type_of(item) == REQUEST and index not in self._asked:
                self._asked.add(index)
                return index
        return None

    def answered_elsewhere(self, call_ids: Iterable[str]) -> None:
        """The outputs of these calls are not shown: the client has given them."""
        self._answered.update(call_ids)

    def withdraw(self, call_ids: Collection[str]) -> None:
        """These calls do not stay, though clients have seen them: a later response shows them, with
        what comes of them."""
        for index, text in list(self._output.items()):
            item = loads(text)
            if item.get("call_id") in call_ids and not is_output(item):
                self.refused.append(index)
                del self._output[index]

    def show_again(
        self,
        calls: Iterable[tuple[JSONObject, bool]],
        *,
        agent: str,
        origin: str | None,
        approvals: Mapping[str, str],
    ) -> None:
        """Calls that an earlier response has withdrawn, or left open, and that go on now: like the
        calls of a model turn that has just ended (`turn_indexes`, `turn_calls`).

        Args:
            calls: each as its model gave it, and whether it stood right behind reasoning.
            agent: whose they are.
            origin: which provider gave them.
            approvals: by their call ids, the ids of the requests that were answered.
        """
        self.origin, self._calls.agent, self._calls.approvals = origin, agent, approvals
        shown = []
        for raw, behind in calls:
            if behind:
                self._reasoning.add(self._places.upcoming - 1)
            item = self._new_item(raw)
            self._emit_finished(item.finish(raw))
            shown.append(item)
        self.turn_indexes = [item.output_index for item in shown]
        self.turn_calls = self._calls.run(shown, self._face_of_call)

    def next_agent(self, name: str) -> None:
        """The agent whose turns and calls follow."""
        self._calls.agent = name

    def tool_started(self, call_id: str) -> None:
        """The tool of a call is executed now."""
        self._emit_all(self._calls.start(call_id))

    def tool_failed(self, call_id: str) -> None:
        """The tool of a call has failed. If it gives an output all the same, that says how."""
        self._calls.fail(call_id)

    def local_message(self, raw_item: Any) -> None:
        """A message that the SDK made without a model (a blocked output, an error's answer).

        The SDK reports the model's own messages in the same way; those were streamed already.
        """
        raw = plain(raw_item)
        if _words_of(raw) not in self._said:
            self._emit_finished(Item(raw, self._places).finish(raw), by_model=False)

    def refuse(self) -> None:
        """A guardrail has refused what the last turn said: its messages do not stay, though
        clients may have seen them (contract, "Response object")."""
        just_said = {item.output_index for item in self._turn.finished}
        for index, text in list(self._output.items()):
            item = loads(text)
            said = index in just_said or _words_of(item) in self._said
            if type_of(item) == "message" and said:
                self.refused.append(index)
                del self._output[index]

    def replayed_turn(self, response: Any) -> Pieces[None]:
        """A turn that an earlier attempt finished: its events are in the log already."""
        self.usage.add(response.usage)
        said: set[Hashable] = set()
        for raw in response.output or ():
            said.add(_words_of(plain(raw)))
            yield
        self._said = said

    def turn_end(self, event: Any) -> Pieces[None]:
        """One of `TURN_ENDS`: as `raw_event` takes it, but in pieces, for a turn of many items."""
        self._streak = None
        if event.type == "response.completed":
            yield from self._complete_turn(event.response)
        else:
            yield from self._complete_turn(event.response, "incomplete")
            details = event.response.incomplete_details
            self.incomplete_details = plain(details) if details else {"reason": None}

    def _turn_event(self, kind: str) -> None:
        if kind == "response.created":
            # A model request that is tried again leaves open what the first one had begun.
            self._broke_off()
            self._emit_all(self._turn.give_up())
            self._turn = Turn(self._new_item)

    def _broke_off(self) -> None:
        """The turn ends without its end: what it has finished stays, but of the provider it is not
        known whether it does."""
        self.unkept += [item.output_index for item in self._turn.finished]

    def _complete_turn(self, response: Any, status: str = "completed") -> Pieces[None]:
        self.usage.add(response.usage)
        output: list[JSONObject] = []
        said: set[Hashable] = set()
        for raw in response.output or ():
            output.append(item := self._plain(raw))
            said.add(_words_of(item))
            yield
        for events in self._turn.complete(output, status):
            self._emit_finished(events)
            yield
        self._said = said
        self._emit_all(self._turn.close())
        finished = self._turn.finished
        self.turn_indexes = [item.output_index for item in finished]
        self.turn_calls = self._calls.run(finished, self._face_of_call)
        self._answered -= self.turn_calls.keys()
        self._turn = Turn(self._new_item)

    def _plain(self, raw_item: Any) -> JSONObject:
        """An item of the SDK's, with a call id that no withdrawn item has had.

        A turn that is asked again may give the same call ids again, which openai's client takes
        for one item at two indexes. The border makes others then (`replay/call_ids.py`); those of
        turns that were recorded by a version without it are told apart here. The next free of
        `id`, `id_2`, … is always the same one, so that calls and their outputs still find each
        other, in every attempt.
        """
        raw = plain(raw_item)
        call_id = raw.get("call_id")
        if call_id in self.withdrawn_calls:
            n = 2
            while f"{call_id}_{n}" in self.withdrawn_calls:
                n += 1
            raw = {**raw, "call_id": f"{call_id}_{n}"}
            self._renamed[raw["call_id"]] = call_id
        return raw

    @property
    def turn_items(self) -> dict[int, str]:
        """The items that the last turn finished, as JSON texts by output index."""
        return {index: self._output[index] for index in self.turn_indexes if index in self._output}

    # -- events ---------------------------------------------------------------------------

    def _emit(self, kind: str, fields: JSONObject) -> None:
        self._emit_all([(kind, fields)])

    def _emit_all(self, events: Iterable[Event]) -> None:
        """`type` and `sequence_number` come first in every event: readers rely on it."""
        for kind, fields in events:
            if "type" not in fields:
                fields = {"type": kind, "sequence_number": 0, **fields}
            is_delta = kind in DELTAS
            if not is_delta:
                # Else it would be copied to be numbered, and it may have a whole text in it.
                fields["sequence_number"] = self.upcoming() + len(self._events)
            self._events.append(pending(fields, is_delta=is_delta))

    def _emit_finished(self, events: Sequence[Event], *, by_model: bool = True) -> None:
        """Events whose `done` are of finished items: those become part of the output."""
        for kind, fields in events:
            if kind == ITEM_DONE:
                index, text = fields["output_index"], dumps(fields["item"])
                self._output[index] = item = text.decode()
                self._items.append((index, item))
                if (face := self._face_of(index, fields, by_model)) is not None:
                    self._models[index] = face
                # Of a text in ASCII no copy is made.
                fields["item"] = Encoded(item if item.isascii() else text)
                del text
        self._emit_all(events)

    def _face_of(self, index: int, done: JSONObject, by_model: bool) -> str | None:
        """How an item was given, where it is not what clients see."""
        if FACE in done:
            face: str | None = done.pop(FACE)
            return face
        shown, given = done["item"], done.pop(GIVEN)
        if type_of(given) == "reasoning":
            self._reasoning.add(index)
        return self._face(index, shown, given, by_model)

    def _face_of_call(self, call: FunctionCall) -> str | None:
        """The same of a call whose tool will run: the origin may be another when it ends."""
        return self._face(call.output_index, call.so_far, call.raw, by_model=True)

    def _face(self, index: int, shown: JSONObject, given: JSONObject, by_model: bool) -> str | None:
        if given.get("call_id"):
            call_id: Any = self._renamed.get(given["call_id"], given["call_id"])
            given = {**given, "call_id": self.given_call_ids.get(call_id, call_id)}
        behind = by_model and index - 1 in self._reasoning
        origin = self.origin if by_model else None
        return Face.of(shown, given, origin, behind=behind).text()


def _words_of(message: JSONObject) -> Hashable:
    """What tells a message by its words, without a copy of them."""
    texts = texts_of(message)
    try:
        return hash(tuple(texts))
    except TypeError:
        return dumps(texts)
