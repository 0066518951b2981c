"""What announcing costs, and how late it is: sixteen writing replicas, sixteen that listen or read.

No HTTP and no agents: log writers and announcers in one process, listeners and hubs in another,
the rest of the machine for Postgres. In a real cluster each replica has cores of its own; here
the listeners' work is taken from the writers', so the ratio is rather too low than too high.

The other way is measured beside ours: each replica announces everything, at most once in 10 ms, as
DBOS does. It says nothing of what it reads; ours knows that all alive replicas do.

With announcements off nobody is told anything, but who reads has all of it nevertheless: a hub that
finds several commits at once looks every 20 ms. Two more lines tell what reading costs at all: ours
beside replicas that nobody reads, and beside plain asyncpg, which notifies after each commit (one
at a time: what comes meanwhile goes with the next) and selects what is new.
"""

import asyncio
import contextlib
import statistics
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Final, Literal, NamedTuple

import asyncpg

from tests.announcing import Half, all_look
from tests.bench import processes, store
from tests.bench.figure import Figure, Ground, Line, Target
from tests.bench.store import Writing

WRITERS: Final = 16
LISTENERS: Final = 16
FLUSH: Final = 100
HUMAN: Final = 50.0
"""Events a second of each log in the round at a human pace."""

COALESCED: Final = 0.010
"""Seconds between two NOTIFYs of a replica, the other way."""

SCHEMA: Final = "bench_announce"
SETTLE: Final = 0.5
"""Seconds for the last announcements to arrive."""

ALIVE_EVERY: Final = 0.5
"""Seconds between two looks around."""

TARGET: Final = Target(">=", 0.9)

How = Literal["none", "ours", "10 ms", "plain"]


class Found(NamedTuple):
    """Events a second, and seconds from a commit to who reads it: median."""

    rate: float
    lag: float


def _measure(ground: Ground) -> list[Line]:
    url, seconds = ground.postgres.url, ground.pick(full=2.0, quick=1.0)
    responses = store.prepare(url, SCHEMA, WRITERS)

    def side(how: How, reading: bool = False, pace: float = 0.0) -> Found:
        store.forget(url, SCHEMA)
        listen = _listen_plainly if how == "plain" else _listen
        with processes.started(
            listen, url=url, responses=responses, how=how, reading=reading
        ) as listening:
            others = listening.ready()
            rate, reached, committed = processes.call(
                _write,
                url=url,
                responses=responses,
                how=how,
                seconds=seconds,
                pace=pace,
                others=others,
            )
            time.sleep(SETTLE)
            listening.stop()
            heard = listening.result()
        ground.problems += store.gaps(url, SCHEMA, reached)
        if reading and how != "none":
            for id_, last in reached.items():
                if not heard[id_] or heard[id_][-1][0] != last:
                    ground.problems.append(f"who reads {id_} has not got to {last}")
        return Found(float(rate), _lag(committed, heard) if reading else 0.0)

    rounds = ground.pick(full=4, quick=1)

    def with_none() -> tuple[Found, Found]:
        return side("none"), side("none", reading=True)

    def with_some() -> list[Found]:
        return [
            side("ours"),
            side("ours", reading=True),
            side("plain", reading=True),
            side("10 ms"),
            side("10 ms", reading=True),
            side("ours", reading=True, pace=HUMAN),
            side("10 ms", reading=True, pace=HUMAN),
        ]

    pairs = ground.in_turn(rounds, with_none, with_some)
    return _lines(pairs)


def _lines(pairs: list[tuple[tuple[Found, Found], list[Found]]]) -> list[Line]:
    def rates(floor: int, ours: int) -> list[tuple[float, float]]:
        return [(none[floor].rate, some[ours].rate) for none, some in pairs]

    def beside(floor: int, ours: int) -> list[tuple[float, float]]:
        return [(some[floor].rate, some[ours].rate) for _, some in pairs]

    def lags(floor: int, ours: int) -> list[tuple[float, float]]:
        return [(1000 * some[floor].lag, 1000 * some[ours].lag) for _, some in pairs]

    return [
        Line("flat out, nobody reads elsewhere", "events/s", rates(0, 0), TARGET),
        Line("flat out, each read elsewhere", "events/s", rates(1, 1), TARGET),
        Line("each read elsewhere, beside nobody reading", "events/s", rates(0, 1)),
        Line("each read elsewhere, beside plain asyncpg", "events/s", beside(2, 1)),
        Line("every 10 ms, nobody reads elsewhere", "events/s", rates(0, 3)),
        Line("every 10 ms, each read elsewhere", "events/s", rates(1, 4)),
        Line("commit to reader flat out, p50, beside every 10 ms", "ms", lags(4, 1)),
        Line("commit to reader flat out, p50, beside plain asyncpg", "ms", lags(2, 1)),
        Line("commit to reader at 50/s, p50, beside every 10 ms", "ms", lags(6, 5)),
    ]


def _lag(
    committed: dict[str, list[tuple[int, float]]], heard: dict[str, list[tuple[int, float]]]
) -> float:
    """The median of seconds from each commit to when its reader had got so far."""
    lags = []
    for id_, commits in committed.items():
        coming = iter(heard[id_])
        covering = next(coming, None)
        for last, at in commits:
            while covering is not None and covering[0] < last:
                covering = next(coming, None)
            if covering is not None:
                lags.append(covering[1] - at)
    return statistics.median(lags) if lags else 0.0


