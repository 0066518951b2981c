"""Small chunks come with their announcement; what does not, is forged or not opened, is fetched."""

import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncIterator, Mapping

import asyncpg
import pytest

from longrun import ids
from longrun.store.announcements import own_channel
from longrun.store.database import Database
from longrun.store.events import News
from longrun.store.log_writer import LogWriter
from longrun.store.parcels import KEY_BYTES, MARK, MOST_WAITING, Parcels, Waiting, stored
from longrun.store.records import Chunk
from tests.announcing import Half, halves_of
from tests.postgres import Server
from tests.reading import eventually
from tests.storing import add_response, connected, event, log_of, logged, opened, terminate


class Reading:
    """A reader of a log: the events that it has."""

    def __init__(self, half: Half, response_id: str) -> None:
        self._tail = half.tail(response_id)
        self.events: list[int] = []

    async def run(self) -> None:
        with self._tail as tail:
            while (block := await tail.next(5.0)) is not None:
                for chunk in block:
                    lines = chunk.data.split(b"\n")
                    self.events += [json.loads(line)["sequence_number"] for line in lines]

    async def has(self, last: int) -> None:
        """Everything up to there, each once and in order."""
        await eventually(lambda: len(self.events) > last, timeout=20, every=0.005)
        assert self.events == list(range(last + 1))


class Pair:
    """One that writes, one that reads; each knows the other, and its key.

    Attributes:
        fetched: of which logs the second one has asked Postgres what is new.
    """

    def __init__(self, database: Database, one: Half, two: Half) -> None:
        self.one, self.two = one, two
        self.writer = LogWriter(database, one.hub.committed, one.announcer)
        self.fetched: list[str] = []
        news = two.log.news_unscoped

        async def counted(positions: Mapping[str, int], limit: int) -> dict[str, News]:
            self.fetched += positions
            return await news(positions, limit)

        two.log.news_unscoped = counted  # type: ignore[method-assign]

    async def write(self, response_id: str, first: int, count: int = 1, **fields: str) -> None:
        """Commit some events, each by itself."""
        log = log_of(self.writer, response_id, first=first)
        for number in range(first, first + count):
            log.append([event(number, **fields)])
            await log.flush()

    async def carries(self, response_id: str, first: int, *readers: Reading, **fields: str) -> int:
        """Commit events until one has come to the reader without a fetch, and say how many that
        took: a look that was due anyway may come before it."""
        last = first - 1

        async def comes() -> bool:
            nonlocal last
            self.fetched.clear()
            last += 1
            await self.write(response_id, last, **fields)
            for reader in readers:
                await reader.has(last)
            return not self.fetched

        await eventually(comes)
        return last - first + 1

    @contextlib.asynccontextmanager
    async def reading(self, response_id: str, last: int = 0) -> AsyncIterator[Reading]:
        """A reader on the second one that has what there is, and of which the first one knows."""
        reader = Reading(self.two, response_id)
        task = asyncio.create_task(reader.run())
        try:
            await reader.has(last)
            await eventually(lambda: self.one.interests.is_read(response_id), every=0.005)
            yield reader
        finally:
            task.cancel()
            await asyncio.wait([task])


async def knows(one: Half, two: Half) -> None:
    """Both have told their keys, and have heard of the other's."""
    for half in (one, two):
        await half.parcels._look()
    await one.parcels._look()
    await eventually(lambda: one.parcels.may_go and two.parcels.may_go)


@contextlib.asynccontextmanager
async def pair(url: str, schema: str, **settings: object) -> AsyncIterator[Pair]:
    async with halves_of(url, schema, 2, **settings) as (one, two):
        if one.database.settings.announce_chunks:
            await knows(one, two)
        both = Pair(one.database, one, two)
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(both.writer.run(stop))
            try:
                yield both
            finally:
                stop.set()


@pytest.fixture
async def both(store: Database, database: Server) -> AsyncIterator[Pair]:
    async with pair(database.url, store.settings.db_schema) as made:
        yield made


