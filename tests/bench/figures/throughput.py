"""What is persisted per second while runs go at full speed, the Agents SDK's own work included.

Deltas of one part that wait for the same commit become one event, so what is counted is what the
models said: deltas and their characters, which are looked for in the log. Beside that, the same
with each delta an event of its own, and what both take.
"""

import asyncio
import contextlib
import json
import time
import urllib.request
from collections.abc import Iterator
from typing import Final, NamedTuple

import agents
from agents import Runner

from tests import servers
from tests.bench import gate, processes, runs
from tests.bench.agents import AGENTS, WORDS, Pace
from tests.bench.agents import agents as bench_agents
from tests.bench.figure import Figure, Ground, Line, Target
from tests.servers import Replica

RUNS: Final = 20
EXTRA: Final = 8
"""Events of a run that are no deltas: created, in_progress, item and part added; text, part and
item done; completed."""

POLL: Final = 0.25
"""Seconds between two polls of each run."""

SCHEMA: Final = "bench_throughput"
TARGET: Final = Target(">=", 0.6)
UNMERGED: Final = Target(">=", 0.5)


class Written(NamedTuple):
    """What a round wrote: deltas and characters a second; events and bytes for each delta."""

    deltas: float
    characters: float
    events: float
    size: float


def _measure(ground: Ground) -> list[Line]:
    deltas, url = ground.pick(full=3000, quick=1500), ground.postgres.url
    each_an_event = {"LONGRUN_MERGE_DELTAS": "false"}
    with (
        servers.replicas(1, url, schema=SCHEMA, agents=AGENTS) as (merging,),
        servers.replicas(
            1, url, schema=f"{SCHEMA}_events", agents=AGENTS, environment=each_an_event
        ) as (plain,),
    ):

        def ours() -> tuple[Written, Written, Written]:
            return (
                round_of(ground, merging, SCHEMA, deltas),
                round_of(ground, merging, SCHEMA, deltas, polled=True),
                round_of(ground, plain, f"{SCHEMA}_events", deltas),
            )

        def floor() -> float:
            return float(processes.call(_sdk_alone, deltas=deltas))

        pairs = ground.in_turn(ground.pick(full=4, quick=1), floor, ours)
    floors = [floor for floor, _ in pairs]
    merged, polled, unmerged = zip(*(ours for _, ours in pairs), strict=True)
    return [
        Line("persisted", "deltas/s", _rates(floors, merged), TARGET),
        Line("streams dropped, runs polled", "deltas/s", _rates(floors, polled), TARGET),
        Line("each delta an event", "deltas/s", _rates(floors, unmerged), UNMERGED),
        Line(
            "persisted",
            "characters/s",
            [
                (floor * len(WORDS), each.characters)
                for floor, each in zip(floors, merged, strict=True)
            ],
            TARGET,
        ),
        Line(
            "events of 1,000 deltas, beside each an event",
            "events",
            [
                (1000 * one.events, 1000 * other.events)
                for one, other in zip(unmerged, merged, strict=True)
            ],
        ),
        Line(
            "log of 1,000 deltas, beside each an event",
            "bytes",
            [
                (1000 * one.size, 1000 * other.size)
                for one, other in zip(unmerged, merged, strict=True)
            ],
        ),
    ]


def _rates(floors: list[float], written: tuple[Written, ...]) -> list[tuple[float, float]]:
    return [(floor, each.deltas) for floor, each in zip(floors, written, strict=True)]


def round_of(
    ground: Ground, replica: Replica, schema: str, deltas: int, *, polled: bool = False
) -> Written:
    """Let `RUNS` runs say so many deltas each, all from the same moment on."""
    url, characters = ground.postgres.url, RUNS * deltas * len(WORDS)
    with gate.shut() as shut:
        pace = Pace(deltas, str(shut.path))
        ids = [runs.create(replica, pace) for _ in range(RUNS)]
        with _disturbing(replica, ids) if polled else contextlib.nullcontext():
            start = shut.open() - time.monotonic() + time.time()
            runs.wait_for_ends(url, schema, ids)
    logged = runs.logged(url, schema, ids)
    ground.problems += logged.problems
    if logged.characters != characters:
        ground.problems.append(f"of {characters} characters {logged.characters} are in the log")
    seconds = logged.finished_at - start
    said = RUNS * deltas
    return Written(
        said / seconds, logged.characters / seconds, logged.events / said, logged.size / said
    )


@contextlib.contextmanager
def _disturbing(replica: Replica, ids: list[str]) -> Iterator[None]:
    """Open a stream of each run and drop it, and poll all of them."""
    with processes.started(_disturb, base_url=replica.base_url, ids=ids) as child:
        child.ready()
        yield
        child.stop()
        child.result()


async def _disturb(parent: processes.Parent, base_url: str, ids: list[str]) -> int:
    """Returns how many polls there were."""

    def drop(id_: str) -> None:
        with urllib.request.urlopen(
            f"{base_url}/responses/{id_}?stream=true", timeout=30
        ) as stream:
            stream.readline()

    def poll(id_: str) -> None:
        with urllib.request.urlopen(f"{base_url}/responses/{id_}", timeout=30) as answer:
            json.load(answer)

    async def follow(id_: str) -> int:
        polls = 0
        while not parent.stop.is_set():
            await asyncio.to_thread(poll, id_)
            polls += 1
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(parent.stopped(), POLL)
        return polls

    await asyncio.gather(*(asyncio.to_thread(drop, id_) for id_ in ids))
    parent.ready()
    return sum(await asyncio.gather(*map(follow, ids)))


async def _sdk_alone(parent: processes.Parent, deltas: int) -> float:
    """The same agents, driven by the SDK with nobody behind it. Returns deltas per second."""
    agents.set_tracing_disabled(True)
    served = bench_agents()[0]
    text = Pace(deltas).as_text()

    async def run() -> int:
        count = 0
        async for event in Runner.run_streamed(served, text).stream_events():
            if event.type == "raw_response_event":
                count += event.data.type == "response.output_text.delta"
        return count

    await run()
    began = time.perf_counter()
    counts = await asyncio.gather(*(run() for _ in range(RUNS)))
    return sum(counts) / (time.perf_counter() - began)


THROUGHPUT: Final = Figure(
    name="throughput",
    title=f"{RUNS} runs at full speed",
    floor="the Agents SDK driving the same agents, drained in one process, nothing stored; in the "
    "last two lines, ours with LONGRUN_MERGE_DELTAS=false",
    measure=_measure,
)
