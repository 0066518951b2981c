"""Least privilege: `longrun migrate --print-grants` gives a replica what it needs, and no more."""

import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import asyncpg
import openai
import pytest
from openai import AsyncOpenAI

from longrun.access.keys import new_key
from longrun.errors import ConfigurationError
from longrun.store.conversations import Conversations
from longrun.store.database import Database
from longrun.store.grants import Right, check_rights, grants, needed
from longrun.store.keys import Keys, KeyToStore
from longrun.store.migrate import migrate
from longrun.store.queries import in_schema
from longrun.store.responses import Responses
from tests import servers
from tests.postgres import Server
from tests.storing import add_response, connected, opened

OF_OWNER = {
    *("create_schema", "create_migrations", "record_migration"),
    *("list_keys", "replace_key", "revoke_keys"),
    *("forget_encryption_key", "forget_unused_keys", "redeliver"),
    *("find_other_responses", "find_other_chunks", "find_other_items", "find_other_steps"),
    *("find_other_conversations", "find_other_conversation_items"),
    *("rewrite_response", "rewrite_chunk", "rewrite_item", "rewrite_step"),
    *("rewrite_conversation", "rewrite_conversation_item", "rewrite_steer"),
    *("find_other_digests", "rewrite_digest"),
    *("find_other_webhook_endpoints", "rewrite_webhook_endpoint"),
}
"""What only commands execute that are for the owner: `longrun migrate`, `keys`, `encryption` and
`webhooks redeliver`."""


@dataclass(frozen=True)
class Roles:
    """Two roles of one schema, by URLs and names."""

    schema: str
    owner: str
    runtime: str
    names: tuple[str, str]

    @property
    def sql(self) -> str:
        return grants(self.schema, *self.names)


async def two_roles(
    database: Server, schema: str, admin_url: str | None = None
) -> AsyncIterator[Roles]:
    """Made by an administrator, migrated by the owner, restricted by the owner."""
    names = (f"{schema}-owner", f"{schema}.runtime")
    urls = [database.url.replace("//postgres@", f"//{name}@") for name in names]
    made = Roles(schema, *urls, names)
    async with connected(database.url) as superuser:
        try:
            async with connected(admin_url or database.url) as admin:
                await admin.execute(made.sql)
            async with opened(made.owner, schema) as owned:
                await migrate(owned)
            async with connected(made.owner) as owner:
                await owner.execute(made.sql)
            yield made
        finally:
            for name in names:
                await superuser.execute(f'DROP OWNED BY "{name}" CASCADE')
            for name in names:
                await superuser.execute(f'DROP ROLE "{name}"')


@pytest.fixture
async def roles(database: Server, schema: str) -> AsyncIterator[Roles]:
    async for made in two_roles(database, schema):
        yield made


@pytest.fixture
async def runtime(roles: Roles) -> AsyncIterator[Database]:
    """The pools of a replica that connects as the runtime role."""
    async with opened(roles.runtime, roles.schema) as database:
        yield database


async def refused(connection: asyncpg.Connection, database: Database, name: str) -> bool:
    """Whether a role may not execute a query. Postgres looks at that before it executes it."""
    sql = f"EXPLAIN (GENERIC_PLAN) {getattr(database.queries, name)}"
    try:
        await connection.execute(sql)
    except asyncpg.InsufficientPrivilegeError:
        return True
    return False


def revoked(right: Right, roles: Roles, verb: str = "REVOKE") -> str:
    column = f" ({right.column})" if right.column else ""
    kind = "FUNCTION " if right.on_function else ""
    way = "FROM" if verb == "REVOKE" else "TO"
    name = in_schema(right.name, roles.schema)
    return f'{verb} {right.privilege}{column} ON {kind}{name} {way} "{roles.names[1]}"'


