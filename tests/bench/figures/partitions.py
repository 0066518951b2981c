"""What partitions cost those who write and read: processor time of Postgres's backends."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Final

import psutil

from longrun import ids
from longrun.store.database import Database
from longrun.store.events import EventLog
from longrun.store.responses import Responses
from tests.bench import store
from tests.bench.figure import Figure, Ground, Line, Target
from tests.bench.runs import query
from tests.bench.store import Writing

WHOLE: Final = "bench_whole"
PARTED: Final = "bench_parted"
RANGES: Final = 7
"""As many as there are with the retention's default, and one more."""

RUNS: Final = 20
EVENTS: Final = 30
DAY: Final = 86_400.0

WHAT: Final = (
    (f"append of {RUNS} runs, an event each", 1.25),
    ("poll", 1.5),
    (f"page of {EVENTS} chunks", 1.5),
    ("what is new of one log", 1.5),
)


def _measure(ground: Ground) -> list[Line]:
    url = ground.postgres.url
    parts = {}
    for schema, ranges in ((WHOLE, 0), (PARTED, RANGES)):
        query(url, f"DROP SCHEMA IF EXISTS {schema} CASCADE")
        store.prepare(url, schema, 0)
        for n in range(ranges):
            until = ids.response_ids_from(time.time() + DAY * (n - ranges + 2))
            for table in ("event_chunks", "items", "steps"):
                query(url, f"SELECT {schema}.add_partition($1, $2)", table, until)
        parts[schema] = store.prepare(url, schema, RUNS + 1)

    def side(schema: str) -> list[float]:
        query(url, f"DELETE FROM {schema}.event_chunks WHERE last > 0")
        query(url, f"VACUUM {schema}.event_chunks")
        return asyncio.run(_times(ground, schema, parts[schema]))

    found = ground.in_turn(ground.pick(full=5, quick=1), lambda: side(WHOLE), lambda: side(PARTED))
    return [
        Line(what, "us", [(floor[n], ours[n]) for floor, ours in found], Target("<=", most))
        for n, (what, most) in enumerate(WHAT)
    ]


async def _times(ground: Ground, schema: str, response_ids: list[str]) -> list[float]:
    count = ground.pick(full=3000, quick=1000)
    async with store.opened(ground.postgres.url, schema) as database:
        replica = Writing(database)
        async with replica.running():
            *some, one = [replica.writer.open(each, 1, 1) for each in response_ids]
            for _ in range(EVENTS):
                one.append(store.deltas(1))
                await one.flush()

            async def append() -> None:
                for run in some:
                    run.append(store.deltas(1))
                await asyncio.gather(*(run.flush() for run in some))

            took = [await _cpu(ground, append, count)]
        return [*took, *await _reads(ground, database, response_ids[-1], count)]


async def _reads(ground: Ground, database: Database, one: str, count: int) -> list[float]:
    responses, log = Responses(database), EventLog(database)
    reads: list[Callable[[], Awaitable[object]]] = [
        lambda: responses.get(one, ""),
        lambda: log.page_unscoped(one, -1, 1 << 20),
        lambda: log.news_unscoped({one: EVENTS - 5}, 1 << 20),
    ]
    return [await _cpu(ground, read, 4 * count) for read in reads]


async def _cpu(ground: Ground, work: Callable[[], Awaitable[object]], count: int) -> float:
    """Microseconds of the backends for each; Postgres counts in hundredths of a second."""
    for _ in range(20):
        await work()
    before = _backends(ground)
    for _ in range(count):
        await work()
    used = _backends(ground) - before
    return used / count * 1e6


def _backends(ground: Ground) -> float:
    total = 0.0
    for child in psutil.Process(ground.postgres.pid).children():
        with contextlib.suppress(psutil.Error):
            if "[local]" in (line := " ".join(child.cmdline())) or "127.0.0.1" in line:
                times = child.cpu_times()
                total += times.user + times.system
    return total


PARTITIONS: Final = Figure(
    name="partitions",
    title=f"processor time of Postgres with {RANGES} partitions and the default one",
    floor="in one table that is the default partition alone",
    measure=_measure,
)
