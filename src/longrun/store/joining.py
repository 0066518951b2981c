"""Joining: what streams begin with that come at the same time is read in one statement.

Nothing that a replica knows can tell whether a response is still there: another one may have
deleted it, and have said so to its client. So each stream that begins is looked for in Postgres, by
a statement that is sent after its request came. One that comes alone is looked for at once; those
that come while a statement is under way have the next one together. Of those that have what they
want in the ring it asks for no events, only whether they may have them.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Final

from asyncpg import Record

from longrun import metrics
from longrun.store import sealing as places
from longrun.store.database import Database
from longrun.store.standby import SETTLED
from longrun.supervision import also_on

log = logging.getLogger("longrun.store.joining")

MOST_CHUNKS: Final = 2000
"""Of a page, as the queries have it."""

ANY_SIZE: Final = 2**31 - 1

BATCH: Final = 50
"""Streams that are looked for together at most."""

LEAST_BYTES: Final = 16 * 1024
LEAST_CHUNKS: Final = 100
"""Of the first page of each, however many share what one alone may have."""

SLOW: Final = 0.01
"""Seconds after which nobody waits for the statement of others: who comes then has one alone."""


Found = list[Record]
"""The rows of one stream, as `read_stream` gives them."""


class _Waiting:
    """A stream that waits for what it begins with. `found` is None where it is to ask alone."""

    __slots__ = ("cursor", "found", "limit", "principal", "response_id")

    def __init__(self, response_id: str, principal: str, cursor: int | None, limit: int) -> None:
        self.response_id = response_id
        self.principal = principal
        self.cursor = cursor
        self.limit = limit
        self.found: asyncio.Future[Found | None] = asyncio.get_running_loop().create_future()

    def settle(self, found: Found | None) -> None:
        if not self.found.done():
            self.found.set_result(found)


class Joining:
    """One per replica."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lane = database.lane("streams")
        self._sealed = places.VERSION if database.sealing.knows_keys else None
        self._waiting: list[_Waiting] = []
        self._work = asyncio.Event()
        self._running = False
        self._sent: float | None = None
        """When the statement that is under way was sent, by the monotonic clock."""

    async def find(self, response_id: str, principal: str, cursor: int | None, limit: int) -> Found:
        """What a stream of a principal's response begins with: its status, and the page after the
        cursor; without one, how far its log goes.

        Raises:
            Unavailable: Postgres is away.
        """
        if self._joins:
            waiting = _Waiting(response_id, principal, cursor, limit)
            self._waiting.append(waiting)
            self._work.set()
            if (found := await waiting.found) is not None:
                return found
        return await self._find_alone(response_id, principal, cursor, limit)

    @property
    def _joins(self) -> bool:
        """Whether others are waited for: not for those that take long, nor while Postgres does not
        answer, when the pool knows how long to wait."""
        in_time = self._sent is None or time.monotonic() - self._sent < SLOW
        return self._running and in_time and self._database.silent_since is None

    async def _find_alone(
        self, response_id: str, principal: str, cursor: int | None, limit: int
    ) -> Found:
        query = self._database.queries.bind(
            "read_stream",
            response_id=response_id,
            principal=principal,
            cursor=cursor,
            limit=limit,
            sealed=self._sealed,
            settled=self._settled,
            ended=None,
        )
        return await self._database.fetch(*query)

    @property
    def _settled(self) -> float | None:
        return SETTLED if self._database.standby.is_fit else None

    async def run(self, stop: asyncio.Event) -> None:
        """Look for streams until `stop` is set. Those that come when this does not run are looked
        for alone."""
        batch: list[_Waiting] = []
        try:
            with also_on(stop, self._work.set):
                self._running = True
                while not stop.is_set():
                    await self._work.wait()
                    self._work.clear()
                    while self._waiting:
                        batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
                        await self._find([each for each in batch if not each.found.done()])
        finally:
            self._running = False
            for each in (*batch, *self._waiting):
                each.settle(None)
            self._waiting.clear()

    async def _find(self, batch: Sequence[_Waiting]) -> None:
        if not batch:
            return
        limit = max(LEAST_BYTES, max(each.limit for each in batch) // len(batch))
        query = self._database.queries.bind(
            "read_streams",
            ids=[each.response_id for each in batch],
            principals=[each.principal for each in batch],
            cursors=[each.cursor for each in batch],
            limit=limit,
            # One alone has as much as `read_stream` gives.
            largest=ANY_SIZE if len(batch) == 1 else limit,
            most=max(LEAST_CHUNKS, MOST_CHUNKS // len(batch)),
            sealed=self._sealed,
            settled=self._settled,
        )
        self._sent = time.monotonic()
        try:
            rows = await self._lane.fetch(*query)
        except Exception as error:
            # Each is tried alone, and what comes of that is its own.
            log.warning("%d streams together: %s: %s", len(batch), type(error).__name__, error)
            for each in batch:
                each.settle(None)
            return
        finally:
            self._sent = None
        metrics.stream_looks.inc()
        metrics.streams_looked_up.inc(len(batch))
        found: list[Found] = [[] for _ in batch]
        for row in rows:
            found[row["n"] - 1].append(row)
        for each, its in zip(batch, found, strict=True):
            each.settle(its)
