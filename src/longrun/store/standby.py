"""Reads from a hot standby: of what has ended, which never changes again.

Whose a response is, and that it is still there, is asked at the primary each time, so that no
standby gives what was deleted. It is asked for a response with the very end that the primary knows:
if it has that, it has all that was committed with it and before it, however far it lags.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, Final

import asyncpg

from longrun import metrics
from longrun.backoff import Backoff
from longrun.store.connections import Lane
from longrun.store.sqlstates import FAILURES

log = logging.getLogger("longrun.store")

SETTLED: Final = 1.0
"""Seconds after the end of a response in which no standby is asked for it: most have it by then."""

TIMEOUT: Final = 2.0
"""Seconds that a standby has to answer, a new connection included."""

LANES: Final = 4
"""Connections to it. Each has one statement at a time."""


class Standby:
    """The standby of a replica. Where it cannot answer the primary is asked, as if there were none;
    a failing one is asked again after a pause.

    Args:
        connect: makes a connection to it. None: there is no standby.
    """

    def __init__(self, connect: Callable[[], Awaitable[asyncpg.Connection]] | None) -> None:
        self._lanes = [] if connect is None else [Lane(connect, set()) for _ in range(LANES)]
        self._used = 0
        self._away = _Pauses("the standby cannot be read")
        self._behind = _Pauses("the standby is behind")
        self._has_not: datetime | None = None

    @property
    def is_fit(self) -> bool:
        """Whether there is one that may answer."""
        return bool(self._lanes) and self._away.is_over

    async def fetch(self, ended: datetime, query: str, *args: Any) -> list[asyncpg.Record] | None:
        """What it says of a response that ended then, by a query that asks for this very end. None:
        it does not have that yet, or cannot answer: ask the primary."""
        if not self.is_fit or self._is_known_to_lack(ended):
            return None
        self._away.begin_if_failing()
        asked = time.monotonic()
        try:
            async with asyncio.timeout(TIMEOUT):
                rows = await self._lane().fetch(query, *args)
        except FAILURES as error:
            self._away.failed(f"{type(error).__name__}: {error}", asked)
            metrics.standby_reads.labels("failed").inc()
            return None
        self._away.worked()
        if not rows:
            self._lacks(ended, asked)
            metrics.standby_reads.labels("behind").inc()
            return None
        if self._has_not is not None and ended >= self._has_not:
            self._has_not = None
            self._behind.worked()
        metrics.standby_reads.labels("served").inc()
        return rows

    def _is_known_to_lack(self, ended: datetime) -> bool:
        return self._has_not is not None and ended >= self._has_not and not self._behind.is_over

    def _lacks(self, ended: datetime, asked: float) -> None:
        self._has_not = min(ended, self._has_not or ended)
        self._behind.failed(f"it does not have what ended at {ended:%Y-%m-%d %H:%M:%S} UTC", asked)

    def _lane(self) -> Lane:
        """One that is free, if any is."""
        self._used += 1
        around = [self._lanes[(self._used + n) % LANES] for n in range(LANES)]
        return next((lane for lane in around if not lane.is_busy), around[0])

    def close(self) -> None:
        for lane in self._lanes:
            lane.terminate()


class _Pauses:
    """When to ask again what has failed; said in the log when that begins and ends."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._backoff = Backoff(0.5, 30)
        self._until: float | None = None
        self._failed = 0.0

    @property
    def is_over(self) -> bool:
        return self._until is None or time.monotonic() >= self._until

    def begin_if_failing(self) -> None:
        """One asks, and others wait for what becomes of that."""
        if self._until is not None:
            self._until = time.monotonic() + self._backoff.coming

    def failed(self, why: str, asked: float) -> None:
        """Args:
        asked: when that began, by the monotonic clock. All that were under way when one failed are
            the same failure: what makes the pauses longer is one that begins after it.
        """
        if self._until is not None and asked <= self._failed:
            return
        self._failed = time.monotonic()
        seconds = self._backoff.next()
        log.warning("%s, the primary is read: %s; next try in %.1f s", self._what, why, seconds)
        self._until = time.monotonic() + seconds

    def worked(self) -> None:
        if self._until is not None:
            log.info("%s no longer", self._what)
        self._until = None
        self._backoff.reset()
