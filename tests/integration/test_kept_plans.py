"""What is asked for each event is not planned each time, which takes longer than to execute it."""

from longrun.store.connections import Lane
from longrun.store.database import Database
from longrun.store.events import EventLog
from tests.storing import add_response, events, log_of, writing

FIRST_PLANS = 5
"""Postgres plans a statement so often with its values, before it may keep a plan without."""


async def planned(lane: Lane, what: str) -> list[int]:
    """How often each statement of a lane that has these words was planned with its values."""
    query = "SELECT custom_plans FROM pg_prepared_statements WHERE position($1 IN statement) > 0"
    return [row["custom_plans"] for row in await lane.fetch(query, what)]


async def test_an_append_of_events(store: Database) -> None:
    response_id = await add_response(store)
    async with writing(store) as writer:
        log = log_of(writer, response_id)
        for _ in range(4 * FIRST_PLANS):
            log.append(events(log.next_sequence, 1))
            await log.flush()
        assert await planned(writer._lane, "new_chunks") == [FIRST_PLANS]


async def test_what_is_new_of_some_responses(store: Database) -> None:
    log = EventLog(store)
    ids = [await add_response(store) for _ in range(3)]
    for count in range(4 * FIRST_PLANS):
        news = await log.news_unscoped(dict.fromkeys(ids[: count % 3 + 1], -1), 1 << 20)
        assert [len(each.chunks) for each in news.values()] == [1] * (count % 3 + 1)
    assert await planned(log._lane, "wanted") == [FIRST_PLANS]
