"""Finished logs before and after their compaction: the disk, replays, its own cost, and who is live
meanwhile."""

import time
from typing import Final

from longrun.store.compaction import Compaction
from tests import servers
from tests.bench import gate, logs, processes, reader, runs, store
from tests.bench.agents import AGENTS
from tests.bench.emissions import latencies, paces, percentile
from tests.bench.figure import Figure, Ground, Line, Target
from tests.servers import Replica

SCHEMA: Final = "bench_compaction"
BUSY: Final = "bench_compaction_busy"
READERS: Final = 5
LIVE: Final = 50
SECONDS: Final = 3.0
PERCENTILES: Final = (50, 95, 99)
DELTA: Final = 150
"""Bytes of a delta as JSON, about."""


def _measure(ground: Ground) -> list[Line]:
    url = ground.postgres.url
    responses, events = ground.pick(full=(40, 5000), quick=(10, 2000))
    rounds = ground.pick(full=3, quick=1)
    ground.planned(4 * rounds + 1)
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
        *_live(ground),
    ]


def _live(ground: Ground) -> list[Line]:
    """Live runs on two replicas that have nothing to compact, and on two that are at it."""
    url = ground.postgres.url
    responses = ground.pick(full=400, quick=60)
    ground.said("a backlog")
    left = f"SELECT count(*) FROM {BUSY}.responses WHERE compacted_at IS NULL AND agent = 'bench'"
    at_once = {"LONGRUN_COMPACT_AFTER": "0.001"}
    never = {"LONGRUN_COMPACT_AFTER": "0"}
    with (
        servers.replicas(2, url, schema=SCHEMA, agents=AGENTS, environment=never) as idle,
        servers.replicas(2, url, schema=BUSY, agents=AGENTS, environment=at_once) as busy,
    ):

        def compacting() -> dict[int, float]:
            logs.add(url, BUSY, responses, 5000)
            _wait_until_begun(url)
            found = _emitted(ground, busy, BUSY)
            [row] = runs.query(url, left)
            if not row[0]:
                ground.problems.append("everything was compacted before the runs had ended")
            return found

        pairs = ground.in_turn(
            ground.pick(full=3, quick=1),
            lambda: _emitted(ground, idle, SCHEMA),
            compacting,
        )
    return [
        Line(f"{LIVE} live runs, emit to reader, p{p}", "ms", [(a[p], b[p]) for a, b in pairs])
        for p in PERCENTILES
    ]


def _emitted(ground: Ground, two: list[Replica], schema: str) -> dict[int, float]:
    """Runs on one of two replicas, read on the other: milliseconds from emission to reader."""
    with gate.shut() as shut:
        emitted = paces(shut, LIVE, SECONDS)
        ids = [runs.create(two[0], pace) for pace in emitted]
        pid = runs.process_of(ground.postgres.url, schema, ids[0])
        other = next(replica for replica in two if replica.process.pid != pid)
        streams = [runs.stream_of(other, id_) for id_ in ids]
        found = latencies(ground, shut, streams, emitted[0])
    return {p: percentile(found, p) for p in PERCENTILES}


def _wait_until_begun(url: str) -> None:
    """Wait until a replica has found the backlog."""
    done = f"SELECT count(*) FROM {BUSY}.responses WHERE compacted_at > now() - interval '1 s'"
    deadline = time.monotonic() + 60
    while not runs.query(url, done)[0][0]:
        if time.monotonic() > deadline:
            raise TimeoutError("no replica compacts")
        time.sleep(0.1)


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
