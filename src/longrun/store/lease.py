"""The replica's lease: one row, one heartbeat, in a thread of its own.

A tool that blocks the event loop must not make its replica look dead, so the heartbeat has a
thread, an event loop and a connection of its own. A frozen process stops it; a busy one does not.
"""

import asyncio
import contextlib
import logging
import math
import os
import socket
import threading
import time
from collections.abc import Sequence
from typing import Final

from longrun import metrics
from longrun.backoff import jittered
from longrun.errors import ConfigurationError
from longrun.store.database import Database, is_unreadable
from longrun.store.replica_lines import replica_started, replica_stopped
from longrun.store.sqlstates import CANNOT_CONNECT, FAILURES

log = logging.getLogger("longrun.store.lease")

BEATS_PER_LEASE: Final = 3

RETRY: Final = 0.5
"""Seconds, on average, between a heartbeat that failed and the next."""

END_WAIT: Final = 1.0
"""Seconds to wait for the heartbeat to end, and again for the lease to be given up: both wait only
for Postgres."""


class Lease:
    """The right of this replica to execute its runs, by Postgres's clock.

    Args:
        agents: the names of those that it serves, which its row tells the others.
    """

    def __init__(
        self, database: Database, replica_id: str, version: str, agents: Sequence[str]
    ) -> None:
        self._database = database
        self._row = (replica_id, socket.gethostname(), os.getpid(), version)
        self._agents = list(agents)
        self._seconds = database.settings.lease_seconds
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._began: float | None = None
        self.renewed = -math.inf
        """When the last renewal that came through was asked for, by the monotonic clock."""

    @property
    def held(self) -> bool:
        """Whether the others can take this replica for alive, as far as it can know itself."""
        return time.monotonic() - self.renewed < self._seconds

    @property
    def _renewal(self) -> tuple[object, ...]:
        """The arguments of `renew_lease`."""
        return (*self._row, self._seconds, self._agents)

    async def begin(self) -> None:
        """Take the lease and keep it until `end`.

        Raises:
            ConfigurationError: LONGRUN_LISTEN_DATABASE_URL leads to another database.
            Unavailable: Postgres is away.
        """
        asked = time.monotonic()
        await self._database.execute(self._database.queries.renew_lease, *self._renewal)
        self.renewed = asked
        await self._check_direct_url()
        replica_started(*self._row)
        self._began = asked
        self._thread = threading.Thread(target=self._beat, name="longrun-lease", daemon=True)
        self._thread.start()

    async def end(self) -> None:
        """Give up the lease: what this replica still holds may be taken at once."""
        self._ended.set()
        deadline = time.monotonic() + END_WAIT
        while self._thread is not None and self._thread.is_alive():
            # Not joined in another thread: tools may have taken all of them.
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(0.02)
        # One that hangs is not waited for: the lease ends by itself, and the process in time.
        if self._database.silent_since is None:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(END_WAIT):
                    await self._database.execute(self._database.queries.end_lease, self._row[0])
        if self._began is not None:
            replica_stopped(self._row[0], time.monotonic() - self._began)
            self._began = None

    async def _check_direct_url(self) -> None:
        """The row that was written through the pool must be seen over the direct connection:
        elsewhere no announcement would be heard, and no lease renewed."""
        if self._database.settings.listen_database_url is None:
            return
        try:
            connection = await self._database.connect_directly("longrun lease")
            try:
                seen = await connection.fetchval(self._database.queries.find_replica, self._row[0])
            finally:
                connection.terminate()
        except CANNOT_CONNECT as error:
            if said := self._database.direct_way_refused(error):
                raise said from (None if is_unreadable(error) else error)
            # It may come back; until then /readyz says that nothing is heard.
            log.warning("the direct connection is away: %s: %s", type(error).__name__, error)
        else:
            if not seen:
                raise ConfigurationError(
                    "LONGRUN_LISTEN_DATABASE_URL: leads to another database than"
                    " LONGRUN_DATABASE_URL; it has to be a direct connection to the same one"
                )

    def _beat(self) -> None:
        """The thread: renew the lease again and again, on a new connection whenever one is lost."""
        with asyncio.Runner() as runner:
            while not self._ended.is_set():
                try:
                    runner.run(self._beat_on_one_connection())
                except FAILURES as error:
                    log.warning("heartbeat failed: %s: %s", type(error).__name__, error)
                    metrics.part_restarts.labels("lease").inc()
                    self._ended.wait(jittered(RETRY))

    async def _beat_on_one_connection(self) -> None:
        connection = await self._database.connect_directly("longrun lease")
        try:
            renew = await connection.prepare(self._database.queries.renew_lease)
            while not self._ended.is_set():
                asked = time.monotonic()
                await renew.fetch(
                    *self._renewal,
                    # So that a connection that hangs is given up before the lease is.
                    timeout=self._seconds / BEATS_PER_LEASE,
                )
                self.renewed = asked
                await asyncio.to_thread(self._ended.wait, self._seconds / BEATS_PER_LEASE)
        finally:
            connection.terminate()