async def test_who_reads_elsewhere_has_all_of_it_without_asking_postgres(
    store: Database, both: Pair
) -> None:
    response_id = await add_response(store)
    async with both.reading(response_id) as reader:
        last = 0
        for _ in range(10):
            last += await both.carries(response_id, last + 1, reader)


async def test_a_commit_of_many_logs_carries_all_that_fit(store: Database, both: Pair) -> None:
    found = [await add_response(store) for _ in range(5)]
    async with contextlib.AsyncExitStack() as stack:
        readers = [await stack.enter_async_context(both.reading(each)) for each in found]
        logs = [log_of(both.writer, each) for each in found]
        last = 0

        async def come() -> bool:
            nonlocal last
            both.fetched.clear()
            for log in logs:
                log.append([event(last + 1), event(last + 2)])
            last += 2
            for log, reader in zip(logs, readers, strict=True):
                await log.flush()
                await reader.has(last)
            return not both.fetched

        await eventually(come)


@pytest.mark.parametrize("text", ["x" * 50_000, bytes(range(33, 127)).decode() * 2])
async def test_a_large_chunk_is_carried_if_it_gets_small(
    store: Database, both: Pair, text: str
) -> None:
    response_id = await add_response(store)
    async with both.reading(response_id) as reader:
        await both.carries(response_id, 1, reader, delta=text)


async def test_what_does_not_fit_is_fetched_and_what_comes_then_is_carried(
    store: Database, both: Pair
) -> None:
    response_id = await add_response(store)
    large = "".join(ids.new_response_id() for _ in range(2_000))
    async with both.reading(response_id) as reader:
        both.fetched.clear()
        await both.write(response_id, 1, delta=large)
        await reader.has(1)
        assert both.fetched
        await both.carries(response_id, 2, reader)


@pytest.fixture
def by_themselves(both: Pair) -> None:
    """No append takes its announcement along."""
    both.one.announcer._may_go_along = lambda: False  # type: ignore[method-assign]


@pytest.mark.usefixtures("by_themselves")
async def test_what_is_announced_by_itself_carries_too(store: Database, both: Pair) -> None:
    response_id = await add_response(store)
    async with both.reading(response_id) as reader:
        last = 0
        for _ in range(5):
            last += await both.carries(response_id, last + 1, reader)
        large = "".join(ids.new_response_id() for _ in range(2_000))
        both.fetched.clear()
        await both.write(response_id, last + 1, delta=large)
        await reader.has(last + 1)
        assert both.fetched
        await both.carries(response_id, last + 2, reader)


@pytest.mark.usefixtures("by_themselves")
async def test_all_that_was_committed_since_the_last_goes_along(
    store: Database, both: Pair
) -> None:
    found = [await add_response(store) for _ in range(3)]
    async with contextlib.AsyncExitStack() as stack:
        readers = [await stack.enter_async_context(both.reading(each)) for each in found]
        last = 0

        async def come() -> bool:
            nonlocal last
            both.fetched.clear()
            both.one.announcer._rests_until = time.monotonic() + 0.1
            for each in found:
                await both.write(each, last + 1, 4)
            last += 4
            for reader in readers:
                await reader.has(last)
            return not both.fetched

        await eventually(come)


@pytest.mark.usefixtures("by_themselves")
async def test_who_cannot_open_a_parcel_fetches_what_is_in_it(store: Database, both: Pair) -> None:
    """As the version before parcels, and who does not know the key yet."""
    both.two.listener._parcel = None
    response_id = await add_response(store)
    async with both.reading(response_id) as reader:
        both.fetched.clear()
        await both.write(response_id, 1, 5)
        await reader.has(5)
        assert both.fetched


async def test_a_run_that_is_fenced_carries_nothing(store: Database, both: Pair) -> None:
    """Nor does any other in its batch: what a commit carries was made before it."""
    held, fenced = [await add_response(store) for _ in range(2)]
    async with both.reading(held) as reader, both.reading(fenced) as other:
        lost = both.writer.open(fenced, 2, 1)
        log = log_of(both.writer, held)
        for each in (lost, log):
            each.append([event(1)])
        await log.flush()
        await reader.has(1)
        assert other.events == [0]
        await both.carries(held, 2, reader)


