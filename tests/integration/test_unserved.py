"""What waits for an agent that no replica serves is told: gauges, lines, `/system`, the doctor."""

import asyncio
import itertools
import logging

import httpx2
import pytest

from longrun import metrics
from longrun.store import unserved as module
from longrun.store.claims import Claims
from longrun.store.database import Database
from longrun.store.doctor import of_unserved
from longrun.store.overview import Overview
from longrun.store.sampling import Sampling
from longrun.store.unserved import Unserved, Waiting, unserved_in
from tests import servers
from tests.postgres import Server
from tests.reading import eventually
from tests.storing import add_response


async def replica(store: Database, name: str, agents: list[str] | None) -> None:
    """One that is alive; one of a version before says nothing of its agents."""
    await store.execute(store.queries.renew_lease, name, "host", 1, "1", 60.0, agents)


async def unserved(store: Database) -> list[tuple[str, int]]:
    row = await store.fetch_row(store.queries.sample_cluster, "")
    assert row is not None
    found = unserved_in(row)
    assert all(0 <= each.oldest < 60 for each in found)
    return [(each.agent, each.responses) for each in found]


def gauges() -> dict[str, float]:
    return {
        sample.labels["agent"]: sample.value
        for metric in metrics.unserved.collect()
        for sample in metric.samples
    }


async def test_it_is_what_waits_for_agents_that_no_replica_alive_serves(store: Database) -> None:
    await replica(store, "replica_a", ["one", "two"])
    await replica(store, "replica_b", ["three"])
    for agent in ("one", "gone", "gone", "three"):
        await add_response(store, status="queued", agent=agent)
    assert await unserved(store) == [("gone", 2)]
    await store.execute(store.queries.tell_draining, "replica_b")
    assert await unserved(store) == [("gone", 2), ("three", 1)]
    await replica(store, "replica_c", ["three"])
    assert await unserved(store) == [("gone", 2)]
    await store.execute(store.queries.end_lease, "replica_c")
    assert await unserved(store) == [("gone", 2), ("three", 1)]
    queue = (await Overview(store).system_unscoped()).queue
    assert {line["model"]: line["served"] for line in queue} == {
        "one": True,
        "three": False,
        "gone": False,
    }


async def test_runs_that_were_handed_over_wait_too(store: Database) -> None:
    held = await add_response(store, agent="gone")
    await replica(store, "replica_a", ["one"])
    assert await unserved(store) == []
    await Claims(store, "replica_a").release({held: 1})
    assert await unserved(store) == [("gone", 1)]


async def test_nothing_is_alleged_while_a_replica_of_before_is_alive(store: Database) -> None:
    """It does not say what it serves."""
    await add_response(store, status="queued", agent="gone")
    await replica(store, "replica_a", ["one"])
    await replica(store, "replica_before", None)
    assert await unserved(store) == []
    assert (await Overview(store).system_unscoped()).queue[0]["served"] is None
    await store.execute(store.queries.end_lease, "replica_before")
    assert await unserved(store) == [("gone", 1)]


async def test_one_of_the_replicas_logs_it_and_each_shows_it(
    store: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "longrun.replicas")
    await add_response(store, status="queued", agent="gone")
    names = ("replica_b", "replica_a")
    for name in names:
        await replica(store, name, ["one"])
    replicas = [Sampling(store, name) for name in names]
    for _ in range(3):
        await asyncio.gather(*(each.look() for each in replicas))
    [line] = caplog.records
    assert (line.getMessage().partition(" agent=")[0], line.levelno) == (
        "agent unserved",
        logging.WARNING,
    )
    assert [each.unserved.waiting for each in replicas] == [1, 1]
    assert gauges() == {"gone": 1}
    await replica(store, "replica_of_it", ["gone"])
    await asyncio.gather(*(each.look() for each in replicas))
    assert caplog.messages[1:] == ["agent served again agent=gone"]
    assert gauges() == {}


def test_it_is_said_again_ever_more_seldom(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Also of an agent that comes and goes, as where its only replica crashes again and again."""
    caplog.set_level(logging.WARNING, "longrun.replicas")
    monkeypatch.setattr("longrun.backoff.jittered", lambda seconds: seconds)
    now = 0.0
    seen = Unserved(lambda: now)
    said: list[float] = []
    while now < 5 * module.LAST_REMINDER:
        seen.looked([Waiting("gone", 1, now)] if now % 70 else [], tells=True)
        said += [now] * (len(caplog.records) - len(said))
        now += 10
    pauses = [after - before for before, after in itertools.pairwise(said)]
    assert pauses[:3] == pytest.approx([60, 120, 240], abs=20)
    assert pauses[-1] == pytest.approx(module.LAST_REMINDER, abs=20)


def test_the_doctor_names_them() -> None:
    assert of_unserved([]) is None
    found = of_unserved([Waiting("gone", 2, 90.0)])
    assert found is not None
    assert (found.check, found.state) == ("agents", "warning")
    assert "gone (2 waiting" in found.said


async def test_a_replica_says_what_it_serves_and_what_nobody_does(
    store: Database, database: Server, schema: str
) -> None:
    await add_response(store, status="queued", agent="gone")
    with servers.replicas(1, database.url, schema=schema) as (alive,):
        async with httpx2.AsyncClient(base_url=alive.url, timeout=30) as client:

            async def warned() -> bool:
                answer = await client.get("/readyz")
                said = "responses that wait for agents which no replica serves: 1"
                return answer.status_code == 200 and answer.json().get("warnings") == [said]

            await eventually(warned)
            text = (await client.get("/metrics")).text
            system = (await client.get("/system")).json()
    assert 'longrun_cluster_unserved{agent="gone"} 1.0' in text
    assert "scripted" in system["replicas"][0]["agents"]
    assert (system["queue"][0]["model"], system["queue"][0]["served"]) == ("gone", False)
