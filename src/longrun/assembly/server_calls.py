"""Calls of function tools that are executed here, as clients see them.

A client executes each `function_call` at sight. What the server executes (function tools, MCP
tools, agents as tools, handoffs) is therefore one `mcp_call` item, which is open from the model's
first word of it to the end of its tool (contract, "Response object").
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from longrun.assembly.arguments import Arguments
from longrun.assembly.items import Item, Places
from longrun.assembly.kinds import (
    ITEM_ADDED,
    ITEM_DONE,
    MCP_CALL,
    Event,
    JSONObject,
    type_of,
    with_detail,
)
from longrun.jsontext import dumps

FACE: Final = "face"
"""The key in a call's `done` under which is how the model gave it (`history/faces.py`), as text or
None: for the assembler, not for clients."""

STARTED: Final = f"{MCP_CALL}.in_progress"

RAISED: Final = "The tool failed."
"""What is said of a tool that raised: never the text of an exception."""


class RunningCall(NamedTuple):
    """A call whose tool runs, as it is recorded with its model turn.

    `face`: how the model gave it, where that is not what clients see (`history/faces.py`).
    """

    output_index: int
    face: str | None


class FunctionCall(Item):
    """A model's `function_call`: shown as what it is if it is for the client to execute, else as
    an `mcp_call`. Which of them is decided once its name is known; before that nothing is shown.

    Of an `mcp_call` the model's end is not the end: it runs, and is then answered or closed.

    Attributes:
        face: as in `RunningCall`, from when its tool may run.
    """

    __slots__ = ("_calls", "_ended", "_shown", "_started", "face")

    def __init__(
        self, raw: JSONObject, places: Places, calls: "ServerCalls", *, late: bool = False
    ) -> None:
        super().__init__(raw, places, late=late or not raw.get("name"))
        self._calls = calls
        self._shown: JSONObject | None = None
        self._started = False
        self._ended = False
        self.face: str | None = None

    @classmethod
    def from_log(cls, index: int, shown: JSONObject) -> "FunctionCall":
        """An `mcp_call` whose model turn is recorded and that was not answered by an earlier
        attempt; `shown` and its later events as in `Item.from_log`."""
        call = cls(shown, Places(""), ServerCalls(()))
        call.finished = True
        call._identity.update(item_id=shown["id"], output_index=index)
        call._show(shown)
        return call

    @property
    def is_open(self) -> bool:
        if self._shown is None:
            return super().is_open
        return not self._ended

    @property
    def runs(self) -> bool:
        """Whether its tool is all that is waited for."""
        return self.finished and self.is_open

    def event(self, kind: str, fields: JSONObject) -> Sequence[Event]:
        if kind == STARTED:
            self._started = True
        return super().event(kind, fields)

    def finish(self, raw: JSONObject, status: str = "completed") -> list[Event]:
        """The model has finished the call. Of an `mcp_call`, that is not its `done`."""
        events = self._tell_rest(raw)
        return events if self._shown is not None else [*events, self._finished(status)]

    def start(self) -> list[Event]:
        """Its tool starts."""
        if self._started or self._ended:
            return []
        self._started = True
        return [(STARTED, {**self._identity})]

    def answer(self, output: Any, *, failed: bool) -> list[Event]:
        """What its tool gave; words for a failure."""
        how = "failed" if failed else "completed"
        content = [{"type": "text", "text": output}]
        error = {"type": "mcp_tool_execution_error", "content": content}
        given: JSONObject = {"error": error} if failed else {"output": output}
        events = [*self.start(), (f"{MCP_CALL}.{how}", {**self._identity})]
        kind, done = self._end(status=how, **given)
        return [*events, (kind, {**done, FACE: self.face})]

    def close(self) -> list[Event]:
        """It will never be answered, or the model never finished it."""
        if self._shown is None:
            return super().close()
        self.done = True
        return [] if self._ended else [self._end(status="incomplete")]

    @property
    def so_far(self) -> JSONObject:
        """The item as it is while its tool runs; a call that is the client's, as any item."""
        if self._shown is None:
            return super().so_far
        return {**self._shown, **self._content.so_far(self._shown)}

    def _announce(self) -> list[Event]:
        if not self._calls.executes(self.raw):
            return super()._announce()
        self._identity.update(self._places.next("mcp_call"))
        self._show(
            {
                "id": self._identity["item_id"],
                "type": "mcp_call",
                "server_label": self._calls.agent,
                "name": self.raw.get("name") or "",
                "arguments": "",
                "approval_request_id": self._calls.approvals.get(self.call_id),
                "output": None,
                "error": None,
                "status": "in_progress",
            }
        )
        return [(ITEM_ADDED, {"output_index": self.output_index, "item": self._shown})]

    def _show(self, shown: JSONObject) -> None:
        self._shown = shown
        self._content = Arguments("mcp_call", self._identity, always=True)

    def _end(self, **more: Any) -> Event:
        self._ended = True
        return ITEM_DONE, {"output_index": self.output_index, "item": {**self.so_far, **more}}


