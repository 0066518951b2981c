"""Retention: what is past its time goes, but never from under a reader."""

import asyncio

import pytest

from longrun.fanout.hub import Hub
from longrun.fanout.tail import Tail
from longrun.store import retention
from longrun.store.conversations import Conversations
from longrun.store.database import Database
from longrun.store.events import EventLog
from longrun.store.keys import Keys
from longrun.store.limits import SharedLimits
from longrun.store.records import Ending
from longrun.store.responses import Responses
from longrun.store.retention import Retention
from tests.reading import eventually
from tests.storing import add_response, event, log_of, writing

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


async def test_a_response_that_will_stay_is_not_written_to(store: Database) -> None:
    """Readers of history are many, and most of it is young."""
    response_id = await finished(store, stored=True)
    await Responses(store).note_readers([response_id], 30 * DAY)
    assert not await noted(store, response_id)
