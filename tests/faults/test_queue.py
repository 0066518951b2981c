"""The queue and the deadline: what waits is started by whoever is free, and not for ever."""

import asyncio
import json
import signal
import time
from collections.abc import Iterator

import pytest

from longrun.settings import Settings
from longrun.store.claims import Claims
from longrun.store.database import Database
from longrun.store.migrate import migrate
from tests import postgres
from tests.faults.ground import Follower, Ground, following, ground
from tests.reading import Wire, eventually
from tests.servers import Replica
from tests.storing import add_response

LIFECYCLE = ("response.created", "response.queued", "response.in_progress")


@pytest.fixture
def found(database: postgres.Server, schema: str) -> Iterator[Ground]:
    with ground(database, f"queue_{schema}", LONGRUN_MAX_RUNS="2", LONGRUN_MAX_QUEUED="6") as made:
        yield made


async def test_what_is_too_much_for_one_waits_for_any(found: Ground) -> None:
    one, two = found.start(2)
    ids = await found.submit(one, 2, gates=("in a",))
    await found.reach(ids, "in a")
    # The other has room, and takes what this one queues, woken by NOTIFY.
    began = time.monotonic()
    ids += await found.submit(one, 2, gates=("in a",))
    await found.reach(ids, "in a")
    assert time.monotonic() - began < 5
    assert {await found.pid_of(id_) for id_ in ids[2:]} == {two.process.pid}
    waiting = [(await found.submit(one if n % 2 else two, gates=("in a",)))[0] for n in range(6)]
    rows = await found.sql("SELECT id FROM responses WHERE status = 'queued' ORDER BY id")
    assert [row["id"] for row in rows] == waiting
    await refused(one)
    async with following([one, two], [*ids, *waiting]) as followers:
        await followers[-1].until(lambda: len(followers[-1].lines) >= 2)
        assert followers[-1].types() == [*LIFECYCLE[:2]]
        found.open("in a")
    for follower in followers:
        await found.check(follower.response_id)
        assert follower.lines == await found.log_of(follower.response_id)
    for follower in followers[4:]:
        assert tuple(follower.types()[:3]) == LIFECYCLE


async def refused(replica: Replica) -> None:
    body = {"model": "gated", "input": json.dumps({"deltas": 1}), "background": True}
    url = f"{replica.base_url}/responses"
    async with await Wire.open(url, method="POST", json=body) as wire:
        await wire.rest()
        assert wire.status == 429
        assert int(wire.headers["retry-after"]) > 0
        error = json.loads(bytes(wire.body))["error"]
        assert (error["code"], error["type"]) == ("queue_full", "too_many_requests")


async def test_queued_runs_survive_the_replica_that_accepted_them(found: Ground) -> None:
    one, two = found.start(2)
    busy = [
        *await found.submit(one, 2, gates=("in a",)),
        *await found.submit(two, 2, gates=("in b",)),
    ]
    await found.reach(busy[:2], "in a")
    await found.reach(busy[2:], "in b")
    waiting = await found.submit(one, 3)
    assert {(await found.row(id_))["status"] for id_ in waiting} == {"queued"}
    async with following([two], [*busy, *waiting]) as followers:
        one.signal(signal.SIGKILL)
        found.open("in a", "in b")
    for follower in followers:
        await found.check(follower.response_id)
        assert follower.lines == await found.log_of(follower.response_id)
    for id_ in waiting:
        row = await found.row(id_)
        assert (row["attempt"], row["spent"]) == (1, 1)


async def test_a_free_place_is_taken_at_once(found: Ground) -> None:
    (one,) = found.start(1, LONGRUN_MAX_RUNS="1")
    ids = await found.submit(one, 1, gates=("in a",))
    await found.reach(ids, "in a")
    waiting = await found.submit(one, 6, turns=(), deltas=1)
    async with following([one], [*ids, *waiting]) as followers:
        found.open("in a")
    ends = sorted(follower.times[-1] for follower in followers)
    # Six in turn: far less than a look of the watch each.
    assert ends[-1] - ends[0] < 3.0
    # Oldest first. By the database's clock: the last events of several may reach a client at once,
    # and `waiting` is in the order of the requests, which came in together.
    rows = await found.sql(
        "SELECT id FROM responses WHERE id = ANY($1) ORDER BY finished_at", waiting
    )
    assert [row["id"] for row in rows] == sorted(waiting)


async def test_queued_ones_can_be_cancelled(found: Ground) -> None:
    (one,) = found.start()
    ids = await found.submit(one, 2, gates=("in a",))
    (waiting,) = await found.submit(one)
    url = f"{one.base_url}/responses/{waiting}/cancel"
    async with await Wire.open(url, method="POST") as wire:
        await wire.rest()
        assert json.loads(bytes(wire.body))["status"] == "cancelled"
    events = await found.check(waiting, status="cancelled")
    assert events[-1]["response"]["status"] == "cancelled"
    assert not found.effects_of(waiting, "turn")
    found.open("in a")
    await found.all_finished(ids)


