"""The worker: executes responses on this replica, its own and those of replicas that are gone."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, Final, TypeVar

from longrun import metrics
from longrun.assembly.assembler import Assembler
from longrun.errors import Fenced, LongrunError, Unavailable
from longrun.execution.takeover import Recovered, recover
from longrun.execution.registry import Registry
from longrun.execution.run import (
    Run,
    SessionFactory,
    Start,
    add_recorded_usage,
    end_response,
)
from longrun.protocol import RunRequest, Status
from longrun.settings import Settings
from longrun.store.announcer import Announcer
from longrun.store.claims import Claim, Claims
from longrun.store.events import EventLog
from longrun.store.log_writer import LogWriter
from longrun.store.responses import NewResponse, Responses

log = logging.getLogger("longrun.execution.admission")

JSONObject = dict[str, Any]

T = TypeVar("T")

LAST_MOMENT: Final = 0.5
"""Seconds before the end of a drain at which runs are handed over wherever they are."""

LAST_WAIT: Final = 5.0
"""Seconds that stopped runs have to be given away after that."""


class Worker:
    """One per replica. Runs live in its TaskGroup, so that none outlives it.

    Args:
        session: makes the SDK Session of each run; None for runs without one.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        responses: Responses,
        claims: Claims,
        event_log: EventLog,
        writer: LogWriter,
        announcer: Announcer,
        replica_id: str,
        settings: Settings,
        session: SessionFactory | None = None,
    ) -> None:
        self._registry = registry
        self._responses = responses
        self._claims = claims
        self._event_log = event_log
        self._writer = writer
        self._announcer = announcer
        self._replica_id = replica_id
        self._settings = settings
        self._session = session
        self._live: dict[str, Run] = {}
        self._ending: dict[str, int] = {}
        self._creating: set[str] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._group: asyncio.TaskGroup | None = None
        self._suspected: set[str] = set()
        self.work_waits = False
        self.slot_freed = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Host runs until `stop`; then let them finish, and hand over those that do not."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                await stop.wait()
            finally:
                self._group = None
            await self._drain()
            await self._drop()

    # -- what http calls ------------------------------------------------------------------

    async def submit(self, request: RunRequest) -> Status:
        """Create a response, and start its run if there is room. When this returns, its first
        events are committed.

        Raises:
            Unavailable: Postgres is away, or this replica is stopping.
            TooManyRequests: too many responses are queued already.
        """
        self._hosting()
        starts = self.free > 0 and not self.work_waits
        status: Status = "in_progress" if starts else "queued"
        assembler = Assembler(request.response_id, request.document)
        assembler.lifecycle(status)
        events = assembler.collect().events
        new = NewResponse(request, events, self._replica_id if starts else None)
        if not starts:
            await self._responses.create(new)
            self.work_waits = True
            self._announcer.tell("work")
            return status
        run_log = self._writer.open(request.response_id, 1, len(events))

        async def start() -> Start:
            return Start(assembler, run_log)

        run = self._new_run(request, 1, start)
        self._live[run.response_id] = run
        self._creating.add(run.response_id)
        try:
            await self._responses.create(new)
        except BaseException:
            self._live.pop(run.response_id, None)
            raise
        finally:
            self._creating.discard(run.response_id)
        if self._group is None:
            # The drain began meanwhile: it goes on elsewhere.
            del self._live[run.response_id]
            await self._give_back([(run.response_id, run.attempt)])
        else:
            self._host(run)
        return status

    async def cancel(self, response_id: str) -> bool:
        """End a response as `cancelled`, wherever it is executed. False: it had ended already.

        One compare-and-set decides between this and the run's own end; whoever executes it is
        fenced by it, and told to stop.
        """
        # A task of the worker's: the caller may go away, the end must come all the same.
        task = self._track(self._hosting().create_task(self._cancel(response_id)))
        outcome = await asyncio.shield(task)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def _cancel(self, response_id: str) -> bool | Exception:
        """Raises nothing, which would end the worker."""
        try:
            claim = await self._claims.to_end(response_id, cancel=True)
        except Exception as error:
            return error
        if claim is not None:
            await _logged(self._end_claim(claim))
        return claim is not None

    def cancel_soon(self, response_id: str) -> None:
        """The same for a caller that cannot wait."""
        with contextlib.suppress(Unavailable):
            self._track(self._hosting().create_task(self._cancel(response_id)))

    # -- what the watch calls -------------------------------------------------------------

    @property
    def free(self) -> int:
        """How many more runs there is room for."""
        return self._settings.max_runs - len(self._live)

    @property
    def own_summary(self) -> str:
        """Of what is live here, to be compared with `Surroundings.own`."""
        held = self._held
        return f"{len(held)} {sum(held.values())}"

    @property
    def _held(self) -> dict[str, int]:
        """The attempt of each response that is executed, or just ended, here."""
        return {id_: run.attempt for id_, run in self._live.items()} | self._ending

    async def take_orphans(self, dead: list[str]) -> None:
        """Carry on runs of dead replicas, and runs that were handed over."""
        while self._group is not None and self.free > 0:
            found = await self._claims.orphans(dead, self.free)
            await self._take(found)
            if not found:
                return

    async def take_queued(self) -> None:
        """Start what waits in the queue, as far as there is room."""
        while self._group is not None and self.free > 0:
            found = await self._claims.queued(self.free)
            await self._take(found)
            if not found:
                self.work_waits = False
                return

    async def end_overdue(self, overdue: Iterable[str]) -> None:
        """End responses whose time is over, whoever executes them, or nobody."""
        for response_id in overdue:
            claim = await self._claims.to_end(response_id, cancel=False)
            if claim is not None:
                await self._take([claim])

    async def reconcile(self) -> None:
        """Compare what is live here with what Postgres says is ours.

        A run that is no longer ours is stopped. What is ours and not live (a claim whose answer
        was lost) is given up. Only what differs twice in a row counts, since both sides move.
        """
        own = await self._claims.own()
        # What is just being created is on neither side, however long Postgres takes over it.
        differing = {
            f"{id_} {attempt}"
            for id_, attempt in own.items() ^ self._held.items()
            if id_ not in self._creating
        }
        certain, self._suspected = differing & self._suspected, differing
        for response_id, run in list(self._live.items()):
            if f"{response_id} {run.attempt}" in certain:
                log.warning("%s is no longer this replica's: stopping its run", response_id)
                run.abandon()
        strays = [pair for pair in own.items() if f"{pair[0]} {pair[1]}" in certain]
        if strays:
            log.warning("giving up %d responses that are not live here", len(strays))
            await self._give_back(strays)

    def taken_by_another(self, response_id: str, attempt: int) -> None:
        """Somebody holds the response as this attempt: an earlier one of ours must stop."""
        run = self._live.get(response_id)
        if run is not None and run.attempt < attempt:
            run.abandon()

    # -- claims ---------------------------------------------------------------------------

    async def _take(self, claims: Sequence[Claim]) -> None:
        if self._group is None:
            # The drain began while Postgres was asked.
            await self._give_back([(claim.id, claim.attempt) for claim in claims])
            return
        for claim in claims:
            self._announcer.tell(f"taken {claim.id} {claim.attempt}")
            self.taken_by_another(claim.id, claim.attempt)
            reason = self._why_end(claim)
            if reason is not None:
                self._spawn(self._end_claim(claim))
            else:
                self._carry_on(claim)

    def _why_end(self, claim: Claim) -> tuple[Status, JSONObject | None] | None:
        """Why a claimed response is to be ended and not run; None if it is to be run."""
        if claim.cancelled:
            return "cancelled", None
        if claim.overdue:
            limit = f"{self._settings.run_timeout:g}"
            message = f"The response took longer than {limit} seconds (LONGRUN_RUN_TIMEOUT)."
            return "failed", {"code": "server_error", "message": message}
        if claim.spent > self._settings.max_attempts:
            message = f"The run was interrupted {claim.spent - 1} times and was given up."
            return "failed", {"code": "server_error", "message": message}
        return None

    async def _end_claim(self, claim: Claim) -> None:
        self.taken_by_another(claim.id, claim.attempt)
        self._announcer.tell(f"taken {claim.id} {claim.attempt}")
        status, error = self._why_end(claim) or ("cancelled", None)
        self._ending[claim.id] = claim.attempt
        try:
            with contextlib.suppress(Fenced):
                recovered = await self._recover(claim)
                add_recorded_usage(recovered.assembler, recovered.steps)
                run_log = self._writer.open(claim.id, claim.attempt, recovered.next_sequence)
                await end_response(recovered.assembler, run_log, status, error)
        finally:
            if self._ending.get(claim.id) == claim.attempt:
                del self._ending[claim.id]

    def _carry_on(self, claim: Claim) -> None:
        """Go on with a response from its finished steps. Its place is taken at once."""

        request = claim.request

        async def start() -> Start:
            recovered = await self._recover(claim)
            request.context.extend((await self._responses.with_context(request)).context)
            recovered.assembler.lifecycle("in_progress")
            run_log = self._writer.open(claim.id, claim.attempt, recovered.next_sequence)
            return Start(recovered.assembler, run_log, recovered.steps)

        run = self._new_run(request, claim.attempt, start)
        self._live[run.response_id] = run
        self._host(run)

    async def _give_back(self, held: Sequence[tuple[str, int]]) -> None:
        """Hand over (response id, attempt): whoever has room goes on."""
        if held:
            await self._claims.release(held)
            self._announcer.tell("work")

    async def _recover(self, claim: Claim) -> Recovered:
        recovered = await recover(claim, self._claims, self._event_log)
        if recovered.dropped:
            await self._claims.drop_items(claim, recovered.dropped)
        return recovered

    # -- hosting --------------------------------------------------------------------------

    def _hosting(self) -> asyncio.TaskGroup:
        if self._group is None:
            raise Unavailable("This server is stopping; try again.", retry_after=1)
        return self._group

    def _new_run(
        self, request: RunRequest, attempt: int, start: Callable[[], Awaitable[Start]]
    ) -> Run:
        agent = self._registry.get(request.agent)
        return Run(agent, request, attempt, start, self._settings, self._session)

    def _host(self, run: Run) -> None:
        self._spawn(self._execute(run))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        if self._group is None:
            work.close()
            return
        self._track(self._group.create_task(_logged(work)))

    def _track(self, task: asyncio.Task[T]) -> asyncio.Task[T]:
        """The drain waits for it, and drops it if it takes too long."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _execute(self, run: Run) -> None:
        metrics.runs.inc()
        try:
            await run.execute()
        finally:
            metrics.runs.dec()
            if self._live.get(run.response_id) is run:
                del self._live[run.response_id]
            self.slot_freed.set()
        if run.left:
            await self._give_back([(run.response_id, run.attempt)])

    async def _drain(self) -> None:
        """Runs may finish; then they leave at a step boundary; in the end wherever they are."""
        seconds = self._settings.drain_seconds
        if self._live:
            log.info("%d runs have %g s to finish or to be handed over", len(self._live), seconds)
        await self._until_idle(seconds / 2)
        for run in self._live.values():
            run.leaving = True
        await self._until_idle(seconds / 2 - LAST_MOMENT)
        for run in list(self._live.values()):
            run.leave()
        await self._until_idle(LAST_WAIT)

    async def _drop(self) -> None:
        """What is not done by now waits for Postgres, for a lock. This process ends all the same:
        the others take its runs by the lease that it gives up, or that runs out."""
        while self._tasks:
            log.warning("giving up %d runs that could not be handed over", len(self._tasks))
            for task in self._tasks:
                task.cancel()
            await self._until_idle(1.0)

    async def _until_idle(self, seconds: float) -> None:
        if self._tasks and seconds > 0:
            await asyncio.wait(self._tasks, timeout=seconds)


async def _logged(work: Coroutine[Any, Any, None]) -> None:
    """Nothing that one response does may end the worker."""
    try:
        await work
    except LongrunError as error:
        log.warning("work on a response was given up: %s", error)
    except Exception:
        log.exception("work on a response failed")
