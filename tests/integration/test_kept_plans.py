"""What is asked for each event is planned before there is one: to plan takes longer than to do."""

from typing import Any

from longrun.store.connections import Lane
from longrun.store.database import Database
from longrun.store.events import EventLog
from longrun.store.records import Ending, Step
from tests.storing import add_response, events, log_of, writing

FIRST_PLANS = 5
"""Postgres plans a statement so often for its values, before it may keep a plan without."""

STEP = Step("", "model", "0", "{}", "{}")
ENDING = Ending("completed", "{}")


async def planned(lane: Lane | Database, what: str) -> list[int]:
    """Of each statement of a lane that has these words: how often it was planned for its values
    alone. Postgres would do so five times before it may keep a plan."""
    query = "SELECT custom_plans FROM pg_prepared_statements WHERE position($1 IN statement) > 0"
    return [row["custom_plans"] for row in await lane.fetch(query, what)]


async def test_appends(store: Database) -> None:
    async with writing(store) as writer:
        await writer.prepare()
        prepared = await planned(writer._lane, "new_chunk")
        for steps, ending in (((), None), ((STEP,), None), ((), ENDING)):
            log = log_of(writer, await add_response(store))
            # The second one of a log is written by another statement than the first.
            log.append(events(1, 1))
            await log.flush()
            log.append(events(2, 1), steps=steps, ending=ending)
            await log.flush()
        assert await planned(writer._lane, "new_chunk") == prepared == [0] * len(prepared)


async def test_for_as_long_as_the_connection_lasts(store: Database) -> None:
    """asyncpg would forget each after five minutes, and the next append wait for its plan."""
    async with writing(store) as writer:
        await writer.prepare()
        connection: Any = writer._lane._connection
        cache = connection._stmt_cache
        assert len(cache._entries) > FIRST_PLANS
        assert [each for each in cache._entries.values() if each._cleanup_cb is not None] == []


async def test_what_is_new_of_some_responses(store: Database) -> None:
    log = EventLog(store)
    await log.prepare()
    assert await planned(log._lane, "wanted") == [0]
    ids = [await add_response(store) for _ in range(3)]
    for count in range(12):
        news = await log.news_unscoped(dict.fromkeys(ids[: count % 3 + 1], -1), 1 << 20)
        assert [len(each.chunks) for each in news.values()] == [1] * (count % 3 + 1)
    assert await planned(log._lane, "wanted") == [0]


async def test_a_page_of_a_log_that_is_shorter_than_most(store: Database) -> None:
    """Once Postgres has looked at the table, it takes a plan for this very log for worth making."""
    schema, log = store.settings.db_schema, EventLog(store)
    *long, short = [await add_response(store) for _ in range(21)]
    await store.execute(
        f'INSERT INTO "{schema}".event_chunks (response_id, first, last, attempt, data)'
        " SELECT id, n, n, 1, repeat('x', 30)::bytea"
        " FROM unnest($1::text[]) AS id, generate_series(1, 2000) AS n",
        long,
    )
    await store.execute(f'ANALYZE "{schema}".event_chunks')
    for _ in range(4 * FIRST_PLANS):
        await log.page_unscoped(short, -1, 1000)
    assert await planned(store, "bytes_through") == [FIRST_PLANS]
