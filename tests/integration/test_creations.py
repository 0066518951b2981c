"""Responses that are created at the same time: in one commit, and each as if it were alone."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Sequence
from typing import Any

import asyncpg
import pytest

from longrun import ids
from longrun.errors import LongrunError, TokensSpent, TooManyRequests, Unavailable
from longrun.protocol import Allowance, Once
from longrun.store.creation import NewResponse
from longrun.store.creation_writer import SMALL_BYTES, CreationWriter
from longrun.store.database import Database
from longrun.store.events import EventLog
from longrun.store.records import Chunk
from longrun.store.responses import Responses
from tests.postgres import Server
from tests.reading import eventually
from tests.storing import REPLICA, connected, event, migrated, request_for

FIFTY = 50


@dataclasses.dataclass
class Creating:
    """A creation writer at work.

    Attributes:
        sent: how many creations each statement of its own lane had.
        told: what was told of, in order.
    """

    store: Database
    responses: Responses
    group: asyncio.TaskGroup
    sent: list[int] = dataclasses.field(default_factory=list)
    told: list[tuple[str, Chunk]] = dataclasses.field(default_factory=list)

    async def all(self, news: Sequence[NewResponse]) -> list[LongrunError | Any]:
        """Create these at the same time: what became of each."""
        asked = (self.responses.create(new) for new in news)
        async with asyncio.timeout(30):
            return await asyncio.gather(*asked, return_exceptions=True)

    def begin(self, *news: NewResponse) -> asyncio.Task[list[LongrunError | Any]]:
        return self.group.create_task(self.all(news))

    async def there(self) -> set[str]:
        rows = await self.store.fetch(
            f"SELECT response.id FROM {self.schema}.responses AS response"
            f" JOIN {self.schema}.event_chunks AS chunk ON chunk.response_id = response.id"
        )
        return {row["id"] for row in rows}

    @property
    def schema(self) -> str:
        return self.store.settings.db_schema


@contextlib.asynccontextmanager
async def at_work(store: Database) -> AsyncIterator[Creating]:
    told: list[tuple[str, Chunk]] = []
    writer = CreationWriter(store, lambda id_, chunks: told.extend((id_, c) for c in chunks))
    fetch = writer._lane.fetch

    async def counted(query: str, *args: Any) -> list[asyncpg.Record]:
        if args[0]:
            made.sent.append(len(args[0]) if isinstance(args[0], list) else 1)
        return await fetch(query, *args)

    writer._lane.fetch = counted  # type: ignore[method-assign]
    stop = asyncio.Event()
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        made = Creating(store, Responses(store, writer), group, told=told)
        group.create_task(writer.run(stop))
        await asyncio.sleep(0)
        try:
            yield made
        finally:
            stop.set()


@pytest.fixture
async def creating(store: Database) -> AsyncIterator[Creating]:
    async with at_work(store) as made:
        yield made


def new(*, queued: bool = False, principal: str = "ann", **fields: Any) -> NewResponse:
    allowance = Allowance(
        **{name: fields.pop(name) for name in ("max_live", "max_tokens") if name in fields}
    )
    request = request_for(ids.new_response_id(), principal)
    request = dataclasses.replace(request, allowance=allowance, **fields)
    events = [event(0, "response.created"), event(1, "response.in_progress")]
    return NewResponse(request, events, None if queued else REPLICA)


def ids_of(news: Sequence[NewResponse]) -> set[str]:
    return {each.request.response_id for each in news}


async def test_many_are_one_statement(creating: Creating) -> None:
    news = [new() for _ in range(FIFTY)]
    assert await creating.all(news) == [None] * FIFTY
    assert creating.sent == [FIFTY]
    log = EventLog(creating.store)
    for each in news:
        assert await log.page_unscoped(each.request.response_id, -1, 1 << 20) == [each.chunk]
    assert creating.told == [(each.request.response_id, each.chunk) for each in news]


async def test_one_alone_is_created_at_once_and_as_it_was(creating: Creating) -> None:
    """Every column is what `create_response` writes, whichever statement it was."""
    more: dict[str, Any] = {
        "document": {"metadata": {"a": "b", "c": "d"}, "x": "\\u2028 é"},
        "parameters": {"longrun": {"timeout": 60}, "tools": []},
        "input": [{"role": "user", "content": "hi"}],
        "previous_id": "resp_before",
        "stored": False,
        "background": False,
    }
    alone = new(**more)
    assert await creating.all([alone]) == [None]
    both = [new(**more), new(queued=True, **{**more, "document": {}})]
    assert await creating.all(both) == [None, None]
    assert creating.sent == [1, 2]
    first, second, queued = await creating.store.fetch(
        f"SELECT * FROM {creating.schema}.responses ORDER BY id"
    )
    apart = ("id", "created_at", "deadline_at")
    if creating.store.sealing.knows_keys:
        apart += ("document", "input", "request")
    assert {k: v for k, v in first.items() if k not in apart} == {
        k: v for k, v in second.items() if k not in apart
    }
    assert (second["deadline_at"] - second["created_at"]).total_seconds() == pytest.approx(60)
    assert (queued["status"], queued["attempt"], queued["replica_id"]) == ("queued", 0, None)


async def test_one_bad_of_fifty_fails_alone(creating: Creating) -> None:
    news = [new() for _ in range(FIFTY - 1)]
    bad = new(agent="\0")
    became = await creating.all([*news[:20], bad, *news[20:]])
    assert isinstance(became.pop(20), asyncpg.CharacterNotInRepertoireError)
    assert became == [None] * (FIFTY - 1)
    assert await creating.there() == ids_of(news)


async def test_an_id_that_is_there_already_fails_alone(creating: Creating) -> None:
    twice = new()
    news = [new() for _ in range(4)]
    became = await creating.all([news[0], twice, news[1], twice, *news[2:]])
    assert [isinstance(each, asyncpg.UniqueViolationError) for each in became].count(True) == 1
    assert became.count(None) == 5
    assert await creating.there() == ids_of([*news, twice])


async def test_limits_hold_within_a_batch(creating: Creating) -> None:
    few = [new(principal="few", max_live=3) for _ in range(6)]
    free = [new(principal="free") for _ in range(4)]
    became = await creating.all([*few, *free])
    assert creating.sent[0] == 10
    assert became[:3] == [None] * 3
    assert all(isinstance(each, TooManyRequests) for each in became[3:6])
    assert became[6:] == [None] * 4
    # What is certain needs no second look.
    again = await creating.all([new(principal="few", max_live=3), new(principal="free")])
    assert [getattr(each, "code", None) for each in again] == ["too_many_runs", None]
    assert await creating.there() >= ids_of([*few[:3], *free])


async def test_spent_tokens_refuse_only_whose_they_are(creating: Creating) -> None:
    await creating.store.execute(
        f"INSERT INTO {creating.schema}.tokens_spent (principal, day, session, tokens)"
        " VALUES ('spent', (now() AT TIME ZONE 'UTC')::date, 1, 100),"
        " ('half', (now() AT TIME ZONE 'UTC')::date, 1, 50)"
    )
    spent, half = new(principal="spent", max_tokens=100), new(principal="half", max_tokens=100)
    became = await creating.all([spent, half, new(principal="free")])
    assert creating.sent == [3]
    assert isinstance(became[0], TokensSpent)
    assert became[1:] == [None, None]
    assert [each.request.allowance.tokens for each in (spent, half)] == [100, 50]


async def test_a_full_queue_refuses_what_waits_and_nothing_else(
    database: Server, schema: str
) -> None:
    async with migrated(database.url, schema, max_queued=4) as store, at_work(store) as creating:
        many = [new(queued=True, principal="many") for _ in range(6)]
        other, live = new(queued=True, principal="other"), new(principal="many")
        became = await creating.all([*many, other, live])
        assert became[:4] == [None] * 4
        assert all(isinstance(each, TooManyRequests) for each in became[4:6])
        assert became[6:] == [None, None], "a first one of another principal's may still wait"
        assert await creating.there() == ids_of([*many[:4], other, live])


async def test_what_is_large_or_locks_is_created_by_itself(creating: Creating) -> None:
    large = new(input=[{"role": "user", "content": "x" * SMALL_BYTES}])
    lost = new(conversation_id=ids.new_conversation_id())
    became = await creating.all([new(), large, lost, new()])
    assert [each is None for each in became] == [True, True, False, True]
    assert creating.sent == [2]


async def test_nothing_is_acknowledged_before_its_commit(
    creating: Creating, database: Server
) -> None:
    async with connected(database.url) as other, other.transaction():
        await other.execute(f"LOCK TABLE {creating.schema}.event_chunks IN EXCLUSIVE MODE")
        under_way = creating.begin(new(), new(), new())
        await until_locked(other, creating.schema)
        assert not under_way.done()
        assert creating.told == []
    assert await under_way == [None] * 3


async def test_a_connection_that_ends_in_the_middle_loses_none_and_makes_none_twice(
    creating: Creating, database: Server
) -> None:
    """What is under way, in a batch or alone, is looked for and created again; what waited behind
    it is created."""
    large = new(input=[{"role": "user", "content": "x" * SMALL_BYTES}])
    news = [new(once=Once("key", b"body")), new(max_live=1, principal="one"), new(), large]
    behind = [new() for _ in range(3)]
    async with connected(database.url) as other, other.transaction():
        await other.execute(f"LOCK TABLE {creating.schema}.event_chunks IN EXCLUSIVE MODE")
        under_way = creating.begin(*news)
        pids = await until_locked(other, creating.schema, 2)
        waiting = creating.begin(*behind)
        await eventually(lambda: len(creating.responses._creations._waiting) == 3)
        for pid in pids:
            await other.execute("SELECT pg_terminate_backend($1)", pid)
    assert await under_way == [None] * 4
    assert await waiting == [None] * 3
    assert await creating.there() == ids_of([*news, *behind])
    assert sorted(id_ for id_, _ in creating.told) == sorted(ids_of([*news, *behind]))


async def test_one_that_is_given_up_leaves_the_others(creating: Creating, database: Server) -> None:
    async with connected(database.url) as other, other.transaction():
        await other.execute(f"LOCK TABLE {creating.schema}.event_chunks IN EXCLUSIVE MODE")
        first = creating.begin(new())
        await until_locked(other, creating.schema)
        news = [new() for _ in range(3)]
        tasks = [asyncio.create_task(creating.responses.create(each)) for each in news]
        await eventually(lambda: len(creating.responses._creations._waiting) == 3)
        tasks[1].cancel()
        await eventually(tasks[1].cancelled)
    assert await first == [None]
    await asyncio.gather(tasks[0], tasks[2])
    assert not ids_of(news[1:2]) & await creating.there()


async def test_without_the_writer_each_is_created_alone(store: Database) -> None:
    responses, news = Responses(store), [new() for _ in range(3)]
    await asyncio.gather(*map(responses.create, news))
    for each in news:
        assert await responses.get(each.request.response_id, "ann") is not None


async def test_the_end_of_the_writer_leaves_nobody_waiting(
    store: Database, database: Server
) -> None:
    writer = CreationWriter(store)
    running = asyncio.create_task(writer.run(asyncio.Event()))
    await asyncio.sleep(0)
    async with connected(database.url) as other, other.transaction():
        schema = store.settings.db_schema
        await other.execute(f"LOCK TABLE {schema}.event_chunks IN EXCLUSIVE MODE")
        under_way = [asyncio.create_task(writer.create(new())) for _ in range(3)]
        await until_locked(other, schema)
        running.cancel()
        became = await asyncio.gather(*under_way, return_exceptions=True)
    assert all(isinstance(each, Unavailable) for each in became)


async def until_locked(connection: asyncpg.Connection, schema: str, count: int = 1) -> list[int]:
    """Wait until so many creations wait for the lock; the processes that have them."""
    asked = "SELECT pid FROM pg_locks WHERE NOT granted AND relation = $1::text::regclass"
    async with asyncio.timeout(20):
        while True:
            rows = await connection.fetch(asked, f"{schema}.event_chunks")
            if len(rows) == count:
                return [row["pid"] for row in rows]
            await asyncio.sleep(0.01)


async def test_a_creation_joins_before_it_is_awaited_and_is_told_at_once(
    creating: Creating,
) -> None:
    news = [new() for _ in range(3)]
    order: list[object] = []
    joined = [creating.responses.joined(each, order.append) for each in news]
    for done in joined:
        assert done is not None
        done.add_done_callback(order.append)
    async with asyncio.timeout(30):
        await asyncio.gather(*filter(None, joined))
    assert creating.sent == [3]
    assert order == [None, None, None, *joined]


async def test_a_creation_that_is_taken_back_before_it_is_sent_is_not_made(
    creating: Creating,
) -> None:
    left, *kept = [new() for _ in range(3)]
    taken_back = creating.responses.joined(left, lambda _: None)
    assert taken_back is not None
    taken_back.cancel()
    assert await creating.all(kept) == [None, None]
    assert await creating.there() == ids_of(kept)
    assert creating.sent == [2]


async def test_what_is_large_or_on_a_conversation_joins_no_others(creating: Creating) -> None:
    large = new(input=[{"role": "user", "content": "x" * SMALL_BYTES}])
    on_one = new(conversation_id=ids.new_conversation_id())
    for each in (large, on_one):
        assert creating.responses.joined(each, lambda _: None) is None
