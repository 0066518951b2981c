"""What announces, listens and reads of a replica, without HTTP and runs, on a real Postgres."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from typing import Any

from longrun import ids
from longrun.fanout.hub import Hub
from longrun.fanout.tail import Tail
from longrun.store.announcer import Announcer
from longrun.store.database import Database
from longrun.store.events import EventLog
from longrun.store.interests import Interests
from longrun.store.listener import Listener
from longrun.store.parcels import Parcels
from tests.reading import eventually
from tests.storing import opened

LONG = 60.0
"""Seconds between polls: what comes sooner was announced, or looked for on purpose."""


class Half:
    """Half a replica: wired as in the application, but for who is alive, which a test says.

    Attributes:
        local: the responses that it executes.
        reached: how far it was told that logs reach.
        deaf: it hears nothing, though its connection is up.
    """

    def __init__(self, database: Database, *, poll_interval: float | None = None) -> None:
        self.id = ids.new_replica_id()
        self.database = database
        self.local: set[str] = set()
        self.reached: dict[str, int] = {}
        self.deaf = False
        self.log = EventLog(database)
        self.hub = Hub(
            self.log,
            ring_bytes=database.settings.ring_bytes,
            poll_interval=poll_interval or database.settings.poll_interval,
            join=lambda response_id: self.interests.join(response_id),
            leave=lambda response_id: self.interests.leave(response_id),
        )
        self.interests = Interests(
            self.id,
            reading=self.hub.reading,
            local=self.local.__contains__,
            hears=lambda: self.listener.connected,
            wanted=lambda response_id: self.announcer.announce_again(response_id),
            moved=self.hub.moved,
            strangers=lambda: self.announcer.announce_recent(),
            wake=lambda: self.announcer.wake(),
        )
        self.parcels = Parcels(database, self.id, reads=self.hub.reads, carried=self.hub.carried)
        self.announcer = Announcer(database, self.interests, self.parcels)
        self.listener = Listener(
            database,
            self.id,
            announced=self._announced,
            flows=self._flows,
            parcel=self._parcel,
            told=self._told,
            caught_up=self._caught_up,
        )

    def _announced(self, response_id: str, last: int) -> None:
        if not self.deaf:
            self.reached[response_id] = last
            self.hub.announced(response_id, last)

    def _flows(self, response_id: str) -> None:
        if not self.deaf:
            self.hub.flows(response_id)

    def _parcel(self, parcel: str, response_ids: Iterable[str]) -> None:
        if not self.deaf:
            self.parcels.received(parcel, response_ids)

    def _told(self, message: str) -> None:
        if not self.deaf:
            self.interests.heard(message)

    def _caught_up(self) -> None:
        self.hub.look_again()
        self.interests.reconnected()

    def tail(self, response_id: str, **given: Any) -> Tail:
        return Tail(self.hub, self.log, response_id, page_bytes=1 << 17, **given)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Half"]:
        stop = asyncio.Event()
        queries = self.database.queries
        await self.database.execute(queries.renew_lease, self.id, "host", 1, "1", 60.0, None)
        async with asyncio.TaskGroup() as group:
            for part in (self.parcels, self.listener, self.announcer, self.hub):
                group.create_task(part.run(stop))
            await self.listener.ready.wait()
            yield self
            stop.set()


def all_look(*halves: Half, also: tuple[str, ...] = ()) -> None:
    """Each sees that the others are alive, and some more."""
    for half in halves:
        half.interests.looked([*(each.id for each in halves), *also])


@contextlib.asynccontextmanager
async def halves_of(
    url: str, schema: str, count: int, **settings: object
) -> AsyncIterator[list[Half]]:
    """Halves of replicas that know each other, for a minute at most."""
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(asyncio.timeout(60))
        made = []
        for _ in range(count):
            own = await stack.enter_async_context(opened(url, schema, **settings))
            half = Half(own, poll_interval=LONG)
            made.append(await stack.enter_async_context(half.running()))
        all_look(*made)
        await eventually(lambda: not any(each.interests.elsewhere("nobody's") for each in made))
        yield made


class Following:
    """A reader that is always at the end: `cursor` is what it has."""

    def __init__(self, half: Half, response_id: str) -> None:
        self._tail = half.tail(response_id)
        self.cursor = -1

    async def run(self) -> None:
        with self._tail as tail:
            while (await tail.next(1.0)) is not None:
                self.cursor = tail.cursor

    async def has(self, number: int, *, within: float = 20.0) -> None:
        await eventually(lambda: self.cursor >= number, timeout=within, every=0.002)


@contextlib.asynccontextmanager
async def following(half: Half, response_id: str) -> AsyncIterator[Following]:
    """A reader that has what there is."""
    reader = Following(half, response_id)
    task = asyncio.create_task(reader.run())
    try:
        await reader.has(0)
        yield reader
    finally:
        task.cancel()
        await asyncio.wait([task])
