"""Digesting: of a long live log, stretches are kept beside it with their deltas merged.

Who joins a response by a snapshot needs all events of the items that are open: of one long text all
of it, which a slow run has said in as many events as words. The replica that executes a run reads
what it has written some time ago, and writes down what that says in few events. The log stays as it
is, and what has no digest is read there. So these need no fence: a stretch of a live log never
changes, and a digest is written in the transaction that has read it.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from longrun.assembly.from_log import events_in
from longrun.backoff import jittered, sleep_unless
from longrun.errors import Unreadable
from longrun.jsontext import dumps
from longrun.protocol import ends_log
from longrun.store import sealing as places
from longrun.store.database import Connection, Database
from longrun.store.records import Chunk
from longrun.supervision import finished_before

log = logging.getLogger("longrun.store.digesting")

INTERVAL: Final = 1.0
"""Seconds between looks for logs that have grown."""

EVENTS: Final = 1000
"""By how many events a log has to have grown: so many a snapshot reads besides, in milliseconds."""

PAGE_BYTES: Final = 256 * 1024
"""About how much of a log is read for one digest: parsing it holds up the event loop for some
milliseconds."""

WORTH: Final = 2
"""How many times smaller than its stretch a digest has to be."""

REST: Final = 9.0
"""Pauses, as a multiple of what the digest before took: a tenth of the event loop's time at most.
Where a run says more than that, its digests lag."""


class Digesting:
    """One per replica.

    Args:
        is_live: whether a response is executed by this replica.
    """

    def __init__(
        self,
        database: Database,
        is_live: Callable[[str], bool] = lambda _: True,
        *,
        rest: float = REST,
    ) -> None:
        self._database = database
        self._queries = database.queries
        self._sealing = database.sealing
        self._sealed = places.VERSION if database.sealing.knows_keys else None
        self._is_live = is_live
        self._rest = rest
        self._reached: dict[str, int] = {}
        """The last event of each live log."""
        self._digested: dict[str, int] = {}
        """How far long ones have been looked at."""
        self._ended: list[str] = []

    def committed(self, response_id: str, end: Chunk) -> None:
        """A log of this replica reaches this chunk now."""
        if not ends_log(end.data):
            self._reached[response_id] = end.last
            return
        self._reached.pop(response_id, None)
        self._digested.pop(response_id, None)
        if end.last >= EVENTS:
            # It may have digests of other replicas, too, or only theirs: cancelled here, for one.
            self._ended.append(response_id)

    async def run(self, stop: asyncio.Event) -> None:
        """Digest what logs have grown by until `stop` is set."""
        while not await sleep_unless(stop, jittered(INTERVAL)):
            await finished_before(stop, self.digest_due(stop))

    async def digest_due(self, stop: asyncio.Event) -> None:
        """Digest what logs have grown by, and drop the digests of those that have ended.

        Raises:
            Unavailable: Postgres is away.
        """
        if self._ended:
            ended, self._ended = self._ended, []
            await self._database.execute(self._queries.drop_digests, ended)
        for response_id in list(self._reached):
            if not self._is_live(response_id):
                # It goes on elsewhere, if at all.
                self._reached.pop(response_id, None)
                self._digested.pop(response_id, None)
        while due := self._due():
            for response_id in due:
                began = time.monotonic()
                reached = await self.digest(response_id, self._digested.get(response_id))
                if response_id not in self._reached:
                    self._ended.append(response_id)
                elif reached is None:
                    del self._reached[response_id]
                else:
                    self._digested[response_id] = reached
                if await sleep_unless(stop, self._rest * (time.monotonic() - began)):
                    return

    def _due(self) -> list[str]:
        return [
            response_id
            for response_id, last in self._reached.items()
            if last - self._digested.get(response_id, -1) >= EVENTS
        ]

    async def digest(self, response_id: str, after: int | None = None) -> int | None:
        """Digest the next stretch of a live log.

        Args:
            after: how far it has been looked at; None: as far as its digests reach.

        Returns:
            How far it has been looked at now. None: it is not live, has nothing more, or cannot be
            read.

        Raises:
            Unavailable: Postgres is away.
        """
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(self._queries.find_digested, response_id)
            if row is None:
                return None
            if after is None:
                after = -1 if row["last"] is None else int(row["last"])
            try:
                chunks = await self._stretch(connection, response_id, after)
            except Unreadable:
                return None
            if not chunks or ends_log(chunks[-1].data):
                return None
            await self._write(connection, response_id, chunks)
        return chunks[-1].last

    async def _stretch(self, connection: Connection, response_id: str, after: int) -> list[Chunk]:
        query = self._queries.bind(
            "read_page",
            response_id=response_id,
            cursor=after,
            limit=PAGE_BYTES,
            having=None,
            sealed=self._sealed,
        )
        return [
            Chunk(
                first, last, self._sealing.open(places.chunk_place(response_id, first, last), data)
            )
            for first, last, data in await connection.fetch(*query)
        ]

    async def _write(self, connection: Connection, response_id: str, chunks: list[Chunk]) -> None:
        said = b"\n".join([chunk.data for chunk in chunks])
        digest = b"\n".join([dumps(event) for event in events_in(said)])
        if WORTH * len(digest) > len(said):
            return
        first, last = chunks[0].first, chunks[-1].last
        data = self._sealing.seal(places.digest_place(response_id, first, last), digest)
        await connection.execute(self._queries.add_digest, response_id, first, last, data)
