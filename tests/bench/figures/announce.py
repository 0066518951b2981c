"""What announcing costs: many writing and many listening replicas on one Postgres.

No HTTP and no agents: log writers and announcers in one process, listeners and hubs in another,
the rest of the machine for Postgres. In a real cluster each replica has cores of its own; here
the listeners' work is taken from the writers', so the ratio is rather too low than too high.
"""

import asyncio
import contextlib
import time
from typing import Any, Final

from longrun import ids
from longrun.fanout.hub import Hub
from longrun.store.database import Database
from longrun.store.events import EventLog
from longrun.store.listener import Listener
from tests.bench import processes, store
from tests.bench.figure import Figure, Ground, Line, Target
from tests.bench.store import Writing

WRITERS: Final = 16
LISTENERS: Final = 16
FLUSH: Final = 100
SCHEMA: Final = "bench_announce"
SETTLE: Final = 0.3
"""Seconds for the last announcements to arrive."""

TARGET: Final = Target(">=", 0.8)


def _measure(ground: Ground) -> list[Line]:
    url, seconds = ground.postgres.url, ground.pick(full=2.0, quick=1.0)
    responses = store.prepare(url, SCHEMA, WRITERS)

    def side(announcing: bool) -> float:
        store.forget(url, SCHEMA)
        with processes.started(_listen, url=url) as listening:
            listening.ready()
            rate, reached = processes.call(
                _write, url=url, responses=responses, announcing=announcing, seconds=seconds
            )
            time.sleep(SETTLE)
            listening.stop()
            heard = listening.result()
        ground.problems += store.gaps(url, SCHEMA, reached)
        if announcing and any(each != reached for each in heard):
            ground.problems.append("a listener has not heard how far the logs reach")
        return float(rate)

    pairs = ground.in_turn(
        ground.pick(full=4, quick=1), lambda: side(announcing=False), lambda: side(announcing=True)
    )
    return [Line(f"{FLUSH} events a flush", "events/s", pairs, TARGET)]


async def _write(
    parent: processes.Parent, url: str, responses: list[str], announcing: bool, seconds: float
) -> tuple[float, dict[str, int]]:
    """A writing replica for each response. Returns events per second and how far each got."""
    events = store.deltas(FLUSH)
    async with contextlib.AsyncExitStack() as stack:
        runs = []
        for response_id in responses:
            database = await stack.enter_async_context(store.opened(url, SCHEMA))
            replica = Writing(database, announcing=announcing, replicas=WRITERS + LISTENERS)
            await stack.enter_async_context(replica.running())
            runs.append(replica.writer.open(response_id, 1, 1))
        began = time.perf_counter()

        async def write(run: Any) -> None:
            while time.perf_counter() < began + seconds:
                run.append(events)
                await run.flush()

        await asyncio.gather(*(write(run) for run in runs))
        took = time.perf_counter() - began
    reached = {run.response_id: run.next_sequence - 1 for run in runs}
    return sum(reached.values()) / took, reached


async def _listen(parent: processes.Parent, url: str) -> list[dict[str, int]]:
    """Listening replicas. Returns what each has heard: how far each log reaches."""
    heard: list[dict[str, int]] = [{} for _ in range(LISTENERS)]
    async with contextlib.AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        for reached in heard:
            database = await stack.enter_async_context(store.opened(url, SCHEMA))
            listener, hub = _listening(database, reached)
            group.create_task(listener.run(parent.stop))
            group.create_task(hub.run(parent.stop))
            await listener.ready.wait()
        parent.ready()
        await parent.stopped()
    return heard


def _listening(database: Database, reached: dict[str, int]) -> tuple[Listener, Hub]:
    settings = database.settings
    hub = Hub(
        EventLog(database), ring_bytes=settings.ring_bytes, poll_interval=settings.poll_interval
    )

    def announced(response_id: str, last: int) -> None:
        reached[response_id] = last
        hub.announced(response_id, last)

    listener = Listener(
        database,
        ids.new_replica_id(),
        announced=announced,
        told=lambda _: None,
        caught_up=hub.look_again,
    )
    return listener, hub


ANNOUNCE: Final = Figure(
    name="announce",
    title=f"{WRITERS} writing and {LISTENERS} listening replicas, announcements on",
    floor="the same with announcements off",
    measure=_measure,
)
