"""What Postgres plans for tables whose size it does not know: it reads no table as a whole that
grows with what is stored."""

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any, Final

import asyncpg

from longrun.store.database import Database
from longrun.store.partitions import Partitions
from longrun.store.queries import Query, _blocks, in_schema
from tests.postgres import Server
from tests.storing import add_response, connected, events, log_of, writing

DAY: Final = 86_400.0
LARGE: Final = ("event_chunks", "items", "steps")
DEFINITIONS: Final = {"create_schema", "create_migrations"}


def forms(query: Query) -> Iterator[Query]:
    """A query with each of its optional parts, and with none, but for what depends on another."""
    yield query
    if query.optional:
        yield query.without(query.optional)
    for part in query.optional:
        yield query.without(query.optional - {part})
        yield query.without(frozenset({part}))


async def plan_of(connection: asyncpg.Connection, query: Query, schema: str) -> dict[str, Any]:
    """The plan that is kept for a query, whatever its values.

    Raises:
        asyncpg.SyntaxOrAccessError: this form of it is none, since its parts need each other.
    """
    numbers = [int(number) for number in re.findall(r"\$(\d+)", query.sql)]
    values = ", ".join(["NULL"] * max(numbers, default=0))
    await connection.execute(f"PREPARE asked AS {in_schema(query.sql, schema)}")
    try:
        text = await connection.fetchval(
            f"EXPLAIN (FORMAT JSON) EXECUTE asked{f'({values})' if values else ''}"
        )
    finally:
        await connection.execute("DEALLOCATE asked")
    plan: dict[str, Any] = json.loads(text)[0]["Plan"]
    return plan


def read_as_a_whole(plan: dict[str, Any]) -> set[str]:
    """The tables that a plan goes through from their beginning to their end."""
    found = {plan["Relation Name"]} if plan["Node Type"] == "Seq Scan" else set()
    return found.union(*map(read_as_a_whole, plan.get("Plans", [])))


async def whole_reads(url: str, schema: str) -> tuple[set[tuple[str, str]], int]:
    """Each query with the large table that it reads as a whole; and how many plans there are."""
    found, looked = set(), 0
    async with connected(url) as connection:
        await connection.execute("SET plan_cache_mode = force_generic_plan")
        for name, query in _blocks().items():
            if name in DEFINITIONS:
                continue
            for form in {form.sql: form for form in forms(query)}.values():
                try:
                    plan = await plan_of(connection, form, schema)
                except asyncpg.SyntaxOrAccessError:
                    continue
                looked += 1
                found |= {(name, each) for each in read_as_a_whole(plan) if each.startswith(LARGE)}
    return found, looked


async def test_made_before_there_is_anything_reads_no_large_table_as_a_whole(
    store: Database, database: Server
) -> None:
    """A plan is kept as long as its connection lasts; a partition is empty when it is made."""
    await Partitions(store, DAY, DAY).begin()
    found, looked = await whole_reads(database.url, store.settings.db_schema)
    assert looked > 300
    assert found == set()


async def test_after_analyze_of_what_was_empty(store: Database, database: Server) -> None:
    """As who analyzes a whole database leaves it: Postgres then knows that tables are empty, and
    takes reading them for free. It is made to forget that, or to look again once they have grown.
    """
    schema = store.settings.db_schema
    part = Partitions(store, DAY, DAY)
    await part.begin()
    async with connected(database.url) as connection:
        for table in (*LARGE, "responses"):
            await connection.execute(f'ANALYZE "{schema}".{table}')
        assert len((await whole_reads(database.url, schema))[0]) > 20
        if connection.get_server_version().major < 18:
            response_id = await add_response(store)
            async with writing(store) as writer:
                run = log_of(writer, response_id)
                for _ in range(4):
                    run.append(events(run.next_sequence, 200, delta="x" * 1000))
                    await run.flush()
        await part.tend(asyncio.Event())
    found, _ = await whole_reads(database.url, schema)
    assert {each for each in found if each[1].startswith("event_chunks_until")} == set()
