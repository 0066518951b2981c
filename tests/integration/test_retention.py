"""Retention: what is past its time goes, but never from under a reader."""

import asyncio

import pytest

from longrun.fanout.hub import Hub
from longrun.fanout.tail import Tail
from longrun.store import responses as responses_module
from longrun.store import retention
from longrun.store.conversations import Conversations
from longrun.store.database import Database
from longrun.store.events import EventLog
from longrun.store.keys import Keys
from longrun.store.limits import SharedLimits
from longrun.store.records import Ending
from longrun.store.responses import Responses
from longrun.store.retention import Retention
from tests.postgres import Server
from tests.reading import eventually
from tests.storing import add_response, connected, event, locked, log_of, writing

DAY = 86_400.0


async def finished(store: Database, *, stored: bool) -> str:
    """A response that has just ended; its log has three events."""
    response_id = await add_response(store)
    async with writing(store) as writer:
        run = log_of(writer, response_id)
        run.append([event(1)])
        run.append([event(2, "response.completed")], ending=Ending("completed", "{}"))
        await run.flush()
    schema = store.settings.db_schema
    await store.execute(
        f'UPDATE "{schema}".responses SET stored = $2 WHERE id = $1', response_id, stored
    )
    return response_id


async def change(store: Database, response_id: str, what: str) -> None:
    schema = store.settings.db_schema
    await store.execute(f'UPDATE "{schema}".responses SET {what} WHERE id = $1', response_id)


async def noted(store: Database, response_id: str) -> bool:
    schema = store.settings.db_schema
    row = await store.fetch_row(
        f'SELECT read_until > now() FROM "{schema}".responses WHERE id = $1', response_id
    )
    return row is not None and bool(row[0])


@pytest.mark.parametrize(("stored", "ago"), [(False, "2 minutes"), (True, "2 days")])
async def test_what_is_read_on_any_replica_stays_until_its_readers_are_gone(
    store: Database, monkeypatch: pytest.MonkeyPatch, stored: bool, ago: str
) -> None:
    monkeypatch.setattr(retention, "NOTE_INTERVAL", 0.05)
    settings = store.settings.model_copy(update={"retention_days": 1.0})
    response_id = await finished(store, stored=stored)
    here, elsewhere, stop = Responses(store), Responses(store), asyncio.Event()
    event_log = EventLog(store)
    hub = Hub(event_log, ring_bytes=1000, poll_interval=60)
    async with asyncio.TaskGroup() as group:
        retention_ = Retention(
            here, Conversations(store), Keys(store), SharedLimits(store), settings, hub.reading
        )
        group.create_task(retention_.run(stop))
        with Tail(hub, event_log, response_id, finished=True, page_bytes=1) as tail:
            assert await tail.next(10)
            if stored:
                # Its time is nearly over.
                soon = "finished_at = now() - interval '1 day' + interval '1 minute'"
                await change(store, response_id, soon)
            await eventually(lambda: noted(store, response_id))
            await change(store, response_id, f"finished_at = now() - interval '{ago}'")
            assert await elsewhere.expire(DAY) == 0
            while await tail.next(10):
                pass
            assert tail.ended
        stop.set()
    await change(store, response_id, "read_until = now() - interval '1 second'")
    assert await elsewhere.expire(DAY) == 1
    assert await event_log.end_unscoped(response_id) is None


async def test_what_nobody_reads_goes_at_its_time(store: Database) -> None:
    responses = Responses(store)
    old, fresh = await finished(store, stored=False), await finished(store, stored=False)
    kept, expired = await finished(store, stored=True), await finished(store, stored=True)
    for response_id, ago in ((old, "61 seconds"), (kept, "23 hours"), (expired, "25 hours")):
        await change(store, response_id, f"finished_at = now() - interval '{ago}'")
    assert await responses.expire(DAY) == 2
    log = EventLog(store)
    left = [id_ for id_ in (old, fresh, kept, expired) if await log.end_unscoped(id_)]
    assert left == [fresh, kept]


async def test_one_replica_at_a_time_deletes(store: Database, database: Server) -> None:
    responses, response_id = Responses(store), await finished(store, stored=True)
    await change(store, response_id, "finished_at = now() - interval '2 days'")
    schema = store.settings.db_schema
    async with connected(database.url) as other, other.transaction():
        turn = "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))"
        await other.execute(turn, f"longrun retention {schema}")
        assert await responses.expire(DAY) == 0
    async with locked(database.url, schema, response_id):
        assert await responses.expire(DAY) == 0
    assert await responses.expire(DAY) == 1


async def test_batches_are_small(store: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of these logs has three chunks, and one alone may be more than fits."""
    monkeypatch.setattr(responses_module, "MOST_CHUNKS", 4)
    expired = [await finished(store, stored=True) for _ in range(5)]
    for n, response_id in enumerate(expired):
        await change(store, response_id, f"finished_at = now() - interval '{30 - n} hours'")
    responses, log = Responses(store), EventLog(store)
    assert await responses.expire(DAY) == 2
    assert [await log.end_unscoped(each) is None for each in expired] == [True] * 2 + [False] * 3
    monkeypatch.setattr(responses_module, "MOST_CHUNKS", 1)
    assert [await responses.expire(DAY) for _ in range(4)] == [1, 1, 1, 0]


async def test_readers_are_noted_while_much_is_deleted(
    store: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "NOTE_INTERVAL", 0.02)
    monkeypatch.setattr(retention, "INTERVAL", 0.01)
    response_id, stop, at_it = await finished(store, stored=False), asyncio.Event(), asyncio.Event()

    class Slow(Responses):
        async def expire(self, retention_seconds: float, goes_before: str = "") -> int:
            at_it.set()
            await stop.wait()
            return 0

    part = Retention(
        Slow(store),
        Conversations(store),
        Keys(store),
        SharedLimits(store),
        store.settings,
        lambda: [response_id] if at_it.is_set() else [],
    )
    async with asyncio.TaskGroup() as group:
        group.create_task(part.run(stop))
        await eventually(lambda: noted(store, response_id))
        stop.set()


async def test_a_response_that_will_stay_is_not_written_to(store: Database) -> None:
    """Readers of history are many, and most of it is young."""
    response_id = await finished(store, stored=True)
    await Responses(store).note_readers([response_id], 30 * DAY)
    assert not await noted(store, response_id)
