"""What is deleted, or was not to be stored, is gone: from every table, the files, and the logs.

Each part of a request has a word of its own in it, which is looked for, in plain text.
"""

import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from longrun.store.migrate import known_migrations
from longrun.store.queries import in_schema
from longrun.store.responses import Responses
from tests import postgres, servers
from tests.postgres import Server
from tests.reading import eventually
from tests.storing import connected, opened

PARTS = ("input", "instructions", "arguments", "delta", "metadata", "user")

SCHEMA = "erasure"


def words(name: str) -> dict[str, str]:
    """A word for each part of a request, in letters alone: no encoding changes them."""
    return {part: f"canary{name}{part}" for part in PARTS}


def body(name: str, **more: Any) -> dict[str, Any]:
    """A request that has each word of a name; its run says and does what two of them say."""
    said = words(name)
    turns = [[["echo", {"text": said["arguments"]}]]]
    script = json.dumps({"turns": turns, "deltas": 3, "delta": said["delta"]})
    return {
        "model": "scripted",
        "input": [{"role": "user", "content": text} for text in (said["input"], script)],
        "instructions": said["instructions"],
        "metadata": {"key": said["metadata"]},
        "user": said["user"],
        **more,
    }


@pytest.fixture(scope="module")
def database() -> Iterator[Server]:
    """One of its own: all of its files are read."""
    with postgres.embedded() as server:
        yield server


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("traces") / "traces"
    path.touch()
    return path


@pytest.fixture(scope="module")
def replica(database: Server, traces: Path) -> Iterator[servers.Replica]:
    environment = {
        "LONGRUN_LOG_LEVEL": "debug",
        "LONGRUN_SDK_TRACING": "true",
        "TRACES": str(traces),
    }
    with servers.replicas(
        1,
        database.url,
        schema=SCHEMA,
        agents="tests.traced_agents:agents",
        environment=environment,
    ) as (started,):
        yield started


@pytest.fixture
async def client(replica: servers.Replica) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=replica.base_url, api_key="none", max_retries=0) as made:
        yield made


class Store:
    """What is in Postgres, read past longrun."""

    def __init__(self, database: Server) -> None:
        self.url = database.url
        self._files = database.data / "base"

    async def do(self, *statements: str) -> None:
        async with connected(self.url) as connection:
            for statement in statements:
                await connection.execute(statement)

    async def tables(self) -> list[str]:
        """All of the schema, each with its partitions, and what ANALYZE keeps of them."""
        async with connected(self.url) as connection:
            rows = await connection.fetch(
                "SELECT oid::regclass::text AS name FROM pg_class WHERE NOT relispartition"
                f" AND relkind IN ('r', 'p') AND relnamespace = '{SCHEMA}'::regnamespace"
            )
        return [*(row["name"] for row in rows), "pg_statistic"]

    async def has(self, condition: str) -> bool:
        """Whether there is such a response."""
        async with connected(self.url) as connection:
            found = f"SELECT EXISTS (SELECT FROM {SCHEMA}.responses WHERE {condition})"
            return bool(await connection.fetchval(found))

    async def in_tables(self, word: str) -> set[str]:
        """The tables that have a row with a word in it."""
        found = set()
        async with connected(self.url) as connection:
            for table in await self.tables():
                rows = f"SELECT FROM {table} AS row WHERE position($1 IN row::text) > 0"
                as_hex = f"{rows} OR position($2 IN row::text) > 0"
                if await connection.fetchval(
                    f"SELECT EXISTS ({as_hex})", word, word.encode().hex()
                ):
                    found.add(table.removeprefix(f"{SCHEMA}."))
        return found

    async def in_files(self, name: str) -> set[str]:
        """The words of a name that stand in the files of the database, whatever row they are of."""
        await self.do("CHECKPOINT")
        found: set[str] = set()
        for file in filter(Path.is_file, self._files.rglob("*")):
            content = file.read_bytes()
            found.update(word for word in words(name).values() if word.encode() in content)
        return found

    async def vacuum(self, how: str = "VACUUM") -> None:
        tables = await self.tables()
        await self.do(*(f"{how} {table}" for table in tables if table != "pg_statistic"))

    async def analyze(self) -> None:
        await self.do("ANALYZE")


