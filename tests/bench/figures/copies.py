"""How many times the same bytes go to Postgres, and are kept there, beside these bytes once."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Final

from tests import proxy, servers
from tests.bench import runs
from tests.bench.agents import AGENTS, LONG, Length
from tests.bench.figure import Figure, Ground, Line
from tests.servers import Replica

SCHEMA: Final = "bench_copies"
LENGTHS: Final = (Length(output=1_000_000), Length(text=200_000))

PLACES: Final = {
    "deltas": "SELECT coalesce(sum(octet_length(event::text)), 0)"
    " FROM {schema}.events WHERE type LIKE '%.delta' AND response_id = $1",
    "added": "SELECT coalesce(sum(octet_length(event::text)), 0)"
    " FROM {schema}.events WHERE type LIKE '%.added' AND response_id = $1",
    "done": "SELECT coalesce(sum(octet_length(event::text)), 0)"
    " FROM {schema}.events WHERE type LIKE '%.done' AND response_id = $1",
    "completed": "SELECT coalesce(sum(octet_length(event::text)), 0)"
    " FROM {schema}.events WHERE type = 'response.completed' AND response_id = $1",
    "items": "SELECT sum(octet_length(item)) FROM {schema}.items WHERE response_id = $1",
    "steps": "SELECT sum(octet_length(result)) FROM {schema}.steps WHERE response_id = $1",
    "on disk": "SELECT (SELECT sum(pg_column_size(data)) FROM {schema}.event_chunks"
    " WHERE response_id = $1) + (SELECT sum(pg_column_size(item)) FROM {schema}.items"
    " WHERE response_id = $1) + (SELECT sum(pg_column_size(result)) FROM {schema}.steps"
    " WHERE response_id = $1)",
}
"""Where the bytes may be, and how many are: as text, but `on disk` as compressed."""


def _measure(ground: Ground) -> list[Line]:
    ground.planned(len(LENGTHS))
    lines = []
    for length in LENGTHS:
        what, size = ("output", length.output) if length.output else ("text", length.text)
        ground.said(f"{what} of {size:,} bytes")
        found = asyncio.run(_counted(ground.postgres.url, length))
        lines += [
            Line(f"{what}: {place}", "bytes", [(size, count)]) for place, count in found.items()
        ]
    return lines


async def _counted(url: str, length: Length) -> Mapping[str, int]:
    """What was sent for one run, and what each place has of it."""
    async with proxy.before(url) as way, _replica(way.url) as replica:
        await _run(replica, url, Length(text=8))
        before = way.sent
        response_id = await _run(replica, url, length)
        found = {"sent": way.sent - before}
    for place, query in PLACES.items():
        sql = query.format(schema=SCHEMA)
        [[found[place]]] = await asyncio.to_thread(runs.query, url, sql, response_id)
    return found


@contextlib.asynccontextmanager
async def _replica(url: str) -> AsyncIterator[Replica]:
    started = await asyncio.to_thread(servers.start, url, schema=SCHEMA, agents=AGENTS)
    try:
        yield started
    finally:
        await asyncio.to_thread(started.end)


async def _run(replica: Replica, url: str, length: Length) -> str:
    response_id = await asyncio.to_thread(runs.create, replica, length, LONG)
    await asyncio.to_thread(runs.wait_for_ends, url, SCHEMA, [response_id])
    return response_id


COPIES: Final = Figure(
    name="copies",
    title="bytes for one long tool output, and for one long text",
    floor="the output or the text itself, once",
    measure=_measure,
)
