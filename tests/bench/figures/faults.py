"""How long a loss is felt: what is promised of takeover, cancel and handover, beside what is.

The floor of each line is the promised limit; a ratio up to 1 keeps it.
"""

import asyncio
import re
import signal
import statistics
import time
from collections.abc import Sequence
from typing import Final

from tests.bench.figure import Figure, Ground, Line, Target, Unit
from tests.faults import ground as faults
from tests.faults.ground import Follower, following
from tests.reading import Wire, eventually
from tests.servers import Replica

RUNS: Final = 10
"""At each fault."""

LEASE: Final = 3.0
KEPT: Final = Target("<=", 1.0)
STEPS: Final = 200
SILENT: Final = 1000
SECONDS: Final = 15
EXECUTED: Final = re.compile(r"LOG: +duration: [\d.]+ ms +(execute|statement)\b")
"""Postgres notes a prepared statement up to three times: as it is parsed, bound and executed."""
ENVIRONMENT: Final = {
    "LONGRUN_LEASE_SECONDS": f"{LEASE:g}",
    "LONGRUN_MAX_TURNS": str(STEPS),
    "LONGRUN_MAX_RUNS": "600",
    "LONGRUN_DRAIN_SECONDS": "4",
}


def _measure(ground: Ground) -> list[Line]:
    kills, cancels = ground.pick(full=20, quick=3), ground.pick(full=60, quick=20)
    ground.planned(kills + 5)
    with faults.ground(ground.postgres, "bench_faults", **ENVIRONMENT) as found:
        return asyncio.run(_all(ground, found, kills, cancels))


async def _all(ground: Ground, found: faults.Ground, kills: int, cancels: int) -> list[Line]:
    two = found.start(2)
    killed: list[float] = []
    for number in range(1, kills + 1):
        ground.said(f"kill {number} of {kills}")
        killed += await _lost(ground, found, two, signal.SIGKILL)
    ground.said("freeze")
    frozen = await _lost(ground, found, two, signal.SIGSTOP)
    ground.said("cancel")
    cancelled = await _cancelled(found, two, cancels)
    ground.said("drain")
    handed = await _handed_over(ground, found, two)
    ground.said(f"replay of {STEPS} steps")
    replayed = await _replayed(ground, found, two)
    for replica in two:
        replica.end()
    ground.said(f"{SILENT} silent runs")
    statements = await _silent(found)
    return [
        _line("SIGKILL to the next event, p95", "s", 2.0, _p95(killed)),
        _line("frozen to the next event, p95", "s", LEASE + 2.0, _p95(frozen)),
        _line("cancel to its event at a third replica, p95", "ms", 300.0, 1000 * _p95(cancelled)),
        _line("handover at drain to the next event, p95", "s", 1.0, _p95(handed)),
        _line(f"replay of {STEPS} finished steps", "s", 1.0, replayed),
        _line(f"{SILENT} silent runs, two replicas", "statements/s", 5.0, statements),
    ]


def _line(what: str, unit: Unit, limit: float, ours: float) -> Line:
    return Line(what, unit, [(limit, ours)], KEPT)


def _p95(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=20)[-1]


async def _lost(
    ground: Ground, found: faults.Ground, two: list[Replica], fault: signal.Signals
) -> list[float]:
    """A third replica is lost amid its runs; seconds until each is heard of again."""
    found.close()
    (victim,) = found.start()
    ids = await found.submit(victim, RUNS, gates=("delta 3",))
    await found.reach(ids, "delta 3")
    async with following(two, ids) as followers:
        await _caught_up(followers)
        since = time.monotonic()
        victim.signal(fault)
        await found.reach(ids, "delta 3", attempt=2)
        found.open("delta 3")
    await _check(ground, found, ids, followers)
    victim.process.kill()
    victim.wait()
    return [_first_after(follower, since) for follower in followers]


async def _caught_up(followers: list[Follower]) -> None:
    """All have the three deltas before the gate, which may be merged into fewer events."""
    for follower in followers:
        await follower.until(lambda f=follower: any(b"word2 " in line for line in f.lines))


