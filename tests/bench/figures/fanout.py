"""From one model's emission to many readers, on the replica that runs it and on another."""

from typing import Final

from tests import servers
from tests.bench import bare, gate, runs
from tests.bench.agents import AGENTS
from tests.bench.emissions import RATE, latencies, paces, percentile
from tests.bench.figure import Figure, Ground, Line, Target
from tests.bench.reader import Stream
from tests.servers import Replica

READERS: Final = 50
PERCENTILES: Final = (50, 99)
TARGET: Final = Target("<=", 1.5)
SCHEMA: Final = "bench_fanout"

Found = dict[int, float]
"""Milliseconds, by percentile."""


def _measure(ground: Ground) -> list[Line]:
    seconds = ground.pick(full=3.0, quick=2.0)
    with (
        bare.serving() as port,
        servers.replicas(2, ground.postgres.url, schema=SCHEMA, agents=AGENTS) as two,
    ):
        pairs = ground.in_turn(
            ground.pick(full=3, quick=1),
            lambda: _floor(ground, port, seconds),
            lambda: _ours(ground, two, seconds),
        )
    return [
        Line(
            f"emit to each of {READERS}, p{p}",
            "ms",
            [(floor[p], ours[p]) for floor, ours in pairs],
            TARGET if p == 50 else None,
        )
        for p in PERCENTILES
    ]


def _floor(ground: Ground, port: int, seconds: float) -> Found:
    with gate.shut() as shut:
        (pace,) = paces(shut, 1, seconds)
        streams = [Stream(port, bare.paced_path(pace, "shared"))] * READERS
        return _percentiles(latencies(ground, shut, streams, pace))


def _ours(ground: Ground, two: list[Replica], seconds: float) -> Found:
    with gate.shut() as shut:
        (pace,) = paces(shut, 1, seconds)
        id_ = runs.create(two[0], pace)
        streams = [runs.stream_of(two[place % 2], id_) for place in range(READERS)]
        return _percentiles(latencies(ground, shut, streams, pace))


def _percentiles(values: list[float]) -> Found:
    return {p: percentile(values, p) for p in PERCENTILES}


FANOUT: Final = Figure(
    name="fanout",
    title=f"one run x {RATE:.0f} events/s, {READERS} readers on two replicas",
    floor="the same from a bare ASGI app in memory, one process: each delta emitted once for all",
    measure=_measure,
)
