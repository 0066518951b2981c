"""One run: one call of the SDK's Runner, its stream assembled and written to the log."""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import openai
from agents import (
    Agent,
    InputGuardrailTripwireTriggered,
    MaxTurnsExceeded,
    ModelBehaviorError,
    ModelRefusalError,
    OutputGuardrailTripwireTriggered,
    RunConfig,
    Runner,
    RunResultStreaming,
)
from agents.memory import Session

from longrun import metrics
from longrun.assembly.assembler import Assembler
from longrun.errors import LongrunError, ReplayMismatch
from longrun.execution.contained import Escaped, contain_tasks, contained
from longrun.execution.current import Current, set_current
from longrun.execution.parameters import input_items, model_settings, with_client_tools
from longrun.execution.replay import place, sdk
from longrun.execution.replay.journal import Journal
from longrun.execution.replay.model_turns import ReplayedTurn
from longrun.execution.replay.results import decode_response
from longrun.execution.replay.session import JournaledSession
from longrun.execution.replay.steps import Steps
from longrun.execution.replay.tool_calls import ToolEnds
from longrun.protocol import RunRequest, Status
from longrun.settings import Settings
from longrun.store.records import Ending, Step
from longrun.store.run_log import RunLog
from longrun.supervision import let_go

log = logging.getLogger("longrun.execution.run")

SessionFactory = Callable[[Current], Session]

JSONObject = dict[str, Any]

STOP_WAIT: Final = 5.0
"""Seconds that a tool's own cleanup may take after the run was stopped."""


@dataclass(frozen=True, slots=True)
class Start:
    """Where a run starts: the end of its log, its items so far, its finished steps."""

    assembler: Assembler
    run_log: RunLog
    steps: Sequence[Step] = ()


class Run:
    """Produces one response: one attempt, on this replica.

    Args:
        prepare: gives the start; for a run that is carried on, it is read from Postgres.
        session: makes the SDK Session of the run.

    Attributes:
        leaving: the run is to be handed over at its next step boundary.
        left: it was stopped in order to be handed over.
    """

    def __init__(
        self,
        agent: Agent[Any],
        request: RunRequest,
        attempt: int,
        prepare: Callable[[], Awaitable[Start]],
        settings: Settings,
        session: SessionFactory | None = None,
    ) -> None:
        self.response_id = request.response_id
        self.attempt = attempt
        self.leaving = False
        self.left = False
        self._request = request
        self._agent = agent
        self._prepare = prepare
        self._settings = settings
        self._session = session
        self._stopped = threading.Event()
        self._current = Current(
            request.response_id, attempt, request.principal, _stopped=self._stopped
        )
        self._abandoned = False
        self._task: asyncio.Task[Any] | None = None
        self._assembler: Assembler
        self._log: RunLog | None = None
        self._journal: Journal
        self._steps: Steps

    async def execute(self) -> None:
        """Run to the terminal event. Never raises for what goes wrong in the agent.

        Raises:
            CancelledError: the task was cancelled by somebody else than `abandon`.
        """
        self._task = asyncio.current_task()
        try:
            if not self._abandoned:
                run_log = await self._begin()
                status, error = await self._outcome(run_log)
                await end_response(self._assembler, run_log, status, error)
        except asyncio.CancelledError:
            if not self._abandoned or self._task is None:
                raise
            self._task.uncancel()
        except LongrunError as lost:
            log.warning("run of %s ends without a result: %s", self.response_id, lost)
        finally:
            self._stopped.set()

    def abandon(self) -> None:
        """Stop the agent, its tools and its model request, and write nothing more: the response
        is another attempt's from here on."""
        self._abandoned = True
        self._stopped.set()
        if self._log is not None:
            self._log.lose(LongrunError("The run was abandoned."))
        if self._task is not None:
            self._task.cancel()

    def leave(self) -> None:
        """Stop where it is, to be handed over."""
        self.left = True
        self.abandon()

    async def _at_boundary(self) -> None:
        """Between two steps: where a run is handed over at drain, so that none is done twice.

        Parallel ones are waited for.
        """
        if self.leaving:
            await self._steps.idle()
            self.leave()
            await asyncio.Event().wait()

    async def _begin(self) -> RunLog:
        start = await self._prepare()
        self._assembler = start.assembler
        self._log = start.run_log
        self._journal = Journal(start.steps)
        self._steps = Steps(
            self._journal, start.run_log, self._current, self._at_boundary, self._show_output
        )
        self._write()
        return start.run_log

    async def _outcome(self, run_log: RunLog) -> tuple[Status, JSONObject | None]:
        try:
            with contained(f"agent {self._agent.name!r}"):
                await self._drive()
            self._journal.check_reached("", "model", "tool")
        except Exception as error:
            if run_log.lost is not None:
                raise run_log.lost from error
            with contextlib.suppress(ReplayMismatch):
                # A tool that is no longer there, for one, is the model's error to the SDK.
                tools = ["tool"] if isinstance(error, ModelBehaviorError) else []
                self._journal.check_reached("", "model", *tools)
            return self._failure(self._journal.mismatch or error)
        if self._assembler.incomplete_details is not None:
            return "incomplete", None
        return "completed", None

    async def _drive(self) -> None:
        contain_tasks()
        set_current(self._current)
        place.enter(self._steps)
        session = None
        if self._session is not None:
            session = JournaledSession(self._session(self._current), self._steps)
        try:
            result = self._start(session)
            try:
                async for event in result.stream_events():
                    self._journal.check()
                    self._take(event)
                cancelled = sdk.cancellation_of(result)
                if cancelled is not None:
                    raise Escaped("the agent raised CancelledError") from cancelled
            finally:
                await _stop(result)
        finally:
            if session is not None:
                await session.close()

    def _start(self, session: JournaledSession | None) -> RunResultStreaming:
        parameters = self._request.parameters
        return Runner.run_streamed(
            with_client_tools(self._agent, parameters),
            input=input_items(self._request),
            max_turns=self._settings.max_turns,
            hooks=ToolEnds(self._steps.tools),
            session=session,
            run_config=RunConfig(
                group_id=self._steps.group_id,
                model_settings=model_settings(parameters),
                tracing_disabled=not self._settings.sdk_tracing,
                workflow_name=self._agent.name,
            ),
        )

    # -- the stream -----------------------------------------------------------------------

    def _take(self, event: Any) -> None:
        """One event of the SDK's stream."""
        if event.type == "raw_response_event":
            self._take_raw(event.data)
        elif event.type == "run_item_stream_event":
            if event.name in ("tool_output", "handoff_occured"):
                self._assembler.tool_output(event.item.raw_item)
            elif event.name == "message_output_created":
                self._assembler.local_message(event.item.raw_item)
            self._write()

    def _take_raw(self, event: Any) -> None:
        steps: list[Step] = []
        if isinstance(event, ReplayedTurn):
            self._assembler.replayed_turn(event.response)
        else:
            self._assembler.raw_event(event)
            if event.type == "response.completed":
                indexes = self._assembler.turn_indexes
                steps = self._steps.models.finished(event.response, indexes)
        self._write(steps)
        self._steps.models.taken()

    async def _show_output(self, item: Any, steps: list[Step]) -> None:
        """Commit what a tool gave, with its step. `item` is None where the SDK's stream is to
        bring it."""
        if item is not None:
            self._assembler.tool_output(item)
        self._write(steps)
        assert self._log is not None
        await self._log.flush()

    def _write(self, steps: list[Step] | None = None) -> None:
        emission = self._assembler.collect()
        if self._log is not None and (emission.events or steps):
            self._log.append(emission.events, items=emission.items, steps=steps or ())

    def _failure(self, error: Exception) -> tuple[Status, JSONObject | None]:
        """What a client is told of an exception: never its text."""
        if isinstance(error, ModelRefusalError):
            return "completed", None
        if self._assembler.incomplete_details is not None:
            return "incomplete", None
        code, message = _explain(error, self._settings.max_turns)
        log.error("run of %s failed", self.response_id, exc_info=error)
        return "failed", {"code": code, "message": message}


