"""Migrations: once, whoever starts them and however many do; and refused where they must be."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable

import pytest

from longrun import ids
from longrun.errors import ConfigurationError
from longrun.store.migrate import Migration, check_migrated, known_migrations, migrate
from longrun.store.queries import in_schema
from longrun.store.responses import Page, Responses
from tests import postgres, servers
from tests.postgres import Server
from tests.reading import Wire
from tests.storing import add_response, connected, logged, migrated, opened

ALL = [migration.version for migration in known_migrations()]


async def applied(url: str, schema: str) -> list[int]:
    async with connected(url) as connection:
        rows = await connection.fetch(f'SELECT version FROM "{schema}".migrations ORDER BY 1')
    return [row["version"] for row in rows]


async def change(url: str, statement: str) -> None:
    async with connected(url) as connection:
        await connection.execute(statement)


class TestTogether:
    async def test_of_ten_tasks_one_migrates(self, database: Server, schema: str) -> None:
        async def migrate_one() -> list[Migration]:
            async with opened(database.url, schema, pool_size=2) as mine:
                return await migrate(mine)

        done = await asyncio.gather(*(migrate_one() for _ in range(10)))
        assert sorted([m.version for m in each] for each in done) == [[]] * 9 + [ALL]
        assert await applied(database.url, schema) == ALL

    async def test_of_two_processes_one_migrates(self, database: Server, schema: str) -> None:
        command = [sys.executable, "-m", "longrun", "migrate", "--json"]
        environment = {
            **os.environ,
            "LONGRUN_DATABASE_URL": database.url,
            "LONGRUN_SCHEMA": schema,
        }
        processes = [
            await asyncio.create_subprocess_exec(
                *command, env=environment, stdout=subprocess.PIPE, cwd=servers.REPOSITORY
            )
            for _ in range(2)
        ]
        outputs = [(await process.communicate())[0] for process in processes]
        assert [process.returncode for process in processes] == [0] * 2
        said = [json.loads(output) for output in outputs]
        assert sorted(len(each["applied"]) for each in said) == [0, len(ALL)]
        assert await applied(database.url, schema) == ALL

    async def test_a_second_time_there_is_nothing_to_do(
        self, database: Server, schema: str
    ) -> None:
        async with migrated(database.url, schema) as mine:
            assert await migrate(mine) == []
            await check_migrated(mine)

    async def test_what_the_first_schema_held_can_be_continued(
        self, database: Server, schema: str
    ) -> None:
        """Its responses hold their whole history in `input`."""
        async with opened(database.url, schema) as mine:
            first, *later = known_migrations()
            async with mine.transaction() as connection:
                await connection.execute(mine.queries.create_schema)
                await connection.execute(mine.queries.create_migrations)
                await connection.execute(in_schema(first.sql, schema))
                await connection.execute(
                    mine.queries.record_migration, first.version, first.name, first.checksum, False
                )
            old = ids.new_response_id()
            given = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
            await mine.execute(
                f'INSERT INTO "{schema}".responses (id, principal, agent, status, background,'
                " stored, attempt, spent, document, input, request, deadline_at, finished_at)"
                " VALUES ($1, '', 'a', 'completed', true, true, 1, 1, '{}', $2, '{}', now(),"
                " now())",
                old,
                json.dumps(given),
            )
            assert await migrate(mine) == later
            responses = Responses(mine)
            [exchange] = await responses.histories.chain(old, "")
            assert exchange.previous_id is None
            assert (exchange.given, exchange.stored) == (given, [])
            [listed] = await responses.listed(Page("", 20))
            assert listed.id == old
            [stored] = await responses.all_of([old], "")
            assert stored.id == old

    async def test_two_schemas_of_one_database_know_nothing_of_each_other(
        self, database: Server, schema: str
    ) -> None:
        other = f"{schema}_b"
        async with migrated(database.url, schema) as one, opened(database.url, other) as two:
            response_id = await add_response(one)
            with pytest.raises(ConfigurationError):
                await check_migrated(two)
            await migrate(two)
            assert len(await logged(one, response_id)) == 1
            assert await logged(two, response_id) == []


class TestRefused:
    async def test_a_migration_that_was_changed_after_it_was_applied(
        self, database: Server, schema: str
    ) -> None:
        async with migrated(database.url, schema) as mine:
            await change(database.url, f"UPDATE \"{schema}\".migrations SET checksum = 'other'")
            for look in (migrate, check_migrated):
                with pytest.raises(ConfigurationError, match="0001_initial was changed"):
                    await look(mine)

    async def test_an_unknown_migration_that_breaks_this_code(
        self, database: Server, schema: str
    ) -> None:
        async with migrated(database.url, schema) as mine:
            await change(database.url, unknown_migration(schema, breaking=True))
            for look in (migrate, check_migrated):
                with pytest.raises(ConfigurationError, match="9999_from_the_future"):
                    await look(mine)

    async def test_but_not_an_unknown_one_that_breaks_nothing(
        self, database: Server, schema: str
    ) -> None:
        async with migrated(database.url, schema) as mine:
            await change(database.url, unknown_migration(schema, breaking=False))
            assert await migrate(mine) == []
            await check_migrated(mine)

    async def test_pending_ones_when_the_server_must_not_migrate(
        self, database: Server, schema: str
    ) -> None:
        async with opened(database.url, schema) as mine:
            with pytest.raises(ConfigurationError, match="run `longrun migrate`"):
                await check_migrated(mine)


class TestRights:
    @pytest.fixture
    async def app(self, database: Server, schema: str) -> AsyncIterator[str]:
        """The URL of a role that owns nothing and may create nothing."""
        role = f"app_{schema}"
        async with connected(database.url) as connection:
            await connection.execute(f"CREATE ROLE {role} LOGIN")
            yield database.url.replace("//postgres@", f"//{role}@")
            await connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")

    async def _grant(self, url: str, schema: str) -> None:
        role = f"app_{schema}"
        await change(url, f'GRANT USAGE ON SCHEMA "{schema}" TO {role}')
        tables = f'ON ALL TABLES IN SCHEMA "{schema}"'
        await change(url, f"GRANT SELECT, INSERT, UPDATE, DELETE {tables} TO {role}")
        await change(url, f'GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA "{schema}" TO {role}')

    async def test_none_to_create_is_needed_when_nothing_is_pending(
        self, database: Server, schema: str, app: str
    ) -> None:
        async with migrated(database.url, schema):
            await self._grant(database.url, schema)
        async with opened(app, schema) as mine:
            assert await migrate(mine) == []
        with servers.replicas(1, app, schema=schema) as (replica,):
            body = {"model": "scripted", "input": "hello"}
            url = f"{replica.base_url}/responses"
            async with await Wire.open(url, method="POST", json=body) as wire:
                await wire.rest()
            assert wire.status == 200

    async def test_what_is_missing_is_said(self, schema: str, app: str) -> None:
        async with opened(app, schema) as mine:
            with pytest.raises(ConfigurationError, match=r"pending.*denied.*CREATE on"):
                await migrate(mine)

    async def test_a_schema_that_it_may_not_even_use(
        self, database: Server, schema: str, app: str
    ) -> None:
        async with migrated(database.url, schema), opened(app, schema) as mine:
            with pytest.raises(ConfigurationError, match=rf"no right .*{schema}.*USAGE"):
                await migrate(mine)


def unknown_migration(schema: str, *, breaking: bool) -> str:
    return (
        f'INSERT INTO "{schema}".migrations (version, name, checksum, breaking) '
        f"VALUES (9999, 'from_the_future', 'x', {breaking})"
    )


def test_a_server_that_must_not_migrate_says_what_to_do(database: Server, schema: str) -> None:
    environment = {"LONGRUN_AUTO_MIGRATE": "false"}
    replica = servers.start(database.url, schema=schema, environment=environment, wait=False)
    try:
        assert replica.wait(60) == 2
        output = replica.output()
        assert "longrun migrate" in output
        assert schema in output
        assert "Traceback" not in output
    finally:
        replica.end()
        replica.log.unlink()


def on_every_postgres() -> list[object]:
    """The embedded one, and those that are installed."""
    found: list[object] = [pytest.param(postgres.embedded, id="embedded")]
    for version in postgres.installed_versions():
        found.append(
            pytest.param(lambda version=version: postgres.debian(version), id=str(version))
        )
    return found


@pytest.mark.parametrize("start", on_every_postgres())
async def test_all_queries_and_a_whole_run_on_every_version_of_postgres(
    start: Callable[[], object],
) -> None:
    with start() as server:  # type: ignore[attr-defined]
        async with migrated(server.url, "versions") as mine, mine.transaction() as connection:
            for name in mine.queries.names():
                try:
                    await connection.prepare(getattr(mine.queries, name))
                except Exception as error:
                    raise AssertionError(f"query {name} does not prepare: {error}") from error
        with servers.replicas(1, server.url, schema="whole") as (replica,):
            body = {"model": "scripted", "input": "hello", "stream": True}
            async with await Wire.open(
                f"{replica.base_url}/responses", method="POST", json=body
            ) as wire:
                await wire.rest()
        assert b"response.completed" in wire.body
        assert b'"text":"hello"' in wire.body
