"""Reading the event log. Whose a response is, its caller has asked before (`Responses.get`)."""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from asyncpg import Record

from longrun.errors import Unavailable, Unreadable
from longrun.protocol import Status
from longrun.store import sealing as places
from longrun.store.database import Database, unavailable_if_gone
from longrun.store.joining import Joining
from longrun.store.records import Chunk, Ended
from longrun.store.sealing import ITEM_EVENT, is_sealed


@dataclass(slots=True)
class News:
    """What is new of one response. `deleted`: it no longer exists, or cannot be read here."""

    deleted: bool = False
    chunks: list[Chunk] = field(default_factory=list)


class Begun(NamedTuple):
    """What a stream begins with. `ended`: when it ended, where a standby is to be asked for all of
    it. `reached`: the number of the last event of its log, where the chunks go that far."""

    status: Status
    chunks: list[Chunk]
    ended: Ended | None = None
    reached: int | None = None


class EventLog:
    """The event log as readers see it: committed chunks only, in order, opened where they are
    sealed. Every method that gives chunks may raise `Unreadable`, but for `news_unscoped`.

    Attributes:
        joining: reads what streams begin with.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lane = database.lane("hub", plans_once=True)
        self._sealing = database.sealing
        self._sealed = places.VERSION if database.sealing.knows_keys else None
        self._standby = database.standby
        self.joining = Joining(database)

    async def prepare(self) -> None:
        """Have a connection, and a plan, before there is something new."""
        if self._database.settings.statement_cache_size:
            with contextlib.suppress(Unavailable):
                await self.news_unscoped({}, 0)

    async def begin(
        self, response_id: str, principal: str, cursor: int, limit: int
    ) -> Begun | None:
        """The first page of a stream of a principal's response, as `page_unscoped` has it, and the
        status that the response had then: one statement before the first event. None: it is not
        there, not theirs, or has nothing after the cursor. Of one that a standby may have, the
        pages come by `ended_page`.

        Raises:
            Unavailable: Postgres is away.
        """
        begun = await self.join(response_id, principal, cursor, limit)
        return begun if begun is None or begun.chunks or begun.ended else None

    async def join(
        self, response_id: str, principal: str, cursor: int | None, limit: int
    ) -> Begun | None:
        """As `begin`, also where nothing comes after the cursor; and without a cursor, to know no
        more than how the response stands. Those that come at the same time are asked for together,
        and have less then. None: it is not there, or not theirs.

        Raises:
            Unavailable: Postgres is away.
        """
        rows = await self.joining.find(response_id, principal, cursor, limit)
        if not rows:
            return None
        status, reached, ended = rows[0]["status"], rows[0]["reached"], rows[0].get("ended")
        if ended is not None:
            return Begun(status, [], Ended(principal, ended), reached)
        chunks = self._chunks(response_id, rows)
        if chunks and chunks[-1].last != reached:
            reached = None
        return Begun(status, chunks, reached=reached)

    async def ended_page(
        self, response_id: str, ended: Ended, cursor: int, limit: int
    ) -> list[Chunk]:
        """As `page_unscoped`, of a principal's response that has ended: from a standby, if it has
        that end, while the primary says that the response is still there.

        Raises:
            Unavailable: Postgres is away.
        """
        query = self._database.queries.bind(
            "read_stream",
            response_id=response_id,
            principal=ended.principal,
            cursor=cursor,
            limit=limit,
            sealed=self._sealed,
            settled=None,
            ended=ended.at,
        )
        rows = None
        if self._standby.is_fit:
            there, rows = await asyncio.gather(
                self._database.fetch(
                    self._database.queries.has_ended, response_id, ended.principal, ended.at
                ),
                self._standby.fetch(ended.at, *query),
            )
            if not there:
                return []
        if rows is not None:
            # Else it still has what was encrypted with a key that is no longer in use.
            with contextlib.suppress(Unreadable):
                return self._chunks(response_id, rows)
        return await self.page_unscoped(response_id, cursor, limit)

    def _chunks(self, response_id: str, rows: Sequence[Record]) -> list[Chunk]:
        """The chunks of rows of `read_stream`, which may be without one."""
        return [
            self._chunk(response_id, row["first"], row["last"], row["data"])
            for row in rows
            if row["last"] is not None
        ]

    async def page_unscoped(self, response_id: str, cursor: int, limit: int) -> list[Chunk]:
        """The chunks that end after `cursor` (-1: from the start), about `limit` bytes of them.

        The first chunk may begin at or before the cursor. Empty: nothing after the cursor.

        Raises:
            Unavailable: Postgres is away.
        """
        return await self._page(response_id, cursor, limit)

    async def told_before_unscoped(
        self, response_id: str, before: int | None, limit: int
    ) -> list[Chunk]:
        """What the log says last before a number (None: in all), about `limit` bytes of it, in
        order: chunks, or where there are digests, these, in which deltas are merged.

        Raises:
            Unavailable: Postgres is away.
        """
        return await self._page_before(response_id, before, limit) or await self._digests_before(
            response_id, before, limit
        )

    async def _digests_before(
        self, response_id: str, before: int | None, limit: int
    ) -> list[Chunk]:
        query = self._database.queries.bind(
            "read_digests", response_id=response_id, before=before, limit=limit
        )
        found: list[Chunk] = []
        for first, last, data in await self._database.fetch(*query):
            if before is not None and last != before - 1:
                # What is in between only the log has; or one was made twice.
                break
            place = places.digest_place(response_id, first, last)
            found.append(Chunk(first, last, self._sealing.open(place, data)))
            before = first
        return found[::-1]

    async def _page_before(self, response_id: str, before: int | None, limit: int) -> list[Chunk]:
        query = self._database.queries.bind(
            "read_back",
            response_id=response_id,
            before=before,
            limit=limit,
            sealed=self._sealed,
        )
        rows = await self._database.fetch(*query)
        return [self._chunk(response_id, *row) for row in rows]

    async def item_page_unscoped(self, response_id: str, cursor: int, limit: int) -> list[Chunk]:
        """The chunks after `cursor` in which an item begins or ends, about `limit` bytes of them.

        Raises:
            Unavailable: Postgres is away.
        """
        return await self._page(response_id, cursor, limit, ITEM_EVENT)

    async def _page(
        self, response_id: str, cursor: int, limit: int, having: bytes | None = None
    ) -> list[Chunk]:
        query = self._database.queries.bind(
            "read_page",
            response_id=response_id,
            cursor=cursor,
            limit=limit,
            having=having,
            sealed=self._sealed,
        )
        rows = await self._database.fetch(*query)
        return [self._chunk(response_id, *row) for row in rows]

    async def end_unscoped(self, response_id: str) -> Chunk | None:
        """The last chunk of the log; None if there is no log.

        Raises:
            Unavailable: Postgres is away.
        """
        row = await self._database.fetch_row(self._database.queries.read_end, response_id)
        return self._chunk(response_id, *row) if row else None

    async def length_unscoped(self, response_id: str) -> int:
        """How many events the log has, whether or not it can be read.

        Raises:
            Unavailable: Postgres is away.
        """
        row = await self._database.fetch_row(self._database.queries.read_length, response_id)
        return int(row["length"]) if row else 0

    async def news_unscoped(self, positions: Mapping[str, int], limit: int) -> dict[str, News]:
        """What comes after the position of each of many responses, in one query.

        Args:
            positions: sequence numbers by response id.
            limit: about how many bytes of chunks each may bring.

        Raises:
            Unavailable: Postgres is away.
        """
        query = self._database.queries.bind(
            "read_news",
            response_ids=list(positions.keys()),
            positions=list(positions.values()),
            limit=limit,
            sealed=self._sealed,
        )
        with unavailable_if_gone():
            rows = await self._lane.fetch(*query)
        found: dict[str, News] = {}
        for response_id, deleted, first, last, data in rows:
            news = found.setdefault(response_id, News(deleted))
            if data is not None and not news.deleted:
                try:
                    news.chunks.append(self.opened(response_id, Chunk(first, last, data)))
                except Unreadable:
                    # The readers of this one are sent away, and those of the others go on.
                    news.deleted = True
        return found

    def opened(self, response_id: str, chunk: Chunk) -> Chunk:
        """A chunk as readers see it, of one as it is stored.

        Raises:
            Unreadable: it is sealed, and cannot be opened here.
        """
        if not is_sealed(chunk.data):
            return chunk
        place = places.chunk_place(response_id, chunk.first, chunk.last)
        return Chunk(chunk.first, chunk.last, self._sealing.open(place, chunk.data))

    def _chunk(self, response_id: str, first: int, last: int, data: bytes) -> Chunk:
        return self.opened(response_id, Chunk(first, last, data))

    async def lost_unscoped(self, positions: Mapping[str, int]) -> list[str]:
        """Those of these responses whose logs no longer reach so far: they were deleted, or a
        failover lost what had been committed.

        Args:
            positions: sequence numbers by response id.

        Raises:
            Unavailable: Postgres is away.
        """
        query = self._database.queries.find_lost
        with unavailable_if_gone():
            rows = await self._lane.fetch(query, list(positions), list(positions.values()))
        return [row["response_id"] for row in rows]
