"""The listener: one direct connection per replica that LISTENs and wakes readers.

Its callback only sets flags. A listener that stops reading pins the vacuum horizon of the whole
database, so nothing here may wait for anything else.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any, Final

import asyncpg

from longrun import metrics
from longrun.backoff import Backoff
from longrun.store.announcements import (
    control_channel,
    decode,
    events_channel,
    is_flowing,
    own_channel,
)
from longrun.store.database import Database
from longrun.store.parcels import MARK
from longrun.store.sqlstates import FAILURES

log = logging.getLogger("longrun.store.listener")

HEARTBEAT: Final = 5.0
"""asyncpg notices a dead connection only at the next query, so one is sent this often."""

RELOCK: Final = 0.2

LONGEST_BACKOFF: Final = 1.0
"""Short: a replica whose lock is free for long is taken for dead (Watch)."""


class Listener:
    """Receives what the replicas announce and tell, and holds the replica's lock.

    Args:
        announced: called with a response id and the sequence number that its log reaches.
        flows: called with a response whose log flows (store/flows.py), after that.
        parcel: called before that with what an announcement carries, and whose logs it is of.
        told: called with each message of the control channel.
        caught_up: called on every new connection: anything may have been missed before.
    """

    def __init__(
        self,
        database: Database,
        replica_id: str,
        *,
        announced: Callable[[str, int], None],
        flows: Callable[[str], None] | None = None,
        parcel: Callable[[str, Iterable[str]], None] | None = None,
        told: Callable[[str], None],
        caught_up: Callable[[], None],
    ) -> None:
        self._database = database
        self._replica_id = replica_id
        self._announced = announced
        self._flows = flows
        self._parcel = parcel
        self._told = told
        self._caught_up = caught_up
        self.connected = False
        self.ready = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Listen until `stop` is set, on a new connection whenever one is lost."""
        backoff = Backoff(0.05, LONGEST_BACKOFF)
        while not stop.is_set():
            try:
                await self._listen(stop)
                backoff.reset()
            except FAILURES as error:
                log.warning("LISTEN connection lost: %s: %s", type(error).__name__, error)
            if stop.is_set():
                return
            metrics.listener_reconnects.inc()
            await backoff.pause(stop)

    async def _listen(self, stop: asyncio.Event) -> None:
        """One connection, until it is lost or `stop` is set."""
        connection = await self._database.connect_directly("longrun listener")
        lost = asyncio.Event()
        connection.add_termination_listener(lambda _: lost.set())
        schema = self._database.settings.db_schema
        try:
            locked = await self._lock(connection)
            for channel in (events_channel(schema), own_channel(schema, self._replica_id)):
                await connection.add_listener(channel, self._receive)
            await connection.add_listener(control_channel(schema), self._receive_control)
            self._up(True)
            self._caught_up()
            while not (stop.is_set() or lost.is_set()):
                await _first(stop.wait(), lost.wait(), timeout=HEARTBEAT if locked else RELOCK)
                if not (stop.is_set() or lost.is_set()):
                    # The heartbeat's query; while the lock is not ours, it also asks for it.
                    locked = locked or await self._lock(connection)
                    await connection.execute(self._database.queries.beat, timeout=HEARTBEAT)
        finally:
            self._up(False)
            connection.terminate()

    async def _lock(self, connection: asyncpg.Connection) -> bool:
        """Hold the replica's lock. An old connection of ours may still have it for a moment."""
        query = self._database.queries.hold_replica_lock
        return bool(await connection.fetchval(query, self._replica_id, timeout=HEARTBEAT))

    def _up(self, connected: bool) -> None:
        self.connected = connected
        metrics.listening.set(connected)
        if connected:
            self.ready.set()

    def _receive(self, _connection: Any, _pid: int, _channel: str, message: object) -> None:
        hints, _, parcel = str(message).partition(MARK)
        reached = list(decode(hints))
        if parcel and self._parcel is not None:
            self._parcel(parcel, [response_id for response_id, _ in reached])
        for response_id, last in reached:
            self._announced(response_id, last)
        if self._flows is not None and is_flowing(hints):
            for response_id, _ in reached:
                self._flows(response_id)

    def _receive_control(self, _connection: Any, _pid: int, _channel: str, message: object) -> None:
        self._told(str(message))


async def _first(*waits: Any, timeout: float) -> None:
    """Wait for the first of some awaitables, or for the timeout."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
