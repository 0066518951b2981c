"""From a model's emission to a reader on the other replica, at a human pace: of one run, and of
many."""

import statistics
from typing import Final

from tests import servers
from tests.bench import bare, gate, plain, runs
from tests.bench.agents import AGENTS
from tests.bench.emissions import RATE, latencies, paces, percentile
from tests.bench.figure import Figure, Ground, Line, Target
from tests.bench.reader import Stream
from tests.servers import Replica

RUNS: Final = (1, 50)
PERCENTILES: Final = (50, 95, 99)
TARGETS: Final = {(50, 50): Target("<=", 2.0), (50, 99): Target("<=", 3.0)}
"""By runs and percentile."""

PLAIN: Final = 0
"""The key of what plain asyncpg needs, among the percentiles."""

SCHEMA: Final = "bench_latency"

Found = dict[tuple[int, int], float]
"""Milliseconds, by runs and percentile."""


def _measure(ground: Ground) -> list[Line]:
    seconds = ground.pick(full=3.0, quick=2.0)
    url = ground.postgres.url
    with (
        bare.serving() as port,
        servers.replicas(2, url, schema=SCHEMA, agents=AGENTS) as two,
    ):
        pairs = ground.in_turn(
            ground.pick(full=3, quick=1),
            lambda: _floor(ground, port, seconds),
            lambda: _ours(ground, two, seconds),
        )
    wanted = [
        (f"{count} run{'s'[: count > 1]}: {what}", (count, a), (count, b))
        for count in RUNS
        for what, a, b in (
            *((f"emit to reader, p{p}", p, p) for p in PERCENTILES),
            ("p50 beside plain asyncpg", PLAIN, 50),
        )
    ]
    return [
        Line(what, "ms", [(floor[a], ours[b]) for floor, ours in pairs], TARGETS.get(a))
        for what, a, b in wanted
    ]


def _floor(ground: Ground, port: int, seconds: float) -> Found:
    found: Found = {}
    for count in RUNS:
        with gate.shut() as shut:
            emitted = paces(shut, count, seconds)
            streams = [Stream(port, bare.paced_path(pace)) for pace in emitted]
            found |= _percentiles(count, latencies(ground, shut, streams, emitted[0]))
        with gate.shut() as shut:
            through_postgres = plain.latencies(
                ground.postgres.url, shut, paces(shut, count, seconds)
            )
            found[count, PLAIN] = 1000 * statistics.median(through_postgres)
    return found


def _ours(ground: Ground, two: list[Replica], seconds: float) -> Found:
    found: Found = {}
    for count in RUNS:
        with gate.shut() as shut:
            emitted = paces(shut, count, seconds)
            ids = [runs.create(two[0], pace) for pace in emitted]
            pid = runs.process_of(ground.postgres.url, SCHEMA, ids[0])
            other = next(replica for replica in two if replica.process.pid != pid)
            streams = [runs.stream_of(other, id_) for id_ in ids]
            found |= _percentiles(count, latencies(ground, shut, streams, emitted[0]))
    return found


def _percentiles(count: int, values: list[float]) -> Found:
    return {(count, p): percentile(values, p) for p in PERCENTILES}


LATENCY: Final = Figure(
    name="latency",
    title=f"{RUNS[0]} and {RUNS[1]} runs x {RATE:.0f} events/s, read on the other replica",
    floor="the same emissions from a bare ASGI app, one process, no database; in the last line of "
    "each, plain asyncpg: one INSERT and one NOTIFY for all that is pending, LISTEN, SELECT",
    measure=_measure,
)
