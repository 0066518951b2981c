"""What has expired, dropped with its partition beside deleted by rows; and appends meanwhile."""

import asyncio
import time
from typing import Final

from longrun import ids
from longrun.store.database import Database
from longrun.store.partitions import Partitions
from longrun.store.responses import Responses
from tests.bench import processes, store
from tests.bench.figure import Figure, Ground, Line, Target
from tests.bench.runs import query
from tests.bench.store import Writing

SCHEMA: Final = "bench_retention"
RUNS: Final = 20
CHUNKS: Final = 100
"""Rows of each log that expires."""

HOUR: Final = 3600.0

_OLD: Final = """
    WITH old AS (
        SELECT $2 || lpad(n::text, 20, '0') AS id FROM generate_series(1, $3::integer) AS n
    ), logs AS (
        INSERT INTO {schema}.event_chunks (response_id, first, last, attempt, data)
        SELECT old.id, n, n, 1, convert_to(
            '{{"type":"response.output_text.delta","sequence_number":' || n
                || ',"delta":"' || md5(old.id || n) || '"}}',
            'UTF8'
        )
        FROM old CROSS JOIN generate_series(0, $4::integer - 1) AS n
    )
    INSERT INTO {schema}.responses (
        id, principal, agent, status, background, stored, attempt, spent, document, input,
        request, created_at, deadline_at, finished_at
    )
    SELECT old.id, principal, agent, 'completed', background, true, 1, 1, document, input, request,
        created_at, deadline_at, now() - interval '2 days'
    FROM old CROSS JOIN {schema}.responses AS response WHERE response.id = $1
"""

Expired = tuple[float, float, float, float]
"""Seconds, MiB of write-ahead log, events per second that were appended meanwhile, and milliseconds
that the longest of these appends took."""


def _measure(ground: Ground) -> list[Line]:
    responses = ground.pick(full=10_000, quick=500)
    rounds = ground.pick(full=3, quick=1)
    ground.planned(4 * rounds)
    found = ground.in_turn(
        rounds,
        lambda: _expired(ground, responses, False),
        lambda: _expired(ground, responses, True),
    )
    what = f"{responses * CHUNKS:,} expired rows"

    def pairs(n: int) -> list[tuple[float, float]]:
        return [(floor[n], ours[n]) for floor, ours in found]

    return [
        Line(f"{what}: until they are gone", "s", pairs(0), Target("<=", 0.5)),
        Line(f"{what}: write-ahead log", "MiB", pairs(1), Target("<=", 0.5)),
        Line(f"appends of {RUNS} runs meanwhile", "events/s", pairs(2)),
        Line("the longest of these", "ms", pairs(3), Target("<=", 1.5)),
    ]


def _expired(ground: Ground, responses: int, dropped: bool) -> Expired:
    url = ground.postgres.url
    query(url, f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
    running = store.prepare(url, SCHEMA, RUNS)
    made = time.time() - 4 * HOUR
    for table in ("event_chunks", "items", "steps"):
        until = ids.response_ids_from(made + HOUR)
        query(url, f"SELECT {SCHEMA}.add_partition($1, $2)", table, until)
    ground.said(f"{responses * CHUNKS:,} rows")
    first = ids.response_ids_from(made)
    query(url, _OLD.format(schema=SCHEMA), running[0], first, responses, CHUNKS)
    query(url, f"VACUUM ANALYZE {SCHEMA}.event_chunks")
    query(url, "CHECKPOINT")
    took: Expired = processes.call(_expire, url=url, schema=SCHEMA, ids_=running, dropped=dropped)
    [left] = query(url, f"SELECT count(*) FROM {SCHEMA}.event_chunks WHERE response_id < $1", until)
    if left[0]:
        ground.problems.append(f"{left[0]} rows of expired responses are left")
    return took


async def _expire(
    parent: processes.Parent, url: str, schema: str, ids_: list[str], dropped: bool
) -> Expired:
    """As `Retention` does, without its pauses; at least some seconds of appends."""
    async with store.opened(url, schema) as database:
        replica = Writing(database)
        appended, longest, done = 0, 0.0, asyncio.Event()

        async def append(response_id: str) -> None:
            nonlocal appended, longest
            run = replica.writer.open(response_id, 1, 1)
            while not done.is_set():
                at = time.perf_counter()
                run.append(store.deltas(1))
                await run.flush()
                longest = max(longest, time.perf_counter() - at)
                appended += 1

        async with replica.running(), asyncio.TaskGroup() as group:
            for each in ids_:
                group.create_task(append(each))
            position = await _wal(database)
            began = time.perf_counter()
            responses = Responses(database)
            soon = ids.response_ids_from(time.time()) if dropped else ""
            while await responses.expire(86_400.0, soon):
                pass
            await Partitions(database, 86_400.0, 86_400.0).tend(asyncio.Event())
            took = time.perf_counter() - began
            rate = appended / took
            written = await _wal(database) - position
            done.set()
    return took, written / 2**20, rate, 1000 * longest


async def _wal(database: Database) -> float:
    row = await database.fetch_row("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0') AS at")
    assert row is not None
    return float(row["at"])


RETENTION: Final = Figure(
    name="retention",
    title="what has expired, dropped with its partition",
    floor="deleted by rows",
    measure=_measure,
)
