"""A run that takes its replicas along, among others that do nothing wrong: those all complete."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator

import pytest

from tests import postgres
from tests.faults.ground import Ground, following, ground
from tests.reading import eventually

REPLICAS = 3
HEALTHY = 10
ATTEMPTS = "3"


@pytest.fixture
def found(database: postgres.Server, schema: str) -> Iterator[Ground]:
    with ground(database, f"suspects_{schema}", LONGRUN_MAX_ATTEMPTS=ATTEMPTS) as made:
        yield made


@contextlib.asynccontextmanager
async def restarting(found: Ground) -> AsyncIterator[list[int]]:
    """Within the block a replica that dies is replaced by a new one. Gives how they died."""
    deaths: list[int] = []

    async def restart() -> None:
        seen = 0
        while True:
            ended = [r for r in found.replicas if r.process.poll() is not None]
            for replica in ended[seen:]:
                deaths.append(replica.process.returncode)
                found.start(1, wait=False)
            seen = len(ended)
            await asyncio.sleep(0.05)

    task = asyncio.create_task(restart())
    try:
        yield deaths
    finally:
        task.cancel()


async def test_healthy_runs_complete_once_beside_one_that_kills(found: Ground) -> None:
    """They are under way in the first deaths, wait at a gate meanwhile, and so are suspected as
    much as the one that kills."""
    replicas = found.start(REPLICAS)
    healthy: list[str] = []
    for number in range(HEALTHY):
        healthy += await found.submit(replicas[number % REPLICAS], gates=("in a",))
    await found.reach(healthy, "in a")
    async with restarting(found) as deaths:
        (bad,) = await found.submit(replicas[0], turns=((("crash", {}),),))
        await eventually(lambda: _died(found, bad, 2), timeout=60)
        found.open("in a")
        await found.all_finished([bad, *healthy], timeout=120)
    for response_id in healthy:
        await found.check(response_id)
        row = await found.row(response_id)
        assert row["spent"] == 1, "it used up an attempt for what another did"
        # Once it was recorded, no step was done again (`check`); what a death broke off was.
    events = await found.check(bad, status="failed")
    message = f"The run was interrupted {ATTEMPTS} times and was given up."
    error = {"code": "server_error", "message": message}
    assert events[-1]["response"]["error"] == error
    assert deaths == [7] * int(ATTEMPTS)
    assert len(found.effects_of(bad, "tool")) == int(ATTEMPTS)


async def _died(found: Ground, response_id: str, times: int) -> bool:
    return int((await found.row(response_id))["deaths"]) >= times


async def test_beside_a_suspect_nothing_is_taken(found: Ground) -> None:
    (one,) = found.start()
    (id_,) = await found.submit(one, gates=("in b",))
    await found.reach([id_], "in b")
    one.end()
    await found.sql("UPDATE responses SET deaths = 2 WHERE id = $1", id_)
    (only,) = found.start()
    await found.reach([id_], "in b", attempt=2)
    # One replica, and it is kept for the suspect: what comes meanwhile is queued, and runs after.
    (waiting,) = await found.submit(only)
    assert (await found.row(waiting))["status"] == "queued"
    found.open("in b")
    async with following([only], [id_, waiting]):
        pass
    for response_id in (id_, waiting):
        await found.check(response_id)
    assert (await found.row(id_))["finished_at"] < (await found.row(waiting))["finished_at"]


async def test_the_chosen_replica_waits_for_its_runs_and_others_take_what_comes(
    found: Ground,
) -> None:
    first = found.start()[0]
    (suspect,) = await found.submit(first, gates=("in b",))
    await found.reach([suspect], "in b")
    first.end()
    chosen, other = found.start(2, LONGRUN_POLL_INTERVAL="0.2")
    # The one with the fewest runs is chosen, also while it has one more of this test's.
    live = [
        *await found.submit(chosen, gates=("in a",)),
        *await found.submit(other, 4, gates=("in a",)),
    ]
    await found.reach(live, "in a")
    await found.sql(
        "UPDATE responses SET deaths = 2, replica_id = NULL, attempt = attempt + 1 WHERE id = $1",
        suspect,
    )

    async def is_queued() -> bool:
        (id_,) = await found.submit(chosen, turns=(), deltas=1)
        await found.all_finished([id_])
        # The other may have started it before anybody could see that it waits.
        return json.loads((await found.log_of(id_))[1])["type"] == "response.queued"

    # It takes nothing more; the other does.
    await eventually(is_queued, timeout=10)
    found.open("in a", "in b")
    async with following([chosen, other], [suspect, *live]):
        pass
    await found.check_all([suspect, *live])


async def test_one_that_gets_on_makes_way_for_the_next(found: Ground) -> None:
    """It has shown that it is not what ended its replicas: it need not be alone to its end."""
    (one,) = found.start()
    suspects = await found.submit(one, 3, gates=("in b", "delta 3"))
    await found.reach(suspects, "in b")
    one.end()
    await found.sql("UPDATE responses SET deaths = 2")
    found.open("in b")
    (only,) = found.start()
    # Each was alone for a step, as attempt 2; now they are live side by side.
    await found.reach(suspects, "delta 3", attempt=3)
    found.open("delta 3")
    async with following([only], suspects):
        pass
    await found.check_all(suspects)


async def test_one_that_dies_alone_clears_those_that_died_with_it(found: Ground) -> None:
    """They go on side by side: none of them has to be alone, and to get on, before the next."""
    (one,) = found.start()
    (bad,) = await found.submit(one, gates=("tool crash",), turns=((("crash", {}),),))
    innocent = await found.submit(one, 5, gates=("in a",))
    await found.reach([bad], "tool crash")
    await found.reach(innocent, "in a")
    async with restarting(found) as deaths:
        found.open("tool crash")
        await found.all_finished([bad], timeout=120)
        await found.reach(innocent, "in a", attempt=3)
        assert {(await found.row(id_))["deaths"] for id_ in innocent} == {0}
        found.open("in a")
        await found.all_finished(innocent)
    for response_id in innocent:
        await found.check(response_id)
    assert deaths == [7] * 3
