"""Reading the event log. Whose a response is, its caller has asked before (`Responses.get`)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from longrun.store.database import Database, unavailable_if_gone
from longrun.store.records import Chunk

ITEM_EVENT: Final = b'{"type":"response.output_item.'
"""How an event with which an item begins or ends is written (`type` comes first in all)."""


@dataclass(slots=True)
class News:
    """What is new of one response. `deleted`: it no longer exists."""

    deleted: bool = False
    chunks: list[Chunk] = field(default_factory=list)


class EventLog:
    """The event log as readers see it: committed chunks only, in order."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lane = database.lane("hub")

    async def page_unscoped(self, response_id: str, cursor: int, limit: int) -> list[Chunk]:
        """The chunks that end after `cursor` (-1: from the start), about `limit` bytes of them.

        The first chunk may begin at or before the cursor. Empty: nothing after the cursor.

        Raises:
            Unavailable: Postgres is away.
        """
        return await self._page(response_id, cursor, limit)

    async def item_page_unscoped(self, response_id: str, cursor: int, limit: int) -> list[Chunk]:
        """The chunks after `cursor` in which an item begins or ends, about `limit` bytes of them.

        Raises:
            Unavailable: Postgres is away.
        """
        return await self._page(response_id, cursor, limit, ITEM_EVENT)

    async def _page(
        self, response_id: str, cursor: int, limit: int, having: bytes | None = None
    ) -> list[Chunk]:
        query = self._database.queries.read_page
        rows = await self._database.fetch(query, response_id, cursor, limit, having)
        return [Chunk(*row) for row in rows]

    async def end_unscoped(self, response_id: str) -> Chunk | None:
        """The last chunk of the log; None if there is no log.

        Raises:
            Unavailable: Postgres is away.
        """
        row = await self._database.fetch_row(self._database.queries.read_end, response_id)
        return Chunk(*row) if row else None

    async def news_unscoped(self, positions: Mapping[str, int], limit: int) -> dict[str, News]:
        """What comes after the position of each of many responses, in one query.

        Args:
            positions: sequence numbers by response id.
            limit: about how many bytes of chunks each may bring.

        Raises:
            Unavailable: Postgres is away.
        """
        query = self._database.queries.read_news
        with unavailable_if_gone():
            rows = await self._lane.fetch(
                query, list(positions.keys()), list(positions.values()), limit
            )
        found: dict[str, News] = {}
        for response_id, deleted, first, last, data in rows:
            news = found.setdefault(response_id, News(deleted))
            if data is not None:
                news.chunks.append(Chunk(first, last, data))
        return found

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
