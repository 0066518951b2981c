"""Partitions: made ahead, made of what was there before, dropped; and nothing of it is noticed."""

import asyncio
import contextlib
import statistics
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Final

import asyncpg
import pytest

from longrun import ids
from longrun.store import partitions as partitions_module
from longrun.store import responses as responses_module
from longrun.store.database import Database
from longrun.store.log_writer import LogWriter
from longrun.store.migrate import known_migrations, migrate
from longrun.store.partitions import Partitions
from longrun.store.queries import in_schema
from longrun.store.records import Ending, Step
from longrun.store.responses import NewResponse, Responses
from tests.integration.test_roles import (
    Roles,
    roles,  # noqa: F401
)
from tests.postgres import Server
from tests.reading import eventually
from tests.storing import (
    REPLICA,
    add_response,
    connected,
    event,
    log_of,
    logged,
    opened,
    request_for,
    writing,
)

DAY: Final = 86_400.0
HOUR: Final = 3600.0
TABLES: Final = ("event_chunks", "items", "steps")


def of(store: Database, period: float = DAY, left_for: float = DAY) -> Partitions:
    return Partitions(store, period, left_for)


async def tend(store: Database) -> None:
    await of(store).tend(asyncio.Event())


def id_at(seconds: float) -> str:
    """An id of a response that was made so many seconds from now."""
    return ids.response_ids_from(time.time() + seconds) + ids.new_response_id()[17:]


async def finished(store: Database, response_id: str, chunks: int = 3) -> str:
    """A response with this id that has just ended, of which there is something in each table."""
    request = request_for(response_id)
    await Responses(store).create(
        NewResponse(request, [event(0, "response.created")], replica_id=REPLICA)
    )
    async with writing(store) as writer:
        run = log_of(writer, response_id)
        for number in range(1, chunks - 1):
            run.append([event(number, delta="x" * 100)])
            await run.flush()
        run.append(
            [event(chunks - 1, "response.completed")],
            items=[(0, '{"type":"message"}')],
            steps=[Step("", "model", "0", "f", "{}")],
            ending=Ending("completed", "{}"),
        )
        await run.flush()
    return response_id


async def where(store: Database, response_id: str) -> list[str]:
    """The partitions that hold something of a response."""
    schema = store.settings.db_schema
    found: set[str] = set()
    for table in TABLES:
        rows = await store.fetch(
            f'SELECT tableoid::regclass::text FROM "{schema}".{table} WHERE response_id = $1',
            response_id,
        )
        found |= {row[0].removeprefix(f"{schema}.") for row in rows}
    return sorted(found)


async def ranges(store: Database, table: str = "event_chunks") -> list[tuple[str, str]]:
    schema = store.settings.db_schema
    rows = await store.fetch(
        f'SELECT first, until FROM "{schema}".partitions WHERE of_table = $1 ORDER BY first', table
    )
    return [(row["first"], row["until"]) for row in rows]


async def _is_there(store: Database, response_id: str) -> bool:
    """Whether a session that held the tables is gone, so that they can be read again."""
    return bool(await where(store, response_id))


async def do(store: Database, query: str, *args: Any) -> Any:
    """A change of partitions, by itself."""
    row = await store.fetch_row(getattr(store.queries, query), *args)
    return row[0] if row else None


@contextlib.asynccontextmanager
async def appending(store: Database, runs: int) -> AsyncIterator[list[float]]:
    """Runs that append an event again and again, and how long each took; afterwards their logs must
    be whole."""
    response_ids = [await add_response(store) for _ in range(runs)]
    took: list[float] = []
    stop = asyncio.Event()

    async def append(writer: LogWriter, response_id: str) -> int:
        run = log_of(writer, response_id)
        while not stop.is_set():
            began = time.monotonic()
            run.append([event(run.next_sequence, delta="y" * 50)])
            await run.flush()
            took.append(time.monotonic() - began)
            await asyncio.sleep(0.005)
        return run.next_sequence

    async with writing(store) as writer, asyncio.TaskGroup() as group:
        tasks = [group.create_task(append(writer, each)) for each in response_ids]
        try:
            yield took
        finally:
            stop.set()
    for response_id, task in zip(response_ids, tasks, strict=True):
        assert len(await logged(store, response_id)) == task.result() > 1


