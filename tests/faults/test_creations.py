"""Many are created at once, and the replica or Postgres goes between commit and answer."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest

from tests import postgres
from tests.faults.database import OwnPostgres
from tests.faults.ground import Ground, ground, script
from tests.reading import Wire, eventually
from tests.servers import Replica

BEHIND = 6
ROUNDS = 3
WRITER = "longrun creation writer"
BODY = {"model": "gated", "input": json.dumps(script()), "background": True}


@pytest.fixture(scope="module")
def own() -> Iterator[OwnPostgres]:
    with postgres.embedded() as server:
        yield OwnPostgres(server)


@pytest.fixture
def found(own: OwnPostgres, schema: str) -> Iterator[Ground]:
    with ground(own.server, f"creations_{schema}") as made:
        yield made


async def send(replica: Replica, count: int) -> list[Wire]:
    """Requests that the replica has read; their answers are waited for by nobody yet."""
    url = f"{replica.base_url}/responses"
    wires = [await Wire.open(url, method="POST", json=BODY, wait=False) for _ in range(count)]
    await Wire.fetch(f"{replica.url}/healthz")
    return wires


async def until_waiting(found: Ground, name: str) -> None:
    """A connection of this name waits for a lock on the event log."""
    asking = (
        "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE NOT granted"
        f" AND relation = '{found.schema}.event_chunks'::regclass AND application_name = $1"
    )

    async def is_waiting() -> bool:
        return bool(await found.value(asking, name))

    await eventually(is_waiting)


@contextlib.asynccontextmanager
async def creations_in_commit(found: Ground, replica: Replica) -> AsyncIterator[list[Wire]]:
    """Requests of which many are created in one statement, which is under way until the block
    ends: the first was created alone, and the others gathered behind it."""
    lock = f"LOCK TABLE {found.schema}.event_chunks IN EXCLUSIVE MODE"
    one, other = [await asyncpg.connect(found.database.url) for _ in range(2)]
    try:
        await one.execute(f"BEGIN; {lock}")
        wires = await send(replica, 1)
        await until_waiting(found, WRITER)
        wires += await send(replica, BEHIND)
        await other.execute("SET application_name = 'other'; BEGIN")
        async with asyncio.TaskGroup() as group:
            locking = group.create_task(other.execute(lock))
            await until_waiting(found, "other")
            await one.execute("ROLLBACK")
            await locking
        await until_waiting(found, WRITER)
        yield wires
    finally:
        # With its transaction, if its server is there.
        other.terminate()
        one.terminate()


async def check_created(found: Ground, answered: list[str]) -> None:
    """What was answered is there; whatever is there has ended and is whole."""
    rows = await found.sql("SELECT id FROM responses")
    ids = [row["id"] for row in rows]
    assert set(answered) <= set(ids)
    await found.all_finished(ids)
    for id_ in ids:
        await found.check(id_)


async def answer_of(wire: Wire) -> tuple[int, str | None]:
    """The status of an answer, and the id in it. 0: there was none."""
    async with wire:
        with contextlib.suppress(OSError):
            while not wire.status and await wire.more(1024):
                pass
            await wire.rest()
    if wire.status != 200 or not wire.complete:
        return wire.status, None
    return wire.status, str(json.loads(wire.body)["id"])


async def test_a_replica_is_killed_between_a_commit_of_many_and_the_answer(found: Ground) -> None:
    victim, _other = found.start(2)
    # So that the statement is prepared, which takes the lock too.
    async with creations_in_commit(found, victim) as wires:
        pass
    assert {(await answer_of(wire))[0] for wire in wires} == {200}
    before = await found.value("SELECT count(*) FROM responses")
    async with creations_in_commit(found, victim) as wires:
        victim.process.kill()
        victim.process.wait()
    # Postgres finishes what it was sent.

    async def committed() -> bool:
        return int(await found.value("SELECT count(*) FROM responses")) > before + 2

    await eventually(committed)
    answers = [await answer_of(wire) for wire in wires]
    assert {status for status, _ in answers[1:]} == {0}, "nobody was told of what was not committed"
    await check_created(found, [id_ for _, id_ in answers if id_])


async def test_postgres_is_restarted_in_a_commit_of_many(found: Ground, own: OwnPostgres) -> None:
    [replica] = found.start(1)
    async with creations_in_commit(found, replica) as wires:
        own.restart("immediate")
    answers = [await answer_of(wire) for wire in wires]
    # Whether it is back before they are given up is a matter of time.
    assert {status for status, _ in answers} <= {200, 503}

    async def creates() -> bool:
        [wire] = await send(replica, 1)
        return (await answer_of(wire))[0] == 200

    await eventually(creates)
    await check_created(found, [id_ for _, id_ in answers if id_])


async def test_connections_are_ended_in_commits_of_many(found: Ground) -> None:
    """What is created with them is looked for, and created again where it is not there."""
    [replica] = found.start(1)
    ending = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name IN ('longrun', $1) AND backend_type = 'client backend'"
    )
    async with creations_in_commit(found, replica) as wires:
        pass
    answers = [await answer_of(wire) for wire in wires]
    for _ in range(ROUNDS):
        async with creations_in_commit(found, replica) as wires:
            await found.value(ending, WRITER)
        answers += [await answer_of(wire) for wire in wires]
    assert {status for status, _ in answers} == {200}
    ids = [id_ for _, id_ in answers if id_]
    assert len(set(ids)) == len(answers) == (ROUNDS + 1) * (BEHIND + 1)
    assert await found.value("SELECT count(*) FROM responses") == len(ids)
    await check_created(found, ids)