async def _write(
    parent: processes.Parent,
    url: str,
    responses: list[str],
    how: How,
    seconds: float,
    pace: float,
    others: list[str],
) -> tuple[float, dict[str, int], dict[str, list[tuple[int, float]]]]:
    """A writing replica for each response. Returns events per second, how far each got, and when
    which event was committed."""
    events = store.deltas(1 if pace else FLUSH)
    committed: dict[str, list[tuple[int, float]]] = {id_: [] for id_ in responses}
    async with contextlib.AsyncExitStack() as stack:
        runs, halves, plain = [], [], dict[str, Callable[[str, int], None]]()
        for response_id in responses:
            database = await stack.enter_async_context(store.opened(url, SCHEMA))
            if how == "ours":
                half = Half(database)
                half.local.add(response_id)
                half.announcer.replicas = WRITERS + LISTENERS
                await stack.enter_async_context(half.running())
                halves.append(half)
                replica = Writing(database, announcer=half.announcer)
            else:
                replica = Writing(database, announcing=how == "10 ms", interval=COALESCED)
            if how == "plain":
                plain[response_id] = await stack.enter_async_context(_told_plainly(url))
            await stack.enter_async_context(replica.running())
            runs.append(replica.writer.open(response_id, 1, 1))
        looking = asyncio.create_task(_look(halves, others))
        # As replicas that have been there for some time.
        async with asyncio.timeout(30):
            while any(half.interests.elsewhere("nobody's") for half in halves):
                await asyncio.sleep(0.05)
        began = time.perf_counter()

        async def write(run: Any) -> None:
            while time.perf_counter() < began + seconds:
                run.append(events)
                await run.flush()
                last = run.next_sequence - 1
                committed[run.response_id].append((last, time.monotonic()))
                if how == "plain":
                    plain[run.response_id](run.response_id, last)
                if pace:
                    await asyncio.sleep(1 / pace)

        await asyncio.gather(*(write(run) for run in runs))
        took = time.perf_counter() - began
        looking.cancel()
        if how in ("ours", "plain"):
            await asyncio.sleep(SETTLE)
    reached = {run.response_id: run.next_sequence - 1 for run in runs}
    return sum(reached.values()) / took, reached, committed


async def _look(halves: list[Half], others: list[str]) -> None:
    """See again and again that all replicas are alive."""
    while True:
        all_look(*halves, also=tuple(others))
        await asyncio.sleep(ALIVE_EVERY)


async def _listen(
    parent: processes.Parent, url: str, responses: list[str], how: How, reading: bool
) -> dict[str, list[tuple[int, float]]]:
    """Listening replicas; with a reader for one response each, if `reading`. Returns, of each
    response, how far its reader had got, and when."""
    heard: dict[str, list[tuple[int, float]]] = {id_: [] for id_ in responses}
    async with contextlib.AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        halves, tails = [], []
        for response_id in responses:
            database = await stack.enter_async_context(store.opened(url, SCHEMA))
            half = Half(database)
            halves.append(await stack.enter_async_context(half.running()))
            if reading:
                read = heard[response_id]
                tails.append(group.create_task(_read(half, response_id, read)))
        looking = group.create_task(_look(halves, []))
        parent.ready([half.id for half in halves])
        await parent.stopped()
        for task in (looking, *tails):
            task.cancel()
    return heard


async def _read(half: Half, response_id: str, got: list[tuple[int, float]]) -> None:
    """A stream without a client."""
    with half.tail(response_id) as tail:
        while (await tail.next(10)) is not None:
            got.append((tail.cursor, time.monotonic()))


@contextlib.asynccontextmanager
async def _told_plainly(url: str) -> AsyncIterator[Callable[[str, int], None]]:
    """What tells of commits with a NOTIFY each, or of those of meanwhile with the next."""
    connection = await asyncpg.connect(url)
    reached: dict[str, int] = {}
    work = asyncio.Event()

    async def tell() -> None:
        while True:
            await work.wait()
            work.clear()
            for response_id, last in list(reached.items()):
                await connection.execute(
                    "SELECT pg_notify($1, $2)", f"plain_{response_id}", str(last)
                )

    def told(response_id: str, last: int) -> None:
        reached[response_id] = last
        work.set()

    task = asyncio.create_task(tell())
    try:
        yield told
    finally:
        task.cancel()
        await asyncio.wait([task])
        await connection.close()


async def _listen_plainly(
    parent: processes.Parent, url: str, responses: list[str], how: How, reading: bool
) -> dict[str, list[tuple[int, float]]]:
    """As `_listen`, without anything of ours."""
    heard: dict[str, list[tuple[int, float]]] = {id_: [] for id_ in responses}
    async with contextlib.AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        tasks = []
        for response_id in responses:
            connections = [await asyncpg.connect(url) for _ in range(2)]
            for each in connections:
                stack.push_async_callback(each.close)
            work = asyncio.Event()
            await connections[0].add_listener(
                f"plain_{response_id}", lambda *_, work=work: work.set()
            )
            reads = _read_plainly(connections[1], response_id, work, heard[response_id])
            tasks.append(group.create_task(reads))
        parent.ready([])
        await parent.stopped()
        for task in tasks:
            task.cancel()
    return heard


async def _read_plainly(
    connection: asyncpg.Connection,
    response_id: str,
    work: asyncio.Event,
    got: list[tuple[int, float]],
) -> None:
    query = await connection.prepare(
        f"SELECT first, last, data FROM {SCHEMA}.event_chunks"
        " WHERE response_id = $1 AND last > $2 ORDER BY last"
    )
    last = -1
    while True:
        await work.wait()
        work.clear()
        for row in await query.fetch(response_id, last):
            last = row["last"]
            got.append((last, time.monotonic()))


ANNOUNCE: Final = Figure(
    name="announce",
    title=f"{WRITERS} writing and {LISTENERS} listening replicas, announcements on",
    floor="the same with announcements off, where readers look every 20 ms once they find several "
    "commits at once; or what a line says that it is beside",
    measure=_measure,
)