class ServerCalls:
    """The calls of a run that are executed here, by their call ids, while their tools run.

    Args:
        client_tools: the names of the tools that the client executes.

    Attributes:
        agent: the name of the agent whose turn it is.
        approvals: of calls that an approval was asked for, the id of that request.
    """

    def __init__(self, client_tools: Collection[str]) -> None:
        self.agent = ""
        self._client_tools = client_tools
        self._running: dict[Any, FunctionCall] = {}
        self._unanswerable: list[FunctionCall] = []
        self._failed: set[str] = set()
        self.approvals: Mapping[str, str] = {}

    def executes(self, raw: JSONObject) -> bool:
        """Whether a call is executed here, and not by the client."""
        return raw.get("name") not in self._client_tools

    def item(self, raw: JSONObject, places: Places, *, late: bool = False) -> Item:
        """An output item of a model, of whatever type."""
        if type_of(raw) == "function_call":
            return FunctionCall(raw, places, self, late=late)
        return Item(raw, places, late=late)

    def resume(self, running: Mapping[str, FunctionCall]) -> None:
        """Calls that an earlier attempt has not answered."""
        self._running.update(running)

    def run(
        self, finished: Iterable[Item], face_of: Callable[["FunctionCall"], str | None]
    ) -> dict[str, RunningCall]:
        """The model has finished its turn: from now on its calls wait for their tools.

        Returns:
            What is to be recorded of each, by call id.
        """
        calls = [item for item in finished if isinstance(item, FunctionCall) and item.runs]
        for call in calls:
            if call.call_id in self._running:
                self._unanswerable.append(self._running[call.call_id])
            self._failed.discard(call.call_id)
            self._running[call.call_id] = call
            call.face = face_of(call)
        return {
            call.call_id: RunningCall(call.output_index, call.face)
            for call in calls
            if call.call_id
        }

    def start(self, call_id: str) -> list[Event]:
        """The tool of a call starts."""
        call = self._running.get(call_id)
        return [] if call is None else call.start()

    def fail(self, call_id: str) -> None:
        """The tool of a call has failed; its output, if there is one, says how."""
        if call_id in self._running:
            self._failed.add(call_id)

    def answer(self, raw: JSONObject) -> list[Event] | None:
        """A tool's output; None if it is not that of a call here."""
        call_id = raw.get("call_id")
        call = self._running.pop(call_id, None)
        if call is None:
            return None
        return call.answer(_text_of(raw.get("output")), failed=call_id in self._failed)

    def failures(self) -> list[Event]:
        """The ends of the calls whose tools failed without an output."""
        failed = [id_ for id_ in self._running if id_ in self._failed]
        calls = [self._running.pop(call_id) for call_id in failed]
        return [event for call in calls for event in call.answer(RAISED, failed=True)]

    def close(self) -> list[Event]:
        """The ends of all others: they will never be answered."""
        calls = [*self._unanswerable, *self._running.values()]
        self._unanswerable, self._running = [], {}
        return [event for call in calls for event in call.close()]

    @property
    def so_far(self) -> dict[int, JSONObject]:
        """The items whose tools run, by output index."""
        return {call.output_index: call.so_far for call in self._running.values()}


def _text_of(output: Any) -> str:
    """A tool's output as the text that an `mcp_call` has: parts (pictures, say) as JSON."""
    if isinstance(output, str):
        return output
    if isinstance(output, list):
        output = [with_detail(part) for part in output]
    return dumps(output).decode()
