"""Abridging: the deltas of finished responses go some time after their end
(LONGRUN_EVENT_RETENTION), and their streams replay whole items from then on.

One replica at a time does it, in the order in which responses ended, each log in one transaction.
How far it came is in Postgres, so that nothing is looked at again. A log that is being read
somewhere has its turn later; what an abridged one is, `abridged.py` says.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Final

from longrun.backoff import sleep_unless
from longrun.errors import Unreadable
from longrun.protocol import ends_log
from longrun.store.abridged import NUMBER_BITS, NUMBERED_FROM, Abridger
from longrun.store.database import Connection, Database
from longrun.store.sealing import chunk_place

log = logging.getLogger("longrun.store.abridging")

PAGE_BYTES: Final = 64 * 1024
"""How much of a log is read at once: parsing it holds up the event loop for some milliseconds."""

CHUNK_BYTES: Final = 128 * 1024
"""How large the chunks of an abridged log become, unless one event is larger."""

WRITE_TIMEOUT: Final = 600.0

PAUSE: Final = 0.1
REST: Final = 3.0
"""As in `Retention`."""

_WORK: Final = "abridging"


class NotWorthIt(Exception):
    """There is nothing in this log to be left out, or it is not a whole one."""


class Abridging:
    """One per replica.

    Args:
        seconds: how long after its end the events of a response are kept as they were.
    """

    def __init__(self, database: Database, seconds: float) -> None:
        self._database = database
        self._queries = database.queries
        self._sealing = database.sealing
        self._seconds = seconds

    async def abridge_due(self, stop: asyncio.Event) -> int:
        """Abridge what is due, until that is done, another replica is at it, or `stop` is set.

        Returns:
            How many logs were abridged.

        Raises:
            Unavailable: Postgres is away.
        """
        row = await self._database.fetch_row(self._queries.get_reached, _WORK)
        after = row["finished_at"] if row else datetime.min.replace(tzinfo=UTC)
        abridged, all_done = 0, True
        while not stop.is_set():
            rows = await self._database.fetch(
                self._queries.find_unabridged, after, self._seconds, NUMBERED_FROM
            )
            if not rows:
                break
            for row in rows:
                began = time.monotonic()
                done = await self.abridge(row["id"])
                if done is None:
                    return abridged
                abridged += done
                all_done = all_done and done
                rest = max(PAUSE / len(rows), REST * (time.monotonic() - began))
                if await sleep_unless(stop, rest):
                    return abridged
            after = rows[-1]["finished_at"]
            if all_done:
                await self._database.execute(self._queries.note_reached, _WORK, after)
        return abridged

    async def abridge(self, response_id: str) -> bool | None:
        """Abridge the log of a finished response. False: not now, since somebody reads it or is at
        it. None: another replica has the turn.

        Raises:
            Unavailable: Postgres is away; the log is as it was, or abridged.
        """
        try:
            async with self._database.transaction() as connection:
                if not await connection.fetchval(
                    self._queries.take_retention, self._queries.schema
                ):
                    return None
                row = await connection.fetchrow(self._queries.lock_unabridged, response_id)
                if row is None:
                    return False
                length = row["length"] or 0
                if length < NUMBERED_FROM:
                    await self._write(connection, response_id, length)
        except NotWorthIt:
            pass
        except Unreadable:
            log.warning("the events of %s stay as they are: they cannot be decrypted", response_id)
        return True

    async def _write(self, connection: Connection, response_id: str, length: int) -> None:
        """Put the abridged log in the place of the whole one, which has so many events.

        Raises:
            NotWorthIt: that would be no shorter. What was written is to be rolled back.
        """
        abridger, ends = Abridger(), False
        written = _Written(self._database, connection, response_id, length << NUMBER_BITS)
        async for attempt, data in self._whole(connection, response_id):
            for event in data.split(b"\n"):
                for each in abridger.take(event):
                    await written.add(each, attempt)
            ends = ends_log(data)
        if not ends or abridger.count >= length:
            raise NotWorthIt
        await written.flush()
        await connection.execute(
            self._queries.drop_whole, response_id, NUMBERED_FROM, timeout=WRITE_TIMEOUT
        )

    async def _whole(
        self, connection: Connection, response_id: str
    ) -> AsyncIterator[tuple[int, bytes]]:
        """The chunks of the whole log, opened, each with its attempt."""
        query, last = self._queries.read_whole, -1
        while rows := await connection.fetch(query, response_id, last, PAGE_BYTES, NUMBERED_FROM):
            for first, last, attempt, data in rows:
                yield attempt, self._sealing.open(chunk_place(response_id, first, last), data)


class _Written:
    """The chunks of an abridged log, as they are written.

    Args:
        first: the number that its first event is stored with.
    """

    def __init__(
        self, database: Database, connection: Connection, response_id: str, first: int
    ) -> None:
        self._query = database.queries.add_abridged
        self._sealing = database.sealing
        self._connection = connection
        self._response_id = response_id
        self._first = first
        self._attempt = 0
        self._events: list[bytes] = []
        self._size = 0

    async def add(self, event: bytes, attempt: int) -> None:
        full = self._size + len(event) >= CHUNK_BYTES
        if self._events and (full or attempt != self._attempt):
            await self.flush()
        self._attempt = attempt
        self._events.append(event)
        self._size += len(event) + 1

    async def flush(self) -> None:
        """Write what there is; at least one event was added since the last time."""
        id_, first, last = self._response_id, self._first, self._first + len(self._events) - 1
        data = self._sealing.seal(chunk_place(id_, first, last), b"\n".join(self._events))
        await self._connection.execute(self._query, id_, first, last, self._attempt, data)
        self._first, self._events, self._size = last + 1, [], 0
