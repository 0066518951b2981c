"""Admission: which responses this replica executes, and which it ends or gives away.

New ones, those that wait in the queue, those of replicas that are gone, overdue ones. Each is
held by a claim, whose attempt fences whoever held it before.
"""

import asyncio
import functools
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final

from longrun.assembly.assembler import Assembler
from longrun.errors import ConversationLocked
from longrun.execution.attempts import Attempts
from longrun.execution.ending import Ends
from longrun.execution.forking import parted
from longrun.execution.host import Handle, Host, logged, stopping
from longrun.execution.lines import Lines
from longrun.execution.outcomes import CANCELLED, instead_of_a_run
from longrun.execution.parameters import client_tools
from longrun.execution.registry import Registry
from longrun.execution.run import Start
from longrun.pending import lines
from longrun.protocol import RunRequest
from longrun.settings import Settings
from longrun.store.announcer import Announcer
from longrun.store.claims import Claim, Claims
from longrun.store.log_writer import LogWriter
from longrun.store.records import Step, Submitted
from longrun.store.responses import NewResponse, Responses

log = logging.getLogger("longrun.execution.admission")

Claiming = Callable[[int, Sequence[str] | None], Awaitable[Sequence[Claim]]]

ROOM_WAIT: Final = 5.0
"""Seconds in which the runs of a replica that makes room may end; those that do not are handed
over at their next step boundary, so that a run that is to be alone does not wait for them."""

MOMENT: Final = 0.2
"""Seconds that the other replicas have to take their shares of runs that were handed over."""

FEW: Final = 4
"""Runs of their shares that are taken first, after that."""

SHARED_FOR: Final = 1.0
"""Seconds after which that begins anew."""


