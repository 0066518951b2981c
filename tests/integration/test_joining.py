"""Streams that begin at the same time are looked for in one statement, each after its own request:
none is given what was deleted, anywhere, before it was asked for."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from longrun import metrics
from longrun.fanout.hub import Hub
from longrun.fanout.tail import Tail
from longrun.store import joining
from longrun.store.connections import Lane
from longrun.store.database import Database
from longrun.store.events import EventLog
from tests.integration.test_begin import written
from tests.reading import Wire, frames_alone, in_background, read, stream_url
from tests.servers import Replica
from tests.storing import add_response, event, log_of, terminate, writing

PAGE = 1 << 18


@contextlib.asynccontextmanager
async def looking(log: EventLog) -> AsyncIterator[None]:
    """An event log whose streams are looked for together."""
    stop = asyncio.Event()
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(log.joining.run(stop))
        await asyncio.sleep(0)
        try:
            yield
        finally:
            stop.set()


def looks() -> tuple[float, float]:
    """How many statements there were, and for how many streams."""
    counters = (metrics.stream_looks, metrics.streams_looked_up)
    statements, streams = (each.collect()[0].samples[0].value for each in counters)
    return statements, streams


async def test_fifty_at_once_are_looked_for_in_two_statements(
    store: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that come first have the first one, and all that come while it runs the second,
    however long a busy machine takes over it."""
    monkeypatch.setattr(joining, "SLOW", 60.0)
    log, plain = EventLog(store), EventLog(store)
    ids = [await written(store, ended=n % 2 == 0) for n in range(10)]
    asked = [(ids[n % 10], "bob" if n % 7 == 0 else "ann", 95 + n % 10) for n in range(50)]
    async with looking(log):
        before = looks()
        first = asyncio.create_task(log.join(*asked[0], PAGE))
        await asyncio.sleep(0)
        found = await asyncio.gather(*(log.join(*each, PAGE) for each in asked))
        await first
        statements, streams = looks()
    assert streams - before[1] == 51
    assert statements - before[0] == 2
    for each, begun in zip(asked, found, strict=True):
        assert begun == await plain.join(*each, PAGE)
        assert (begun is None) == (each[1] == "bob")


async def test_without_a_cursor_it_is_said_how_a_response_stands(store: Database) -> None:
    log, response_id = EventLog(store), await written(store, ended=False)
    for _ in range(2):  # alone, and with others
        begun = await log.join(response_id, "ann", None, 0)
        assert begun is not None
        assert (begun.status, begun.chunks, begun.reached) == ("in_progress", [], 100)
        assert await log.join(response_id, "bob", None, 0) is None
        async with looking(log):
            assert await log.join(response_id, "ann", None, 0) == begun
            assert await log.join(response_id, "bob", None, 0) is None


@pytest.mark.parametrize("together", [1, 20])
@pytest.mark.parametrize("ended", [True, False], ids=["ended", "live"])
async def test_2_what_does_not_fit_is_read_later(
    store: Database, together: int, ended: bool
) -> None:
    """Of many that begin with large chunks, each has its own later, in order, and all of it."""
    log, response_id = EventLog(store), await add_response(store, principal="ann")
    async with writing(store) as writer:
        run = log_of(writer, response_id)
        for size in (10, 200_000, 10, 10):
            run.append([event(0, delta="x" * size)])
            await run.flush()
    hub = Hub(log, ring_bytes=1 << 20, poll_interval=60)

    async def reader() -> int:
        size = 0
        with Tail(hub, log, response_id, page_bytes=PAGE) as tail:
            begun = await log.join(response_id, "ann", -1, PAGE)
            assert begun is not None
            size = sum(len(chunk.data) for chunk in begun.chunks)
            tail.begin(begun._replace(status="completed") if ended else begun)
            numbers: list[int] = []
            while tail.cursor < 4:
                for chunk in await tail.next(10) or []:
                    numbers += range(chunk.first, chunk.last + 1)
            assert numbers == [0, 1, 2, 3, 4]
        return size

    async with looking(log):
        first = asyncio.create_task(log.join(response_id, "ann", -1, PAGE))
        await asyncio.sleep(0)
        sizes = await asyncio.gather(*(reader() for _ in range(together)))
        await first
    assert sum(sizes) <= max(PAGE, together * 2 * joining.LEAST_BYTES)


