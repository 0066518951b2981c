"""Announcer and listener: few messages, each small, on a connection that comes back."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import asyncpg
import pytest

from longrun import ids
from longrun.store.announcements import control_channel, decode, events_channel
from longrun.store.announcer import Announcer
from longrun.store.database import Database
from longrun.store.listener import Listener
from longrun.store.log_writer import LogWriter
from longrun.supervision import Supervisor
from tests.postgres import Server
from tests.reading import eventually
from tests.storing import add_response, connected, events, log_of, migrated, opened, terminate


@contextlib.asynccontextmanager
async def heard(url: str, channel: str) -> AsyncIterator[list[str]]:
    """All messages of a channel, by a connection of the test's own."""
    messages: list[str] = []
    async with connected(url) as connection:
        await connection.add_listener(channel, lambda *args: messages.append(str(args[3])))
        yield messages


@contextlib.asynccontextmanager
async def announcing(database: Database) -> AsyncIterator[Announcer]:
    announcer, stop = Announcer(database), asyncio.Event()
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(announcer.run(stop))
        try:
            yield announcer
        finally:
            stop.set()


@dataclass
class Heard:
    """What a listener told."""

    reached: dict[str, int] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)
    connections: int = 0

    def connected(self) -> None:
        self.connections += 1


@contextlib.asynccontextmanager
async def listening(database: Database) -> AsyncIterator[tuple[Listener, Heard]]:
    told, stop = Heard(), asyncio.Event()
    listener = Listener(
        database,
        ids.new_replica_id(),
        announced=told.reached.__setitem__,
        told=told.told.append,
        caught_up=told.connected,
    )
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(listener.run(stop))
        try:
            await listener.ready.wait()
            yield listener, told
        finally:
            stop.set()


