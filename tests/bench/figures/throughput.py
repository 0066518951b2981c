"""Events persisted per second while runs go at full speed, the Agents SDK's own work included."""

import asyncio
import time
from typing import Final

import agents
from agents import Runner

from tests import servers
from tests.bench import gate, processes, runs
from tests.bench.agents import AGENTS, Pace
from tests.bench.agents import agents as bench_agents
from tests.bench.figure import Figure, Ground, Line, Target

RUNS: Final = 20
EXTRA: Final = 8
"""Events of a run that are no deltas: created, in_progress, item and part added; text, part and
item done; completed."""

SCHEMA: Final = "bench_throughput"
TARGET: Final = Target(">=", 0.5)


def _measure(ground: Ground) -> list[Line]:
    deltas, url = ground.pick(full=3000, quick=1500), ground.postgres.url
    with servers.replicas(1, url, schema=SCHEMA, agents=AGENTS) as (replica,):

        def ours() -> float:
            with gate.shut() as shut:
                pace = Pace(deltas, str(shut.path))
                ids = [runs.create(replica, pace) for _ in range(RUNS)]
                start = shut.open() - time.monotonic() + time.time()
                runs.wait_for_ends(url, SCHEMA, ids)
            logged = runs.logged(url, SCHEMA, ids, deltas + EXTRA)
            ground.problems += logged.problems
            return logged.events / (logged.finished_at - start)

        def floor() -> float:
            return float(processes.call(_sdk_alone, deltas=deltas))

        pairs = ground.in_turn(ground.pick(full=4, quick=1), floor, ours)
    return [Line("events persisted", "events/s", pairs, TARGET)]


async def _sdk_alone(parent: processes.Parent, deltas: int) -> float:
    """The same agents, driven by the SDK with nobody behind it. Returns events per second."""
    agents.set_tracing_disabled(True)
    served = bench_agents()[0]
    text = Pace(deltas).as_text()

    async def run() -> int:
        count = 0
        async for event in Runner.run_streamed(served, text).stream_events():
            count += event.type == "raw_response_event"
        return count

    await run()
    began = time.perf_counter()
    counts = await asyncio.gather(*(run() for _ in range(RUNS)))
    return sum(counts) / (time.perf_counter() - began)


THROUGHPUT: Final = Figure(
    name="throughput",
    title=f"{RUNS} runs at full speed",
    floor="the Agents SDK driving the same agents, drained in one process, nothing stored",
    measure=_measure,
)