@pytest.fixture
def store(database: Server) -> Store:
    return Store(database)


async def nowhere(store: Store, name: str) -> bool:
    return not [word for word in words(name).values() if await store.in_tables(word)]


class TestDeleted:
    async def test_a_response_is_in_no_table_and_after_vacuum_in_no_file(
        self, client: AsyncOpenAI, store: Store, replica: servers.Replica
    ) -> None:
        response = await client.responses.create(**body("gone"))
        await store.analyze()
        assert await store.in_files("gone") == set(words("gone").values())
        in_tables = [await store.in_tables(word) for word in words("gone").values()]
        assert set.union(*in_tables) == {"responses", "event_chunks", "items", "steps"}
        await client.responses.delete(response.id)
        assert await nowhere(store, "gone")
        await store.vacuum()
        assert await store.in_files("gone") == set()
        assert "canarygone" not in replica.output()

    async def test_beside_others_after_vacuum_full(self, client: AsyncOpenAI, store: Store) -> None:
        """VACUUM gives back whole pages alone: where others are in them, it makes room, which is
        overwritten when it is used again."""
        kept = await client.responses.create(**body("kept"))
        response = await client.responses.create(**body("between"))
        later = await client.responses.create(**body("kept"))
        await client.responses.delete(response.id)
        assert await nowhere(store, "between")
        await store.vacuum("VACUUM FULL")
        assert await store.in_files("between") == set()
        assert await store.in_files("kept") == set(words("kept").values())
        for each in (kept, later):
            await client.responses.delete(each.id)
        await store.vacuum()

    async def test_one_whose_run_is_live(self, client: AsyncOpenAI, store: Store) -> None:
        asked = body("live", background=True)
        asked["input"].append(
            {
                "role": "user",
                "content": json.dumps(
                    {"deltas": 400, "delta": words("live")["delta"], "pause": 0.02}
                ),
            }
        )
        response = await client.responses.create(**asked)
        await eventually(lambda: seen(store, words("live")["delta"]))
        put_in = "canarythatwasputin"
        steer = f"/responses/{response.id}/steer"
        await client.post(steer, body={"input": put_in}, cast_to=dict[str, Any])
        await store.analyze()
        assert await store.in_tables(put_in) == {"steers"}
        await client.responses.delete(response.id)
        assert await nowhere(store, "live")
        assert await store.in_tables(put_in) == set()
        # What its run has written since is refused.
        await client.responses.create(**body("after"))
        assert await nowhere(store, "live")

    async def test_what_it_said_in_a_conversation(self, client: AsyncOpenAI, store: Store) -> None:
        conversation = await client.conversations.create()
        asked = body("spoken", conversation=conversation.id)
        response = await client.responses.create(**asked)
        assert "conversation_items" in await store.in_tables(words("spoken")["input"])
        await client.responses.delete(response.id)
        assert await nowhere(store, "spoken")

    async def test_a_conversation(self, client: AsyncOpenAI, store: Store) -> None:
        said = words("talk")
        conversation = await client.conversations.create(
            items=[{"type": "message", "role": "user", "content": said["input"]}],  # type: ignore[list-item]
            metadata={"key": said["metadata"]},
        )
        assert await store.in_tables(said["metadata"]) == {"conversations"}
        await client.conversations.delete(conversation.id)
        assert await nowhere(store, "talk")


async def seen(store: Store, word: str) -> bool:
    return "event_chunks" in await store.in_tables(word)


