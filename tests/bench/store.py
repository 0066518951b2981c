"""The store without a server: one replica's log writer and what belongs to it, on a schema."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

from longrun import ids
from longrun.settings import Settings
from longrun.store.announcer import Announcer
from longrun.store.database import Database
from longrun.store.log_writer import LogWriter
from longrun.store.migrate import migrate
from longrun.store.records import Chunk
from longrun.store.responses import NewResponse, Responses
from tests.bench.runs import query
from tests.storing import request_for

_FIRST: Final = b'{"type":"response.created","sequence_number":0,"response":{"output":[]}}'


def deltas(count: int) -> list[bytes]:
    """Encoded events like those of a run."""
    return [
        (
            f'{{"type":"response.output_text.delta","sequence_number":{n},"content_index":0,'
            f'"delta":"word{n} ","item_id":"msg_{n:038d}","logprobs":[],"output_index":0}}'
        ).encode()
        for n in range(count)
    ]


@contextlib.asynccontextmanager
async def opened(url: str, schema: str) -> AsyncIterator[Database]:
    """The connections of one replica."""
    database = Database(Settings.load(schema=schema, pool_size=2))
    await database.open(url)
    try:
        yield database
    finally:
        await database.close()


def prepare(url: str, schema: str, responses: int) -> list[str]:
    """Migrate a schema and create responses in progress, attempt 1, one event each."""

    async def create() -> list[str]:
        async with opened(url, schema) as database:
            await migrate(database)
            table = Responses(database)
            found = [ids.new_response_id() for _ in range(responses)]
            for response_id in found:
                await table.create(_in_progress(response_id))
            return found

    return asyncio.run(create())


def _in_progress(response_id: str) -> NewResponse:
    request = request_for(response_id, agent="bench")
    return NewResponse(request, [_FIRST], replica_id="bench")


def forget(url: str, schema: str) -> None:
    """Leave of each log only event 0, and let Postgres have its checkpoint before the clock
    runs."""
    query(url, f"TRUNCATE {schema}.event_chunks")
    query(
        url,
        f"INSERT INTO {schema}.event_chunks SELECT id, 0, 0, 1, '{_FIRST.decode()}'"
        f" FROM {schema}.responses",
    )
    query(url, "CHECKPOINT")


def gaps(url: str, schema: str, reached: dict[str, int]) -> list[str]:
    """Look whether each log goes from 0 to what was acknowledged, every number once.

    Args:
        reached: the last event of each response whose commit was acknowledged.
    """
    rows = query(
        url,
        "SELECT response_id, min(first) AS first, max(last) AS last,"
        " bool_and(first = coalesce(before + 1, first)) AS contiguous FROM ("
        " SELECT *, lag(last) OVER (PARTITION BY response_id ORDER BY last) AS before"
        f" FROM {schema}.event_chunks) AS chunk GROUP BY response_id",
    )
    found = {row["response_id"]: (row["first"], row["last"], row["contiguous"]) for row in rows}
    return [
        f"the log of {id_} reaches {last}, but has {found.get(id_)}"
        for id_, last in reached.items()
        if last and found.get(id_) != (0, last, True)
    ]


class _Regular(Announcer):
    """One whose interval is always the same."""

    def __init__(self, database: Database, interval: float) -> None:
        self._interval = interval
        super().__init__(database)

    @property
    def interval(self) -> float:
        return self._interval


class Writing:
    """One writing replica of several: a log writer, and an announcer if announcements are on.

    Args:
        announcing: announce everything, at most once an interval, whoever reads it.
        announcer: announces as ours do, instead.
    """

    def __init__(
        self,
        database: Database,
        *,
        announcing: bool = False,
        interval: float = 0.0,
        announcer: Announcer | None = None,
    ) -> None:
        self._announcer = _Regular(database, interval)
        self._announce = self._announcer.announce if announcing else _nothing
        self.writer = LogWriter(database, self._committed, announcer)

    def _committed(self, response_id: str, chunks: list[Chunk]) -> None:
        self._announce(response_id, chunks[-1].last)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(self.writer.run(stop))
            group.create_task(self._announcer.run(stop))
            yield
            stop.set()


def _nothing(response_id: str, last: int) -> None:
    """Committed, and nobody is told."""