async def test_none_is_lost_with_the_connection_of_all(store: Database, database: Any) -> None:
    log, response_id = EventLog(store), await written(store, ended=True)
    async with looking(log):
        assert await log.join(response_id, "ann", 50, PAGE)
        # Others have such connections to the same server.
        mine = f'%"{store.settings.db_schema}".%'
        assert await terminate(database.url, application="longrun streams", query=mine) == 1
        found = await asyncio.gather(*(log.join(response_id, "ann", 50, PAGE) for _ in range(5)))
    assert all(found)


async def test_nobody_waits_for_a_statement_that_takes_long(
    store: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, response_id = EventLog(store), await written(store, ended=True)
    hangs, sent = asyncio.Event(), asyncio.Event()
    fetch = Lane.fetch

    async def hanging(lane: Lane, *query: Any) -> Any:
        sent.set()
        await hangs.wait()
        return await fetch(lane, *query)

    monkeypatch.setattr(Lane, "fetch", hanging)
    async with looking(log), asyncio.TaskGroup() as group:
        first = group.create_task(log.join(response_id, "ann", 50, PAGE))
        await sent.wait()
        await asyncio.sleep(2 * joining.SLOW)
        assert await log.join(response_id, "ann", 50, PAGE)
        assert not first.done()
        hangs.set()
    assert await first


async def test_when_it_stops_those_that_wait_are_looked_for_alone(
    store: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, response_id = EventLog(store), await written(store, ended=True)
    sent = asyncio.Event()

    async def hanging(lane: Lane, *query: Any) -> Any:
        sent.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(Lane, "fetch", hanging)
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        running = group.create_task(log.joining.run(asyncio.Event()))
        await asyncio.sleep(0)
        waiting = [group.create_task(log.join(response_id, "ann", 50, PAGE)) for _ in range(3)]
        await sent.wait()
        running.cancel()
        for each in waiting:
            assert await each


class TestReplicas:
    @pytest.mark.parametrize("place", [0, 1], ids=["where it is executed", "elsewhere"])
    async def test_3_what_another_replica_has_deleted_is_given_to_nobody_who_comes_then(
        self, two: list[Replica], place: int
    ) -> None:
        """Though the ring of this one has it, for those who read it already."""
        mine, other = two[place], two[1 - place]

        async def race() -> None:
            response_id = await in_background(two[0], deltas=1000, pause=0.02)
            url = stream_url(mine, response_id)
            async with await Wire.open(url) as reader:
                while reader.frames < 4:
                    assert await reader.more()
                async with await Wire.open(stream_url(mine, response_id, 1)) as again:
                    assert await again.more()
                    assert again.status == 200
                at = f"{other.base_url}/responses/{response_id}"
                async with await Wire.open(at, method="DELETE") as deleting:
                    await deleting.rest()
                    assert deleting.status == 200
                for cursor in (None, 1, 3):
                    async with await Wire.open(stream_url(mine, response_id, cursor)) as late:
                        await late.rest()
                        assert late.status == 404

        async with asyncio.timeout(60):
            for _ in range(5):
                await asyncio.gather(*(race() for _ in range(4)))

    async def test_2_many_who_come_at_once_where_it_is_read_miss_nothing(
        self, two: list[Replica]
    ) -> None:
        """At any cursor, before the ring and within it, while the run writes and when it ends."""
        response_id = await in_background(two[0], deltas=150, pause=0.01)
        url = stream_url(two[1], response_id)
        async with asyncio.timeout(60), await Wire.open(url) as wire:
            readers: dict[int, list[asyncio.Task[bytes]]] = {}
            while await wire.more():
                for cursor in {0, wire.frames // 2, max(0, wire.frames - 1)}:
                    if len(readers) < 40 and cursor not in readers:
                        at = stream_url(two[1], response_id, cursor)
                        readers[cursor] = [asyncio.create_task(read(at)) for _ in range(3)]
            frames = frames_alone(wire.body).split(b"\n\n")
            for cursor, several in readers.items():
                rest = b"\n\n".join(frames[cursor + 1 :])
                for each in several:
                    assert await each == rest