class Admission:
    """One per replica.

    Args:
        check: raises `BadRequest` where a request asks for what its agent cannot give.
        registry: says what holds for the runs of each agent.

    Attributes:
        work_waits: something is queued somewhere, as far as this replica knows.
        free: the other replicas that have room, as they said last.
    """

    def __init__(
        self,
        *,
        host: Host,
        attempts: Attempts,
        ends: Ends,
        responses: Responses,
        claims: Claims,
        writer: LogWriter,
        announcer: Announcer,
        replica_id: str,
        settings: Settings,
        check: Callable[[RunRequest], None],
        registry: Registry,
    ) -> None:
        self._registry = registry
        self._lines = Lines(registry.all(), host.running)
        self._host = host
        self._attempts = attempts
        self._ends = ends
        self._responses = responses
        self._claims = claims
        self._writer = writer
        self._announcer = announcer
        self._replica_id = replica_id
        self._settings = settings
        self._check = check
        self._differed: set[tuple[str, int]] = set()
        self.work_waits = False
        self.free: list[str] = []
        self._rest, self._rest_at = FEW, -math.inf
        self._makes_room_since: float | None = None

    # -- what http calls ------------------------------------------------------------------

    async def submit(self, request: RunRequest) -> Submitted:
        """Create a response, and start its run if there is room. When this returns, its first
        events are committed. While this replica drains, it is for the others to run.

        Raises:
            BadRequest: its agent cannot give what it asks for.
            Unavailable: Postgres is away, or this replica drains and there is no other.
            TooManyRequests: too many responses are queued already.
            ConversationNotFound, ConversationLocked: see `Responses.create`.
        """
        self._check(request)
        if not self._host.hosting:
            await self._find_takers()
        starts = self.room > 0 and not self.work_waits and self._lines.may_start(request.agent)
        try:
            return await self._submit(request, starts=starts)
        except ConversationLocked:
            if not starts or self._settings.conversation_overlap != "queue":
                raise
            return await self._submit(request, starts=False)

    async def _find_takers(self) -> None:
        """While this replica drains it looks around no more: ask who takes what comes now.

        Raises:
            Unavailable: nobody does.
        """
        takers = await self._claims.takers()
        if not takers:
            raise stopping()
        self.free = [replica for replica, has_room in takers.items() if has_room]

    async def _submit(self, request: RunRequest, *, starts: bool) -> Submitted:
        tools = client_tools(request.parameters, self._settings)
        assembler = Assembler(request.response_id, request.document, client_tools=tools)
        assembler.lifecycle("in_progress" if starts else "queued")
        served = self._registry.served(request.agent)
        new = NewResponse(
            request,
            lines(assembler.collect().events),
            self._replica_id if starts else None,
            served.timeout if served is not None else None,
        )
        if starts:
            handle = await self._start(new, assembler)
            return Submitted(new.status, handle.answered.set)
        await self._responses.create(new)
        if not self._lines.hold_back(request.agent):
            self.work_waits = True
        # One is enough. If all are full, whoever is the first to have room takes it.
        free = self.free
        self._announcer.tell(f"work {random.choice(free)}" if free else "work")  # noqa: S311
        return Submitted(new.status)

    async def _start(self, new: NewResponse, assembler: Assembler) -> Handle:
        """Create a response in its own attempt, which from here on is like any other: a drain
        that begins meanwhile waits for it, and hands it over."""
        run_log = self._writer.open(new.request.response_id, 1, len(new.events))
        copied: list[Step] = []
        forking = new.request.forking
        if forking is not None:
            _, copied = parted(Step(*step) for step in forking.steps)
        start = Start(assembler, run_log, copied=copied)
        create = functools.partial(self._attempts.create, new, start)
        handle = self._host.begin(new.request, 1, create)
        # Before its task begins, and told beside it: each pass of the event loop that a creation
        # waits for is a step of everything else that is under way.
        handle.creating = self._responses.joined(new, handle.settle)
        await handle.until_prepared()
        return handle

    @property
    def draining(self) -> bool:
        """Whether this replica takes no runs any more."""
        return not self._host.hosting

    async def cancel(self, response_id: str, principal: str) -> bool:
        """End a principal's response as `cancelled`, wherever it is executed. False: it has ended,
        or is being ended.

        One compare-and-set decides between this and the run's own end; whoever executes it is
        fenced by it, and told to stop.
        """
        # A task of the host's: the caller may go away, the end must come all the same.
        outcome = await asyncio.shield(self._host.spawn(self._cancel(response_id, principal)))
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def _cancel(self, response_id: str, principal: str) -> bool | Exception:
        """Raises nothing, which would end the host."""
        try:
            claim = await self._claims.to_cancel(response_id, principal)
        except Exception as error:
            return error
        if claim is not None:
            self._supersede(claim)
            await logged(lambda: self._ends.end(claim, CANCELLED))
        return claim is not None

    def cancel_soon(self, response_id: str, principal: str) -> None:
        """Cancel for a client that is gone, and wants nothing more: not while this replica drains,
        when it may be on its way to another one."""
        if not self.draining:
            self._host.spawn(self._cancel(response_id, principal))

    def soon(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something for a caller that cannot wait. It must not raise; a replica that stops does
        not do it."""
        if self.draining:
            work.close()
        else:
            self._host.spawn(work)

    # -- what the watch calls -------------------------------------------------------------

    def wake_all(self) -> None:
        """Something waits, and who was to take it has no room any more."""
        self._announcer.tell("work")

    @property
    def makes_room(self) -> bool:
        """Nothing is taken until this replica is idle, for a run that is to be alone."""
        return self._makes_room_since is not None

    @makes_room.setter
    def makes_room(self, wanted: bool) -> None:
        if not wanted:
            self._makes_room_since = None
        elif self._makes_room_since is None:
            self._makes_room_since = time.monotonic()

    @property
    def room(self) -> int:
        """How many more runs this replica would take."""
        return 0 if self.makes_room else self._host.room

    @property
    def held_back(self) -> bool:
        """Whether runs may wait for others of their agent to end here."""
        return self._lines.held_back

    @property
    def own_summary(self) -> str:
        """Of what is held here, to be compared with `Surroundings.own`."""
        held = self._held
        return f"{len(held)} {sum(held.values())}"

    @property
    def _held(self) -> dict[str, int]:
        """The attempt of each response that is executed, or ended, here."""
        return self._host.attempts | self._ends.under_way

    async def count_deaths(self, dead: Sequence[str]) -> None:
        """Hand over the runs of dead replicas, and have all others take their share of them now."""
        if await self._claims.count_deaths(dead):
            self._announcer.tell("work")

    async def take_orphans(self) -> bool:
        """Resume runs that were handed over: this replica's share of them at once. What is left
        of the others' shares a moment later, since those who are full or do not serve these agents
        take nothing: few at first, then twice as many each time.

        Returns:
            Whether there may be more in a moment.
        """
        if self.room <= 0:
            return False
        found = await self._take_share(self.room, share=True)
        now = time.monotonic()
        if now - self._rest_at > SHARED_FOR:
            self._rest, self._rest_at = FEW, now + MOMENT
            return True
        if now >= self._rest_at:
            rest = await self._take_share(self._rest, share=False)
            self._rest = 2 * self._rest if rest else FEW
            self._rest_at = now + MOMENT
            found += rest
        return found > 0

    async def _take_share(self, most: int, *, share: bool) -> int:
        """How many runs that were handed over this has resumed."""
        taken = 0
        for line in self._lines.in_any_order():
            room = min(self.room, self._lines.room(line), most - taken)
            if room > 0:
                found = await self._claims.orphans(int(room), line.agents, share=share)
                await self._take(found)
                taken += len(found)
            line.held_back = line.held_back or self._lines.room(line) <= 0
        return taken

    async def take_suspect(self) -> None:
        """Resume a run that was under way in two deaths, once nothing else is executed here: if it
        is what takes its replicas along, it takes no other run along."""
        if not self._host.idle:
            if time.monotonic() - (self._makes_room_since or math.inf) > ROOM_WAIT:
                self._host.make_room()
        elif self._host.hosting:
            with self._host.reserved():
                claim = await self._claims.suspect()
                if claim is not None:
                    await self._take([claim], alone=True)

    async def take_queued(self) -> None:
        """Start what waits in the queue, as far as there is room."""
        if await self._take_lines(self._claims.queued):
            self.work_waits = False

    async def _take_lines(self, claim: Claiming) -> bool:
        """Take what can be claimed, as far as there is room. Whether all of it was taken, but for
        what waits for others of its agent to end."""
        for line in self._lines.in_any_order():
            while (room := min(self.room, self._lines.room(line))) > 0:
                found = await claim(int(room), line.agents)
                await self._take(found)
                if not found:
                    line.held_back = False
                    break
            else:
                if self.room <= 0:
                    return False
                line.held_back = True
        return True

    async def end_overdue(self, overdue: Sequence[str]) -> None:
        """End responses whose time is over, whoever executes them, or nobody."""
        await self._take(await self._claims.overdue_unscoped(overdue))

    async def reconcile(self) -> None:
        """Compare what is held here with what Postgres says is ours.

        A run that is no longer ours is stopped. What is ours and not live (a claim whose answer
        was lost) is given up. Only what differs twice in a row counts, since both sides move.
        """
        own = await self._claims.own()
        differing = {pair for pair in own.items() ^ self._held.items() if self._is_settled(*pair)}
        certain, self._differed = differing & self._differed, differing
        for response_id, attempt in certain:
            handle = self._host.find(response_id)
            if handle is not None and handle.attempt == attempt:
                log.warning("%s is no longer this replica's: stopping its run", response_id)
                handle.abandon()
        strays = {id_: attempt for id_, attempt in own.items() if (id_, attempt) in certain}
        if strays:
            log.warning("giving up %d responses that are not live here", len(strays))
            await self._attempts.hand_over(strays)

    def _is_settled(self, response_id: str, attempt: int) -> bool:
        """Whether Postgres has heard of it: of what is being created it may not have yet,
        however long it takes over that."""
        handle = self._host.find(response_id)
        return handle is None or handle.attempt != attempt or handle.prepared.done()

    # -- claims ---------------------------------------------------------------------------

    async def _take(self, claims: Sequence[Claim], *, alone: bool = False) -> None:
        if not self._host.hosting:
            # The drain began while Postgres was asked.
            await self._attempts.hand_over({claim.id: claim.attempt for claim in claims})
            return
        journals = self._attempts.journals(claims)
        for claim in claims:
            self._supersede(claim)
            served = self._registry.served(claim.request.agent)
            outcome = instead_of_a_run(claim, self._settings, served)
            if outcome is None:
                resume = functools.partial(self._attempts.resume, claim, journals)
                self._host.begin(claim.request, claim.attempt, resume, alone=alone)
            else:
                end = functools.partial(self._ends.end, claim, outcome)
                self._host.spawn(logged(end))

    def _supersede(self, claim: Claim) -> None:
        """Whoever executes the response as an earlier attempt must stop."""
        self._announcer.tell_taken(claim.id, claim.attempt)
        self._host.abandon_earlier(claim.id, claim.attempt)
