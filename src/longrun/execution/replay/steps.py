"""The steps of a run: done once, recorded, and given again from the journal after a takeover.

A model turn is recorded with its last events, in one commit, before any of its tools starts; a
tool's result with its output item, before the turn goes on. What is under way at a crash is done
again: that window cannot be closed, and `longrun.current().idempotency_key` is for it.
"""

import asyncio
import dataclasses
import functools
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from agents import AgentsException, ToolCallOutputItem
from agents.items import ModelResponse
from agents.tool import _FunctionToolInvocationResult
from openai.types.responses import Response, ResponseCompletedEvent

from longrun.assembly.kinds import plain
from longrun.errors import LongrunError
from longrun.execution.current import Current, is_at_most_once, within
from longrun.execution.replay.journal import Journal, Scope, fingerprint
from longrun.execution.replay.results import (
    decode_model_response,
    decode_response,
    decode_tool_output,
    encode_model_response,
    encode_response,
    encode_tool_output,
)
from longrun.execution.replay.sdk import ModelCall, guarded, tool_of
from longrun.jsontext import dumps, loads
from longrun.store.records import Step
from longrun.store.run_log import RunLog

EVENTS_AHEAD: Final = 256
"""Raw events that a model may be ahead of the assembler. The SDK's own queue has no bound."""

OUTCOME_UNKNOWN: Final = (
    "The tool was interrupted and its outcome is unknown: it may or may not have had its effect. "
    "It was not run again."
)


class ReplayedFailure(Exception):
    """Stands for the exception that a recorded tool call raised; says the same."""


class ReplayedTurn(ResponseCompletedEvent):
    """Stands for a recorded model turn in the SDK's stream; its events are in the log already."""


