"""What a model's calls lead to: function tools, agents as tools, actions, handoffs.

A tool's result is recorded with its output item, in one commit, as soon as that tool has ended.
What is under way at a crash is done again: that window cannot be closed, and
`longrun.current().idempotency_key` is for it.
"""

import asyncio
import contextlib
import dataclasses
import functools
import hashlib
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, NamedTuple

from agents import (
    Agent,
    AgentsException,
    FunctionTool,
    RunHooks,
    Tool,
    ToolCallOutputItem,
)
from agents.tool_context import ToolContext

from longrun.assembly.kinds import plain
from longrun.errors import LongrunError
from longrun.execution.contained import being_cancelled, contained
from longrun.execution.current import Current, current_or_none, is_at_most_once, within
from longrun.execution.display import Display
from longrun.execution.replay import sdk
from longrun.execution.replay.journal import Journal, fingerprint
from longrun.execution.replay.once import Due, Once
from longrun.execution.replay.results import decode_tool_output, shown_output, too_large
from longrun.execution.replay.scope import Scope, key_of
from longrun.jsontext import dumps, loads
from longrun.store.records import Step
from longrun.store.run_log import RunLog

log = logging.getLogger("longrun.execution.replay.tool_calls")

OUTCOME_UNKNOWN: Final = (
    "The tool was interrupted and its outcome is unknown: it may or may not have had its effect. "
    "It was not run again."
)

LONGEST_ERROR: Final = 10_000
"""Characters that are recorded of what a tool raised."""

_TOLD: Final = "_longrun_told"


class ReplayedFailure(Exception):
    """Stands for the exception that a recorded tool call raised; says the same."""


def tell_of_tool(name: str, error: BaseException) -> None:
    """Log what a tool raised, once: also where the model gets words instead of it."""
    run = current_or_none()
    ours = isinstance(error, LongrunError | ReplayedFailure)
    if run is None or ours or not isinstance(error, Exception) or hasattr(error, _TOLD):
        return
    with contextlib.suppress(AttributeError, TypeError):
        setattr(error, _TOLD, True)
    log.warning(
        "tool %r of %s raised, attempt %d", name, run.response_id, run.attempt, exc_info=error
    )


