"""The watch: a replica looks around for runs without an owner, queued work and overdue ones.

Every replica does, at its own time; none is a leader. Two signs tell that a replica is gone: its
lease ran out (it is frozen or cut off), or its advisory lock is free (its process is gone).
Either may be wrong; the attempt fences whoever was taken for dead.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Final

from longrun.backoff import jittered
from longrun.errors import LongrunError
from longrun.execution.admission import MOMENT, Admission
from longrun.execution.host import Host
from longrun.store.claims import SETTLING, Claims, Surroundings

log = logging.getLogger("longrun.execution.watch")

INTERVAL: Final = 0.7
"""Seconds between looks, give or take: with FORGIVEN it bounds how long a dead process goes
unnoticed."""

FORGIVEN: Final = 1.0
"""A lock that is free for less than this is a blip of one connection, and moves no run."""

LAST_WORD_WAIT: Final = 0.5
"""Seconds in which the others are told that a replica that stops takes nothing more."""

HOUSEKEEPING: Final = 300.0


class Watch:
    """One per replica.

    Args:
        fit: whether the others can see this replica alive. One whose lock is free is soon taken
            for dead: what it took would only move on, and use up attempts.
        looked: called at every look with the replicas that are alive.
    """

    def __init__(
        self,
        admission: Admission,
        host: Host,
        claims: Claims,
        *,
        lease_seconds: float,
        fit: Callable[[], bool],
        looked: Callable[[list[str]], None],
    ) -> None:
        self._admission = admission
        self._host = host
        self._lease_seconds = lease_seconds
        self._fit = fit
        self._looked = looked
        self._claims = claims
        self._free_since: dict[str, float] = {}
        self._blind_until = 0.0
        self._was_connected = False
        self._work = asyncio.Event()
        self._more_soon = False

    def told(self, message: str) -> None:
        """A message of the control channel. A hint: sets flags only."""
        kind, _, rest = message.partition(" ")
        if kind == "work":
            self._told_work(rest)
        elif kind == "taken":
            response_id, _, attempt = rest.partition(" ")
            if attempt.isdigit():
                self._host.abandon_earlier(response_id, int(attempt))

    def _told_work(self, whom: str) -> None:
        """Something waits; one replica that is thought to have room is to look for it, or, where
        none is named, all that have. One that is full need not: it looks once a run of its own
        has ended."""
        full = self._admission.room <= 0
        is_meant = whom in ("", self._claims.replica_id)
        if full or is_meant:
            self._admission.work_waits = True
        if is_meant and not full:
            self._work.set()
        elif whom and is_meant:
            self._admission.wake_all()

    def look_again(self) -> None:
        """Messages may have been missed."""
        self._work.set()

    def reconnected(self) -> None:
        """There is a new LISTEN connection.

        Unless it is the first, one was lost, perhaps together with its server. After a failover
        nobody's lock is held, and leases have run out, however long that server has been up.
        """
        self.look_again()
        if self._was_connected:
            self._be_blind()
        self._was_connected = True

    def _be_blind(self) -> None:
        """The others may have been cut off just as well: their leases and locks say nothing until
        they have had the time to renew them, which is a lease's."""
        now = asyncio.get_running_loop().time()
        self._blind_until = now + max(SETTLING, self._lease_seconds)

    async def run(self, stop: asyncio.Event) -> None:
        """Look around until `stop`. Fails when Postgres is away, to be started again."""
        loop = asyncio.get_running_loop()
        housekeeping = loop.time() + jittered(HOUSEKEEPING / 2, spread=1)
        self._blind_until = max(self._blind_until, loop.time() + SETTLING)
        while not stop.is_set():
            try:
                await self._look()
            except LongrunError:
                self._be_blind()
                raise
            if loop.time() > housekeeping:
                housekeeping = loop.time() + HOUSEKEEPING
                await self._claims.forget_replicas()
            await self._pause(stop)
        # Only a hint, for which nobody who stops has to wait.
        with contextlib.suppress(LongrunError, TimeoutError):
            async with asyncio.timeout(LAST_WORD_WAIT):
                await self._claims.tell_draining()

    async def _look(self) -> None:
        self._work.clear()
        admission = self._admission
        around = await self._claims.look_around()
        self._looked(around.alive)
        self._admission.free = around.free
        if around.overdue:
            await admission.end_overdue(around.overdue)
        if around.own != admission.own_summary:
            await admission.reconcile()
        dead = self._dead(around)
        self._more_soon = False
        if not self._fit():
            return
        if dead:
            await admission.count_deaths(dead)
        admission.makes_room = around.suspects and around.chosen
        if admission.makes_room and not {*around.unlocked, *around.expired}.difference(dead):
            # Of those that are dying, one may be about to explain what this one is suspected of.
            await admission.take_suspect()
        self._more_soon = bool(dead or around.waiting) and await admission.take_orphans()
        if around.waiting or admission.work_waits:
            await admission.take_queued()
        if around.said_room is not (admission.room > 0):
            await self._claims.tell_room(admission.room > 0)

    def _dead(self, around: Surroundings) -> list[str]:
        """The replicas to be taken for dead."""
        now = asyncio.get_running_loop().time()
        self._free_since = {id_: self._free_since.get(id_, now) for id_ in around.unlocked}
        if not around.steady or now < self._blind_until:
            return []
        gone = {id_ for id_, since in self._free_since.items() if now - since >= FORGIVEN}
        return sorted(gone | set(around.expired))

    async def _pause(self, stop: asyncio.Event) -> None:
        """Until the next look: sooner when something happens, or a lock's grace ends."""
        now = asyncio.get_running_loop().time()
        pause = jittered(INTERVAL, spread=0.15)
        ends = [since + FORGIVEN - now for since in self._free_since.values()]
        pause = min([pause, *(end for end in ends if end > 0)])
        if self._more_soon:
            pause = min(pause, MOMENT)
        freed = self._host.slot_freed
        waits = [stop.wait(), self._work.wait()]
        admission = self._admission
        if admission.work_waits or admission.held_back or admission.makes_room:
            freed.clear()
            waits.append(freed.wait())
        tasks = [asyncio.ensure_future(wait) for wait in waits]
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait(tasks, timeout=pause + 0.01, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
