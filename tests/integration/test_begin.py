"""What a stream begins with: in one statement, whose it is, how it stands, and its first events."""

import asyncio

import pytest

from longrun import ids
from longrun.fanout.hub import Hub
from longrun.fanout.tail import Tail
from longrun.store.database import Database
from longrun.store.events import EventLog
from longrun.store.records import Ending
from longrun.store.responses import NewResponse, Responses
from tests.postgres import Server
from tests.storing import add_response, event, log_of, migrated, request_for, writing


async def written(store: Database, *, ended: bool) -> str:
    """Ann's response of some events, several of them a chunk."""
    response_id = await add_response(store, principal="ann")
    async with writing(store) as writer:
        run = log_of(writer, response_id)
        for _ in range(10):
            run.append([event(0, delta="x" * 200) for _ in range(10)])
            await run.flush()
        if ended:
            run.append([event(0, "response.completed")], ending=Ending("completed", "{}"))
            await run.flush()
    return response_id


@pytest.mark.parametrize("ended", [True, False], ids=["ended", "live"])
async def test_it_is_the_first_page_of_ones_own_response(
    database: Server, schema: str, ended: bool
) -> None:
    async with migrated(database.url, schema, chunk_bytes=1024) as store:
        log, response_id = EventLog(store), await written(store, ended=ended)
        end = await log.end_unscoped(response_id)
        assert end is not None
        for cursor in (-1, 0, 5, 50, end.last - 1):
            for limit in (1, 3000, 1 << 20):
                begun = await log.begin(response_id, "ann", cursor, limit)
                assert begun is not None
                assert begun.status == ("completed" if ended else "in_progress")
                assert begun.chunks == await log.page_unscoped(response_id, cursor, limit)
        assert await log.begin(response_id, "ann", end.last, 1 << 20) is None


async def test_9_of_anothers_there_is_nothing(database: Server, schema: str) -> None:
    async with migrated(database.url, schema) as store:
        response_id = await written(store, ended=True)
        assert await EventLog(store).begin(response_id, "bob", -1, 1 << 20) is None
        assert await EventLog(store).begin(response_id[:-1] + "x", "ann", -1, 1 << 20) is None


async def test_the_first_events_take_one_statement(
    database: Server, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with migrated(database.url, schema) as store:
        log, response_id = EventLog(store), await written(store, ended=True)
        asked: list[str] = []
        fetch = store.fetch

        async def counted(query: str, *args: object) -> object:
            asked.append(query)
            return await fetch(query, *args)

        monkeypatch.setattr(store, "fetch", counted)
        begun = await log.begin(response_id, "ann", 20, 1 << 20)
        assert begun is not None
        hub = Hub(log, ring_bytes=1000, poll_interval=60)
        tail = Tail(
            hub, log, response_id, cursor=20, finished=True, begun=begun.chunks, page_bytes=1 << 20
        )
        async with asyncio.timeout(10):
            with tail:
                [*_, last] = await tail.next(10) or []
                assert await tail.next(10) is None
        assert tail.ended
        assert last.last == 101
        assert len(asked) == 1


@pytest.mark.parametrize("cursor", [-1, 20, 100, 200], ids=["start", "middle", "end", "past"])
async def test_joining_a_live_response_takes_one_statement(
    store: Database, monkeypatch: pytest.MonkeyPatch, cursor: int
) -> None:
    """What was committed while it was read is not missed, nor anything after that."""
    log, response_id = EventLog(store), await written(store, ended=False)
    hub = Hub(log, ring_bytes=1 << 20, poll_interval=60)
    asked: list[str] = []
    fetch = store.fetch

    async def counted(query: str, *args: object) -> object:
        asked.append(query)
        return await fetch(query, *args)

    monkeypatch.setattr(store, "fetch", counted)
    numbers: list[int] = []
    async with asyncio.timeout(20), writing(store, hub.committed) as writer:
        run = log_of(writer, response_id, first=101)
        with Tail(hub, log, response_id, cursor=cursor, page_bytes=1 << 20) as tail:
            begun = await log.join(response_id, "ann", cursor, 1 << 20)
            assert begun is not None
            assert begun.reached == 100
            tail.begin(begun)
            for _ in range(3):
                run.append([event(0, delta="y") for _ in range(50)])
                await run.flush()
                while tail.cursor < run.next_sequence - 1:
                    for chunk in await tail.next(10) or []:
                        numbers += range(chunk.first, chunk.last + 1)
    assert numbers == list(range(cursor + 1, 251))
    assert len(asked) == 1


async def test_what_is_committed_while_a_live_response_is_joined_is_fetched(
    store: Database,
) -> None:
    """Between the registration and the ring there is nothing to keep it in."""
    log, response_id = EventLog(store), await written(store, ended=False)
    hub, stop = Hub(log, ring_bytes=1 << 20, poll_interval=60), asyncio.Event()
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        group.create_task(hub.run(stop))
        async with writing(store, hub.committed) as writer:
            with Tail(hub, log, response_id, cursor=50, page_bytes=1 << 20) as tail:
                begun = await log.join(response_id, "ann", 50, 1 << 20)
                run = log_of(writer, response_id, first=101)
                run.append([event(0, delta="y")])
                await run.flush()
                assert begun is not None
                tail.begin(begun)
                while tail.cursor < 101:
                    assert await tail.next(10)
        stop.set()


async def test_9_nobody_joins_anothers(store: Database) -> None:
    log, response_id = EventLog(store), await written(store, ended=False)
    for cursor in (-1, 100):
        assert await log.join(response_id, "bob", cursor, 1 << 20) is None
        assert await log.join(response_id[:-1] + "x", "ann", cursor, 1 << 20) is None
    assert await log.join(response_id, "ann", 100, 1 << 20) is not None


async def test_a_stream_of_a_creation_begins_with_what_its_log_has(
    database: Server, schema: str
) -> None:
    async with migrated(database.url, schema) as store:
        request = request_for(ids.new_response_id())
        new = NewResponse(request, [event(0, "response.created"), event(1, "response.queued")])
        await Responses(store).create(new)
        log = EventLog(store)
        assert await log.page_unscoped(request.response_id, -1, 1 << 20) == [new.chunk]