class Steps:
    """Does the steps of one run, or has the journal stand in for them (an `sdk.Tap`).

    Args:
        at_boundary: called before a step is begun.
        show_output: commits the output item of a tool of the run's own, with its step.
    """

    def __init__(
        self,
        journal: Journal,
        run_log: RunLog,
        current: Current,
        at_boundary: Callable[[], Awaitable[None]],
        show_output: Callable[[Any, list[Step]], Awaitable[None]],
    ) -> None:
        self.group_id = current.response_id
        self.carried_on = current.attempt > 1
        self._journal = journal
        self._log = run_log
        self._current = current
        self._at_boundary = at_boundary
        self._show_output = show_output
        self._under_way = 0
        self._none_under_way = asyncio.Event()
        self._given = 0
        self._taken = 0
        self._took = asyncio.Event()
        self._unread = False
        self._asking: tuple[str, str] | None = None
        self._ended_tools: dict[str, Step] = {}

    # -- model turns ----------------------------------------------------------------------

    def stream(self, call: ModelCall, do: Callable[[], AsyncIterator[Any]]) -> AsyncIterator[Any]:
        """A model's stream on its way into the SDK: held back while the log is behind."""
        # One generator for each event to go through, not a chain of them: at full speed that is
        # a tenth of all work.
        turn = self._nested_turn if call.scope.path else self._own_turn
        return turn(call, do)

    async def _own_turn(
        self, call: ModelCall, do: Callable[[], AsyncIterator[Any]]
    ) -> AsyncIterator[Any]:
        given = _model_fingerprint(call)
        recorded = self._journal.find("", "model", call.turn, given)
        if recorded is not None:
            self._given += 1
            yield _replayed_turn(recorded)
            await self._until_taken(1)
            return
        self._record_ended_tools()
        async with self._doing(), _closing(do()) as events:
            self._asking = (call.turn, given)
            try:
                async for event in events:
                    if self._log.must_wait:
                        await self._log.ready()
                    if self._given - self._taken >= EVENTS_AHEAD:
                        await self._until_taken(EVENTS_AHEAD)
                    self._given += 1
                    yield event
            except Exception:
                # The SDK tells of a model's error before what it streamed; a client sees that
                # first.
                await self._until_taken(1)
                raise
            await self._until_taken(1)
            await self._log.flush()

    async def _nested_turn(
        self, call: ModelCall, do: Callable[[], AsyncIterator[Any]]
    ) -> AsyncIterator[Any]:
        given = _model_fingerprint(call)
        recorded = self._journal.find(call.scope.path, "model", call.turn, given)
        if recorded is not None:
            yield _replayed_turn(recorded)
            return
        self._record_ended_tools()
        done: list[Any] = []
        async with self._doing(), _closing(do()) as events:
            async for event in events:
                if event.type == "response.output_item.done":
                    done.append(event.item)
                if isinstance(event, ResponseCompletedEvent):
                    # Some models give their items in the stream alone; the SDK fills them in
                    # later.
                    event.response.output = event.response.output or done
                    result = encode_response(event.response, [])
                    await self._record(Step(call.scope.path, "model", call.turn, given, result))
                yield event

    async def respond(
        self, call: ModelCall, do: Callable[[], Awaitable[ModelResponse]]
    ) -> ModelResponse:
        """A model turn of a run inside this one, which is not streamed."""
        given = _model_fingerprint(call)
        recorded = self._journal.find(call.scope.path, "model", call.turn, given)
        if recorded is not None:
            return decode_model_response(recorded)
        async with self._doing():
            response = await do()
            result = encode_model_response(response)
            await self._record(Step(call.scope.path, "model", call.turn, given, result))
        return response

    def took(self) -> None:
        """The assembler has taken one more raw event of the run's own."""
        self._taken += 1
        self._took.set()

    async def _until_taken(self, ahead: int) -> None:
        while self._given - self._taken >= ahead and not self._unread:
            self._took.clear()
            await self._took.wait()

    def refused(self) -> None:
        """A guardrail has refused: the SDK reads no more of the model's events, but waits for
        the model's turn, which so must not wait for them to be read."""
        self._unread = True
        self._took.set()

    def turn_finished(self, response: Response, indexes: list[int]) -> list[Step]:
        """The step of the turn that was asked, to be committed with the turn's last events."""
        if self._asking is None:
            return []
        turn, given = self._asking
        self._asking = None
        return [Step("", "model", turn, given, encode_response(response, indexes))]

    # -- tools ----------------------------------------------------------------------------

    async def tool(
        self, scope: Scope, tool: Any, context: Any, do: Callable[[], Awaitable[Any]]
    ) -> Any:
        """A function tool, MCP's too."""
        call_id: str = context.tool_call_id
        given = fingerprint(tool=tool.name, arguments=_digest(context.tool_arguments))
        recorded = self._journal.find(scope.path, "tool", call_id, given)
        if recorded is not None:
            return _replayed_result(loads(recorded))
        async with self._doing():
            try:
                if is_at_most_once(tool) and not await self._may_start(scope, call_id, given):
                    result = _FunctionToolInvocationResult(OUTCOME_UNKNOWN)
                else:
                    with within(self._inside(scope, call_id)):
                        result = await do()
            except LongrunError:
                raise
            except Exception as error:
                raised = dumps({"raised": str(error), "sdk": isinstance(error, AgentsException)})
                await self._record(Step(scope.path, "tool", call_id, given, raised.decode()))
                raise
            await self._tool_gave(scope, call_id, given, result)
        return result

    async def agent_tool(
        self, scope: Scope, tool: Any, context: Any, do: Callable[[], Awaitable[Any]]
    ) -> Any:
        """An agent as a tool: its inner steps are recorded, not what comes of them, which for an
        interrupted run is None. Only that it failed is, since asked again it might not."""
        call_id: str = context.tool_call_id
        given = fingerprint(tool=tool.name, arguments=_digest(context.tool_arguments))
        recorded = self._journal.find(scope.path, "tool", call_id, given)
        if recorded is not None:
            return _replayed_result(loads(recorded))
        result = await do()
        self._journal.check_reached(scope.inside(call_id).path, "model", "tool")
        if result.is_sdk_generated_error:
            await self._tool_gave(scope, call_id, given, result)
        return result

    async def _tool_gave(self, scope: Scope, call_id: str, given: str, result: Any) -> None:
        encoded = {
            "output": encode_tool_output(result.output),
            "error": result.is_sdk_generated_error,
        }
        step = Step(scope.path, "tool", call_id, given, dumps(encoded).decode())
        if scope.path == "":
            self._ended_tools[call_id] = step
        else:
            await self._record(step)

    async def _may_start(self, scope: Scope, call_id: str, given: str) -> bool:
        """Note that a tool is begun that must not run twice. False: it was begun before."""
        if self._journal.find(scope.path, "start", call_id, given) is not None:
            return False
        await self._record(Step(scope.path, "start", call_id, given, "{}"))
        return True

    def tool_ended(self, call_id: str) -> list[Step]:
        """The step of a tool of the run's own, to be committed with its output item."""
        step = self._ended_tools.pop(call_id, None)
        return [step] if step else []

    def _record_ended_tools(self) -> None:
        """Tools whose end nobody told of (a guardrail refused their output)."""
        self._journal.check()
        if self._ended_tools:
            steps, self._ended_tools = list(self._ended_tools.values()), {}
            self._log.append([], steps=steps)

    async def action(
        self,
        scope: Scope,
        given: dict[str, Any],
        do: Callable[[dict[str, Any]], Awaitable[Any]],
    ) -> Any:
        """A shell, computer, custom or apply-patch tool: the whole item that it gives."""
        call = (given["call"] if "call" in given else given["action"]).tool_call
        content = plain(call) if not isinstance(call, dict) else call
        call_id = str(content.get("call_id") or content.get("id"))
        print_ = fingerprint(tool=str(content.get("type")), arguments=_digest(_arguments(content)))
        recorded = self._journal.find(scope.path, "tool", call_id, print_)
        if recorded is not None:
            return _replayed_item(given, loads(recorded))
        if is_at_most_once(tool_of(given)):
            start = functools.cache(
                lambda: asyncio.ensure_future(self._may_start(scope, call_id, print_))
            )
            given = guarded(given, start, OUTCOME_UNKNOWN)
        async with self._doing():
            with within(self._inside(scope, call_id)):
                item = await do(given)
            if isinstance(item, ToolCallOutputItem):
                await self._action_gave(scope, call_id, print_, item)
        return item

    async def _action_gave(
        self, scope: Scope, call_id: str, given: str, item: ToolCallOutputItem
    ) -> None:
        encoded = {
            "raw_item": plain(item.raw_item),
            "output": encode_tool_output(item.output),
        }
        step = Step(scope.path, "tool", call_id, given, dumps(encoded).decode())
        self._journal.check()
        if scope.path == "":
            await self._show_output(item.raw_item, [step])
        else:
            await self._record(step)

    def _inside(self, scope: Scope, call_id: str) -> Current:
        """What `longrun.current()` tells within this one call."""
        key = f"{self._current.response_id}{scope.path}/{call_id}"
        return dataclasses.replace(self._current, idempotency_key=key)

    # -- handoffs and sessions ------------------------------------------------------------

    async def handoff(
        self, scope: Scope, handoff: Any, arguments: str, do: Callable[[], Awaitable[Any]]
    ) -> Any:
        """A handoff and its callback: keyed by turn, having no call id."""
        key = str(scope.turn)
        given = fingerprint(tool=handoff.tool_name, arguments=_digest(arguments))
        recorded = self._journal.find(scope.path, "handoff", key, given)
        if recorded is not None:
            target = handoff._agent_ref() if handoff._agent_ref else None
            # That of a handoff made by hand only its own function knows: it runs again.
            agent = await do() if target is None else target
            was = loads(recorded)["agent"]
            if agent.name != was:
                self._journal.refuse(f"handoff {key} led to {was!r} and leads to {agent.name!r}")
            return agent
        async with self._doing():
            agent = await do()
            result = dumps({"agent": agent.name}).decode()
            await self._record(Step(scope.path, "handoff", key, given, result))
        return agent

    async def operation(self, key: str, do: Callable[[], Awaitable[Any]]) -> Any:
        """What a run does with its session: JSON in and out, keyed by order."""
        recorded = self._journal.find("", "session", key, "{}")
        if recorded is not None:
            return loads(recorded)
        value = await do()
        await self._record(Step("", "session", key, "{}", dumps(value).decode()))
        return value

    # -- all steps ------------------------------------------------------------------------

    async def idle(self) -> None:
        """Wait until no step is under way, and what they gave is committed."""
        while self._under_way:
            self._none_under_way.clear()
            await self._none_under_way.wait()
        self._record_ended_tools()
        await self._log.flush()

    @asynccontextmanager
    async def _doing(self) -> AsyncIterator[None]:
        """A step that is really done now."""
        await self._at_boundary()
        self._journal.check()
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._none_under_way.set()

    async def _record(self, step: Step) -> None:
        self._journal.check()
        self._log.append([], steps=[step])
        await self._log.flush()


