"""The connection is cut while Postgres is at a statement, which it goes on with and commits: nobody
hears of it, and it is not known whether it was done."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from longrun import ids
from longrun.errors import Unavailable
from longrun.store.claims import Claims
from longrun.store.creation_writer import CreationWriter
from longrun.store.database import Database
from longrun.store.responses import NewResponse, Responses
from tests import proxy
from tests.postgres import Server
from tests.proxy import Proxy
from tests.reading import eventually
from tests.storing import (
    REPLICA,
    add_response,
    connected,
    event,
    locked,
    log_of,
    logged,
    migrated,
    request_for,
    waiting_for_locks,
    writing,
)


@pytest.fixture
async def way(database: Server) -> AsyncIterator[Proxy]:
    async with proxy.before(database.url) as made:
        made.loss = "midway"
        yield made


@pytest.fixture
async def store(way: Proxy, schema: str) -> AsyncIterator[Database]:
    async with migrated(way.url, schema) as made:
        yield made


@contextlib.asynccontextmanager
async def held(database: Server, table: str, sessions: int) -> AsyncIterator[None]:
    """Statements that write into a table wait; the block ends once so many do, and goes on then."""
    async with connected(database.url) as connection, connection.transaction():
        await connection.execute(f"LOCK TABLE {table} IN EXCLUSIVE MODE")
        before = await waiting_for_locks(database.url)
        yield

        async def all_wait() -> bool:
            return await waiting_for_locks(database.url) - before >= sessions

        await eventually(all_wait)


async def attempt_of(store: Database, response_id: str) -> tuple[str, int]:
    row = await store.fetch_row(
        f'SELECT status, attempt FROM "{store.settings.db_schema}".responses WHERE id = $1',
        response_id,
    )
    assert row is not None
    return row["status"], row["attempt"]


async def test_a_creation(database: Server, way: Proxy, store: Database, schema: str) -> None:
    request = request_for(ids.new_response_id())
    new = NewResponse(request, [event(0, "response.created")], replica_id=REPLICA)
    creating = Responses(store, CreationWriter(store))
    await add_response(store)  # its statement is prepared
    way.marker = request.response_id.encode()
    async with held(database, f'"{schema}".event_chunks', sessions=1):
        made = asyncio.ensure_future(creating.create(new))
        await eventually(lambda: way.cuts == 1)
    with contextlib.suppress(Unavailable):
        await made

    async def is_there() -> bool:
        return await creating.get(request.response_id, "") is not None

    await eventually(is_there)
    assert await attempt_of(store, request.response_id) == ("in_progress", 1)
    assert len(await logged(store, request.response_id)) == 1


async def test_a_claim(database: Server, way: Proxy, store: Database, schema: str) -> None:
    """Who claimed does not know that it did, and finds out by what it holds."""
    claims = Claims(store, REPLICA, ["scripted", "the marked one"])
    assert await claims.queued(1) == []
    response_id = await add_response(store, status="queued", attempt=0)
    way.marker = b"the marked one"
    async with held(database, f'"{schema}".responses', sessions=1):
        claiming = asyncio.ensure_future(claims.queued(1))
        await eventually(lambda: way.cuts == 1)
    with contextlib.suppress(Unavailable):
        assert len(await claiming) <= 1

    async def is_claimed() -> bool:
        return await attempt_of(store, response_id) == ("in_progress", 1)

    await eventually(is_claimed)
    assert await Claims(store, "another").queued(1) == []
    assert await claims.own() == {response_id: 1}
    assert (await claims.look_around()).own == "1 1"


@pytest.mark.parametrize("together", [1, 3])
async def test_an_append(
    database: Server, way: Proxy, store: Database, schema: str, together: int
) -> None:
    """Whoever tries again waits beside the session of the first try, which commits before it."""
    found = [await add_response(store) for _ in range(together)]
    async with writing(store) as writer:
        logs = [log_of(writer, each) for each in found]
        for log in logs:
            log.append([event(1)])
        await asyncio.gather(*(log.flush() for log in logs))
        async with locked(database.url, schema, *found):
            way.marker = found[-1].encode()
            for log in logs:
                log.append([event(2), event(3)], items=[(0, "{}")])
            await eventually(lambda: way.cuts == 1)

            async def both_wait() -> bool:
                return await waiting_for_locks(database.url) == 2

            await eventually(both_wait)
        await asyncio.gather(*(log.flush() for log in logs))
        for log in logs:
            log.append([event(4)])
        await asyncio.gather(*(log.flush() for log in logs))
    for each in found:
        assert len(await logged(store, each)) == 5