# -- fairness, in the store alone ---------------------------------------------------------


async def test_the_queue_is_fair_between_principals(database: postgres.Server, schema: str) -> None:
    store = Database(Settings.load(schema=f"fair_{schema}"))
    await store.open(database.url)
    try:
        await migrate(store)
        claims = Claims(store, "replica")
        many = [await queue(store, "many") for _ in range(6)]
        few = [await queue(store, "few") for _ in range(2)]
        first = [claim.id for claim in await claims.queued(2)]
        assert first == [many[0], few[0]]
        assert [claim.id for claim in await claims.queued(2)] == [many[1], few[1]]
        # A new one passes the many that were there before, whose principal has two runs.
        late = await queue(store, "late")
        assert [claim.id for claim in await claims.queued(1)] == [late]
        rest = [claim.id for claim in await claims.queued(100)]
        assert sorted(rest) == many[2:]
        assert await claims.queued(1) == []
    finally:
        await store.close()


async def queue(store: Database, principal: str) -> str:
    return await add_response(store, status="queued", principal=principal)


async def test_two_claimers_share_a_queue_without_waiting(
    database: postgres.Server, schema: str
) -> None:
    store = Database(Settings.load(schema=f"share_{schema}"))
    await store.open(database.url)
    try:
        await migrate(store)
        ids = [await queue(store, str(n % 7)) for n in range(60)]
        replicas = [Claims(store, f"replica {n}") for n in range(4)]
        taken: list[str] = []

        async def take(claims: Claims) -> None:
            while found := await claims.queued(3):
                taken.extend(claim.id for claim in found)

        await asyncio.gather(*map(take, replicas))
        assert sorted(taken) == ids
    finally:
        await store.close()


# -- the deadline -------------------------------------------------------------------------


async def test_the_deadline_ends_what_runs_what_waits_and_what_nobody_has(found: Ground) -> None:
    one, two = found.start(2, LONGRUN_RUN_TIMEOUT="5")
    running = await found.submit(one, 2, gates=("delta 3",))
    stuck = await found.submit(two, 2, turns=((("stuck", {}),),))
    await found.reach(running, "delta 3")
    waiting = await found.submit(one, 2, gates=("model 0",))
    async with following([one, two], [*running, *stuck, *waiting]) as followers:
        pass
    for follower in followers:
        events = await timed_out(found, follower.response_id, "5")
        assert follower.lines == await found.log_of(follower.response_id)
        created = events[0]["response"]["created_at"]
        assert (await found.row(follower.response_id))["finished_at"].timestamp() - created < 14
    for id_ in stuck:
        await eventually(lambda id_=id_: bool(found.effects_of(id_, "stopped")))


async def test_the_deadline_spans_all_attempts(found: Ground) -> None:
    """Frozen owners and dead ones: others end it."""
    frozen, dead, watching = found.start(3, LONGRUN_RUN_TIMEOUT="6", LONGRUN_LEASE_SECONDS="30")
    ids = [
        *await found.submit(frozen, 2, gates=("delta 3",)),
        *await found.submit(dead, 2, gates=("delta 3",)),
    ]
    await found.reach(ids, "delta 3")
    frozen.signal(signal.SIGSTOP)
    dead.signal(signal.SIGKILL)
    async with following([watching], ids) as followers:
        pass
    for follower in followers:
        await timed_out(found, follower.response_id, "6")
        assert follower.lines == await found.log_of(follower.response_id)
    assert {n for _, n in (await found.attempts(ids[:2])).items()} == {2}
    assert {n for _, n in (await found.attempts(ids[2:])).items()} == {3}


async def test_the_deadline_holds_while_no_replica_lives(found: Ground) -> None:
    (one,) = found.start(1, LONGRUN_RUN_TIMEOUT="3")
    (id_,) = await found.submit(one, gates=("in a",))
    await found.reach([id_], "in a")
    one.signal(signal.SIGKILL)
    one.wait()

    async def is_overdue() -> bool:
        return bool(await found.value("SELECT deadline_at < now() FROM responses"))

    await eventually(is_overdue, every=0.1)
    (two,) = found.start(1, LONGRUN_RUN_TIMEOUT="3")
    follower = Follower([two], id_)
    async with asyncio.timeout(20):
        await follower.run()
    await timed_out(found, id_, "3")


async def timed_out(found: Ground, id_: str, limit: str) -> list[dict[str, object]]:
    events = await found.check(id_, status="failed")
    error = events[-1]["response"]["error"]
    assert error["message"] == (
        f"The response took longer than {limit} seconds (LONGRUN_RUN_TIMEOUT)."
    )
    return events
