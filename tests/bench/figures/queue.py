"""The queue at its size: what a claim and a look cost in Postgres, and 100 replicas that claim.

The replicas are their claims alone, over one pool. The floor of the first lines is what is
promised; that of the last is one replica claiming all.
"""

import asyncio
import re
import statistics
import time
from typing import Any, Final

from longrun.store.claims import SETTLING, Claims
from longrun.store.database import Database
from tests.bench import processes
from tests.bench.figure import Figure, Ground, Line, Target
from tests.storing import connected, migrated

LIVE: Final = 12_000
QUEUED: Final = 10_000
REPLICAS: Final = 100
PRINCIPALS: Final = (1, 10, 100, 10_000)
TIMES: Final = 9
CLAIMED: Final = 1_000
SCHEMA: Final = "bench_queue"
KEPT: Final = Target("<=", 1.0)
_TIME: Final = re.compile(r"Execution Time: ([\d.]+) ms")


def _measure(ground: Ground) -> list[Line]:
    ground.planned(len(PRINCIPALS) + 2)
    lines = []
    look = 0.0
    for principals in PRINCIPALS:
        ground.said(f"{QUEUED} queued, {principals} principals")
        claim, look = processes.call(_explained, url=ground.postgres.url, principals=principals)
        lines.append(_line(f"claim one of {QUEUED}, principals: {principals}", claim))
    lines.append(_line(f"a look, {LIVE} live on {REPLICAS} replicas", look))
    rates = []
    for replicas in (1, REPLICAS):
        ground.said(f"{replicas} replicas claim")
        rate, problems = processes.call(_claimed, url=ground.postgres.url, replicas=replicas)
        rates.append(rate)
        ground.problems += problems
    many = Line(f"{REPLICAS} replicas claim one by one", "claims/s", [(rates[0], rates[1])])
    return [*lines, many]


def _line(what: str, ours: float) -> Line:
    return Line(what, "ms", [(1.0, ours)], KEPT)


async def _explained(parent: processes.Parent, url: str, principals: int) -> tuple[float, float]:
    """Medians of the execution times of a claim and a look."""
    async with migrated(url, SCHEMA) as database:
        await _fill(database, principals)
        queries = database.queries
        onward = f"p{principals // 2}"
        claim = (queries.claim_queued, "replica_000", 1, ["agent"], 10, onward)
        look = (queries.look_around, "replica_000", SETTLING, ["agent"], 10)
        return await _time(url, *claim), await _time(url, *look)


async def _time(url: str, query: str, *args: Any) -> float:
    """Milliseconds. What is explained is executed, and rolled back."""
    times = []
    async with connected(url) as connection:
        for _ in range(TIMES):
            transaction = connection.transaction()
            await transaction.start()
            rows = await connection.fetch(f"EXPLAIN (ANALYZE, TIMING OFF) {query}", *args)
            await transaction.rollback()
            found = _TIME.search("\n".join(row[0] for row in rows))
            assert found is not None
            times.append(float(found[1]))
    return statistics.median(times)


async def _claimed(parent: processes.Parent, url: str, replicas: int) -> tuple[float, list[str]]:
    """Claims a second by so many replicas, each of one at a time; and what went wrong."""
    async with migrated(url, SCHEMA) as database:
        await _fill(database, 100)
        taken: list[str] = []

        async def take(claims: Claims) -> None:
            while len(taken) < CLAIMED:
                taken.extend(claim.id for claim in await claims.queued(1))

        began = time.monotonic()
        async with asyncio.timeout(120):
            await asyncio.gather(
                *(take(Claims(database, f"replica_{n:03}", ["agent"])) for n in range(replicas))
            )
        took = time.monotonic() - began
    twice = len(taken) - len(set(taken))
    return len(taken) / took, [f"{twice} were claimed twice"] if twice else []


async def _fill(database: Database, principals: int) -> None:
    await database.execute(f"TRUNCATE {SCHEMA}.responses, {SCHEMA}.replicas CASCADE")
    await database.execute(
        f"INSERT INTO {SCHEMA}.replicas (id, hostname, pid, version, lease_until)"
        " SELECT 'replica_' || lpad(n::text, 3, '0'), 'host', n, '1', now() + interval '1 hour'"
        " FROM generate_series(0, $1::integer - 1) AS n",
        REPLICAS,
    )
    for status, first, count in (("in_progress", 0, LIVE), ("queued", LIVE, QUEUED)):
        await database.execute(
            f"INSERT INTO {SCHEMA}.responses (id, principal, agent, status, background, stored,"
            " attempt, spent, replica_id, document, input, request, deadline_at)"
            " SELECT 'resp_' || lpad(n::text, 32, '0'), 'p' || n % $3::integer, 'agent', $4::text,"
            " true, true, 1, 1, CASE WHEN $4::text = 'in_progress' THEN"
            " 'replica_' || lpad((n % $5::integer)::text, 3, '0') END,"
            " '{\"id\": \"\"}', '[]', '{}', now() + interval '1 hour'"
            " FROM generate_series($1::integer, $1::integer + $2::integer - 1) AS n",
            first,
            count,
            principals,
            status,
            REPLICAS,
        )
    await database.execute(f"VACUUM ANALYZE {SCHEMA}.responses")


QUEUE: Final = Figure(
    name="queue",
    title=f"{REPLICAS} replicas, {LIVE} live and {QUEUED} queued responses",
    floor="what is promised, or one replica",
    measure=_measure,
)
