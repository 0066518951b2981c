"""Connections that are dead but open: noticed, made anew, and never waited for."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from longrun import ids
from longrun.errors import Unavailable
from longrun.store import pulse as pulses
from longrun.store.database import Database
from longrun.store.lease import Lease
from longrun.store.listener import Listener
from longrun.store.migrate import migrate
from longrun.store.pulse import Pulse
from tests import proxy
from tests.postgres import Server
from tests.proxy import Proxy
from tests.reading import eventually
from tests.storing import migrated, opened


@contextlib.asynccontextmanager
async def behind_a_proxy(
    database: Server, schema: str, **settings: object
) -> AsyncIterator[tuple[Proxy, Database]]:
    async with (
        proxy.before(database.url) as way,
        migrated(way.url, schema, lease_seconds=1, **settings) as mine,
    ):
        yield way, mine


@contextlib.asynccontextmanager
async def looked_after(database: Database) -> AsyncIterator[tuple[Pulse, list[float]]]:
    """A pulse at work, and when it said that Postgres is lost."""
    losses: list[float] = []
    pulse, stop = Pulse(database, lost=lambda: losses.append(time.monotonic())), asyncio.Event()
    async with asyncio.timeout(100), asyncio.TaskGroup() as group:
        group.create_task(pulse.run(stop))
        try:
            yield pulse, losses
        finally:
            stop.set()


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulses, "INTERVAL", 0.1)
    monkeypatch.setattr(pulses, "ANSWER_WITHIN", 1.0)
    monkeypatch.setattr(pulses, "DEAD_AFTER", 2.0)


async def test_the_kernel_is_told_to_notice_a_dead_peer(database: Server, schema: str) -> None:
    async with proxy.before(database.url) as way, opened(way.tcp_url, schema) as mine:
        direct = await mine.connect_directly("test")
        end = direct._transport.get_extra_info("socket")
        assert end.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 5
        assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 10_000
        direct.terminate()


class TestGivenUp:
    """A statement that is cancelled does not wait for a Postgres that hangs to agree."""

    @pytest.fixture
    async def hanging(self, database: Server, schema: str) -> AsyncIterator[Database]:
        async with behind_a_proxy(database, schema) as (way, mine):
            await mine.fetch("SELECT 1")
            way.silent = True
            yield mine
            way.silent = False
            # Its place in the pool is free again.
            await mine.fetch("SELECT 1")

    async def _transaction(self, mine: Database) -> None:
        async with mine.transaction() as connection:
            await connection.fetch("SELECT 1")

    @pytest.mark.parametrize("what", ["fetch", "fetch_once", "execute", "transaction"])
    async def test_it_ends_at_once(self, hanging: Database, what: str) -> None:
        if what == "transaction":
            work: Awaitable[object] = self._transaction(hanging)
        else:
            work = getattr(hanging, what)("SELECT 1")
        task = asyncio.ensure_future(work)
        await asyncio.sleep(0.2)
        began = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - began < 5

    async def test_one_that_waits_for_a_lock_is_cancelled_at_the_server_too(
        self, store: Database
    ) -> None:
        """It must not be executed later, when nobody waits for it any more."""
        schema = store.settings.db_schema
        async with store.transaction() as holder:
            await holder.execute(f'LOCK TABLE "{schema}".replicas')
            statement = f'DELETE FROM "{schema}".replicas'
            task = asyncio.ensure_future(store.execute(statement))
            await eventually(lambda: waits(store, statement))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not await waits(store, statement)


async def waits(store: Database, statement: str) -> bool:
    row = await store.fetch_row(
        "SELECT count(*) FROM pg_stat_activity WHERE query = $1 AND state = 'active'", statement
    )
    return row is not None and bool(row[0])


class TestKeptStatements:
    """What a lane executes again and again it has prepared."""

    async def test_on_each_connection(self, store: Database) -> None:
        lane = store.lane("test")
        lane.keep("SELECT $1::text AS said, pg_backend_pid() AS pid")
        pids = set()
        for said in ("one", "two", "three"):
            rows = await lane.fetch("SELECT $1::text AS said, pg_backend_pid() AS pid", said)
            assert [row["said"] for row in rows] == [said]
            pids.add(rows[0]["pid"])
            if said == "two":
                lane.terminate()
        assert len(pids) == 2

    async def test_what_a_migration_changes_is_prepared_anew(self, store: Database) -> None:
        query = f'SELECT * FROM "{store.settings.db_schema}".changing'
        await store.execute(query.replace("SELECT * FROM", "CREATE TABLE") + " (a integer)")
        lane = store.lane("test")
        lane.keep(query)
        assert await lane.fetch(query) == []
        await store.execute(query.replace("SELECT * FROM", "ALTER TABLE") + " ADD b integer")
        await store.execute(query.replace("SELECT * FROM", "INSERT INTO") + " VALUES (1, 2)")
        for _ in range(2):
            assert [tuple(row) for row in await lane.fetch(query)] == [(1, 2)]

    async def test_none_without_a_statement_cache(self, database: Server, schema: str) -> None:
        """A pooler is in between: the next statement may go to another server process."""
        async with opened(database.url, schema, statement_cache_size=0) as mine:
            lane = mine.lane("test")
            lane.keep("SELECT 1 AS n")
            for _ in range(2):
                assert [row["n"] for row in await lane.fetch("SELECT 1 AS n")] == [1]
            kept = await lane.fetch("SELECT statement FROM pg_prepared_statements")
            assert "SELECT 1 AS n" not in [row["statement"] for row in kept]


@pytest.mark.usefixtures("_impatient")
class TestPulse:
    @pytest.mark.parametrize("what", ["pool", "lane"])
    async def test_a_connection_that_is_dead_is_made_anew(
        self, database: Server, schema: str, what: str
    ) -> None:
        """It is open and silent; the statement would wait for its timeout of 30 s."""
        async with behind_a_proxy(database, schema) as (way, mine):
            lane = mine.lane("test")
            await lane.fetch("SELECT 1")
            async with looked_after(mine) as (pulse, losses):
                way.mute()
                began = time.monotonic()
                if what == "pool":
                    await mine.fetch("SELECT 1")
                else:
                    with pytest.raises(Exception, match="connection was closed"):
                        await lane.fetch("SELECT 1")
                    await lane.fetch("SELECT 1")
                assert time.monotonic() - began < 15
                assert not losses
                assert pulse.silent_since is None

    async def test_a_statement_that_takes_long_is_left_alone(
        self, database: Server, schema: str
    ) -> None:
        async with behind_a_proxy(database, schema) as (_, mine), looked_after(mine):
            lane = mine.lane("test")
            async with asyncio.TaskGroup() as group:
                group.create_task(lane.fetch("SELECT pg_sleep(4)"))
                group.create_task(mine.fetch_once("SELECT pg_sleep(4)"))

    async def test_a_statement_that_was_answered_meanwhile_keeps_its_connection(
        self, store: Database
    ) -> None:
        """The event loop may have been held up by a tool: its answer was there all the time."""
        lane = store.lane("test")
        asking = asyncio.ensure_future(lane.fetch("SELECT pg_backend_pid() AS pid, pg_sleep(0.5)"))
        await eventually(lambda: bool(store.waiting_since(time.monotonic())))
        waiting = store.waiting_since(time.monotonic())
        [before] = await asking
        await store.drop(waiting)
        [after] = await lane.fetch("SELECT pg_backend_pid() AS pid")
        assert waiting
        assert before["pid"] == after["pid"]

    async def test_a_postgres_that_falls_silent_is_noticed_and_lost_after_a_lease(
        self, database: Server, schema: str
    ) -> None:
        async with (
            behind_a_proxy(database, schema) as (way, mine),
            looked_after(mine) as (pulse, losses),
        ):
            way.silent = True
            began = time.monotonic()
            reading = asyncio.ensure_future(mine.fetch_once("SELECT 1"))
            await eventually(lambda: pulse.silent_since is not None, timeout=15)
            with pytest.raises(Unavailable):
                await reading
            asked = time.monotonic()
            with pytest.raises(Unavailable):
                await mine.fetch("SELECT 1")
            assert time.monotonic() - asked < 8, "a poll waits for three tries of ten seconds"
            await eventually(lambda: bool(losses), timeout=15)
            assert losses[0] - began > 1
            way.silent = False
            await eventually(lambda: pulse.silent_since is None, timeout=15)
            await mine.fetch("SELECT 1")

    async def test_a_postgres_that_is_down_says_so_and_is_not_lost(
        self, database: Server, schema: str
    ) -> None:
        """Nobody else has another: readers stay where they are."""
        async with (
            behind_a_proxy(database, schema) as (way, mine),
            looked_after(mine) as (pulse, losses),
        ):
            way.silent = True
            reading = asyncio.ensure_future(mine.fetch_once("SELECT 1"))
            await eventually(lambda: pulse.silent_since is not None, timeout=15)
            way.socket.rename(way.socket.with_suffix(".away"))
            await eventually(lambda: pulse.silent_since is None, timeout=15)
            count = len(losses)
            await asyncio.sleep(2)
            assert len(losses) == count
            way.socket.with_suffix(".away").rename(way.socket)
            way.silent = False
            with pytest.raises(Unavailable):
                await reading


class TestDirect:
    """A partition in the very moment of a statement that has no timeout of its own."""

    @pytest.fixture
    async def way(self, database: Server) -> AsyncIterator[Proxy]:
        async with proxy.before(database.url) as made:
            made.loss = "silence"
            yield made

    @pytest.fixture
    async def mine(self, way: Proxy, database: Server, schema: str) -> AsyncIterator[Database]:
        options = {"listen_url": way.url, "lease_seconds": 1}
        async with opened(database.url, schema, **options) as made:
            await migrate(made)
            yield made

    async def test_listen(self, way: Proxy, mine: Database) -> None:
        ignore: Callable[..., None] = lambda *_: None  # noqa: E731
        listener = Listener(
            mine, ids.new_replica_id(), announced=ignore, told=ignore, caught_up=ignore
        )
        way.marker, stop = b"LISTEN", asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(listener.run(stop))
            await eventually(lambda: listener.connected, timeout=15)
            stop.set()
        assert way.cuts == 1

    async def test_the_leases_prepare(self, way: Proxy, mine: Database) -> None:
        lease = Lease(mine, "replica_behind_a_partition", "1.0", ["agent"])
        way.marker = b"lease_until, agents)"
        await lease.begin()
        began = lease.renewed
        await eventually(lambda: way.cuts == 1 and lease.renewed > began, timeout=15)
        await lease.end()
