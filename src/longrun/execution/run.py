"""One run: one call of the SDK's Runner, its stream assembled and written to the log."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from agents import (
    Agent,
    InputGuardrailTripwireTriggered,
    ModelBehaviorError,
    ModelRefusalError,
    OutputGuardrailTripwireTriggered,
    RunConfig,
    Runner,
    RunResultStreaming,
    RunState,
)

from longrun import ids, metrics
from longrun.assembly.assembler import TURN_ENDS, Assembler
from longrun.errors import LongrunError, ReplayMismatch
from longrun.execution.agreement import check_begins
from longrun.execution.application import Application, Given
from longrun.execution.approving import Approving, GoesOn
from longrun.execution.budget import Budget, BudgetSpent
from longrun.execution.compacting import Compacting
from longrun.execution.configuration import run_config
from longrun.execution.contained import Escaped, being_cancelled, contain_tasks, contained, step_of
from longrun.execution.current import set_current
from longrun.execution.demands import Demands
from longrun.execution.display import Display
from longrun.execution.ending import end_response
from longrun.execution.failures import OF_REQUEST, of_failure
from longrun.execution.handling.approvals import Waited
from longrun.execution.handling.handler import Handler
from longrun.execution.hooks import Hooks
from longrun.execution.host import Handle
from longrun.execution.inserted import NO_SESSION, Inserted
from longrun.execution.last_word import reached
from longrun.execution.mcp_servers import MCPServers
from longrun.execution.outcomes import (
    COMPLETED,
    INCOMPLETE,
    Outcome,
    incomplete,
)
from longrun.execution.parameters import (
    context_of_run,
    input_items,
    model_settings,
    with_client_tools,
)
from longrun.execution.passing import Passing
from longrun.execution.replay import place, sdk
from longrun.execution.replay.border import Border
from longrun.execution.replay.closings import Closings
from longrun.execution.replay.context_management import ContextManagement
from longrun.execution.replay.journal import Journal
from longrun.execution.replay.model_turns import ReplayedTurn
from longrun.execution.replay.session import JournaledSession
from longrun.execution.replay.steps import Steps
from longrun.execution.replay.tool_calls import ToolEnds
from longrun.execution.replays import Replay
from longrun.execution.run_states import NO_LONGER_FITS
from longrun.execution.served import AgentFactory, made
from longrun.execution.starts import Turn
from longrun.execution.steering import Steering, Store
from longrun.execution.takeover import add_recorded_usage
from longrun.history.continuation import told
from longrun.pieces import Pieces, with_turns
from longrun.protocol import RunRequest
from longrun.settings import Settings
from longrun.store.records import Parked, Steer, Step
from longrun.store.run_log import RunLog
from longrun.supervision import let_go

log = logging.getLogger("longrun.execution.run")

TOGETHER: Final = 32
"""Events of the SDK's own that are taken in one go."""

MANY: Final = 1000
"""Items of an input from which on there are turns of the loop between what is done with them."""

STOP_WAIT: Final = 5.0
"""Seconds that a tool's own cleanup may take after the run was stopped."""


@dataclass(frozen=True, slots=True)
class Start:
    """Where a run starts: the end of its log, its items so far, its finished steps.

    `begins_with` is the name of the agent that begins it, if that is not the one that is asked for.
    `replay` is its turn to be replayed, of one that is taken over.
    `turn` is its turn to start, of one that was just created.
    `goes_on` is what it goes on from, if it answers approvals; `waited` the same of a handler.
    `copied` are the steps that it was forked with.
    `steers` are the messages that were put into it before.
    `told` are the items of what it begins with, as they go into it; None: they are made of that.
    `closings` are what the runs of the replica take turns by when their models end.
    """

    assembler: Assembler
    run_log: RunLog
    steps: Sequence[Step] = ()
    copied: Sequence[Step] = ()
    begins_with: str | None = None
    replay: Replay | None = None
    turn: Turn | None = None
    goes_on: GoesOn | None = None
    waited: Waited | None = None
    steers: Sequence[Steer] = ()
    told: list[dict[str, Any]] | None = None
    closings: Closings = field(default_factory=Closings)


