"""A failover to a hot standby while runs are live, and readers: it has all that was committed, or
it has not."""

import asyncio
import json
from collections.abc import Iterator

import asyncpg
import pytest

from tests import postgres
from tests.faults.ground import Ground, check_events, following, ground
from tests.reading import eventually, metric
from tests.servers import Replica, wait_ready

LOST = "The database has lost events of this run that it had confirmed."

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def pair(request: pytest.FixtureRequest) -> Iterator[postgres.Pair]:
    with postgres.pair(synchronous=request.param) as made:
        yield made


@pytest.fixture
def found(pair: postgres.Pair) -> Iterator[Ground]:
    """Two replicas on the pair. What the test itself asks, it asks whoever is the primary."""
    server = postgres.Server(pair.url, pair.primary.pid, pair.primary.data)
    with ground(server, "failover") as made:
        made.start(2)
        yield made


@pytest.mark.parametrize("pair", [True], ids=["synchronous"], indirect=True)
async def test_with_a_synchronous_standby_nothing_is_lost_and_no_run_moves(
    pair: postgres.Pair, found: Ground
) -> None:
    ids = [
        id_
        for replica in found.replicas
        for id_ in await found.submit(replica, 4, gates=("in b", "delta 3"))
    ]
    await found.reach(ids, "in b")
    async with following(found.replicas, ids, timeout=120) as followers:
        found.open("in b")
        await found.reach(ids, "delta 3")
        await asyncio.to_thread(pair.fail_over)
        found.open("delta 3")
    await found.check_all(ids, followers)
    assert set((await found.attempts(ids)).values()) == {1}, "replicas took each other for dead"
    for replica in found.replicas:
        await asyncio.to_thread(wait_ready, replica)


@pytest.mark.parametrize("pair", [False], ids=["asynchronous"], indirect=True)
async def test_commits_that_were_lost_leave_no_gap_and_end_in_words(
    pair: postgres.Pair, found: Ground
) -> None:
    """Of some runs the end is lost, of some the middle, of some that they ever were."""
    one, two = found.replicas
    ended = await found.submit(one, 4, gates=("delta 2",))
    torn = await found.submit(two, 4, gates=("delta 2", "delta 18"), deltas=20, pause=0.02)
    await found.reach([*ended, *torn], "delta 2")
    await _replicated(pair)
    async with following(found.replicas, [*ended, *torn], timeout=120) as followers:
        pair.freeze_replication()
        unknown = await found.submit(one, 2, gates=("delta 4",))
        found.open("delta 2")
        await found.all_finished(ended)
        await found.reach(torn, "delta 18")
        await found.reach(unknown, "delta 4")
        read = {id_: len(await found.log_of(id_)) for id_ in torn}
        await eventually(lambda: all(len(f.lines) >= read.get(f.response_id, 0) for f in followers))
        await asyncio.to_thread(pair.fail_over)
        found.open("delta 4", "delta 18")
        await found.all_finished([*ended, *torn], timeout=120)
    rows = {row["id"]: row["status"] for row in await found.sql("SELECT id, status FROM responses")}
    assert rows.keys() == {*ended, *torn}
    # What had ended was done again, from what is left of it.
    await found.check_all(ended)
    for id_ in torn:
        # What had gone on cannot go back: it fails, unless another replica took it over before.
        if rows[id_] == "completed":
            assert (await found.attempts([id_]))[id_] > 1
            await found.check(id_)
            continue
        log = [json.loads(line) for line in await found.log_of(id_)]
        check_events(id_, log, "failed")
        assert len(log) < read[id_]
        assert log[-1]["response"]["error"]["message"] == LOST
    assert not rows.keys() & set(unknown)
    for replica in found.replicas:
        await eventually(lambda replica=replica: _has_no_runs(replica))
        await asyncio.to_thread(wait_ready, replica)


async def _has_no_runs(replica: Replica) -> bool:
    return await metric(replica, "longrun_runs") == 0


async def _replicated(pair: postgres.Pair) -> None:
    """Wait until the standby has everything."""
    connection = await asyncpg.connect(pair.primary.url)

    async def has_all() -> bool:
        return bool(
            await connection.fetchval(
                "SELECT bool_and(flush_lsn >= pg_current_wal_lsn()) FROM pg_stat_replication"
            )
        )

    try:
        await eventually(has_all)
    finally:
        await connection.close()