def _model_fingerprint(call: ModelCall) -> str:
    digest = call.scope.digest(call.instructions, call.input)
    return fingerprint(agent=call.agent, input_digest=digest)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _arguments(call: dict[str, Any]) -> str:
    """What a call asks for, without the ids that adapters invent anew."""
    return dumps({k: v for k, v in call.items() if k not in ("id", "status")}).decode()


@asynccontextmanager
async def _closing(events: AsyncIterator[Any]) -> AsyncIterator[AsyncIterator[Any]]:
    """To be closed when nobody wants more; not every model gives a generator."""
    try:
        yield events
    finally:
        if isinstance(events, AsyncGenerator):
            await events.aclose()


def _replayed_turn(recorded: str) -> ReplayedTurn:
    response, _ = decode_response(recorded)
    return ReplayedTurn(type="response.completed", sequence_number=0, response=response)


def _replayed_result(recorded: dict[str, Any]) -> _FunctionToolInvocationResult:
    if "raised" in recorded:
        raise (AgentsException if recorded["sdk"] else ReplayedFailure)(recorded["raised"])
    return _FunctionToolInvocationResult(
        decode_tool_output(recorded["output"]), is_sdk_generated_error=recorded["error"]
    )


def _replayed_item(given: dict[str, Any], recorded: dict[str, Any]) -> ToolCallOutputItem:
    item = ToolCallOutputItem(
        agent=given["agent"],
        raw_item=recorded["raw_item"],
        output=decode_tool_output(recorded["output"]),
    )
    committer = given.get("tool_output_committer")
    if committer is not None:
        committer(item)
    return item