class ToolCalls:
    """The tools, actions and handoffs of one run, and of the runs inside it.

    Args:
        display: shows what becomes of the tools of the run's own.
    """

    def __init__(
        self,
        once: Once,
        journal: Journal,
        run_log: RunLog,
        current: Current,
        display: Display,
    ) -> None:
        self._once = once
        self._journal = journal
        self._log = run_log
        self._current = current
        self._display = display
        self._unshown: dict[str, Step] = {}
        self._cut_short: dict[str, Due] = {}

    # -- function tools -------------------------------------------------------------------

    async def function_tool(
        self, scope: Scope, tool: Any, context: Any, do: Callable[[], Awaitable[Any]]
    ) -> Any:
        """A function tool, MCP's too."""
        due = _of_tool(scope, tool, context)

        async def call() -> _Outcome:
            self._started(due, context)
            if is_at_most_once(tool) and not await self._once.may_begin(due):
                return self._returned(tool, sdk.tool_result(OUTCOME_UNKNOWN, is_error=True))
            try:
                with contained(f"tool {tool.name!r}", cancels=False), within(self._inside(due)):
                    return self._returned(tool, await do())
            except LongrunError:
                raise
            except asyncio.CancelledError as error:
                if being_cancelled():
                    if due.scope == "":
                        self._cut_short[due.key] = due
                    raise
                # Its own: the SDK makes an output of it, or fails the run.
                return _Outcome(error=error)
            except Exception as error:
                tell_of_tool(tool.name, error)
                return _Outcome(error=error)

        outcome = await self._once.value(
            due, call, encode=_encode_outcome, decode=_decode_outcome, keep=self._keep_outcome
        )
        return self._gotten(due, context, outcome)

    async def agent_tool(
        self, scope: Scope, tool: Any, context: Any, do: Callable[[], Awaitable[Any]]
    ) -> Any:
        """An agent as a tool: its inner steps are recorded, not what comes of them, which for an
        interrupted run is None. Only that it failed is, since asked again it might not."""
        due = _of_tool(scope, tool, context)

        async def call() -> _Outcome:
            self._started(due, context)
            with contained(f"agent tool {tool.name!r}", cancels=False):
                result = await do()
            self._journal.check_reached(scope.inside(context.tool_call_id).path, "model", "tool")
            return self._returned(tool, result)

        outcome = await self._once.value(
            due,
            call,
            encode=lambda outcome: _encode_outcome(outcome) if outcome.is_error else None,
            decode=_decode_outcome,
            keep=self._keep_outcome,
            counted=False,
        )
        return self._gotten(due, context, outcome)

    def _started(self, due: Due, context: Any) -> None:
        if due.scope == "":
            self._display.tool_started(context.tool_call_id)

    def _gotten(self, due: Due, context: Any, outcome: "_Outcome") -> Any:
        """What the SDK gets of a call, now or at a replay."""
        if due.scope == "" and (outcome.error is not None or outcome.is_error):
            self._display.tool_failed(context.tool_call_id)
        return outcome.get()

    def _returned(self, tool: Any, result: Any) -> "_Outcome":
        """What the SDK and the record get of a tool's result."""
        output, encoded = shown_output(result.output, self._log.max_item_bytes)
        if output is not result.output:
            # Words: no declared type of output fits them.
            return _Outcome(sdk.tool_result(output, is_error=True), encoded)
        declared = None if sdk.is_error(result) else sdk.declared_json(tool, output)
        return _Outcome(result, encoded if declared is None else {"json": declared})

    async def _keep_outcome(self, step: Step, outcome: "_Outcome") -> None:
        """The run's own results wait for their output items, which guardrails may still change;
        nobody tells of the end of a tool that raised, or that is in a run inside the run."""
        if step.scope == "" and outcome.error is None:
            self._unshown[step.key] = step
        else:
            await self._once.record(step)

    async def ended(self, tool: Tool, context: ToolContext[Any], result: Any) -> None:
        """One of perhaps several parallel tools of the run's own has ended; the SDK's stream
        tells when all have. Its result goes out now."""
        self._journal.check()
        item = None
        if isinstance(tool, FunctionTool) and context.tool_call:
            item = sdk.output_item(tool, context.tool_call, result)
        key = key_of(context.tool_call_id)
        step = self._unshown.pop(key, None)
        cut_short = self._cut_short.pop(key, None)
        if cut_short is not None:
            # It cancelled its own task, and the SDK made an output of that.
            self._display.tool_failed(context.tool_call_id)
            outcome = self._returned(tool, sdk.tool_result(result, is_error=True))
            step = cut_short.finished(_encode_outcome(outcome))
        await self._display.tool_ended(item, [step] if step else [])

    def record_unshown(self) -> None:
        """Results that no output item came for: a guardrail refused them."""
        self._journal.check()
        if self._unshown:
            steps, self._unshown = list(self._unshown.values()), {}
            self._log.append([], steps=steps)

    def _inside(self, due: Due) -> Current:
        """What `longrun.current()` tells within this one call."""
        key = f"{self._current.response_id}{due.scope}/{due.key}"
        return dataclasses.replace(self._current, idempotency_key=key)

    # -- actions --------------------------------------------------------------------------

    async def action(
        self,
        scope: Scope,
        arguments: dict[str, Any],
        do: Callable[[dict[str, Any]], Awaitable[Any]],
    ) -> Any:
        """A shell, computer, custom or apply-patch tool: the whole item that it gives."""
        due = _of_action(scope, arguments)
        if is_at_most_once(sdk.tool_of(arguments)):
            start = functools.cache(lambda: asyncio.ensure_future(self._once.may_begin(due)))
            arguments = sdk.guarded(arguments, start, OUTCOME_UNKNOWN)

        async def call() -> Any:
            with within(self._inside(due)):
                return await do(arguments)

        return await self._once.value(
            due,
            call,
            encode=functools.partial(_encode_item, limit=self._log.max_item_bytes),
            decode=functools.partial(_replayed_item, arguments),
            keep=self._keep_item,
        )

    async def _keep_item(self, step: Step, item: ToolCallOutputItem) -> None:
        if step.scope == "":
            self._journal.check()
            await self._display.tool_ended(item.raw_item, [step])
        else:
            await self._once.record(step)

    # -- handoffs -------------------------------------------------------------------------

    async def handoff(
        self, scope: Scope, handoff: Any, arguments: str, do: Callable[[], Awaitable[Any]]
    ) -> Any:
        """A handoff and its callback: keyed by turn, having no call id."""
        print_ = fingerprint(tool=handoff.tool_name, arguments=_digest(arguments))
        due = Due(scope.path, "handoff", str(scope.turn), print_)

        async def call() -> _Led:
            agent = await do()
            return _Led(agent.name, agent)

        led = await self._once.value(
            due,
            call,
            encode=lambda led: dumps({"agent": led.name}).decode(),
            decode=lambda text: _Led(loads(text)["agent"], sdk.target_of(handoff)),
        )
        # That of a handoff made by hand only its own function knows: it runs again.
        agent = await do() if led.agent is None else led.agent
        if agent.name != led.name:
            self._journal.refuse(
                f"handoff {due.key} led to {led.name!r} and leads to {agent.name!r}"
            )
        return agent

    def handed_over(self, items: Iterable[Any]) -> None:
        """What a turn's calls of handoffs gave: the run's own."""
        self._journal.check()
        self._display.handed_over([item.raw_item for item in items])


