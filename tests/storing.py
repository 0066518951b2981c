"""The store without a server: a database with a schema of its own, responses and their logs."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import asyncpg
import pytest

from longrun import ids
from longrun.key_ring import KeyRing
from longrun.protocol import RunRequest, Status
from longrun.settings import Settings
from longrun.store.database import Database
from longrun.store.log_writer import LogWriter
from longrun.store.migrate import migrate
from longrun.store.records import Chunk, Ending
from longrun.store.responses import NewResponse, Responses
from longrun.store.run_log import RunLog
from longrun.store.sealing import Sealing, chunk_place
from tests.servers import SEALED

REPLICA = "replica_of_the_tests"

SEALING = Sealing(KeyRing.parse(SEALED["LONGRUN_ENCRYPTION_KEYS"]) if SEALED else KeyRing())
"""Opens what replicas of the tests have stored."""

reads_tables = pytest.mark.skipif(
    bool(SEALED), reason="reads in the tables what SEALED=1 has encrypted"
)
"""Of a test that looks at what is stored as it is without encryption, or stores what it makes
harmless: text with NUL."""


@contextlib.asynccontextmanager
async def opened(
    url: str, schema: str, *, listen_url: str | None = None, **settings: Any
) -> AsyncIterator[Database]:
    """The pools of a replica, on a schema that may not be there yet."""
    sealed = {name.removeprefix("LONGRUN_").lower(): value for name, value in SEALED.items()}
    given = {"schema": schema, "listen_database_url": listen_url, **sealed, **settings}
    database = Database(Settings.load(**given))
    await database.open(url, listen_url)
    try:
        yield database
    finally:
        await database.close()


@contextlib.asynccontextmanager
async def migrated(url: str, schema: str, **settings: Any) -> AsyncIterator[Database]:
    """The pools of a replica, on a schema with all tables."""
    async with opened(url, schema, **settings) as database:
        await migrate(database)
        yield database


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection of the test's own."""
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


def event(number: int, type: str = "response.output_text.delta", **fields: Any) -> bytes:
    """An encoded event, `type` and `sequence_number` first."""
    return json.dumps(
        {"type": type, "sequence_number": number, **fields}, separators=(",", ":")
    ).encode()


def events(first: int, count: int, **fields: Any) -> list[bytes]:
    return [event(number, **fields) for number in range(first, first + count)]


def request_for(response_id: str, principal: str = "", agent: str = "scripted") -> RunRequest:
    """A request in the background, for nothing in particular."""
    return RunRequest(
        response_id=response_id,
        principal=principal,
        agent=agent,
        background=True,
        stored=True,
        input=[],
        document={"id": response_id, "object": "response"},
    )


async def add_response(
    database: Database,
    *,
    attempt: int = 1,
    status: Status = "in_progress",
    principal: str = "",
    agent: str = "scripted",
    replica_id: str = REPLICA,
) -> str:
    """A response in the hands of a replica that does not exist; its log has event 0."""
    request = request_for(ids.new_response_id(), principal, agent)
    await Responses(database).create(
        NewResponse(
            request,
            [event(0, "response.created")],
            replica_id=replica_id if status == "in_progress" else None,
        )
    )
    if status == "in_progress" and attempt != 1:
        schema = database.settings.db_schema
        await database.execute(
            f'UPDATE "{schema}".responses SET attempt = $2, spent = $2 WHERE id = $1',
            request.response_id,
            attempt,
        )
    return request.response_id


@contextlib.asynccontextmanager
async def writing(
    database: Database, committed: Callable[[str, list[Chunk]], None] = lambda *_: None
) -> AsyncIterator[LogWriter]:
    """A log writer at work; at the end it writes what is pending and stops."""
    writer = LogWriter(database, committed)
    stop = asyncio.Event()
    async with asyncio.timeout(100), asyncio.TaskGroup() as group:
        group.create_task(writer.run(stop))
        try:
            yield writer
        finally:
            stop.set()


def log_of(writer: LogWriter, response_id: str, attempt: int = 1, first: int = 1) -> RunLog:
    return writer.open(response_id, attempt, first)


@contextlib.asynccontextmanager
async def locked(url: str, schema: str, *response_ids: str) -> AsyncIterator[None]:
    """Within the block, every append to these responses waits."""
    async with connected(url) as connection, connection.transaction():
        held = await connection.fetch(
            f'SELECT 1 FROM "{schema}".responses WHERE id = ANY($1) FOR UPDATE',
            list(response_ids),
        )
        assert len(held) == len(response_ids)
        yield


async def logged(database: Database, response_id: str) -> list[dict[str, Any]]:
    """The log as it is in the table; chunks must follow each other without gap or overlap."""
    schema = database.settings.db_schema
    rows = await database.fetch(
        f'SELECT first, last, attempt, data FROM "{schema}".event_chunks '
        "WHERE response_id = $1 ORDER BY last",
        response_id,
    )
    found: list[dict[str, Any]] = []
    for row in rows:
        place = chunk_place(response_id, row["first"], row["last"])
        lines = database.sealing.open(place, row["data"]).split(b"\n")
        assert row["first"] == len(found)
        assert row["last"] == row["first"] + len(lines) - 1
        found += [json.loads(line) for line in lines]
    assert [each["sequence_number"] for each in found] == list(range(len(found)))
    return found


async def waiting_for_locks(url: str) -> int:
    """How many sessions of this server wait for a lock."""
    async with connected(url) as connection:
        return int(
            await connection.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            )
        )


class Direct:
    """A way to the server that can be cut: a role of its own, for direct connections.

    Attributes:
        url: for LONGRUN_LISTEN_DATABASE_URL.
    """

    def __init__(self, connection: asyncpg.Connection, url: str, role: str) -> None:
        self.url = url.replace("//postgres@", f"//{role}@")
        assert self.url != url
        self._connection = connection
        self._role = role

    async def cut(self) -> None:
        """End its connections, and let no new one be made."""
        await self._connection.execute(f"ALTER ROLE {self._role} NOLOGIN")
        await self._connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1", self._role
        )

    async def mend(self) -> None:
        await self._connection.execute(f"ALTER ROLE {self._role} LOGIN")


@contextlib.asynccontextmanager
async def direct_way(url: str, schema: str) -> AsyncIterator[Direct]:
    """A way that no other test uses. Who uses it must have ended before this does."""
    role = f"direct_{schema}"
    async with connected(url) as connection:
        await connection.execute(f"CREATE ROLE {role} LOGIN SUPERUSER")
        try:
            yield Direct(connection, url, role)
        finally:
            await connection.execute(f"DROP ROLE {role}")


async def terminate(url: str, *, application: str, query: str = "%") -> int:
    """End sessions of the server: patterns for their application's name and their last query."""
    async with connected(url) as connection:
        rows = await connection.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name LIKE $1 AND query LIKE $2",
            application,
            query,
        )
        return len(rows)


def total(chunks: Iterable[Chunk]) -> int:
    """How many events some chunks hold."""
    return sum(chunk.last - chunk.first + 1 for chunk in chunks)


async def add_history(database: Database, megabytes: int, *, size: int = 1000) -> str:
    """A finished response with so long a log, in events of about `size` bytes."""
    response_id = await add_response(database)
    async with writing(database) as writer:
        run = log_of(writer, response_id)
        for _ in range(megabytes):
            await run.ready()
            run.append(events(run.next_sequence, 1_000_000 // size, delta="x" * (size - 75)))
        end = event(run.next_sequence, "response.completed")
        run.append([end], ending=Ending("completed", "{}"))
        await run.flush()
    return response_id