def _first_after(follower: Follower, since: float) -> float:
    return next(at for at in follower.times if at > since) - since


async def _check(
    ground: Ground, found: faults.Ground, ids: list[str], followers: list[Follower]
) -> None:
    try:
        await found.check_all(ids, followers)
    except AssertionError as error:
        ground.problems.append(str(error))


async def _cancelled(found: faults.Ground, two: list[Replica], count: int) -> list[float]:
    found.close()
    (owner,) = found.start()
    took = []
    for start in range(0, count, RUNS):
        ids = await found.submit(owner, min(RUNS, count - start), gates=("delta 3",))
        await found.reach(ids, "delta 3")
        async with following(two[1:], ids) as followers:
            await _caught_up(followers)
            for follower in followers:
                since = time.monotonic()
                url = f"{two[0].base_url}/responses/{follower.response_id}/cancel"
                async with await Wire.open(url, method="POST") as wire:
                    await wire.rest()
                await eventually(lambda f=follower: f.done)
                took.append(follower.times[-1] - since)
    owner.process.kill()
    owner.wait()
    return took


async def _handed_over(ground: Ground, found: faults.Ground, two: list[Replica]) -> list[float]:
    """From the end of the step in which a run has to leave."""
    found.close()
    (leaving,) = found.start()
    ids = await found.submit(leaving, RUNS, gates=("in b",))
    await found.reach(ids, "in b")
    async with following(two, ids) as followers:
        leaving.signal(signal.SIGTERM)
        await eventually(lambda: "stopping" in leaving.output())
        await asyncio.sleep(2.6)
        since = time.monotonic()
        found.open("in b")
    await _check(ground, found, ids, followers)
    leaving.wait(30)
    again = []
    for follower in followers:
        place = [n for n, kind in enumerate(follower.types()) if kind == "response.in_progress"][-1]
        again.append(follower.times[place] - since)
    return again


async def _replayed(ground: Ground, found: faults.Ground, two: list[Replica]) -> float:
    """From the takeover's first event to the first new one, which a replay goes before."""
    found.close()
    (victim,) = found.start()
    turns = tuple((("work", {"name": "a"}),) for _ in range(STEPS // 2))
    (id_,) = await found.submit(victim, model="plain", turns=turns, gates=("delta 1",))
    await found.reach([id_], "delta 1", timeout=60)
    async with following(two, [id_]) as (follower,):
        victim.signal(signal.SIGKILL)
        await found.reach([id_], "delta 1", attempt=2)
        found.open("delta 1")
    types = follower.types()
    place = len(types) - 1 - types[::-1].index("response.in_progress")
    if len(found.effects_of(id_, "tool")) != STEPS // 2:
        ground.problems.append("a finished tool was called again")
    return follower.times[place + 1] - follower.times[place]


async def _silent(found: faults.Ground) -> float:
    """What Postgres notes in its log, a line a statement, while nothing happens."""
    database = await found.value("SELECT current_database()")
    await found.sql(f"ALTER DATABASE {database} SET log_min_duration_statement = 0")
    try:
        return await _statements(found, found.start(2, LONGRUN_LEASE_SECONDS="10"))
    finally:
        await found.sql(f"ALTER DATABASE {database} RESET log_min_duration_statement")


async def _statements(found: faults.Ground, two: list[Replica]) -> float:
    ids: list[str] = []
    for _ in range(SILENT // 100):
        for replica in two:
            ids += await found.submit(replica, 50, turns=((("stuck", {}),),))

    def all_live() -> bool:
        return all(found.effects_of(id_, "tool") for id_ in ids)

    await eventually(all_live, 60, every=0.5)
    await asyncio.sleep(3)
    log = found.database.data / "log"
    start = log.stat().st_size
    await asyncio.sleep(SECONDS)
    with log.open() as file:
        file.seek(start)
        executed = sum(EXECUTED.search(line) is not None for line in file)
    return executed / SECONDS


FAULTS: Final = Figure(
    name="faults",
    title=f"a replica with {RUNS} runs is lost, a run is cancelled, all is silent",
    floor="what is promised",
    measure=_measure,
)
