"""Replicas of the version before beside this one, on one schema: rolled out, and rolled back."""

import asyncio
import io
import json
import signal
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from longrun.store.database import Database
from tests import postgres, servers
from tests.faults.ground import Ground, following, ground, script
from tests.reading import Wire, create, eventually
from tests.servers import REPOSITORY, Replica
from tests.storing import migrated

BEFORE: Final = "d33f0956bfaa48b2e4e19e52508fcb3851315d66"
"""The last commit before migration 9."""

VERSIONS: Final = ("this", "before")


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree of that commit; skips where its history is not there."""
    git = ["git", "-C", str(REPOSITORY)]
    archived = subprocess.run([*git, "archive", BEFORE], capture_output=True, check=False)
    if archived.returncode:
        pytest.skip(f"the version before is not in this checkout: {archived.stderr.decode()}")
    tree: Path = tmp_path_factory.mktemp("before")
    with tarfile.open(fileobj=io.BytesIO(archived.stdout)) as found:
        found.extractall(tree, filter="data")
    return tree


@pytest.fixture
def found(database: postgres.Server, schema: str) -> Iterator[Ground]:
    with ground(database, f"versions_{schema}", LONGRUN_DRAIN_SECONDS="1.5") as made:
        yield made


@pytest.mark.parametrize("first", VERSIONS)
async def test_each_goes_on_with_what_the_other_began(
    database: postgres.Server, found: Ground, before: Path, first: str
) -> None:
    """`first` is drained, while the other one is there; then that one is killed, and another of
    the first version has all of it, as in a rolling deploy that is rolled back."""
    trees = {"this": None, "before": before}
    other = next(each for each in VERSIONS if each != first)
    async with migrated(database.url, found.schema):
        pass  # by this version, before any replica of it is started
    [one] = found.start(tree=trees[first], wait=False)
    [two] = found.start(tree=trees[other])
    servers.wait_ready(one)
    ids = [*await found.submit(one, gates=("in b",)), *await found.submit(two, gates=("in b",))]
    await found.reach(ids, "in b")
    replicas = [one, two]
    async with following(replicas, ids) as followers:
        one.signal(signal.SIGTERM)
        if first == "this":
            await is_draining(one)
            answer = await create(one, json.dumps(script()), model="gated")
            assert answer["status"] == "completed"
            await found.check(answer["id"])
        await found.all_at_attempt(ids[:1], 2)
        assert await asyncio.to_thread(one.wait) == 0
        [replicas[0]] = found.start(tree=trees[first])
        two.signal(signal.SIGKILL)
        await found.all_at_attempt(ids[:1], 3)
        await found.all_at_attempt(ids[1:], 2)
        found.open("in b")
    for follower in followers:
        await found.check(follower.response_id)
        assert follower.lines == await found.log_of(follower.response_id)
        assert follower.breaks > 0


async def is_draining(replica: Replica) -> None:
    async with asyncio.timeout(10):
        while True:
            async with await Wire.open(f"{replica.url}/readyz") as wire:
                await wire.rest()
            if wire.status == 503:
                return
            await asyncio.sleep(0.02)


async def test_a_replica_of_before_streams_on_while_tables_become_partitions(
    database: postgres.Server, found: Ground, before: Path
) -> None:
    """It began before the migration, and has prepared its statements; then it runs beside a replica
    of this version, which makes partitions."""
    [old] = found.start(tree=before)
    ids = await found.submit(old, 3, gates=("in b",))
    await found.reach(ids, "in b")
    async with following([old], ids) as followers, migrated(database.url, found.schema) as store:
        found.open("in b")
        later = await found.submit(old, 2)
        found.start()
        await eventually(lambda: _has_ranges(store))
        last = await found.submit(old, 2)
        await found.all_finished([*ids, *later, *last])
    for follower in followers:
        await found.check(follower.response_id)
        assert follower.lines == await found.log_of(follower.response_id)
    await found.check_all([*later, *last])
    assert set((await found.attempts([*ids, *later, *last])).values()) == {1}


async def _has_ranges(store: Database) -> bool:
    rows = await store.fetch(store.queries.look_at_partitions)
    return all(row["ranges"] and row["rest_first"] is None for row in rows)
