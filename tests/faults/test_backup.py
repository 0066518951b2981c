"""A dump of a live schema, restored: what had ended is the same, what was live goes on."""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from longrun.embedded.binaries import installed_binaries
from tests import postgres
from tests.faults.ground import Ground, following, ground
from tests.reading import create, read, stream_url


@pytest.fixture
def found(database: postgres.Server, schema: str) -> Iterator[Ground]:
    with ground(database, f"backup_{schema}") as made:
        yield made


def run(command: str, *arguments: str) -> None:
    binary = installed_binaries()[0] / command
    done = subprocess.run([binary, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


async def restored(found: Ground, dump: Path) -> postgres.Server:
    """Another database of the same server, with what was dumped alone."""
    name = f"restored_{found.schema}"
    connection = await asyncpg.connect(found.database.url)
    try:
        await connection.execute(f'CREATE DATABASE "{name}"')
    finally:
        await connection.close()
    url = urlunsplit(urlsplit(found.database.url)._replace(path=f"/{name}"))
    run("pg_restore", "--exit-on-error", "--no-owner", f"--dbname={url}", str(dump))
    return replace(found.database, url=url)


async def test_a_dump_of_a_live_schema_goes_on_elsewhere(found: Ground, tmp_path: Path) -> None:
    one, _ = found.start(2)
    text = json.dumps({"turns": [], "deltas": 3})
    ended = (await create(one, text, model="gated"))["id"]
    said = await read(stream_url(one, ended))
    (live,) = await found.submit(one, gates=("delta 3",))
    await found.reach([live], "delta 3")
    run(
        "pg_dump",
        "--format=custom",
        f"--schema={found.schema}",
        f"--file={tmp_path / 'dump'}",
        found.database.url,
    )
    database = await restored(found, tmp_path / "dump")
    found.end()  # else both would go on with it
    with ground(database, found.schema) as after:
        # The same folder: what was done before the dump is known there.
        after.folder = found.folder
        (replica,) = after.start()
        assert await read(stream_url(replica, ended)) == said
        after.open("delta 3")
        async with following([replica], [live]) as (follower,):
            pass
        await after.check(live)
        assert follower.lines == await after.log_of(live)
        assert (await after.row(live))["attempt"] == 2
        tools = sorted(what for what, _, _ in after.effects_of(live, "tool"))
        assert tools == ["call_0_0", "call_0_1"], "neither was executed again"