class ToolEnds(RunHooks[Any]):
    """The one place where the SDK tells that ONE of a turn's tools has ended."""

    def __init__(self, tools: ToolCalls) -> None:
        self._tools = tools

    async def on_tool_end(self, context: Any, agent: Any, tool: Tool, result: object) -> None:
        if isinstance(context, ToolContext):
            await self._tools.ended(tool, context, result)


@dataclasses.dataclass(frozen=True, slots=True)
class _Outcome:
    """What the call of a function tool came to: the SDK's result, with its output as it is
    recorded, or what it raised."""

    result: Any = None
    encoded: Any = None
    error: BaseException | None = None

    def get(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.result

    @property
    def is_error(self) -> bool:
        return sdk.is_error(self.result)


@dataclasses.dataclass(frozen=True, slots=True)
class _Led:
    """Where a handoff led; the agent is None where only the handoff's function knows it."""

    name: str
    agent: Agent[Any] | None


def _of_tool(scope: Scope, tool: Any, context: Any) -> Due:
    return due_of(scope, tool, context.tool_call_id, context.tool_arguments)


def due_of(scope: Scope, tool: Any, call_id: str, arguments: str) -> Due:
    """The call of a function tool, as a step."""
    print_ = fingerprint(tool=tool.name, arguments=_digest(arguments))
    return Due(scope.path, "tool", key_of(call_id), print_)


class Returned(NamedTuple):
    """What a function tool gave. `is_error`: the SDK wrote it, or we did."""

    output: Any
    is_error: bool


def returned(result: str) -> Returned | None:
    """What a recorded call of a function tool gave; None: it raised."""
    outcome = _decode_outcome(result)
    return None if outcome.error is not None else Returned(outcome.result.output, outcome.is_error)


def _of_action(scope: Scope, arguments: dict[str, Any]) -> Due:
    call = sdk.call_of(arguments)
    content = call if isinstance(call, dict) else plain(call)
    # Without the ids that adapters invent anew.
    asked = {k: v for k, v in content.items() if k not in ("id", "status")}
    print_ = fingerprint(tool=str(content.get("type")), arguments=_digest(dumps(asked).decode()))
    return Due(scope.path, "tool", key_of(str(content.get("call_id") or content.get("id"))), print_)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _encode_outcome(outcome: _Outcome) -> str:
    error = outcome.error
    if error is None:
        return dumps({"output": outcome.encoded, "error": outcome.is_error}).decode()
    recorded = {"raised": _said(error), "sdk": isinstance(error, AgentsException)}
    if isinstance(error, asyncio.CancelledError):
        recorded["cancelled"] = True
    return dumps(recorded).decode()


def _said(error: BaseException) -> str:
    try:
        return str(error)[:LONGEST_ERROR]
    except Exception:
        return type(error).__name__


def _decode_outcome(text: str) -> _Outcome:
    recorded = loads(text)
    if "raised" in recorded:
        kind: type[BaseException] = AgentsException if recorded["sdk"] else ReplayedFailure
        if recorded.get("cancelled"):
            kind = asyncio.CancelledError
        return _Outcome(error=kind(recorded["raised"]))
    output = decode_tool_output(recorded["output"])
    return _Outcome(sdk.tool_result(output, is_error=recorded["error"]))


def _encode_item(item: Any, *, limit: int) -> str | None:
    """As recorded. An output that is not kept is replaced in the item itself."""
    if not isinstance(item, ToolCallOutputItem):
        return None
    output, encoded = shown_output(item.output, limit)
    if output is item.output:
        output = too_large(len(dumps(item.raw_item)), limit)
    if output is not None and output is not item.output:
        sdk.replace_output(item, output)
        encoded = {"json": output}
    return dumps({"raw_item": plain(item.raw_item), "output": encoded}).decode()


def _replayed_item(arguments: dict[str, Any], text: str) -> ToolCallOutputItem:
    recorded = loads(text)
    item = ToolCallOutputItem(
        agent=arguments["agent"],
        raw_item=recorded["raw_item"],
        output=decode_tool_output(recorded["output"]),
    )
    sdk.commit_output(arguments, item)
    return item