class TestNotStored:
    @pytest.mark.parametrize("stream", [False, True])
    async def test_is_gone_when_it_is_answered(
        self,
        client: AsyncOpenAI,
        store: Store,
        replica: servers.Replica,
        traces: Path,
        stream: bool,
    ) -> None:
        name = "streamed" if stream else "answered"
        answer = await client.responses.create(**body(name, store=False, stream=stream))
        if stream:
            async for event in answer:
                assert event.type
        await eventually(lambda: nowhere(store, name))
        await store.vacuum()
        await store.analyze()
        assert await nowhere(store, name)
        await store.vacuum("VACUUM FULL")
        assert await store.in_files(name) == set()
        assert f"canary{name}" not in replica.output()
        assert f"canary{name}" not in traces.read_text()

    async def test_while_it_runs_it_is_kept_like_any_other(
        self, client: AsyncOpenAI, store: Store
    ) -> None:
        asked = body("running", store=False, stream=True)
        asked["input"].append(
            {
                "role": "user",
                "content": json.dumps(
                    {"deltas": 400, "delta": words("running")["delta"], "pause": 0.02}
                ),
            }
        )
        stream = await client.responses.create(**asked)
        events = aiter(stream)
        created = await anext(events)
        while (await anext(events)).type != "response.output_text.delta":
            pass
        assert await seen(store, words("running")["delta"])
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(created.response.id)
        await stream.close()
        # Nobody hears its end: whichever replica looks for what has expired deletes it.
        await eventually(lambda: store.has("finished_at IS NOT NULL AND NOT stored"))
        await store.do(
            f"UPDATE {SCHEMA}.responses SET finished_at = now() - interval '61 seconds'"
            " WHERE NOT stored"
        )
        async with opened(store.url, SCHEMA) as database:
            assert await Responses(database).expire(86_400) == 1
        assert await nowhere(store, "running")


async def test_what_is_stored_is_traced(client: AsyncOpenAI, traces: Path) -> None:
    await client.responses.create(**body("traced"))
    assert words("traced")["arguments"] in traces.read_text()


async def test_no_statistics_are_kept_of_what_was_said(
    client: AsyncOpenAI, store: Store, database: Server
) -> None:
    """Every column that has a word of a request in it."""
    conversation = await client.conversations.create(metadata={"key": words("sampled")["metadata"]})
    for _ in range(2):
        await client.responses.create(**body("sampled", conversation=conversation.id))
    await store.analyze()
    async with connected(database.url) as connection:
        columns = await connection.fetch(
            "SELECT attrelid::regclass::text AS of, attname, attstattarget FROM pg_attribute"
            " JOIN pg_class ON pg_class.oid = attrelid WHERE attnum > 0 AND relkind = 'r'"
            f" AND relnamespace = '{SCHEMA}'::regnamespace"
            " AND atttypid IN ('text'::regtype, 'bytea'::regtype)"
        )
        for column in columns:
            said = f'SELECT string_agg("{column["attname"]}"::text, $1) FROM {column["of"]}'
            text = await connection.fetchval(said, " ") or ""
            if re.search("canary|" + b"canary".hex(), text):
                assert column["attstattarget"] == 0, column
    assert await store.in_tables("canary") > set()
    assert "pg_statistic" not in await store.in_tables("canary")


async def test_what_statistics_have_when_an_older_schema_is_migrated(
    database: Server, schema: str
) -> None:
    async with opened(database.url, schema) as mine:
        *older, last = [each for each in known_migrations() if each.version <= 5]
        async with connected(database.url) as connection:
            await connection.execute(mine.queries.create_schema)
            for migration in older:
                await connection.execute(in_schema(migration.sql, schema))
            for n in range(3):
                await connection.execute(
                    f'INSERT INTO "{schema}".items VALUES ($1, 0, $2)', f"r{n}", "canaryitem"
                )
            await connection.execute(f'ANALYZE "{schema}".items')
            kept = f"SELECT attname FROM pg_stats WHERE schemaname = '{schema}'"
            assert {"item"} < {row["attname"] for row in await connection.fetch(kept)}
            await connection.execute(in_schema(last.sql, schema))
            assert {row["attname"] for row in await connection.fetch(kept)} == {
                "response_id",
                "output_index",
            }