class Run:
    """Produces one response: one attempt, on this replica.

    Args:
        agent: which is run, or the function that makes it; a handler in its subclass.
        handle: the hold on it, by which it is stopped.
        application: gives the run its context, configuration, hooks and session.
        servers: connects the MCP servers that it needs.
        steers: has the messages that are put into it.
        steered: told how many of them it has taken, each time.
        compacting: compacts its context, if its request asks for that.
    """

    def __init__(
        self,
        agent: Agent[Any] | AgentFactory | Handler,
        request: RunRequest,
        handle: Handle,
        start: Start,
        settings: Settings,
        application: Application | None = None,
        servers: MCPServers | None = None,
        steers: Store | None = None,
        steered: Callable[[int], None] = lambda messages: None,
        compacting: Compacting | None = None,
    ) -> None:
        self._agent = agent
        self._request = request
        self._handle = handle
        self._assembler = start.assembler
        self._log = start.run_log
        self._settings = settings
        self._application = application or Application()
        self._servers = servers
        self._display = Display(start.assembler, start.run_log, handle.got_on)
        self._begins_with = start.begins_with
        self._replay = start.replay
        self._turn = start.turn
        self._waited = start.waited
        earlier = start.waited.recorded if start.waited is not None else ()
        self._journal = Journal([*earlier, *start.steps], start.copied)
        self._budget = Budget(request.parameters, self._assembler.usage)
        self._demands = Demands(request.parameters, self._budget)
        context = begun = context_of_run(request)
        if start.goes_on is not None:
            begun, context = start.goes_on.context, start.goes_on.with_more(request)
        self._items = told(begun) if start.told is None else start.told
        self._inserted = Inserted(request)
        self._steps = Steps(
            self._journal,
            self._log,
            handle.current,
            self._demands,
            Border(
                self._inserted.with_all(context),
                self._inserted.behind(told(context) if start.goes_on else self._items),
            ),
            self._at_boundary,
            self._display,
            self._assembler.usage.add,
            start.assembler.withdrawn_calls,
            self._replayed,
            self._between_turns,
        )
        self._steering = Steering(
            steers, self._log, start.steers, lambda: self._assembler.next_index, steered
        )
        self._steps.models.closings = start.closings
        self._result: RunResultStreaming | None = None
        self._heard_all = False
        self._read_whole = False
        if compacting is not None and (terms := compacting.terms(request, handle)) is not None:
            self._steps.management = ContextManagement(
                terms,
                self._steps.once,
                self._log,
                self._steps.models.border,
                self._assembler,
                self._display,
                self._assembler.usage.add,
            )
        self._assembler.given_call_ids = self._steps.call_ids.given
        self._goes_on = start.goes_on
        self._parked: Parked | None = None
        self._heard = False
        self._turns = 0
        self._passing = Passing(
            self._journal, self._steps, self._assembler, self._display, self._budget
        )
        self._approving = Approving(
            request,
            self._assembler,
            self._display,
            self._journal,
            self._steps,
            start.goes_on,
            max_turns=settings.max_turns,
            max_item_bytes=settings.max_item_bytes,
        )

    async def execute(self) -> Outcome:
        """Run to the terminal event. Never raises for what goes wrong in the agent.

        Returns:
            How it has ended.

        Raises:
            LongrunError: this attempt can write no more.
            CancelledError: its task was cancelled.
        """
        self._display.write()
        if self._handle.attempt == 1:
            self._display.first = self._tell_of_first
        if self._replay is not None:
            await self._replay.begin()
        outcome = await self._outcome()
        self._discard_result()
        # Of an agent tool that is known to have failed, say, the turns are not passed again.
        add_recorded_usage(self._assembler, self._journal.left("model"))
        parked = self._parked if outcome is COMPLETED else None
        await end_response(
            self._request,
            self._assembler,
            self._log,
            outcome,
            ran=True,
            parked=parked,
            steers=self._steering.places,
            steered=self._steering.taken if self._heard_all and outcome is COMPLETED else None,
        )
        return outcome

    def _tell_of_first(self) -> None:
        seconds = ids.age(self._request.response_id)
        metrics.first_output_seconds.labels(self._request.agent).observe(seconds)

    def _replayed(self) -> None:
        """What comes now is done for the first time."""
        if self._replay is not None:
            self._replay.over()
        if self._turn is not None:
            self._turn.over()

    async def _at_boundary(self) -> None:
        """Between two steps: where a run is handed over at drain, so that none is done twice.

        Parallel ones are waited for.
        """
        if self._handle.leaving:
            await self._steps.idle()
            self._handle.leave()
            await asyncio.Event().wait()

    async def _outcome(self) -> Outcome:
        try:
            with contained(f"agent {self._request.agent!r}"):
                await self._drive()
            self._check_reached()
        except Exception as error:
            if self._log.lost is not None:
                raise self._log.lost from error
            with contextlib.suppress(ReplayMismatch):
                # A tool that is no longer there, for one, is the model's error to the SDK.
                tools = ["tool"] if isinstance(error, ModelBehaviorError) else []
                self._journal.check_reached("", "model", *tools)
            return self._failure(self._journal.mismatch or error)
        return COMPLETED if self._assembler.incomplete_details is None else INCOMPLETE

    def _check_reached(self) -> None:
        """Whether all that is recorded was passed, once the run has ended.

        Raises:
            ReplayMismatch: it was not.
        """
        self._journal.check_reached("", "model", "tool")

    async def _drive(self) -> None:
        contain_tasks()
        current = self._handle.current
        set_current(current)
        using = contextlib.nullcontext() if self._servers is None else self._servers.used()
        with using:
            assert not isinstance(self._agent, Handler)
            agent = reached(await made(self._agent, current), self._begins_with)
            if agent is not self._agent:
                check_begins(agent, self._request.parameters)
            async with self._application.of_run(current) as given:
                place.enter(self._steps)
                try:
                    await self._run(agent, given)
                finally:
                    # What the application does at the end is its own affair.
                    place.leave()

    async def _run(self, agent: Agent[Any], given: Given) -> None:
        session = None
        if given.session is not None:
            session = JournaledSession(given.session, self._steps)
        items = input_items(self._request, self._items)
        approving = self._approving
        extended = with_client_tools(
            agent, {"tools": approving.client_tools}, approving.client_outputs
        )
        begins: Any = items
        try:
            if len(items) >= MANY:
                # The SDK copies them all, in one go.
                await asyncio.sleep(0)
            if self._goes_on is not None:
                begins = await approving.resumed(extended, items, given.context)
            else:
                begins = [*items, *await self._said_before(0)]
            if self._inserted:
                extended, begins = await self._forked(extended, begins, given, session)
            passed = await self._passed_over(extended, begins, given)
            result = await self._ran(extended, begins, given, session, passed=passed)
            while not result.interruptions and self._assembler.incomplete_details is None:
                # What the model said last is an answer; what came meanwhile is asked, too.
                here = place.here()
                assert here is not None
                said = await self._said_before(here.scope.turn + 1)
                if not said:
                    self._demands.check_output(result)
                    self._heard_all = True
                    return
                begins = said if session is not None else [*result.to_input_list(), *said]
                result = await self._ran(result.last_agent, begins, given, session)
            if self._assembler.incomplete_details is None:
                self._parked = approving.park(result, agent.name, items)
                if self._parked is None:
                    self._demands.check_output(result)
        finally:
            if session is not None:
                await session.close()

    async def _forked(
        self, agent: Agent[Any], items: list[Any], given: Given, session: JournaledSession | None
    ) -> tuple[Agent[Any], list[Any]]:
        """Pass what a fork begins with, up to the turn behind which its own input comes. Gives the
        agent that goes on, and what it goes on with."""
        if session is not None:
            raise LongrunError(NO_SESSION)
        for insert in self._inserted:
            result = await self._ran(agent, items, given, None, until=insert.turn)
            if self._turns != insert.turn + 1:
                self._journal.refuse(f"its turn {insert.turn} was never reached")
            self._approving.leave_out(result)
            await insert.record(self._steps.once, self._assembler.next_index)
            said = await self._said_before(insert.turn + 1)
            agent, items = result.last_agent, [*insert.behind(result), *said]
        return agent, items

    async def _passed_over(
        self, agent: Agent[Any], begins: Any, given: Given
    ) -> Sequence[sdk.DoneTurn]:
        """The recorded turns that the SDK need not replay."""
        here = place.here()
        assert here is not None
        plain = self._passing.is_possible and not (
            self._goes_on is not None
            or self._inserted
            or given.session is not None
            or self._steps.management is not None
            or self._steering.taken
            or self._journal.has_copies
        )
        if not plain:
            return ()
        config = self._config(agent, given)
        return await self._passing.over(agent, begins, config, given.hooks, here.scope)

    async def _ran(
        self,
        agent: Agent[Any],
        begins: Any,
        given: Given,
        session: JournaledSession | None,
        until: int | None = None,
        passed: Sequence[sdk.DoneTurn] = (),
    ) -> RunResultStreaming:
        """One call of the SDK's Runner, to its end.

        Args:
            until: the model turn after whose calls it is to stop.
            passed: the turns behind which it begins.
        """
        self._discard_result()
        result = self._result = self._start(agent, begins, given, session)
        if passed:
            sdk.begin_behind(result, agent, passed)
        try:
            taken = 0
            async for event in result.stream_events():
                self._journal.check()
                if event.type == "raw_response_event":
                    if event.data.type in TURN_ENDS:
                        await self._take_end(event.data)
                    else:
                        self._take_raw(event.data)
                else:
                    self._take(event)
                    # Those of a turn come all at once, and the SDK does not wait for them.
                    taken = (taken + 1) % TOGETHER
                    if not taken:
                        await asyncio.sleep(0)
                if self._log.must_wait:
                    # A model ends with its whole text a few times over: one at a time.
                    await self._log.ready()
                if until is not None and self._turns > until:
                    result.cancel(mode="after_turn")
            self._read_whole = True
            cancelled = sdk.cancellation_of(result)
            if cancelled is not None:
                raise Escaped("the agent raised CancelledError") from cancelled
        except asyncio.CancelledError:
            if being_cancelled():
                # What still ends while the run is stopped is not written any more.
                self._log.lose(LongrunError("The run was stopped."))
            raise
        finally:
            await _stop(result)
        return result

    def _discard_result(self) -> None:
        """The SDK's call has ended, and what is needed of it was taken. One whose stream was not
        read to its end is still used while that is closed."""
        if self._result is not None and self._read_whole:
            sdk.discard(self._result)
        self._result, self._read_whole = None, False

    async def _between_turns(self, result: RunResultStreaming, turn: int) -> None:
        """What was put into the run meanwhile goes in before its next turn."""
        if result is self._result and (said := await self._said_before(turn)):
            sdk.put_in(result, said)

    async def _said_before(self, turn: int) -> list[Any]:
        """What is put in before a turn of the run's own, now or when it was first taken."""
        replayed = self._journal.has("", "model", str(turn))
        said = await self._steering.due(turn, replayed=replayed)
        if said:
            self._steps.models.steered.add(str(turn))
        return said

    def _start(
        self, agent: Agent[Any], begins: Any, given: Given, session: JournaledSession | None
    ) -> RunResultStreaming:
        ours = ToolEnds(self._steps.tools)
        return Runner.run_streamed(
            agent,
            input=begins,
            context=None if isinstance(begins, RunState) else given.context,
            max_turns=self._settings.max_turns,
            hooks=ours if given.hooks is None else Hooks(ours, given.hooks),
            session=session,
            run_config=self._config(agent, given),
        )

    def _config(self, agent: Agent[Any], given: Given) -> RunConfig:
        return run_config(
            given.run_config,
            group_id=self._steps.group_id,
            workflow_name=agent.name,
            model_settings=model_settings(self._request.parameters),
            traced=self._request.stored and (self._settings.sdk_tracing or self._settings.otel),
        )

    # -- the stream -----------------------------------------------------------------------

    def _take(self, event: Any) -> None:
        """One event of the SDK's stream that is no model's."""
        if event.type == "run_item_stream_event":
            if event.name in ("tool_output", "handoff_occured"):
                self._assembler.tool_output(event.item.raw_item)
            elif event.name == "message_output_created":
                self._assembler.local_message(event.item.raw_item)
            self._display.write()
        elif event.type == "agent_updated_stream_event":
            self._assembler.next_agent(event.new_agent.name)

    def _take_raw(self, event: Any) -> None:
        """An event of a model's within its turn."""
        self._heard = True
        self._assembler.origin = self._steps.models.origin
        self._assembler.raw_event(event)
        self._display.write()
        self._steps.models.taken()

    async def _take_end(self, event: Any) -> None:
        """The end of a model's turn, which has all of it once more. What of its items was not
        shown yet is written meanwhile, as if the model had streamed it; the turn's step comes with
        the last of it."""
        self._heard = True
        steps: list[Step] = []
        if isinstance(event, ReplayedTurn):
            await with_turns(self._assembler.replayed_turn(event.response))
        else:
            self._assembler.origin = self._steps.models.origin
            await with_turns(self._assembler.turn_end(event), self._written)
            if event.type == "response.completed":
                steps = await with_turns(self._steps_of(event.response))
        self._display.write(steps)
        if event.type == "response.completed":
            self._turns += 1
            # The model's turn ends when this is taken; only then is anything executed.
            self._budget.took(event.response.output or ())
        self._steps.models.taken()

    def _steps_of(self, turn: Any) -> Pieces[list[Step]]:
        indexes, calls = self._assembler.turn_indexes, self._assembler.turn_calls
        items = self._assembler.turn_items
        return self._steps.models.finished(turn, indexes, calls, items)

    async def _written(self) -> None:
        self._display.write()
        if self._log.must_wait:
            await self._log.ready()

    def _failure(self, error: BaseException) -> Outcome:
        if isinstance(error, ModelRefusalError):
            return COMPLETED
        if self._assembler.incomplete_details is not None:
            return INCOMPLETE
        if isinstance(error, BudgetSpent):
            return incomplete(error.reason)
        if isinstance(error, ModelBehaviorError) and self._goes_on and not self._heard:
            # No model has said anything yet: a tool that was to be called is not there any more.
            error = LongrunError(NO_LONGER_FITS).with_traceback(error.__traceback__)
        if isinstance(error, OutputGuardrailTripwireTriggered | InputGuardrailTripwireTriggered):
            self._assembler.refuse()
        attempt, step = self._handle.attempt, step_of(error) or "the run itself"
        # What clients can bring about as often as they like is no alarm, and has no traceback.
        of_request = isinstance(error, OF_REQUEST)
        log.log(
            logging.WARNING if of_request else logging.ERROR,
            "run of %s failed in %s, attempt %d: %s",
            self._request.response_id,
            step,
            attempt,
            type(error).__name__,
            exc_info=None if of_request else error,
        )
        return of_failure(error, attempt, self._settings)


async def _stop(result: RunResultStreaming) -> None:
    """Really stop what the SDK still does for a run that nobody reads any more."""
    task = sdk.loop_task(result)
    if task is None:
        return
    let_go(task)
    if not task.done():
        result.cancel()
        await asyncio.wait([task], timeout=STOP_WAIT)