class TestRights:
    async def test_are_enough_for_every_query_of_a_replica(
        self, roles: Roles, runtime: Database
    ) -> None:
        async with connected(roles.runtime) as connection:
            for name in set(runtime.queries.names()) - OF_OWNER:
                assert not await refused(connection, runtime, name), (
                    f"query {name} needs a right that sql/grants.sql does not have"
                )

    async def test_are_each_needed_by_a_query(self, roles: Roles, runtime: Database) -> None:
        queries = set(runtime.queries.names()) - OF_OWNER
        async with connected(roles.owner) as owner, connected(roles.runtime) as connection:
            for right in needed():
                await owner.execute(revoked(right, roles))
                for name in queries:
                    if await refused(connection, runtime, name):
                        break
                else:
                    raise AssertionError(f"no query of a replica needs {right}")
                await owner.execute(revoked(right, roles, "GRANT"))

    @pytest.mark.parametrize(
        "statement",
        [
            "DROP TABLE longrun.items",
            "DROP SCHEMA longrun CASCADE",
            "ALTER TABLE longrun.items ADD COLUMN mine text",
            "TRUNCATE longrun.steps",
            "CREATE TABLE longrun.mine ()",
            "CREATE INDEX ON longrun.items (item)",
            "CREATE FUNCTION longrun.mine() RETURNS void LANGUAGE sql AS ''",
            "UPDATE longrun.responses SET principal = 'mine'",
            "UPDATE longrun.event_chunks SET data = ''",
            "UPDATE longrun.keys SET principal = 'mine'",
            "UPDATE longrun.keys SET revoked_at = NULL",
            "SELECT name FROM longrun.keys",
            "SELECT * FROM longrun.events",
            "INSERT INTO longrun.migrations VALUES (999, 'mine', '', true)",
            "SELECT * FROM pg_authid",
        ],
    )
    async def test_the_runtime_role_cannot(self, roles: Roles, statement: str) -> None:
        async with connected(roles.runtime) as connection:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(
                    in_schema(statement, roles.schema).replace(
                        "SCHEMA longrun", f'SCHEMA "{roles.schema}"'
                    )
                )

    async def test_what_a_later_migration_makes_can_be_used_at_once(self, roles: Roles) -> None:
        async with connected(roles.owner) as owner:
            await owner.execute(f'CREATE TABLE "{roles.schema}".later (id int)')
        async with connected(roles.runtime) as connection:
            await connection.execute(f'INSERT INTO "{roles.schema}".later VALUES (1)')

    async def test_a_schema_that_another_role_made_becomes_the_owners(
        self, database: Server, schema: str
    ) -> None:
        async with opened(database.url, schema) as theirs:
            await migrate(theirs)
            response_id = await add_response(theirs)
        async for roles in two_roles(database, schema):
            async with connected(roles.owner) as owner:
                kinds = "SELECT relkind, relowner::regrole::text FROM pg_class"
                rows = await owner.fetch(f"{kinds} WHERE relnamespace = '{schema}'::regnamespace")
                assert {row["relowner"] for row in rows} == {f'"{roles.names[0]}"'}
                await owner.execute(f'ALTER TABLE "{schema}".responses ADD COLUMN later text')
            async with opened(roles.runtime, schema) as mine:
                assert await Responses(mine).get(response_id, "") is not None

    async def test_an_administrator_need_not_be_a_superuser(
        self, database: Server, schema: str
    ) -> None:
        name = f"{schema}_admin"
        async with connected(database.url) as superuser:
            await superuser.execute(f"CREATE ROLE {name} LOGIN CREATEROLE")
            await superuser.execute(f"GRANT CREATE ON DATABASE postgres TO {name}")
        admin = database.url.replace("//postgres@", f"//{name}@")
        async for roles in two_roles(database, schema, admin):
            async with opened(roles.runtime, schema) as mine:
                await check_rights(mine)
        async with connected(database.url) as superuser:
            await superuser.execute(f"DROP OWNED BY {name} CASCADE; DROP ROLE {name}")

    @pytest.mark.parametrize("name", ["", "a b", 'a"b', "a'b", "a;b", "x" * 64, "é"])
    def test_an_odd_name_of_a_role_is_refused(self, name: str) -> None:
        with pytest.raises(ConfigurationError, match="name of a role"):
            grants("longrun", name)

    def test_the_two_are_not_one(self) -> None:
        with pytest.raises(ConfigurationError, match="both called 'app'"):
            grants("longrun", "app", "app")


class TestARightThatIsMissing:
    @pytest.mark.parametrize("number", range(0, len(needed()), 9))
    async def test_is_named(self, roles: Roles, runtime: Database, number: int) -> None:
        await check_rights(runtime)
        right = needed()[number]
        async with connected(roles.owner) as owner:
            await owner.execute(revoked(right, roles))
        with pytest.raises(ConfigurationError) as raised:
            await check_rights(runtime)
        on = right.name.removeprefix("longrun.")
        column = f" ({right.column})" if right.column else ""
        assert f"'{roles.names[1]}'" in raised.value.message
        assert f": {right.privilege}{column} on {on}." in raised.value.message
        assert f"--print-grants --runtime {roles.names[1]}" in raised.value.message

    async def test_keeps_a_server_from_starting_in_words(self, roles: Roles) -> None:
        async with connected(roles.owner) as owner:
            table = f'"{roles.schema}".responses'
            await owner.execute(f'REVOKE ALL ON {table} FROM "{roles.names[1]}"')
        output = not_started(roles.runtime, roles.schema)
        assert "SELECT on responses" in output
        assert "UPDATE (status, attempt" in output
        assert "--print-grants" in output

    async def test_of_commands_that_are_for_the_owner(self, roles: Roles) -> None:
        done = command(roles, roles.runtime, "keys", "list")
        assert done.returncode == 2
        assert "permission denied for table keys" in done.stderr
        assert f"the role that owns schema '{roles.schema}'" in done.stderr
        assert "Traceback" not in done.stderr

    async def test_of_a_replica_that_would_have_to_migrate(self, roles: Roles) -> None:
        async with connected(roles.owner) as owner:
            rows = f'"{roles.schema}".migrations'
            await owner.execute(
                f"DELETE FROM {rows} WHERE version = (SELECT max(version) FROM {rows})"
            )
        output = not_started(roles.runtime, roles.schema)
        assert "1 migrations are pending" in output
        assert "has to run `longrun migrate`" in output


