"""Many readers of one replica: of responses in which nothing happens, and of one run."""

import asyncio
import os
import time
from pathlib import Path
from typing import Final, NamedTuple

from tests import servers
from tests.bench import bare, gate, logs, processes, reader, runs
from tests.bench.agents import AGENTS, Pace
from tests.bench.emissions import latencies, percentile
from tests.bench.figure import Figure, Ground, Line, Target
from tests.bench.reader import Stream
from tests.servers import Replica

SCHEMA: Final = "bench_crowd"
KEPT: Final = Target("<=", 1.0)
STREAM_KIB: Final = 40.0
STATEMENTS: Final = 1.0
SECONDS: Final = 20.0
"""For which statements are counted: some are asked every 15 s."""

SETTLING: Final = 10.0
PATIENCE: Final = 300.0

AT_ONCE: Final = 200
"""Connections that are being opened at the same time."""

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_STATEMENTS: Final = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"


class Load(NamedTuple):
    """What a second costs: transactions, and processor milliseconds of Postgres and the replica."""

    statements: float
    postgres: float
    replica: float


def _measure(ground: Ground) -> list[Line]:
    url = ground.postgres.url
    idle, readers = ground.pick(full=(10_000, 1000), quick=(500, 100))
    ground.planned(5)
    lines = []
    for measured, count in ((_one_run, readers), (_idle, idle)):
        # On a replica of its own: memory that was used before is used again.
        with servers.replicas(1, url, schema=SCHEMA, agents=AGENTS) as (replica,):
            lines += measured(ground, replica, count)
    return lines


def _idle(ground: Ground, replica: Replica, count: int) -> list[Line]:
    ground.said(f"{count:,} responses")
    ids = logs.add_waiting(ground.postgres.url, SCHEMA, count)
    streams = [runs.stream_of(replica, id_) for id_ in ids]
    ground.said("nobody reads")
    with processes.started(_hold, streams=streams[:AT_ONCE]) as child:
        child.ready()  # what the first ones cost is not the others'
    before, alone = _resident(replica), _load(ground, replica)
    with processes.started(_hold, streams=streams) as child:
        ground.said(f"{count:,} idle streams")
        child.ready()
        time.sleep(SETTLING)  # each stream looks for the end of its log after its first event
        kib = (_resident(replica) - before) / count
        crowded = _load(ground, replica)
        child.stop()
        if (lost := child.result()) > 0:
            ground.problems.append(f"{lost} of {count} idle streams ended")
    added = max(0.0, crowded.statements - alone.statements)
    what = f"{count:,} idle streams"
    return [
        Line(f"{what}: memory of each", "KiB", [(STREAM_KIB, kib)], KEPT),
        Line(f"{what}: what they add", "statements/s", [(STATEMENTS, added)], KEPT),
        Line(f"{what}: CPU of Postgres a second", "ms", [(alone.postgres, crowded.postgres)]),
        Line(f"{what}: CPU of the replica a second", "ms", [(alone.replica, crowded.replica)]),
    ]


def _one_run(ground: Ground, replica: Replica, count: int) -> list[Line]:
    """One run that many read, from its beginning to its end."""
    ground.said(f"{count:,} readers of one run: floor")
    with bare.serving() as port, gate.shut() as shut:
        pace = Pace(100, str(shut.path), rate=10.0, clock=True)
        streams = [Stream(port, bare.paced_path(pace, "shared"))] * count
        floor = latencies(ground, shut, streams, pace)
    ground.said(f"{count:,} readers of one run")
    with gate.shut() as shut:
        id_ = runs.create(replica, Pace(100, str(shut.path), rate=10.0, clock=True))
        stream = runs.stream_of(replica, id_)
        with processes.started(_hold, streams=[stream] * 10) as child:
            child.ready()
        before = _resident(replica)
        with reader.reading([stream] * count) as begun:
            begun.wait_open()
            opened = _resident(replica)
            shut.open()
            runs.wait_for_ends(ground.postgres.url, SCHEMA, [id_])
            grown = _resident(replica) - before
            readings = begun.read()
    ground.problems += readings.problems[:5]
    ours = [1000 * each for stream in readings.streams for each in stream.latencies]
    emitted = f"{count:,} readers of one run: emit to each"
    what = f"{count:,} readers of one run: memory of each"
    return [
        *(
            Line(f"{emitted}, p{p}", "ms", [(percentile(floor, p), percentile(ours, p))])
            for p in (50, 99)
        ),
        Line(what, "KiB", [(STREAM_KIB, (opened - before) / count)], KEPT),
        Line(f"{what}, at its end", "KiB", [(STREAM_KIB, grown / count)], KEPT),
    ]


def _resident(replica: Replica) -> int:
    """KiB that a replica has in memory."""
    status = Path(f"/proc/{replica.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


def _load(ground: Ground, replica: Replica) -> Load:
    def now() -> tuple[float, int, float, float]:
        [row] = runs.query(ground.postgres.url, _STATEMENTS)
        return time.monotonic(), row[0], _cpu_below(ground.postgres.pid), _cpu(replica.process.pid)

    first = now()
    time.sleep(SECONDS)
    at, *last = now()
    statements, postgres, own = (
        (after - before) / (at - first[0]) for before, after in zip(first[1:], last, strict=True)
    )
    return Load(statements, 1000 * postgres, 1000 * own)


def _cpu(pid: int) -> float:
    """Processor seconds of a process, and of its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / _TICKS


def _cpu_below(pid: int) -> float:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return _cpu(pid) + sum(_cpu(int(child)) for child in children)


class _Held(asyncio.Protocol):
    """A stream of which only its beginning and its end are of interest."""

    def __init__(self, stream: Stream) -> None:
        self._path = stream.path
        self.begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        request = f"GET {self._path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        transport.write(request.encode())  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        if not self.begun.done() and b"event: " in data:
            self.begun.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True


async def _hold(parent: processes.Parent, streams: list[list[str]]) -> int:
    """Open streams, some at a time, and hold them until told to stop. Returns how many ended."""
    loop = asyncio.get_running_loop()
    slots = asyncio.Semaphore(AT_ONCE)

    async def hold(stream: Stream) -> _Held:
        held = _Held(stream)
        async with slots:
            await loop.create_connection(lambda: held, "127.0.0.1", stream.port)
            await asyncio.wait_for(held.begun, PATIENCE)
        return held

    everybody = await asyncio.gather(*(hold(Stream(*each)) for each in streams))  # type: ignore[arg-type]
    parent.ready()
    await parent.stopped()
    return sum(held.lost for held in everybody)


CROWD: Final = Figure(
    name="crowd",
    title="many readers of one replica, which serves and executes",
    floor="what is promised; of processor time, the same replica with nobody reading; of one run, "
    "the same from a bare ASGI app in memory, one process",
    measure=_measure,
)
