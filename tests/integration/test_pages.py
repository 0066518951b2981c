"""A page of a long log costs what the page has, wherever in the log it is."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from longrun import ids
from longrun.store.database import Database
from tests.postgres import Server
from tests.storing import add_response, connected

CHUNKS = 10_000
MOST = 2001
"""Chunks of a page, and the one after it."""

_LONG = """
    INSERT INTO {schema}.event_chunks (response_id, first, last, attempt, data)
    SELECT $1::text, n, n, 1, convert_to('{{"delta":"' || n || '"}}', 'UTF8')
    FROM generate_series(1::bigint, $2::bigint) AS n
"""

_SHORT = """
    INSERT INTO {schema}.event_chunks (response_id, first, last, attempt, data)
    SELECT 'resp_' || md5(n::text), 0, 0, 1, 'short' FROM generate_series(1, 3000) AS n
"""


def page_queries(store: Database, response_id: str) -> dict[str, tuple[Any, ...]]:
    """Each query that reads a page of a log, bound to the beginning of one."""
    bind, queries = store.queries.bind, store.queries
    of, page = {"response_id": response_id}, {"limit": 1 << 30, "sealed": None}
    return {
        "read_page": bind("read_page", **of, **page, cursor=5, having=None),
        "read_back": bind("read_back", **of, **page, before=CHUNKS - 5),
        "read_stream": bind(
            "read_stream", **of, **page, cursor=5, principal="", settled=None, ended=None
        ),
        "read_news": bind("read_news", response_ids=[response_id], positions=[5], **page),
        "read_chunks": (queries.read_chunks, response_id, 5, 1 << 30),
        "read_whole": (queries.read_whole, response_id, 5, 1 << 30, 1 << 31),
    }


def literal(value: Any) -> str:
    match value:
        case None:
            return "NULL"
        case list():
            return f"ARRAY[{', '.join(map(literal, value))}]"
        case str():
            return f"'{value}'"
    return str(value)


def steps_of(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from steps_of(below)


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
async def test_a_page_reads_no_more_than_it_has_though_postgres_knows_nothing_of_the_table(
    database: Server, store: Database, generic: bool
) -> None:
    """Without statistics, as on the first day, Postgres takes every log for a short one, and would
    read and sort what is left of it for each page."""
    schema = store.settings.db_schema
    for days in (-1, 1, 2):
        until = ids.response_ids_from(time.time() + days * 86_400)
        await store.fetch(store.queries.add_partition, "event_chunks", until)
    response_id = await add_response(store)
    mode = "force_generic_plan" if generic else "force_custom_plan"
    async with connected(database.url) as connection:
        for row in await connection.fetch(f'SELECT name FROM "{schema}".partitions'):
            await connection.execute(
                f'ALTER TABLE "{schema}".{row["name"]} SET (autovacuum_enabled = false)'
            )
        await connection.execute(_LONG.format(schema=f'"{schema}"'), response_id, CHUNKS)
        await connection.execute(_SHORT.format(schema=f'"{schema}"'))
        await connection.execute(f"SET plan_cache_mode = {mode}")
        for name, (query, *args) in page_queries(store, response_id).items():
            prepared = await connection.prepare(query)
            explained = await connection.fetchval(
                "EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON)"
                f" EXECUTE {prepared.get_name()} ({', '.join(map(literal, args))})"
            )
            most = max(
                step["Actual Rows"] * step["Actual Loops"]
                for step in steps_of(json.loads(explained)[0]["Plan"])
            )
            assert most <= MOST, f"{name} reads {most} rows for a page"
