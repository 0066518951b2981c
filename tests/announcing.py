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
