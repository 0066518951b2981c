"""Takeovers in number: many orphans, successors that die too, all replicas gone, poisonous runs."""

import asyncio
import json
import signal
from collections import Counter
from collections.abc import Iterator

import pytest

from tests import postgres
from tests.faults.ground import Ground, following, ground
from tests.reading import create, eventually
from tests.storing import direct_way


@pytest.fixture
def found(database: postgres.Server, schema: str) -> Iterator[Ground]:
    with ground(database, f"takeover_{schema}", LONGRUN_MAX_ATTEMPTS="3") as made:
        yield made


async def test_two_replicas_race_for_200_orphans(found: Ground) -> None:
    # So many at once may keep a replica from a lease of two seconds, where others are at work too.
    victim, one, two = found.start(3, LONGRUN_LEASE_SECONDS="15")
    ids = await found.submit(victim, 200, gates=("in b",))
    await found.reach(ids, "in b", timeout=60)
    async with following([one, two], ids[:10]) as followers:
        victim.signal(signal.SIGKILL)
        await found.reach(ids, "in b", attempt=2, timeout=60)
        rows = await found.sql("SELECT replica_id, attempt, spent, deaths FROM responses")
        shares = Counter(row["replica_id"] for row in rows)
        # One of them may have taken the others along: it uses up an attempt of none.
        assert {(row["attempt"], row["spent"], row["deaths"]) for row in rows} == {(2, 1, 1)}
        found.open("in b")
    await found.all_finished(ids)
    await found.check_all(ids, followers)
    # Nothing is fair about a race; that each got some is likely, and worth a look.
    assert sum(shares.values()) == 200
    assert set(shares) <= {row["id"] for row in await found.sql("SELECT id FROM replicas")}


@pytest.mark.parametrize("model", ["gated", "plain"])
async def test_the_successor_dies_too_and_then_all_of_them(found: Ground, model: str) -> None:
    first, second = found.start(2)
    found.start(1, wait=False)
    ids = await found.submit(first, 10, model=model, gates=("in b", "delta 3"))
    await found.reach(ids, "in b")
    first.signal(signal.SIGKILL)
    await found.all_at_attempt(ids, 2)
    await found.reach(ids, "in b", attempt=2)
    # Whoever has them now: all that live, at once.
    for replica in found.replicas[1:]:
        replica.signal(signal.SIGKILL)
    second.wait()
    found.open("in b", "delta 3")
    (last,) = found.start()
    async with following([last], ids) as followers:
        pass
    for follower in followers:
        await found.check(follower.response_id)
        assert follower.lines == await found.log_of(follower.response_id)
        row = await found.row(follower.response_id)
        # The second attempt got on, if the first one's other tool had not been recorded yet. If it
        # did not, the run was suspected, and the third one was alone until it got on.
        assert (row["attempt"], row["deaths"]) in ((3, 1), (3, 2), (4, 0))
        # None has used up an attempt, unless it happened to be the only one of its replica. Deaths
        # are forgotten once it has got on, and what they used up when it dies again.
        assert row["spent"] in (1, 1 + (row["deaths"] or 2))


async def test_a_run_that_is_taken_over_knows_what_it_continues(found: Ground) -> None:
    one, _other = found.start(2)
    first = await create(
        one, json.dumps({"turns": [], "deltas": 1, "delta": "said before"}), model="gated"
    )
    shown = json.dumps({"turns": [], "show": True, "gates": ["delta 1"]})
    second = await create(
        one, shown, model="gated", background=True, previous_response_id=first["id"]
    )
    await found.reach([second["id"]], "delta 1")
    one.signal(signal.SIGKILL)
    await found.all_at_attempt([second["id"]], 2)
    found.open("delta 1")
    await found.all_finished([second["id"]])
    lines = await found.log_of(second["id"])
    output = json.loads(lines[-1])["response"]["output"]
    assert "said before" in output[-1]["content"][0]["text"]