async def end_response(
    assembler: Assembler, run_log: RunLog, status: Status, error: JSONObject | None
) -> None:
    """The terminal event, the status and the final snapshot, in one commit.

    Raises:
        Fenced: another attempt holds the response, or somebody ended it first.
    """
    document = assembler.end(status, error, int(time.time()))
    emission = assembler.collect()
    run_log.append(emission.events, items=emission.items, ending=Ending(status, document))
    await run_log.flush()
    metrics.runs_finished.labels(status).inc()


def add_recorded_usage(assembler: Assembler, steps: list[Step]) -> None:
    """The usage of the turns that earlier attempts finished, for a response that only ends."""
    for step in steps:
        if step.scope == "" and step.kind == "model":
            assembler.usage.add(decode_response(step.result)[0].usage)


def _explain(error: Exception, max_turns: int) -> tuple[str, str]:
    """Code (of openai's `ResponseError`) and message."""
    match error:
        case ReplayMismatch():
            return (
                "server_error",
                "The run was interrupted, and the agent's code was changed since, so that it "
                "cannot be carried on.",
            )
        case MaxTurnsExceeded():
            return "server_error", f"The run took more than {max_turns} model turns."
        case InputGuardrailTripwireTriggered():
            return "invalid_prompt", "The input was refused by a guardrail of the agent."
        case OutputGuardrailTripwireTriggered():
            return "server_error", "The output was refused by a guardrail of the agent."
        case openai.RateLimitError():
            return "rate_limit_exceeded", "The model's provider refused: too many requests."
        case _:
            return "server_error", "The agent failed."


async def _stop(result: RunResultStreaming) -> None:
    """Really stop what the SDK still does for a run that nobody reads any more."""
    task = sdk.loop_task(result)
    if task is None:
        return
    let_go(task)
    if not task.done():
        result.cancel()
        await asyncio.wait([task], timeout=STOP_WAIT)
