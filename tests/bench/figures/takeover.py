"""Takeover and handover in bulk: a replica with many runs of many steps is lost, or drained.

The floor of each line is the promised limit; a ratio up to 1 keeps it. That of the live streams is
their own p99 before the loss.
"""

import asyncio
import json
import signal
import statistics
import time
from collections.abc import Sequence
from typing import Final

from tests.bench.figure import Figure, Ground, Line, Target, Unit
from tests.faults import ground as faults
from tests.faults.ground import Follower, following
from tests.reading import eventually
from tests.servers import Replica

RUNS: Final = 35
TURNS: Final = ((("work", {"name": "a"}),),) * 11
TWO_TOOLS: Final = ((("work", {"name": "a"}), ("work", {"name": "c"})),)
"""With these, 25 finished steps: twelve model turns and thirteen tools."""

MODEL: Final = "plain"
"""Not `gated`, whose hooks are told of tools: so the Agents SDK replays all of its turns."""

GATED: Final = ((("work", {"name": "b"}),),)
LIVE: Final = 4
PAUSE: Final = 0.02
KEPT: Final = Target("<=", 1.0)
ENVIRONMENT: Final = {
    "LONGRUN_LEASE_SECONDS": "3",
    "LONGRUN_MAX_RUNS": "600",
    "LONGRUN_MAX_TURNS": "50",
    "LONGRUN_DRAIN_SECONDS": "4",
}


def _measure(ground: Ground) -> list[Line]:
    rounds = ground.pick(full=5, quick=2)
    ground.planned(2 * rounds)
    with faults.ground(ground.postgres, "bench_takeover", **ENVIRONMENT) as found:
        return asyncio.run(_all(ground, found, rounds))


async def _all(ground: Ground, found: faults.Ground, rounds: int) -> list[Line]:
    two = found.start(2)
    killed: list[tuple[float, float]] = []
    handed: list[tuple[float, float]] = []
    live: list[tuple[float, float]] = []
    for number in range(1, rounds + 1):
        ground.said(f"kill {number} of {rounds}")
        killed += await _killed(ground, found, two, live)
        ground.said(f"handover {number} of {rounds}")
        handed += await _handed_over(ground, found, two)
    return [
        *_lines("SIGKILL", 2.0, killed),
        *_lines("handover at drain", 1.0, handed),
        Line("p99 between two deltas of a live stream", "ms", live),
    ]


def _lines(what: str, limit: float, took: Sequence[tuple[float, float]]) -> list[Line]:
    again, new = zip(*took, strict=True)
    return [
        _line(f"{what} to the next event, median", limit, statistics.median(again)),
        _line(f"{what} to the next event, p95", limit, _p95(again)),
        _line(f"{what} to the first new one, p95", limit, _p95(new)),
    ]


def _line(what: str, limit: float, ours: float, unit: Unit = "s") -> Line:
    return Line(what, unit, [(limit, ours)], KEPT)


def _p95(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=20)[-1]


async def _begin(found: faults.Ground, gate: str, turns: tuple[object, ...]) -> list[str]:
    """Runs on a new replica, the last of `found.replicas`, at a gate after 25 steps."""
    found.close()
    (victim,) = found.start()
    script = {"gates": (gate,), "turns": (*TURNS, *TWO_TOOLS, *turns)}
    ids = await found.submit(victim, RUNS, model=MODEL, **script)
    await found.reach(ids, gate, timeout=60)
    return ids


async def _killed(
    ground: Ground, found: faults.Ground, two: list[Replica], live: list[tuple[float, float]]
) -> list[tuple[float, float]]:
    """Seconds from the loss to the next event of each run, and to the first that is new: after what
    the takeover says, and the replay."""
    ids = await _begin(found, "delta 3", ())
    victim = found.replicas[-1]
    beside = [
        (await found.submit(two[n % 2], turns=(), deltas=400, pause=PAUSE))[0] for n in range(LIVE)
    ]
    async with following(two, beside) as streams, following(two, ids) as followers:
        for follower in followers:
            await follower.until(lambda f=follower: f.count("response.output_text.delta") > 0)
        await asyncio.sleep(1.5)
        since = time.monotonic()
        victim.signal(signal.SIGKILL)
        found.open("delta 3")
    victim.wait()
    await _check(ground, found, [*followers, *streams])
    took = [_after(follower, since) for follower in followers]
    until = max(new for _, new in took)
    live.append((_p99(streams, 0.0, since), _p99(streams, since, since + until)))
    return took


def _after(follower: Follower, since: float) -> tuple[float, float]:
    """Until the first event after this moment, and the first that no takeover says."""
    began = [n for n, kind in enumerate(follower.types()) if kind == "response.in_progress"][-1]
    first = next(at for at in follower.times if at > since)
    return first - since, follower.times[began + 1] - since


def _p99(streams: Sequence[Follower], since: float, until: float) -> float:
    """Milliseconds between two events of a stream."""
    gaps = [
        1000 * (at - before)
        for stream in streams
        for before, at in zip(stream.times[5:], stream.times[6:], strict=False)
        if since < at < until
    ]
    return statistics.quantiles(gaps, n=100)[-1]


async def _handed_over(
    ground: Ground, found: faults.Ground, two: list[Replica]
) -> list[tuple[float, float]]:
    """From the end of the step in which all have to leave."""
    ids = await _begin(found, "in b", GATED)
    leaving = found.replicas[-1]
    async with following(two, ids) as followers:
        leaving.signal(signal.SIGTERM)
        await eventually(lambda: "stopping" in leaving.output())
        await asyncio.sleep(2.6)
        since = time.monotonic()
        found.open("in b")
    leaving.wait(30)
    await _check(ground, found, followers)
    return [_handed(follower, since) for follower in followers]


def _handed(follower: Follower, since: float) -> tuple[float, float]:
    began = [n for n, kind in enumerate(follower.types()) if kind == "response.in_progress"][-1]
    return follower.times[began] - since, follower.times[began + 1] - since


async def _check(ground: Ground, found: faults.Ground, followers: list[Follower]) -> None:
    """Each log is whole, its client has it, and no finished tool was called again."""
    async with found.sharing():
        for follower in followers:
            id_ = follower.response_id
            try:
                lines = await found.log_of(id_)
                faults.check_events(id_, [json.loads(line) for line in lines], "completed")
                assert follower.lines == lines, f"{id_}: its client has something else"
                done = [what for what, _, _ in found.effects_of(id_, "tool")]
                assert len(done) == len(set(done)), f"{id_}: a tool was called again"
            except AssertionError as error:
                ground.problems.append(str(error))


TAKEOVER: Final = Figure(
    name="takeover",
    title=f"a replica with {RUNS} runs of 25 finished steps each is lost, or drained",
    floor="what is promised",
    measure=_measure,
)