async def test_7_two_calls_under_one_id_are_done_once_each_and_paid_under_two_keys(
    found: Ground,
) -> None:
    """Their replica dies when one of them has ended; the next turn gives the id again."""
    one, two = found.start(2)
    turns = ((("work", {"name": "a"}), ("work", {"name": "b"})), (("work", {"name": "c"}),))
    (id_,) = await found.submit(one, gates=("in b",), turns=turns, call_id="call")
    await found.reach([id_], "in b")
    recorded = "SELECT count(*) = 1 FROM steps WHERE response_id = $1 AND kind = 'tool'"
    await eventually(lambda: found.value(recorded, id_))
    one.signal(signal.SIGKILL)
    await found.reach([id_], "in b", attempt=2)
    found.open("in b")
    async with following([two], [id_]) as (follower,):
        pass
    assert follower.lines == await found.log_of(id_)
    a, b, again, c = found.effects_of(id_, "tool")
    assert [attempt for _, attempt, _ in (a, b, again, c)] == [1, 1, 2, 2]
    assert again[2] == b[2], "what was under way is done again, under its idempotency key"
    assert len({a[2], b[2], c[2]}) == 3


async def test_10_a_run_that_kills_its_replicas_is_given_up(found: Ground) -> None:
    """After LONGRUN_MAX_ATTEMPTS: else it would take every replica along, one after the other."""
    one, two, three = found.start(3, LONGRUN_MAX_ATTEMPTS="2")
    (id_,) = await found.submit(one, turns=((("die", {}),),))
    async with following([one, two, three], [id_]) as (follower,):
        pass
    events = await found.check(id_, status="failed")
    error = events[-1]["response"]["error"]
    message = "The run was interrupted 2 times and was given up."
    assert error == {"code": "server_error", "message": message}
    assert follower.lines == await found.log_of(id_)
    ended = [replica.process.poll() for replica in (one, two, three)]
    assert sorted(ended, key=str) == [-9, -9, None]


async def test_a_tool_that_blocks_its_replica_does_not_lose_its_run(found: Ground) -> None:
    """The heartbeat has a thread of its own: a busy replica is not a dead one."""
    one, two = found.start(2)
    (id_,) = await found.submit(one, turns=((("block", {"seconds": 5.0}),),))
    (neighbour,) = await found.submit(one, gates=("in b",))
    found.open("in b")
    async with following([two], [id_, neighbour]) as followers:
        pass
    for follower in followers:
        row = await found.row(follower.response_id)
        assert (row["attempt"], row["status"]) == (1, "completed")
    assert len(found.effects_of(id_, "tool")) == 1


async def test_a_cut_of_all_connections_moves_no_run(found: Ground) -> None:
    """pg_terminate_backend of everything, LISTEN and locks included: a blip, not a death."""
    one, two = found.start(2)
    ids = await found.submit(one, 10, gates=("in b", "delta 3"))
    await found.reach(ids, "in b")
    cut = (
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        " WHERE application_name LIKE 'longrun%' AND pid <> pg_backend_pid()"
    )
    async with following([one, two], ids) as followers:
        assert await found.value(cut) >= 8
        found.open("in b")
        await found.reach(ids, "delta 3")
        # Those of its pool a replica makes anew when it needs them.
        assert await found.value(cut) >= 4
        await asyncio.sleep(0.1)
        assert await found.value(cut) >= 4
        found.open("delta 3")
    for follower in followers:
        await found.check(follower.response_id)
        assert follower.lines == await found.log_of(follower.response_id)
        assert (await found.row(follower.response_id))["attempt"] == 1
    await eventually(lambda: all(r.process.poll() is None for r in (one, two)))


async def test_who_would_be_taken_for_dead_takes_nothing(found: Ground, schema: str) -> None:
    """A replica that neither renews its lease nor holds its lock: what it took would be taken
    from it, and each time an attempt would be gone."""
    async with direct_way(found.database.url, schema) as direct:
        (victim,) = found.start()
        (deaf,) = found.start(LONGRUN_LISTEN_DATABASE_URL=direct.url)
        ids = await found.submit(victim, 3, gates=("in a",))
        await found.reach(ids, "in a")
        await direct.cut()
        await eventually(lambda: "LISTEN connection lost" in deaf.output())
        victim.signal(signal.SIGKILL)
        expired = "SELECT bool_and(lease_until < now() - interval '3 seconds') FROM replicas"
        await eventually(lambda: found.value(expired))
        assert set((await found.attempts(ids)).values()) == {1}
        await direct.mend()
        await found.reach(ids, "in a", attempt=2)
        found.open("in a")
        async with following([deaf], ids) as followers:
            pass
        for follower in followers:
            await found.check(follower.response_id)
        found.end()
