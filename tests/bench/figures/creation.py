"""From a request to its first event: creations, many at once and beside streams, and resumed
streams."""

import json
import statistics
from collections.abc import Callable, Sequence
from typing import Final

from tests import servers
from tests.bench import bare, gate, reader, runs
from tests.bench.agents import AGENTS, Pace
from tests.bench.figure import Figure, Ground, Line, Target
from tests.bench.gate import Gate
from tests.bench.reader import Reading, Stream
from tests.servers import Replica

AT_ONCE: Final = 50
STREAMS: Final = 50
RATE: Final = 50.0
SECONDS: Final = 3.0
BURSTS: Final = (1.0, 2.0)
"""Seconds after the start of the streams at which so many are created at once."""

APART: Final = 0.02
"""Seconds between two streams that are resumed."""

READ_AT: Final = 0.5
READ_AGAIN_AT: Final = 1.8
EMITTED_AT: Final = 3.2
"""When streams of runs that wait are resumed, where others read them by then, and when they end."""

TARGET: Final = Target("<=", 3.0)
RESUMED: Final = Target("<=", 2.0)
SCHEMA: Final = "bench_creation"
ALONE: Final = f"{STREAMS} streams without bursts, p99"
BESIDE: Final = f"{STREAMS} streams beside {len(BURSTS)} bursts, p99"

Found = dict[str, float]
Created = Callable[[Pace], Stream]


def _measure(ground: Ground) -> list[Line]:
    rounds = ground.pick(full=5, quick=2)
    url = ground.postgres.url
    with (
        bare.serving() as port,
        servers.replicas(2, url, schema=SCHEMA, agents=AGENTS) as (one, other),
    ):
        pairs = ground.in_turn(
            rounds,
            lambda: _floor(ground, port),
            lambda: _ours(ground, one, other),
        )
    targets = {what: TARGET for what in pairs[0][0] if "p99" not in what}
    targets |= {what: RESUMED for what in pairs[0][0] if "resumed" in what}
    lines = [
        Line(what, "ms", [(floor[what], ours[what]) for floor, ours in pairs], targets.get(what))
        for what in pairs[0][0]
    ]
    beside = [(ours[ALONE], ours[BESIDE]) for _, ours in pairs]
    return [*lines, Line(f"{BESIDE}, and without them", "ms", beside, TARGET)]


# -- the two sides ------------------------------------------------------------------------------


def _floor(ground: Ground, port: int) -> Found:
    def created(pace: Pace) -> Stream:
        return Stream(port, "/created", json.dumps({"input": pace.as_text()}))

    found: Found = {}
    with gate.shut() as shut:
        found |= _at_once(ground, shut, created)
    with gate.shut() as shut:
        streams = [Stream(port, bare.paced_path(pace)) for pace in _paces(shut)]
        found |= _as_found(_beside(ground, shut, streams, created, BURSTS))
    with gate.shut() as shut:
        pace = Pace(2, str(shut.path), phase=EMITTED_AT)
        begun = Stream(port, bare.paced_path(pace, "begun"))
        found |= _resumed(ground, shut, [begun] * AT_ONCE)
    return found


def _ours(ground: Ground, one: Replica, other: Replica) -> Found:
    def created(pace: Pace) -> Stream:
        return runs.creation(one, pace)

    found: Found = {}
    with gate.shut() as shut:
        found |= _at_once(ground, shut, created)
    for bursts in ((), BURSTS):
        with gate.shut() as shut:
            ids = [runs.create(one, pace) for pace in _paces(shut)]
            streams = [runs.stream_of(one, id_) for id_ in ids]
            latencies = _beside(ground, shut, streams, created, bursts)
            found |= _as_found(latencies) if bursts else {ALONE: _p99(latencies)}
    with gate.shut() as shut:
        pace = Pace(2, str(shut.path), phase=EMITTED_AT)
        ids = [runs.create(one, pace) for _ in range(AT_ONCE)]
        found |= _resumed(ground, shut, [runs.stream_of(other, id_, after=0) for id_ in ids])
    return found


# -- what is measured ---------------------------------------------------------------------------


def _paces(shut: Gate) -> list[Pace]:
    deltas = round(RATE * SECONDS)
    phases = [place / STREAMS / RATE for place in range(STREAMS)]
    return [Pace(deltas, str(shut.path), RATE, phase, clock=True) for phase in phases]


def _read(ground: Ground, shut: Gate, streams: Sequence[Stream]) -> list[Reading]:
    with reader.reading(streams) as begun:
        begun.wait_open()
        shut.open()
        readings = begun.read()
    ground.note(readings)
    return readings.streams


def _at_once(ground: Ground, shut: Gate, created: Created) -> Found:
    burst = [created(Pace(3))._replace(gate=str(shut.path)) for _ in range(AT_ONCE)]
    read = _read(ground, shut, burst)
    firsts = [1000 * each.first for each in read]
    return {
        f"first event, {AT_ONCE} created at once, p50": statistics.median(firsts),
        f"first event, {AT_ONCE} created at once, p99": _p99(firsts),
    }


def _beside(
    ground: Ground,
    shut: Gate,
    streams: list[Stream],
    created: Created,
    bursts: Sequence[float],
) -> list[float]:
    """The latencies of streams, in ms, while many are created at once on the same replica."""
    burst = [
        created(Pace(3))._replace(gate=str(shut.path), phase=after)
        for after in bursts
        for _ in range(AT_ONCE)
    ]
    read = _read(ground, shut, [*streams, *burst])[: len(streams)]
    latencies = [1000 * latency for stream in read for latency in stream.latencies]
    expected = round(RATE * SECONDS) * len(streams)
    if len(latencies) != expected:
        ground.problems.append(f"{len(latencies)} of {expected} deltas came")
    return latencies


def _as_found(latencies: Sequence[float]) -> Found:
    return {
        f"{STREAMS} streams beside {len(BURSTS)} bursts, p50": statistics.median(latencies),
        BESIDE: _p99(latencies),
    }


def _resumed(ground: Ground, shut: Gate, streams: list[Stream]) -> Found:
    first = [
        stream._replace(gate=str(shut.path), phase=READ_AT + APART * place)
        for place, stream in enumerate(streams)
    ]
    again = [stream._replace(phase=stream.phase - READ_AT + READ_AGAIN_AT) for stream in first]
    read = _read(ground, shut, [*first, *again])
    return {
        f"stream resumed {where}, p50": statistics.median(1000 * each.first for each in some)
        for where, some in (
            ("elsewhere", read[: len(streams)]),
            ("where it is read", read[len(streams) :]),
        )
    }


def _p99(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=100)[98]


CREATION: Final = Figure(
    name="creation",
    title=f"first events: {AT_ONCE} created at once, also beside {STREAMS} streams x {RATE:.0f} "
    "events/s, and resumed streams",
    floor="the same from a bare ASGI app, one process, no database",
    measure=_measure,
)