class TestAnnouncer:
    async def test_a_thousand_announcements_of_one_response_are_one_message(
        self, store: Database, database: Server
    ) -> None:
        announcer, stop = Announcer(store), asyncio.Event()
        response_id = ids.new_response_id()
        async with heard(database.url, events_channel(store.settings.db_schema)) as messages:
            for last in range(1000):
                announcer.announce(response_id, last)
            stop.set()
            await announcer.run(stop)
            await eventually(lambda: bool(messages))
            assert messages == [f"{response_id}:999"]

    async def test_many_responses_are_split_into_messages_that_fit(
        self, store: Database, database: Server
    ) -> None:
        announcer, stop = Announcer(store), asyncio.Event()
        reached = {ids.new_response_id(): 10**n for n in range(19) for _ in range(60)}
        async with heard(database.url, events_channel(store.settings.db_schema)) as messages:
            for response_id, last in reached.items():
                announcer.announce(response_id, last)
            stop.set()
            await announcer.run(stop)
            await eventually(lambda: len(dict(told(messages))) == len(reached))
        assert dict(told(messages)) == reached
        assert max(len(message.encode()) for message in messages) < 8000
        assert len(messages) <= sum(map(len, messages)) // 7000 + 1

    async def test_when_idle_it_says_it_at_once(self, database: Server, schema: str) -> None:
        async with (
            migrated(database.url, schema, announce_interval=1) as store,
            heard(database.url, events_channel(schema)) as messages,
            announcing(store) as announcer,
        ):
            announcer.announce("resp_1", 1)
            await eventually(lambda: bool(messages), timeout=0.9, every=0.005)

    async def test_when_busy_it_says_it_once_an_interval(
        self, database: Server, schema: str
    ) -> None:
        async with (
            migrated(database.url, schema, announce_interval=0.2) as store,
            heard(database.url, events_channel(schema)) as messages,
        ):
            async with announcing(store) as announcer:
                loop = asyncio.get_running_loop()
                began = loop.time()
                for last in range(300):
                    announcer.announce("resp_1", last)
                    await asyncio.sleep(0.003)
                intervals = (loop.time() - began) / 0.2
            await eventually(lambda: dict(told(messages)) == {"resp_1": 299})
            assert 3 <= len(messages) <= intervals + 3

    @pytest.mark.parametrize(
        ("replicas", "rate", "takes", "interval"),
        [
            (1, 2000, 0.0003, 0.0005),
            (3, 2000, 0.004, 0.0005),
            (10, 2000, 0.004, 0.008),
            (32, 2000, 0.004, 0.0373),
            (32, 50, 0.0005, 0.0005),  # at a human pace it would spare hardly any
            (64, 2000, 0.02, 0.1),
        ],
    )
    async def test_the_interval_grows_with_the_load_and_the_replicas(
        self, store: Database, replicas: int, rate: int, takes: float, interval: float
    ) -> None:
        announcer = Announcer(store)
        assert announcer.interval == 0.0005
        announcer.replicas = replicas
        for _ in range(50):
            announcer.sent(rate // 10, 0.1, takes)
        assert announcer.interval == pytest.approx(interval, rel=0.01)
        for _ in range(50):
            announcer.sent(1, 0.1, 0.0001)
        assert announcer.interval == 0.0005

    async def test_nothing_is_forgotten_while_postgres_is_away(
        self, store: Database, database: Server
    ) -> None:
        channel = events_channel(store.settings.db_schema)
        announcer, stop = Announcer(store), asyncio.Event()
        supervisor = Supervisor()
        supervisor.add("announcer", announcer.run)
        async with heard(database.url, channel) as messages:
            killed = 0
            for last in range(5):
                announcer.announce("resp_1", last)
                announcer.announce(f"resp_1{last}", last)
                announcer.tell("work")
                killed += await terminate(database.url, application="longrun announcer")
                task = asyncio.create_task(supervisor.run(stop))
                await eventually(lambda last=last: dict(told(messages)).get("resp_1") == last)
                stop.set()
                await task
                stop.clear()
        assert killed >= 4
        assert dict(told(messages)) == {"resp_1": 4} | {f"resp_1{n}": n for n in range(5)}


class TestListener:
    async def test_it_hears_announcements_and_what_replicas_tell(self, store: Database) -> None:
        async with listening(store) as (_, heard), announcing(store) as announcer:
            announcer.announce("resp_1", 7)
            announcer.tell("work")
            announcer.tell("taken resp_1 2")
            await eventually(lambda: heard.reached == {"resp_1": 7})
            await eventually(lambda: heard.told == ["work", "taken resp_1 2"])
            assert heard.connections == 1

    async def test_killed_it_comes_back_and_says_that_it_missed_something(
        self, store: Database, database: Server
    ) -> None:
        async with listening(store) as (listener, heard), announcing(store) as announcer:
            for round_ in range(1, 4):
                killed = await terminate(database.url, application="longrun listener")
                assert killed >= 1
                await eventually(lambda expected=round_ + 1: heard.connections == expected)  # type: ignore[misc]
                await eventually(lambda: listener.connected)
                announcer.announce("resp_1", round_)
                await eventually(lambda expected=round_: heard.reached == {"resp_1": expected})  # type: ignore[misc]

    async def test_a_message_that_is_no_announcement_is_passed_over(
        self, store: Database, database: Server
    ) -> None:
        channel = events_channel(store.settings.db_schema)
        async with listening(store) as (_, heard), connected(database.url) as connection:
            for message in ("", "x", ":", "resp_1:", ":5", "resp_1:x", "a:1:2", ",,,", "é:9"):
                await connection.execute("SELECT pg_notify($1, $2)", channel, message)
            await connection.execute("SELECT pg_notify($1, 'resp_2:5')", channel)
            await eventually(lambda: heard.reached.get("resp_2") == 5)
            assert heard.connections == 1

    async def test_two_schemas_do_not_hear_each_other(
        self, store: Database, database: Server
    ) -> None:
        other = f"{store.settings.db_schema}_b"
        async with (
            opened(database.url, other) as second,
            listening(store) as (_, mine),
            listening(second) as (_, theirs),
            announcing(store) as announcer,
        ):
            announcer.announce("resp_1", 1)
            announcer.tell("work")
            await eventually(lambda: mine.told == ["work"])
            async with connected(database.url) as connection:
                await connection.execute(f"NOTIFY {control_channel(other)}, 'end'")
            await eventually(lambda: theirs.told == ["end"])
            assert theirs.reached == {}


def told(messages: list[str]) -> list[tuple[str, int]]:
    return [each for message in messages for each in decode(message)]


@pytest.mark.parametrize("last", [0, 1, 2**63 - 1])
async def test_the_largest_numbers_fit(store: Database, database: Server, last: int) -> None:
    async with (
        heard(database.url, events_channel(store.settings.db_schema)) as messages,
        announcing(store) as announcer,
    ):
        announcer.announce("resp_1", last)
        await eventually(lambda: told(messages) == [("resp_1", last)])


class TestAlong:
    """Announcements that an append takes along; the announcer by itself says nothing here."""

    async def test_an_append_says_how_far_its_logs_reach(
        self, store: Database, database: Server
    ) -> None:
        ids = [await add_response(store) for _ in range(2)]
        channel = events_channel(store.settings.db_schema)
        async with heard(database.url, channel) as messages, writer_of(store) as writer:
            for log in [log_of(writer, id_) for id_ in ids]:
                log.append(events(1, 3))
            await eventually(lambda: dict(told(messages)) == dict.fromkeys(ids, 3))
            assert len(messages) == 1

    async def test_not_of_a_run_that_is_fenced(self, store: Database, database: Server) -> None:
        held, fenced = [await add_response(store) for _ in range(2)]
        channel = events_channel(store.settings.db_schema)
        async with heard(database.url, channel) as messages, writer_of(store) as writer:
            for log in (log_of(writer, fenced, attempt=2), log_of(writer, held)):
                log.append(events(1, 1))
            await eventually(lambda: bool(messages))
            assert told(messages) == [(held, 1)]

    async def test_what_refuses_a_message_does_not_refuse_the_append(
        self, store: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As when the notification queue is full: it is announced by itself then."""
        response_id = await add_response(store)
        async with writer_of(store) as writer:
            fetch, announcer = writer._lane.fetch, writer._announcer
            assert announcer is not None

            async def refusing(query: str, *args: object) -> list[asyncpg.Record]:
                if "pg_notify" in query:
                    raise asyncpg.ProgramLimitExceededError("too many notifications")
                return await fetch(query, *args)

            monkeypatch.setattr(writer._lane, "fetch", refusing)
            log = log_of(writer, response_id)
            log.append(events(1, 1))
            await log.flush()
            assert announcer._reached == {response_id: 1}
            assert announcer.along({1: response_id})[0] == []

    @pytest.mark.parametrize(
        ("replicas", "takes", "every", "goes"),
        [
            (2, 0.001, 0.02, True),  # one run at a human pace
            (2, 0.0006, 0.0008, True),  # many, on two replicas
            (4, 0.005, 0.005, False),  # a slow disk, and much to write
            (32, 0.001, 0.002, False),
            (32, 0.001, 0.2, True),
        ],
    )
    async def test_only_where_hardly_anybody_would_wait_for_the_lock(
        self,
        store: Database,
        monkeypatch: pytest.MonkeyPatch,
        replicas: int,
        takes: float,
        every: float,
        goes: bool,
    ) -> None:
        """Of appends that take so many seconds, and are so many apart."""
        now = 1000.0
        monkeypatch.setattr("longrun.store.announcer.time.monotonic", lambda: now)
        announcer = Announcer(store)
        announcer.replicas = replicas
        for _ in range(50):
            now += every
            announcer.appended(takes, told=False)
        assert announcer.along({1: "resp_1", 2: "resp_2"})[0] == ([1, 2] if goes else [])
        assert announcer.along({n: f"resp_{n}" for n in range(1000)})[0] == []


@contextlib.asynccontextmanager
async def writer_of(database: Database) -> AsyncIterator[LogWriter]:
    """A log writer whose announcer does not run."""
    writer, stop = LogWriter(database, lambda *_: None, Announcer(database)), asyncio.Event()
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(writer.run(stop))
        try:
            yield writer
        finally:
            stop.set()
