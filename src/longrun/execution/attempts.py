"""Attempts: each is prepared, run, and ended in words, or else handed over (invariant 10)."""

import asyncio
import contextlib
import dataclasses
import functools
import logging
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from agents import Agent

from longrun import metrics
from longrun.errors import Fenced, Overtaken, Unavailable
from longrun.execution.application import Application
from longrun.execution.approving import read_parked
from longrun.execution.compacting import Compacting
from longrun.execution.ending import Ends, end_response
from longrun.execution.failures import of_failure
from longrun.execution.forking import parted
from longrun.execution.handling.approvals import read_waited
from longrun.execution.handling.handler import Handler
from longrun.execution.handling.run import HandlerRun
from longrun.execution.host import Handle
from longrun.execution.last_word import who_begins
from longrun.execution.mcp_servers import MCPServers
from longrun.execution.outcomes import COMPLETED
from longrun.execution.parameters import client_tools, context_of_run
from longrun.execution.registry import Registry
from longrun.execution.replay.closings import Closings
from longrun.execution.replays import Journals, Replays
from longrun.execution.run import Run, Start
from longrun.execution.run_lines import run_handed_over, run_started, run_steered
from longrun.execution.starts import Starts
from longrun.execution.takeover import read_position
from longrun.history.continuation import telling
from longrun.pieces import with_turns
from longrun.protocol import GENERATE, RunRequest
from longrun.settings import Settings
from longrun.store.announcer import Announcer
from longrun.store.approvals import Approvals
from longrun.store.claims import Claim, Claims
from longrun.store.events import EventLog
from longrun.store.log_writer import LogWriter
from longrun.store.responses import NewResponse, Responses
from longrun.store.steers import Steers

if TYPE_CHECKING:
    from longrun.execution.tracing.tracer import Tracer

log = logging.getLogger("longrun.execution.attempts")

RETRY: Final = 1.0
"""Seconds before it is tried again to end a response while Postgres is away."""


