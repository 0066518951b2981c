"""Finished logs before and after their compaction: the disk, replays, its own cost, and who is live
meanwhile."""

import time
from typing import Final

from longrun.store.compaction import Compaction
from tests import servers
from tests.bench import logs, processes, reader, runs, store
from tests.bench.agents import AGENTS
from tests.bench.figure import Figure, Ground, Line, Target

SCHEMA: Final = "bench_compaction"
READERS: Final = 5
DELTA: Final = 150
"""Bytes of a delta as JSON, about."""


def _measure(ground: Ground) -> list[Line]:
    url = ground.postgres.url
    responses, events = ground.pick(full=(40, 5000), quick=(10, 2000))
    rounds = ground.pick(full=3, quick=1)
    ground.planned(3 * rounds + 1)
    disk, replays, costs = [], [], []
    with servers.replicas(
        1, url, schema=SCHEMA, agents=AGENTS, environment={"LONGRUN_COMPACT_AFTER": "0"}
    ) as (replica,):
        for number in range(1, rounds + 1):
            runs.query(url, f"TRUNCATE {SCHEMA}.event_chunks, {SCHEMA}.responses CASCADE")
            ground.said(f"round {number} of {rounds}: logs of slow runs")
            ids = logs.add(url, SCHEMA, responses, events)
            total = responses * events
            streams = [runs.stream_of(replica, id_) for id_ in ids[:READERS]]
            before = logs.size(url, SCHEMA, "event_chunks") / total, _rate(ground, streams, events)
            ground.said(f"round {number} of {rounds}: compaction")
            seconds = processes.call(compact, url=url, schema=SCHEMA, ids=ids)
            after = logs.size(url, SCHEMA, "event_chunks") / total, _rate(ground, streams, events)
            disk.append((before[0], after[0]))
            replays.append((before[1], after[1]))
            costs.append((1e6 / before[1], 1e6 * seconds / total))
    return [
        Line(f"disk an event of {DELTA} bytes", "bytes", disk, Target("<=", 0.2)),
        Line(f"replay to {READERS} readers", "events/s", replays, Target(">=", 1.0)),
        Line("compaction of an event, beside one replay of it", "us", costs),
    ]


def _rate(ground: Ground, streams: list[reader.Stream], events: int) -> float:
    readings = reader.read(streams, times=ground.pick(full=5, quick=2))
    ground.note(readings)
    if any(stream.events != events for stream in readings.streams):
        ground.problems.append(f"a replay did not bring all {events} events")
    return readings.events / readings.seconds


async def compact(parent: processes.Parent, url: str, schema: str, ids: list[str]) -> float:
    """Seconds for all of these logs, one after the other, without a rest."""
    async with store.opened(url, schema) as database:
        restless = Compaction(database, rest=0.0)
        began = time.perf_counter()
        for id_ in ids:
            await restless.compact(id_)
        return time.perf_counter() - began


COMPACTION: Final = Figure(
    name="compaction",
    title="logs of slow runs, an event a chunk, before and after their compaction",
    floor="before",
    measure=_measure,
)
