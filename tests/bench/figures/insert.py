"""The log writer beside plain asyncpg: the same chunks, one statement a batch."""

import asyncio
import time
from typing import Final

import asyncpg

from tests.bench import processes, store
from tests.bench.figure import Figure, Ground, Line
from tests.bench.store import Writing

RUNS: Final = 20
EVENTS: Final = 50
SCHEMA: Final = "bench_insert"

Rate = tuple[float, dict[str, int]]


def _measure(ground: Ground) -> list[Line]:
    url, seconds = ground.postgres.url, ground.pick(full=1.5, quick=1.0)
    ids = store.prepare(url, SCHEMA, RUNS)

    def side(work: processes.Work) -> float:
        store.forget(url, SCHEMA)
        rate, reached = processes.call(work, url=url, schema=SCHEMA, ids=ids, seconds=seconds)
        ground.problems += store.gaps(url, SCHEMA, reached)
        return float(rate)

    pairs = ground.in_turn(
        ground.pick(full=4, quick=1), lambda: side(_plain), lambda: side(log_writer)
    )
    return [Line(f"{RUNS} runs x {EVENTS} events a statement", "events/s", pairs)]


async def _plain(
    parent: processes.Parent, url: str, schema: str, ids: list[str], seconds: float
) -> Rate:
    """What has to be done at least: join the events, insert the chunks, commit."""
    insert = (
        f"INSERT INTO {schema}.event_chunks (response_id, first, last, attempt, data)"
        " SELECT *  FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::integer[], $5::bytea[])"
    )
    events = store.deltas(EVENTS)
    connection = await asyncpg.connect(url)
    next_sequence, began = 1, time.perf_counter()
    while time.perf_counter() < began + seconds:
        first = [next_sequence] * RUNS
        last = [next_sequence + EVENTS - 1] * RUNS
        data = [b"\n".join(events) for _ in ids]
        await connection.execute(insert, ids, first, last, [1] * RUNS, data)
        next_sequence += EVENTS
    took = time.perf_counter() - began
    await connection.close()
    return RUNS * (next_sequence - 1) / took, dict.fromkeys(ids, next_sequence - 1)


async def log_writer(
    parent: processes.Parent, url: str, schema: str, ids: list[str], seconds: float
) -> Rate:
    """Events per second through runs and their log writer, fenced."""
    events = store.deltas(EVENTS)
    async with store.opened(url, schema) as database:
        replica = Writing(database, announcing=False)
        async with replica.running():
            runs = [replica.writer.open(response_id, 1, 1) for response_id in ids]
            began = time.perf_counter()
            while time.perf_counter() < began + seconds:
                for run in runs:
                    run.append(events)
                await asyncio.gather(*(run.flush() for run in runs))
            took = time.perf_counter() - began
    reached = {run.response_id: run.next_sequence - 1 for run in runs}
    return sum(reached.values()) / took, reached


INSERT: Final = Figure(
    name="insert",
    title="log writer, fenced, announcements off",
    floor="plain asyncpg: one multi-row insert of the same chunks, no fence",
    measure=_measure,
)