class Attempts:
    """What is done in an attempt, by its handle: a new response's first one, or a resumed one.

    Args:
        application: gives each attempt its context, configuration, hooks and session.
        servers: connects the MCP servers of agents.
        steers: has the messages that are put into live runs.
        tracer: makes a span of each attempt; None: nothing is traced.

    Attributes:
        state: what the application's lifespan has given, for `longrun.current()`.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        responses: Responses,
        approvals: Approvals,
        claims: Claims,
        event_log: EventLog,
        writer: LogWriter,
        announcer: Announcer,
        ends: Ends,
        settings: Settings,
        application: Application,
        servers: MCPServers,
        steers: Steers,
        tracer: "Tracer | None" = None,
    ) -> None:
        self._tracer = tracer
        self._registry = registry
        self._responses = responses
        self._approvals = approvals
        self._claims = claims
        self._event_log = event_log
        self._writer = writer
        self._announcer = announcer
        self._ends = ends
        self._settings = settings
        self._application = application
        self._servers = servers
        self._steers = steers
        self._compacting = Compacting(
            registry, application, settings, responses.histories.compactions
        )
        self._replays = Replays()
        self._starts = Starts()
        self._closings = Closings()
        self._leaving: dict[str, int] = {}
        self._handing_over = asyncio.Lock()
        self.state: Any = None

    async def create(self, new: NewResponse, start: Start, handle: Handle) -> None:
        """Create a response, and run it. What goes wrong with the first is told by
        `handle.prepared`."""
        with contextlib.ExitStack() as until_answered:
            until_answered.enter_context(self._starts.coming())
            try:
                if handle.creating is None:
                    await self._responses.create(new)
                else:
                    await handle.creating
            except Exception as error:
                handle.settle(error)
                return
            handle.settle()
            async with self._ending_in_words(handle):
                await handle.until_answered()
                until_answered.close()
                with self._starts.one() as turn:
                    await turn.begin()
                    await self._begin(new.request, dataclasses.replace(start, turn=turn), handle)

    async def _begin(self, request: RunRequest, start: Start, handle: Handle) -> None:
        """Run a response that was just created."""
        run_started(request, handle.attempt, self._claims.replica_id)
        if request.conversation_id is not None or request.context is None:
            request = await self._responses.histories.with_context(request)
        if not start.copied:
            await self._run(handle, request, start)
            return
        with self._replays.one() as replay:
            await self._run(handle, request, dataclasses.replace(start, replay=replay))

    def journals(self, claims: Sequence[Claim]) -> Journals:
        """What is left of these, to be resumed in this order."""
        return Journals([claim.id for claim in claims], self._claims.left)

    async def resume(self, claim: Claim, journals: Journals, handle: Handle) -> None:
        """Run a claimed response from its finished steps."""
        replica = self._claims.replica_id
        run_started(claim.request, claim.attempt, replica, alone=handle.alone)
        async with self._ending_in_words(handle):
            tools = client_tools(claim.request.parameters, self._settings)
            position = await read_position(
                claim,
                self._claims,
                self._event_log,
                client_tools=tools,
                left=await journals.take(claim.id),
            )
            position.assembler.lifecycle("in_progress")
            run_log = self._writer.open(claim.id, claim.attempt, position.next_sequence)
            handle.settle()
            request = await self._responses.histories.with_context(claim.request)
            steers = await self._steers.of_unscoped(claim.id) if claim.steered else []
            with self._replays.one() as replay:
                steps, copied = parted(position.steps)
                start = Start(
                    position.assembler, run_log, steps, copied, replay=replay, steers=steers
                )
                await self._run(handle, request, start)

    async def hand_over(self, held: Mapping[str, int]) -> None:
        """Give responses away, by id, as they are held: whoever has room resumes them. Of a drain,
        all that leave while one statement is under way go with the next one.

        Raises:
            Unavailable: Postgres is away.
        """
        self._leaving |= held
        async with self._handing_over:
            leaving, self._leaving = self._leaving, {}
            if not leaving:
                return
            try:
                released = await self._claims.release(leaving)
            except BaseException:
                # The next one takes them along.
                self._leaving = leaving | self._leaving
                raise
            self._announcer.tell("work")
        for response_id, attempt, agent in released:
            run_handed_over(response_id, agent, attempt, self._claims.replica_id)

    async def _run(self, handle: Handle, request: RunRequest, start: Start) -> None:
        if request.parameters.get(GENERATE) is False:
            await end_response(request, start.assembler, start.run_log, COMPLETED, ran=True)
            self._ends.ended(request, handle.attempt, COMPLETED, start.assembler.usage)
            return
        agent = self._registry.get(request.agent)
        if request.goes_on is not None and isinstance(agent, Handler):
            waited = await read_waited(
                request, request.goes_on, self._approvals, self._responses, self._claims
            )
            start = dataclasses.replace(start, waited=waited)
        elif request.goes_on is not None:
            goes_on = await read_parked(
                request, request.goes_on, self._approvals, self._responses, self._steers
            )
            start = dataclasses.replace(start, goes_on=goes_on, begins_with=goes_on.begins_with)
        elif not isinstance(agent, Handler) and (not isinstance(agent, Agent) or agent.handoffs):
            last = self._settings.continue_with == "last"
            recorded = [*start.steps, *start.copied]
            name = await who_begins(request, recorded, self._responses.histories, last=last)
            start = dataclasses.replace(start, begins_with=name)
        begins = context_of_run(request) if start.goes_on is None else start.goes_on.context
        told = await with_turns(telling(begins))
        start = dataclasses.replace(start, told=told, closings=self._closings)
        handle.current = dataclasses.replace(handle.current, state=self.state)
        kind = HandlerRun if isinstance(agent, Handler) else Run
        with metrics.runs.track_inprogress(), self._traced(handle, request):
            outcome = await kind(
                agent,
                request,
                handle,
                start,
                self._settings,
                self._application,
                self._servers,
                self._steers,
                functools.partial(run_steered, request, handle.attempt, self._claims.replica_id),
                self._compacting,
            ).execute()
        self._ends.ended(request, handle.attempt, outcome, start.assembler.usage)

    @contextlib.contextmanager
    def _traced(self, handle: Handle, request: RunRequest) -> Iterator[None]:
        """Within the block, what is done is part of the response's trace, if there are traces."""
        if self._tracer is None:
            yield
            return
        with self._tracer.attempt(request, handle.attempt) as attempt:
            traceparent = attempt.traceparent
            handle.current = dataclasses.replace(handle.current, traceparent=traceparent)
            yield

    @contextlib.asynccontextmanager
    async def _ending_in_words(self, handle: Handle) -> AsyncIterator[None]:
        """For what may end without having ended its response: that is somebody else's then, or
        handed over, or it fails. It is never left to be executed again and again."""
        try:
            yield
        except asyncio.CancelledError as error:
            handle.task.uncancel()
            if handle.left:
                await self.hand_over({handle.response_id: handle.attempt})
            elif not handle.abandoned:
                # Not by us: an agent may cancel the task that it finds itself in.
                await self._fail(handle, error)
        except Overtaken as error:
            metrics.steers.labels("overtook").inc()
            log.info("run of %s goes on: %s", handle.response_id, error)
            await self.hand_over({handle.response_id: handle.attempt})
        except Fenced as error:
            log.info("run of %s is another attempt's: %s", handle.response_id, error)
        except Unavailable as error:
            log.warning("run of %s could not begin: %s", handle.response_id, error)
            await self.hand_over({handle.response_id: handle.attempt})
        except Exception as error:
            await self._fail(handle, error)

    async def _fail(self, handle: Handle, error: BaseException) -> None:
        """End a response whose attempt broke off, by a claim: nothing that is pending of the
        attempt can be written after it."""
        log.error(
            "run of %s broke off, attempt %d", handle.response_id, handle.attempt, exc_info=error
        )
        outcome = of_failure(error, handle.attempt, self._settings)
        while True:
            try:
                claim = await self._claims.to_fail(handle.response_id, handle.attempt)
                if claim is not None:
                    await self._ends.end(claim, outcome)
                return
            except Unavailable:
                await asyncio.sleep(RETRY)