async def test_they_can_be_turned_off(store: Database, database: Server) -> None:
    async with pair(database.url, store.settings.db_schema, announce_chunks=False) as both:
        response_id = await add_response(store)
        async with both.reading(response_id) as reader:
            both.fetched.clear()
            await both.write(response_id, 1, 2)
            await reader.has(2)
            assert both.fetched


async def test_the_listen_connection_is_cut(store: Database, database: Server, both: Pair) -> None:
    response_id = await add_response(store)
    async with both.reading(response_id) as reader:
        for first in (1, 11, 21):
            await terminate(database.url, application="longrun listener")
            await both.write(response_id, first, 10)
            await reader.has(first + 9)


async def test_a_key_that_is_not_known_yet_is_asked_for(store: Database, both: Pair) -> None:
    response_id = await add_response(store)
    async with both.reading(response_id) as reader:
        both.two.parcels._others.clear()
        both.fetched.clear()
        await both.write(response_id, 1)
        await reader.has(1)
        assert both.fetched
        await eventually(lambda: bool(both.two.parcels._others))
        await both.carries(response_id, 2, reader)


async def test_no_key_is_taken_for_a_sealed_one(
    store: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One in 256 random ones begins as an envelope does."""
    unlucky, draw = iter((b"\1" * KEY_BYTES, b"\1" + b"x" * (KEY_BYTES - 1))), os.urandom
    monkeypatch.setattr(
        os, "urandom", lambda n: next(unlucky, draw(n)) if n == KEY_BYTES else draw(n)
    )
    async with contextlib.AsyncExitStack() as stack:
        halves = []
        for _ in range(2):
            database = await stack.enter_async_context(opened(store._url, store.settings.db_schema))
            halves.append(await stack.enter_async_context(Half(database).running()))
        await knows(*halves)
        assert halves[1].parcels._others[halves[0].id] is not None
        assert next(unlucky, None) is None


class TestForgeries:
    """Any role of the database can send whatever it likes."""

    async def test_change_nothing(self, store: Database, database: Server, both: Pair) -> None:
        response_id = await add_response(store)
        one, two = both.one, both.two
        channel = own_channel(store.settings.db_schema, two.id)
        bad = Chunk(1, 1, event(1, delta="forged"))
        mine = Parcels(store, one.id, reads=lambda _: True, carried=lambda *_: None)
        forged = mine.pack([stored(response_id, bad)], 5_000)
        real = one.parcels.pack([stored(response_id, bad)], 5_000)
        messages = [
            f"{response_id}:1{parcel}"
            for parcel in (
                forged,  # with another key
                real.replace(one.id, two.id),  # from somebody else
                real.replace(one.id, ids.new_replica_id()),
                real[:-8],
                real[: len(MARK + one.id) + 1],
                real + "A",
                f"{MARK}{one.id}:{'é' * 40}",
                f"{MARK}{one.id}",
                MARK,
                f"{MARK}:",
            )
        ]
        async with both.reading(response_id) as reader, connected(database.url) as anybody:
            topic = two.hub._topics[response_id]
            await eventually(lambda: topic.ring is not None, every=0.005)
            # What the last one says comes after them, since all are one session's.
            for message in [*messages, f"{response_id}:2"]:
                await anybody.execute("SELECT pg_notify($1, $2)", channel, message)
            await eventually(lambda: two.reached.get(response_id) == 2)
            assert topic.ring is not None
            assert topic.ring.end == 0
            assert reader.events == [0]
            await both.write(response_id, 1, 3)
            await reader.has(3)
        assert [each["sequence_number"] for each in await logged(store, response_id)] == [
            0,
            1,
            2,
            3,
        ]

    async def test_a_parcel_that_comes_again_changes_nothing(
        self, store: Database, database: Server, both: Pair
    ) -> None:
        response_id = await add_response(store)
        channel = own_channel(store.settings.db_schema, both.two.id)
        async with connected(database.url) as spy:
            heard: list[str] = []
            await spy.add_listener(channel, lambda *args: heard.append(str(args[3])))
            async with both.reading(response_id) as reader:
                last = 0
                for _ in range(3):
                    last += await both.carries(response_id, last + 1, reader)
                await eventually(lambda: sum(MARK in message for message in heard) >= 3)
                for message in [*heard[::-1], *heard]:
                    await spy.execute("SELECT pg_notify($1, $2)", channel, message)
                await both.write(response_id, last + 1)
                await reader.has(last + 1)

    async def test_what_it_says_cannot_be_read_by_who_hears_it(
        self, store: Database, database: Server, both: Pair
    ) -> None:
        response_id = await add_response(store)
        channel = own_channel(store.settings.db_schema, both.two.id)
        async with connected(database.url) as spy:
            heard: list[str] = []
            await spy.add_listener(channel, lambda *args: heard.append(str(args[3])))
            async with both.reading(response_id) as reader:
                count = await both.carries(response_id, 1, reader, delta="what a tenant says")
                await eventually(lambda: any(MARK in message for message in heard))
        assert "tenant" not in "".join(heard)
        hints, _, parcel = next(message for message in heard if MARK in message).partition(MARK)
        assert hints in [f"{response_id}:{n}" for n in range(1, count + 1)]
        assert parcel.startswith(both.one.id)


async def test_a_role_that_may_look_at_replicas_cannot_read_the_keys(
    store: Database, database: Server, both: Pair
) -> None:
    schema = store.settings.db_schema
    role = f"{schema}_observer"
    async with connected(database.url) as admin:
        await admin.execute(f'CREATE ROLE "{role}" LOGIN')
        try:
            await admin.execute(f'GRANT USAGE ON SCHEMA "{schema}" TO "{role}"')
            await admin.execute(f'GRANT SELECT ON "{schema}".replicas TO "{role}"')
            async with connected(database.url.replace("//postgres@", f"//{role}@")) as observer:
                assert await observer.fetch(f'SELECT * FROM "{schema}".replicas')
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await observer.fetch(f'SELECT * FROM "{schema}".parcel_keys')
        finally:
            await admin.execute(f'DROP OWNED BY "{role}"; DROP ROLE "{role}"')


@pytest.mark.parametrize("along", [True, False])
async def test_none_are_sent_while_the_notification_queue_fills(
    store: Database, both: Pair, monkeypatch: pytest.MonkeyPatch, along: bool
) -> None:
    """It is looked at again and again while they are sent."""
    both.one.announcer._may_go_along = lambda: along  # type: ignore[method-assign]
    response_id = await add_response(store)
    async with both.reading(response_id) as reader:
        monkeypatch.setattr("longrun.store.parcels.MOST_USED", -1.0)
        await both.one.parcels._look()
        assert not both.one.parcels.may_go
        both.fetched.clear()
        await both.write(response_id, 1)
        await reader.has(1)
        assert both.fetched
        monkeypatch.undo()
        await both.one.parcels._look()
        both.one.parcels.refused()
        assert not both.one.parcels.may_go
        await eventually(lambda: both.one.parcels.may_go)


def test_what_waits_is_bounded_and_continues() -> None:
    waiting = Waiting()
    small = [Chunk(n, n, b"x" * 100) for n in range(6)]
    waiting.add("a", small[:2])
    waiting.add("b", [Chunk(0, 0, b"x" * MOST_WAITING)])
    waiting.add("b", [Chunk(1, 1, b"x")])
    waiting.add("a", small[2:3])
    waiting.add("c", small[:1])
    waiting.add("c", ())
    waiting.add("c", small[2:3])
    assert waiting.take() == {"a": small[:3]}
    assert waiting.take() == {}
    waiting.add("b", small[3:4])
    assert waiting.take() == {"b": small[3:4]}