class TestMade:
    async def test_ahead_of_time_where_there_is_nothing(self, store: Database) -> None:
        await of(store).begin()
        for table in TABLES:
            found = await ranges(store, table)
            assert found[0][0] == ""
            assert found[-1][1] > ids.response_ids_from(time.time() + DAY / 2)
            assert [each[0] for each in found[1:]] == [each[1] for each in found[:-1]]
        before = await ranges(store)
        await asyncio.gather(*(tend(store) for _ in range(3)))
        assert await ranges(store) == before

    async def test_with_an_id_on_each_side_of_a_bound(self, store: Database) -> None:
        await of(store).begin()
        bound = (await ranges(store))[-1][1]
        for table in TABLES:
            after = ids.response_ids_from(ids.made_at(bound) + DAY)
            assert await do(store, "add_partition", table, after)
            assert not await do(store, "add_partition", table, after)
        last = ids.response_ids_from(ids.made_at(bound) - 0.001) + "7fff" + "f" * 16
        first = bound + "7" + "0" * 19
        for response_id, holds in ((last, -2), (first, -1), (ids.response_ids_from(0) + "0", 0)):
            await finished(store, response_id)
            assert len(await logged(store, response_id)) == 3
            rows = await store.fetch(
                f'SELECT name FROM "{store.settings.db_schema}".partitions'
                " WHERE first = $1 ORDER BY name",
                (await ranges(store))[holds][0],
            )
            assert await where(store, response_id) == [row["name"] for row in rows]

    async def test_of_what_was_there_before(self, store: Database) -> None:
        response_id = await finished(store, id_at(-1000 * DAY))
        assert await where(store, response_id) == [f"{table}_rest" for table in TABLES]
        async with appending(store, 3) as took:
            await eventually(lambda: len(took) > 20)
            await tend(store)
            count = len(took)
            await eventually(lambda: len(took) > count + 20)
        assert len(await logged(store, response_id)) == 3
        assert not any("rest" in each for each in await where(store, response_id))
        for table in TABLES:
            ((first, until),) = await ranges(store, table)
            assert first == ""
            assert until > ids.response_ids_from(time.time() + DAY)
        new = await finished(store, id_at(0))
        assert await where(store, new) == await where(store, response_id)

    async def test_of_what_came_while_nobody_made_any(self, store: Database) -> None:
        for table in TABLES:
            await do(store, "add_partition", table, ids.response_ids_from(time.time() - 2 * HOUR))
        old, late = await finished(store, id_at(-DAY)), await finished(store, id_at(0))
        assert await where(store, late) == [f"{table}_rest" for table in TABLES]
        part = of(store)
        await part.tend(asyncio.Event())
        assert part.problem is None
        assert len(await ranges(store)) == 2
        assert len({*await where(store, old), *await where(store, late)}) == 6
        for response_id in (old, late):
            assert len(await logged(store, response_id)) == 3

    async def test_beside_rows_that_none_can_take(self, store: Database) -> None:
        """Of a clock that is behind: they stay where they are, and what comes has its ranges."""
        for table in TABLES:
            await do(store, "add_partition", table, ids.response_ids_from(time.time() - 9 * HOUR))
            await do(store, "add_partition", table, ids.response_ids_from(time.time() - 8 * HOUR))
        assert await do(store, "drop_partition", "event_chunks", "")
        stray = await finished(store, id_at(-10 * HOUR))
        assert "event_chunks_rest" in await where(store, stray)
        part = of(store)
        await part.tend(asyncio.Event())
        assert part.problem is not None
        assert "event_chunks_rest" in part.problem
        assert len(await logged(store, stray)) == 3
        new = await finished(store, id_at(0))
        assert not any("rest" in each for each in await where(store, new))

    async def test_none_where_another_session_holds_the_table(
        self, store: Database, database: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A long reader: appends go on beside it, and are not held up for long."""
        monkeypatch.setattr(partitions_module, "TRIES", 2)
        schema = store.settings.db_schema
        await finished(store, id_at(-HOUR))
        async with appending(store, 2) as took, connected(database.url) as reader:
            async with reader.transaction():
                await reader.execute(f'SELECT FROM "{schema}".event_chunks')
                await tend(store)
                assert await ranges(store) == []
            assert max(took) < 2
            await tend(store)
            assert len(await ranges(store)) == 1


class TestACrash:
    """Whoever made a range dies after any step of it: all is as readable and writable as ever, and
    another replica comes to the same end."""

    @pytest.mark.parametrize("steps", [1, 2, 3])
    async def test_after(self, store: Database, steps: int) -> None:
        response_id = await finished(store, id_at(-HOUR))
        bound = ids.response_ids_from(time.time() + 2 * DAY)
        all_steps: list[Callable[[], Coroutine[Any, Any, Any]]] = [
            lambda: do(store, "begin_range", "event_chunks", bound),
            lambda: do(store, "validate_range", "event_chunks"),
            lambda: do(store, "finish_range", "event_chunks"),
        ]
        for step in all_steps[:steps]:
            await step()
        assert not await do(store, "begin_range", "event_chunks", bound)
        assert len(await logged(store, await finished(store, id_at(0)))) == 3
        await of(store).begin()
        await tend(store)
        assert (await ranges(store))[0] == ("", bound)
        assert len(await logged(store, response_id)) == 3
        assert not any("rest" in each for each in await where(store, response_id))

    async def test_is_not_finished_before_it_is_known_to_fit(self, store: Database) -> None:
        await finished(store, id_at(-HOUR))
        bound = ids.response_ids_from(time.time() + 2 * DAY)
        assert not await do(store, "finish_range", "items")
        await do(store, "begin_range", "items", bound)
        assert not await do(store, "finish_range", "items")

    async def test_long_ago_does_not_keep_anybody_from_writing(self, store: Database) -> None:
        """Its bound comes near, and past that nothing could be written: so whoever starts gives
        it up."""
        await finished(store, id_at(-HOUR))
        bound = ids.response_ids_from(time.time() + HOUR)
        for table in TABLES:
            await do(store, "begin_range", table, bound)
        with pytest.raises(asyncpg.CheckViolationError):
            await Responses(store).create(
                NewResponse(request_for(id_at(2 * HOUR)), [event(0)], replica_id=REPLICA)
            )
        await of(store).begin()
        late = await finished(store, id_at(2 * HOUR))
        await tend(store)
        assert (await ranges(store))[0][1] > ids.response_ids_from(time.time() + DAY)
        assert len(await logged(store, late)) == 3


class TestDropped:
    async def _old(self, store: Database, responses: int, chunks: int) -> list[str]:
        """A range that ended a day ago, with responses that end now."""
        for table in TABLES:
            await do(store, "add_partition", table, ids.response_ids_from(time.time() - DAY))
        await of(store).begin()
        return [await finished(store, id_at(-2 * DAY), chunks) for _ in range(responses)]

    async def test_when_all_in_it_has_expired_and_not_before(
        self, store: Database, database: Server
    ) -> None:
        first, second = await self._old(store, 2, 30)
        responses, schema = Responses(store), store.settings.db_schema
        names = await where(store, first)
        row = await store.fetch_row(
            "SELECT array_agg(pg_relation_filepath(name::regclass)) AS files"
            " FROM unnest($1::text[]) AS name",
            [f"{schema}.{name}" for name in names],
        )
        assert row is not None
        files = [database.data / file for file in row["files"]]
        assert all(file.stat().st_size for file in files)
        soon = ids.response_ids_from(time.time())
        await store.execute(
            f"UPDATE \"{schema}\".responses SET finished_at = finished_at - interval '1 day'"
            " WHERE id = $1",
            first,
        )
        assert await responses.expire(DAY, soon) == 1
        assert await responses.get(first, "") is None
        assert await where(store, first) == names, "left to be dropped"
        await tend(store)
        assert await do(store, "drop_partition", "items", "") is False
        assert len(await logged(store, second)) == 30
        assert await responses.expire(0, soon) == 1
        async with appending(store, 20) as took:
            await eventually(lambda: len(took) > 100)
            await tend(store)
            assert await where(store, first) == []
            count = len(took)
            await eventually(lambda: len(took) > count + 100)
        assert statistics.quantiles(took, n=100)[98] < 1
        # A checkpoint removes the empty file whose number is not used again at once.
        assert not any(file.exists() and file.stat().st_size for file in files)
        assert "" not in {first for first, _ in await ranges(store)}

    async def _expired(self, store: Database) -> str:
        (response_id,) = await self._old(store, 1, 3)
        await store.execute(
            f'UPDATE "{store.settings.db_schema}".responses'
            " SET finished_at = finished_at - interval '2 days'"
        )
        assert await Responses(store).expire(DAY, ids.response_ids_from(time.time())) == 1
        return response_id

    async def test_by_another_replica_where_one_dies_in_the_middle(
        self, store: Database, database: Server
    ) -> None:
        response_id, schema = await self._expired(store), store.settings.db_schema
        names = await where(store, response_id)
        async with connected(database.url) as dying:
            await dying.execute("BEGIN")
            drop = f"SELECT \"{schema}\".drop_partition('event_chunks', '')"
            assert await dying.fetchval(drop)
            dying.terminate()
        await eventually(lambda: _is_there(store, response_id), 10)
        assert await where(store, response_id) == names
        await tend(store)
        assert await where(store, response_id) == []
        assert not {first for first, _ in await ranges(store)} & {""}

    async def test_later_where_another_session_reads_them(
        self, store: Database, database: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Appends wait for no longer than the drop itself does."""
        monkeypatch.setattr(partitions_module, "TRIES", 2)
        response_id, schema = await self._expired(store), store.settings.db_schema
        async with appending(store, 2) as took, connected(database.url) as reader:
            async with reader.transaction():
                await reader.execute(f'SELECT FROM "{schema}".event_chunks')
                await tend(store)
                assert "event_chunks" in str(await where(store, response_id))
            assert max(took) < 2
            await tend(store)
        assert await where(store, response_id) == []

    async def test_what_is_left_to_be_dropped_is_not_counted(
        self, store: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """How many chunks are deleted in one transaction is bounded, and none of these are."""
        monkeypatch.setattr(responses_module, "MOST_CHUNKS", 4)
        await self._old(store, 5, 3)
        await store.execute(
            f'UPDATE "{store.settings.db_schema}".responses'
            " SET finished_at = finished_at - interval '2 days'"
        )
        soon = ids.response_ids_from(time.time())
        assert await Responses(store).expire(DAY) == 2
        assert await Responses(store).expire(DAY, soon) == 3

    async def test_what_is_deleted_otherwise_goes_at_once(self, store: Database) -> None:
        kept, unstored, deleted, pruned = await self._old(store, 4, 3)
        responses, schema = Responses(store), store.settings.db_schema
        soon = ids.response_ids_from(time.time())
        assert await responses.delete(deleted, "")
        await store.execute(
            f'UPDATE "{schema}".responses SET stored = id <> $1,'
            " finished_at = finished_at - CASE WHEN id IN ($1, $2) THEN interval '2 days'"
            " ELSE interval '0' END",
            unstored,
            pruned,
        )
        # As `longrun prune` does, whatever is to be dropped soon.
        assert await responses.expire(DAY) == 2
        assert await responses.expire(0.0, ids.response_ids_from(time.time() - 30 * DAY)) == 1
        for response_id in (unstored, deleted, pruned, kept):
            assert await where(store, response_id) == []
        again = await finished(store, id_at(-2 * DAY))
        await store.execute(
            f'UPDATE "{schema}".responses SET stored = false,'
            " finished_at = finished_at - interval '2 minutes'"
        )
        assert await responses.expire(DAY, soon) == 1
        assert await where(store, again) == []

    async def test_what_a_straggler_would_keep_is_deleted(self, store: Database) -> None:
        expired, straggler, other = await self._old(store, 3, 3)
        responses, schema = Responses(store), store.settings.db_schema
        await store.execute(
            f"UPDATE \"{schema}\".responses SET finished_at = finished_at - interval '1 day'"
            " WHERE id <> $1",
            straggler,
        )
        soon = ids.response_ids_from(time.time())
        assert await responses.expire(DAY / 2, soon) == 2
        part = of(store, left_for=HOUR)
        await part.tend(asyncio.Event())
        assert len(await where(store, expired)) == 3, "its time is not over"
        await store.execute(
            f"UPDATE \"{schema}\".partitions SET left_at = left_at - interval '1 day'"
        )
        await part.tend(asyncio.Event())
        assert await where(store, expired) == await where(store, other) == []
        assert len(await logged(store, straggler)) == 3
        rows = await store.fetch(f'SELECT FROM "{schema}".partitions WHERE left_at IS NOT NULL')
        assert rows == []

    async def test_not_before_it_has_ended(self, store: Database) -> None:
        await of(store).begin()
        assert await do(store, "drop_partition", "steps", "") is False
        assert await do(store, "drop_partition", "steps", "no such") is False


BEFORE: Final = 14
"""Migrations of the version before partitions."""


@contextlib.asynccontextmanager
async def before(url: str, schema: str) -> AsyncIterator[Database]:
    """The pools of a replica, on a schema as it was before there were partitions."""
    async with opened(url, schema) as database:
        async with database.transaction() as connection:
            await connection.execute(database.queries.create_schema)
            await connection.execute(database.queries.create_migrations)
            for each in known_migrations()[:BEFORE]:
                await connection.execute(in_schema(each.sql, schema))
                await connection.execute(
                    database.queries.record_migration,
                    each.version,
                    each.name,
                    each.checksum,
                    each.breaking,
                )
        yield database


class TestMigrating:
    async def test_a_filled_database_while_runs_append(self, database: Server, schema: str) -> None:
        """Statements that are prepared go on. A session that holds a table keeps nobody waiting but
        the migration."""
        async with before(database.url, schema) as store:
            response_id = await finished(store, id_at(-DAY))
            async with appending(store, 10) as took, connected(database.url) as reader:
                await eventually(lambda: len(took) > 100)
                async with reader.transaction():
                    await reader.execute(f'SELECT FROM "{schema}".items')
                    migrating = asyncio.create_task(migrate(store))
                    await asyncio.sleep(0)
                    count = len(took)
                    await eventually(lambda: len(took) > count + 200)
                    assert not migrating.done()
                applied = await migrating
                assert applied[0].name == "partitions"
                count = len(took)
                await eventually(lambda: len(took) > count + 100)
                await tend(store)
                count = len(took)
                await eventually(lambda: len(took) > count + 100)
            assert len(await logged(store, response_id)) == 3
            assert len(await ranges(store)) == 1
            rows = await store.fetch(
                f'SELECT sequence_number FROM "{schema}".events WHERE response_id = $1', response_id
            )
            assert sorted(row[0] for row in rows) == [0, 1, 2]

    async def test_rights_stay_as_they_were(self, database: Server, schema: str) -> None:
        role = f"old_{schema}"
        async with before(database.url, schema) as store, connected(database.url) as admin:
            await admin.execute(f"CREATE ROLE {role} LOGIN")
            try:
                await admin.execute(
                    f'GRANT USAGE ON SCHEMA "{schema}" TO {role};'
                    f'GRANT SELECT, INSERT, DELETE ON "{schema}".event_chunks TO {role};'
                    f'GRANT SELECT (response_id), UPDATE (item) ON "{schema}".items TO {role};'
                    f'ALTER DEFAULT PRIVILEGES IN SCHEMA "{schema}" GRANT ALL ON TABLES TO {role}'
                )
                await migrate(store)
                await of(store).begin()
                tables = await admin.fetch(
                    "SELECT relname, has_table_privilege($1, oid, 'SELECT') AS reads,"
                    " has_table_privilege($1, oid, 'DELETE') AS deletes,"
                    " has_any_column_privilege($1, oid, 'UPDATE') AS updates"
                    " FROM pg_class WHERE relnamespace = $2::text::regnamespace"
                    " AND relname ~ '^(event_chunks|items|steps)' AND relkind IN ('r', 'p')",
                    role,
                    schema,
                )
                allowed = {
                    row["relname"]: (row["reads"], row["deletes"], row["updates"]) for row in tables
                }
                assert allowed.pop("event_chunks") == (True, True, False)
                assert allowed.pop("items") == (False, False, True)
                assert len(allowed) >= 1 + 3 + 3
                assert set(allowed.values()) == {(False, False, False)}
                can = f"SELECT has_function_privilege('{role}', $1, 'EXECUTE')"
                assert await admin.fetchval(can, f'"{schema}".drop_partition(text,text)')
                assert not await admin.fetchval(can, f'"{schema}".make_partition(text,text)')
            finally:
                await admin.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


class TestTheRuntimeRole:
    async def test_makes_and_drops_by_functions_alone(self, roles: Roles) -> None:  # noqa: F811
        async with opened(roles.runtime, roles.schema) as runtime:
            response_id = await finished(runtime, id_at(-HOUR))
            await tend(runtime)
            ((_, until),) = await ranges(runtime)
            assert not any("rest" in each for each in await where(runtime, response_id))
            await do(
                runtime, "add_partition", "items", ids.response_ids_from(time.time() + 9 * DAY)
            )
            names = [*await where(runtime, response_id), "event_chunks_rest"]
        async with connected(roles.runtime) as connection:
            for statement in (
                *(f'SELECT FROM "{roles.schema}".{name}' for name in names),
                f'DROP TABLE "{roles.schema}".{names[0]}',
                f'DELETE FROM "{roles.schema}".partitions',
                f'UPDATE "{roles.schema}".partitions SET until = until',
                f"SELECT \"{roles.schema}\".make_partition('items', 'mine')",
            ):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await connection.execute(statement)
            for arguments in (
                ("event_chunks", "mine"),
                ("responses", until),
                ("items; DROP TABLE x", until),
            ):
                with pytest.raises(asyncpg.RaiseError):
                    await connection.execute(
                        f'SELECT "{roles.schema}".add_partition($1, $2)', *arguments
                    )
