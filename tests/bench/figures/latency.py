"""From a model's emission to a reader on the other replica, at a human pace of many runs."""

import statistics
from typing import Final

from tests import servers
from tests.bench import bare, gate, plain, reader, runs
from tests.bench.agents import AGENTS, Pace
from tests.bench.figure import Figure, Ground, Line, Target
from tests.bench.gate import Gate
from tests.bench.reader import Readings, Stream

STREAMS: Final = 50
RATE: Final = 50.0
TARGET: Final = Target("<=", 3.0)
PERCENTILES: Final = (50, 95, 99)
PLAIN: Final = 0
"""The key of what plain asyncpg needs, among the percentiles."""

SCHEMA: Final = "bench_latency"

Percentiles = dict[int, float]


def _paces(gate: Gate, seconds: float) -> list[Pace]:
    deltas = round(RATE * seconds)
    phases = [place / STREAMS / RATE for place in range(STREAMS)]
    return [Pace(deltas, str(gate.path), RATE, phase, clock=True) for phase in phases]


def _measure(ground: Ground) -> list[Line]:
    seconds = ground.pick(full=3.0, quick=2.0)
    url = ground.postgres.url
    with (
        bare.serving() as port,
        servers.replicas(2, url, schema=SCHEMA, agents=AGENTS) as two,
    ):

        def floor() -> Percentiles:
            with gate.shut() as shut:
                paces = _paces(shut, seconds)
                streams = [Stream(port, bare.paced_path(pace)) for pace in paces]
                found = _percentiles(ground, _read(shut, streams), paces)
            with gate.shut() as shut:
                through_postgres = plain.latencies(url, shut, _paces(shut, seconds))
            return {**found, PLAIN: 1000 * statistics.median(through_postgres)}

        def ours() -> Percentiles:
            with gate.shut() as shut:
                paces = _paces(shut, seconds)
                ids = [runs.create(two[0], pace) for pace in paces]
                pid = runs.process_of(url, SCHEMA, ids[0])
                other = next(replica for replica in two if replica.process.pid != pid)
                streams = [runs.stream_of(other, id_) for id_ in ids]
                return _percentiles(ground, _read(shut, streams), paces)

        return _lines(ground.in_turn(ground.pick(full=3, quick=1), floor, ours))


def _lines(pairs: list[tuple[Percentiles, Percentiles]]) -> list[Line]:
    lines = [(f"emit to reader, p{p}", p, p, TARGET if p == 50 else None) for p in PERCENTILES]
    lines.append(("p50 beside plain asyncpg", PLAIN, 50, None))
    return [
        Line(what, "ms", [(floor[a], ours[b]) for floor, ours in pairs], target)
        for what, a, b, target in lines
    ]


def _read(shut: Gate, streams: list[Stream]) -> Readings:
    with reader.reading(streams) as begun:
        begun.wait_open()
        shut.open()
        return begun.read()


def _percentiles(ground: Ground, readings: Readings, paces: list[Pace]) -> Percentiles:
    """In milliseconds; and look that nothing is missing."""
    ground.problems += readings.problems
    for stream, pace in zip(readings.streams, paces, strict=True):
        if len(stream.latencies) != pace.deltas:
            ground.problems.append(f"{len(stream.latencies)} of {pace.deltas} deltas came")
    latencies = [each for stream in readings.streams for each in stream.latencies]
    cuts = statistics.quantiles(latencies, n=100)
    return {p: 1000 * cuts[p - 1] for p in PERCENTILES}


LATENCY: Final = Figure(
    name="latency",
    title=f"{STREAMS} runs x {RATE:.0f} events/s, read on the other replica",
    floor="the same emissions from a bare ASGI app, one process, no database; in the last line, "
    "plain asyncpg: one INSERT and one NOTIFY for all that is pending, LISTEN, SELECT",
    measure=_measure,
)