def not_started(url: str, schema: str) -> str:
    """What a server says that does not start."""
    replica = servers.start(url, schema=schema, wait=False)
    try:
        assert replica.wait(60) == 2
        output = " ".join(replica.output().split())
        assert "Traceback" not in output
        return output
    finally:
        replica.end()
        replica.log.unlink()


def command(roles: Roles, url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "longrun", *arguments],
        env={"LONGRUN_DATABASE_URL": url, "LONGRUN_SCHEMA": roles.schema},
        capture_output=True,
        text=True,
        cwd=servers.REPOSITORY,
        check=False,
    )


class TestARealReplica:
    @pytest.fixture
    def replicas(self, roles: Roles) -> Iterator[list[servers.Replica]]:
        with servers.replicas(2, roles.runtime, schema=roles.schema) as started:
            yield started
            for replica in started:
                assert "permission denied" not in replica.output()
                assert "Traceback" not in replica.output()

    async def test_does_all_of_its_work_as_the_runtime_role(
        self, roles: Roles, replicas: list[servers.Replica], runtime: Database
    ) -> None:
        done = command(roles, roles.owner, "keys", "create", "alice", "--json")
        key = json.loads(done.stdout)["key"]
        one, two = (
            AsyncOpenAI(base_url=replica.base_url, api_key=key, max_retries=0)
            for replica in replicas
        )
        async with one, two:
            await self._conversations(one)
            first = await one.responses.create(model="scripted", input="hello")
            then = await two.responses.create(
                model="scripted", input="more", previous_response_id=first.id
            )
            assert then.output_text == "more"
            slow = json.dumps({"deltas": 1000, "pause": 0.05})
            live = await one.responses.create(model="scripted", input=slow, background=True)
            assert (await two.responses.cancel(live.id)).status == "cancelled"
            await two.responses.delete(live.id)
            with pytest.raises(openai.NotFoundError):
                await one.responses.retrieve(live.id)
            await self._takeover(one, two, replicas[0])
        await self._chat_token(replicas[1], key)
        await self._retention(runtime)

    async def _conversations(self, client: AsyncOpenAI) -> None:
        item = {"type": "message", "role": "user", "content": "before"}
        made = await client.conversations.create(items=[item], metadata={"a": "b"})  # type: ignore[list-item]
        await client.responses.create(model="scripted", input="on it", conversation=made.id)
        listed = await client.conversations.items.list(made.id)
        assert len(listed.data) == 3
        await client.conversations.items.delete(listed.data[0].id, conversation_id=made.id)
        await client.conversations.update(made.id, metadata={"a": "c"})
        await client.conversations.delete(made.id)

    async def _takeover(self, one: AsyncOpenAI, two: AsyncOpenAI, victim: servers.Replica) -> None:
        script = json.dumps({"turns": [[["echo", {"text": "x"}]]], "deltas": 20, "pause": 0.1})
        run = await one.responses.create(model="scripted", input=script, background=True)
        async for event in await two.responses.retrieve(run.id, stream=True):
            if event.type == "response.output_text.delta" and victim.process.poll() is None:
                victim.signal(signal.SIGKILL)
                victim.wait()
        assert event.type == "response.completed"

    async def _chat_token(self, replica: servers.Replica, key: str) -> None:
        async with AsyncOpenAI(base_url=replica.base_url, api_key=key) as client:
            made = await client.post(
                "/chat_tokens",
                body={"model": "scripted", "user": "visitor"},
                cast_to=dict[str, str],
            )
        async with AsyncOpenAI(base_url=replica.base_url, api_key=made["token"]) as page:
            assert (await page.responses.create(input="hello")).output_text == "hello"

    async def _retention(self, runtime: Database) -> None:
        assert await Responses(runtime).expire(0) >= 3
        await Conversations(runtime).expire(0)
        await Keys(runtime).forget_chat_tokens()
        assert await Keys(runtime).create(
            KeyToStore(new_key().prefix, b"0" * 32, "page", "alice", frozenset({"read"}), agent="a")
        )
