"""The queries that sql/README.md gives to operators run as they are, and find what they promise."""

import json
import re

import pytest

from longrun.store.database import Database
from longrun.store.partitions import Partitions
from longrun.store.records import Ending, Parked, Step
from tests.postgres import Server
from tests.servers import REPOSITORY
from tests.storing import REPLICA, add_response, connected, event, log_of, writing

SECTION = (REPOSITORY / "sql/README.md").read_text().split("## Twelve queries for operators")[1]

QUERIES = [
    (re.split(r"[,:]", title.strip().rpartition("\n\n")[2])[0], sql)
    for title, sql in re.findall(r"(.+?)```sql\n(.*?)```", SECTION, re.DOTALL)
]


def test_there_are_twelve() -> None:
    assert len(QUERIES) == 12


@pytest.mark.parametrize(("title", "sql"), QUERIES, ids=[title for title, _ in QUERIES])
async def test_it_finds_what_it_promises(
    store: Database, database: Server, schema: str, title: str, sql: str
) -> None:
    await Partitions(store, 86_400, 86_400).begin()
    live = await add_response(store, attempt=2)
    failed = await add_response(store)
    asking = await add_response(store)
    await add_response(store, status="queued", attempt=0)
    async with writing(store) as writer:
        run = log_of(writer, live, attempt=2)
        run.append([event(1)], steps=[Step("", "model", "0", "{}", "{}")])
        await run.flush()
        run = log_of(writer, failed)
        document = json.dumps({"error": {"code": "server_error", "message": "in words"}})
        run.append([event(1, "response.failed")], ending=Ending("failed", document))
        await run.flush()
        run = log_of(writer, asking)
        ending = Ending("completed", "{}", parked=Parked((1,), 1, "the tests", "{}"))
        run.append([event(1, "response.completed")], ending=ending)
        await run.flush()
    async with connected(database.url) as connection:
        await connection.execute(f'SET search_path = "{schema}"')
        await connection.execute(
            "INSERT INTO replicas (id, hostname, pid, version, lease_until)"
            " VALUES ($1, 'host', 1, '0', now() - interval '1 minute')",
            REPLICA,
        )
        sql = sql.replace("resp_…", live).replace("'longrun'", f"'{schema}'")
        rows = await connection.fetch(sql.replace(">= 40", ">= 0"))
    assert rows, title
