"""The invariants (src/longrun/README.md), each broken by hand once to see its test fail.

Three are tested where they live: that finished steps stay finished (7) with the takeovers in
faults/, that nobody sees what is another's (9) with the contract's errors, and that every attempt
ends in words (10) with the faults.
"""

import asyncio
import contextlib
import json
import random
import signal
from collections.abc import AsyncIterator, Iterator

import psutil
import pytest

from tests import servers
from tests.postgres import Server
from tests.reading import (
    TERMINAL,
    TERMINAL_STATUSES,
    Wire,
    check_complete,
    create,
    delete,
    eventually,
    finished,
    in_background,
    metric,
    parse,
    read,
    rest_of,
    retrieve,
    script,
    stream_url,
)
from tests.servers import Replica
from tests.storing import add_history, connected, direct_way, locked, migrated, waiting_for_locks

TURNS = [[["echo", {"text": "a"}], ["echo", {"text": "b"}]]]


def schema_of(replica: Replica) -> str:
    return replica.environment["LONGRUN_SCHEMA"]


@contextlib.contextmanager
def one_more(two: list[Replica], database: Server, **environment: str) -> Iterator[Replica]:
    """A replica beside the two, for a test to treat badly."""
    with servers.replicas(
        1, database.url, schema=schema_of(two[0]), environment=environment
    ) as started:
        yield started[0]


async def log_end(database: Server, schema: str, response_id: str) -> int:
    """How far the log reaches, by Postgres alone."""
    async with connected(database.url) as connection:
        query = f'SELECT max(last) FROM "{schema}".event_chunks WHERE response_id = $1'
        return int(await connection.fetchval(query, response_id))


async def receive_for(seconds: float, wires: list[Wire]) -> None:
    """Take whatever comes within a time."""

    async def take(wire: Wire) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while await wire.more():
                    pass

    await asyncio.gather(*map(take, wires))


# -- 1 ------------------------------------------------------------------------------------


async def test_1_only_what_is_committed_is_seen_on_the_local_replica_too(
    two: list[Replica], database: Server
) -> None:
    schema = schema_of(two[0])
    response_id = await in_background(two[0], deltas=100_000, pause=0.005)
    async with contextlib.AsyncExitStack() as stack:
        wires = [
            await stack.enter_async_context(await Wire.open(stream_url(replica, response_id)))
            for replica in two
        ]
        for wire in wires:
            await wire.until(lambda body: b"word20" in body)
        async with locked(database.url, schema, response_id):
            # The run goes on, and its next append is on its way to Postgres.
            await eventually(lambda: appends_wait(database))
            committed = await log_end(database, schema, response_id)
            await receive_for(1.0, wires)
            for wire in wires:
                assert parse(wire.body).numbers == list(range(committed + 1))
            assert await log_end(database, schema, response_id) == committed
        for wire in wires:
            await wire.until(lambda _, wire=wire: wire.frames > committed + 50)  # type: ignore[misc]
    await delete(two[0], response_id)


async def appends_wait(database: Server) -> bool:
    return await waiting_for_locks(database.url) > 0


async def test_1_a_creation_is_answered_when_it_is_committed(
    two: list[Replica], database: Server
) -> None:
    """The other replica knows it at once: there is nothing to wait for."""
    for _ in range(20):
        response_id = await in_background(two[0], deltas=1)
        assert (await retrieve(two[1], response_id))["id"] == response_id


# -- 2 ------------------------------------------------------------------------------------

KINDS = [
    {"deltas": 300},
    {"turns": TURNS, "deltas": 5},
    {"deltas": 10, "fail": 5, "pause": 0.01},
    {"turns": [[["broken", {}]]]},
    {"deltas": 500, "pause": 0.01},
]


async def test_2_sequence_numbers_are_contiguous_whatever_becomes_of_the_run(
    two: list[Replica], database: Server
) -> None:
    ids = [await in_background(two[n % 2], **KINDS[n % len(KINDS)]) for n in range(20)]
    for n, response_id in enumerate(ids):
        if n % len(KINDS) == 4:
            await cancel(two[n // 5 % 2], response_id)
    for response_id in ids:
        await finished(two[0], response_id)
        check_complete(await read(stream_url(two[1], response_id)), with_ids=True)
    await check_logs(database, schema_of(two[0]))


async def check_logs(database: Server, schema: str) -> None:
    """Of every response in a schema: its chunks join, and no later attempt comes before."""
    async with connected(database.url) as connection:
        wrong = await connection.fetch(f"""
            SELECT response_id, first, last, attempt, previous_last, previous_attempt FROM (
                SELECT *,
                    lag(last, 1, -1::bigint) OVER log AS previous_last,
                    lag(attempt, 1, 0) OVER log AS previous_attempt
                FROM "{schema}".event_chunks
                WINDOW log AS (PARTITION BY response_id ORDER BY last)
            ) AS chunk
            WHERE first <> previous_last + 1 OR attempt < previous_attempt
        """)
    assert wrong == []


async def cancel(replica: Replica, response_id: str) -> dict[str, object]:
    url = f"{replica.base_url}/responses/{response_id}/cancel"
    async with await Wire.open(url, method="POST") as wire:
        await wire.rest()
        assert wire.status == 200, bytes(wire.body)
        return dict(json.loads(wire.body))


async def test_2_sequence_numbers_are_contiguous_over_a_crash(
    two: list[Replica], database: Server
) -> None:
    with one_more(two, database) as third:
        ids = [
            await in_background(third, turns=TURNS, deltas=100, pause=0.02 + n / 1000)
            for n in range(6)
        ]
        live = [
            asyncio.create_task(read(stream_url(two[n % 2], response_id)))
            for n, response_id in enumerate(ids)
        ]
        for response_id in ids:
            async with await Wire.open(stream_url(two[0], response_id)) as wire:
                await wire.until(lambda body: b"word9" in body)
        third.signal(signal.SIGKILL)
        for response_id, stream in zip(ids, live, strict=True):
            body = await stream
            reading = check_complete(body, with_ids=True)
            assert reading.types[-1] == "response.completed"
            assert body == await read(stream_url(two[0], response_id))
    await check_logs(database, schema_of(two[0]))


# -- 3 ------------------------------------------------------------------------------------


async def test_3_any_replica_serves_from_postgres_alone(
    two: list[Replica], database: Server
) -> None:
    """What another made, when that other is gone."""
    with one_more(two, database) as third:
        response = await create(third, script(turns=TURNS, deltas=20))
        whole = await read(stream_url(third, response["id"]))
        live = await in_background(third, deltas=2000, pause=0.05)
        assert (await cancel(two[0], live))["status"] == "cancelled"
        third.signal(signal.SIGKILL)
    frames = parse(whole).frames
    for replica in two:
        assert await retrieve(replica, response["id"]) == response
        assert await read(stream_url(replica, response["id"])) == whole
        assert await read(stream_url(replica, response["id"], 10)) == rest_of(frames, 10)
        following = await create(replica, "hi", previous_response_id=response["id"])
        assert following["status"] == "completed"
    await delete(two[0], response["id"])
    async with await Wire.open(f"{two[1].base_url}/responses/{response['id']}") as wire:
        assert wire.status == 404
        await wire.rest()


# -- 4 ------------------------------------------------------------------------------------


@pytest.fixture
async def mute(database: Server, schema: str) -> AsyncIterator[list[Replica]]:
    """Two replicas whose every NOTIFY is lost: their `pg_notify` is one that does nothing."""
    silent = f"silent_{schema}"
    async with connected(database.url) as connection:
        await connection.execute(f"CREATE SCHEMA {silent}")
        await connection.execute(
            f"CREATE FUNCTION {silent}.pg_notify(text, text) RETURNS void LANGUAGE sql AS 'SELECT'"
        )
    url = f"{database.url}&search_path={silent},pg_catalog"
    environment = {"LONGRUN_POLL_INTERVAL": "0.3"}
    with servers.replicas(2, url, schema=schema, environment=environment) as replicas:
        yield replicas


async def test_4_with_every_notification_lost_streams_are_complete_and_only_slower(
    mute: list[Replica], database: Server, schema: str
) -> None:
    heard: list[object] = []
    async with connected(database.url) as listening:
        for channel in ("events", "control"):
            await listening.add_listener(f"{schema}_{channel}", lambda *args: heard.append(args))
        await read_along(mute)
        await listening.execute("SELECT 1")
    assert heard == []


async def read_along(mute: list[Replica]) -> None:
    response_id = await in_background(mute[0], turns=TURNS, deltas=100, pause=0.02)
    fast = await in_background(mute[0], deltas=20_000)
    streams = [
        asyncio.create_task(read(stream_url(replica, i, cursor)))
        for replica in mute[::-1]
        for i in (response_id, fast)
        for cursor in (None, 60, 110)
    ]
    async with await Wire.open(stream_url(mute[1], response_id)) as wire:
        await wire.until(lambda body: b"word10" in body)
        # While it is live: not only once at its end.
        assert (await retrieve(mute[0], response_id))["status"] == "in_progress"
    bodies = {i: await read(stream_url(mute[0], i)) for i in (response_id, fast)}
    for body in bodies.values():
        reading = parse(body)
        assert reading.numbers == list(range(len(reading.frames)))
        assert reading.done
    for place, stream in enumerate(streams):
        body = bodies[(response_id, fast)[place // 3 % 2]]
        cursor = (-1, 60, 110)[place % 3]
        assert await stream == rest_of(parse(body).frames, cursor)


# -- 5 ------------------------------------------------------------------------------------


async def test_5_a_replica_that_lost_its_run_cannot_write_to_it(
    two: list[Replica], database: Server, schema: str
) -> None:
    """It goes on as if nothing were: its heartbeats are cut off, and it hears of nothing."""
    shared = schema_of(two[0])
    async with direct_way(database.url, schema) as direct:
        with one_more(
            two, database, LONGRUN_LISTEN_DATABASE_URL=direct.url, LONGRUN_LEASE_SECONDS="1"
        ) as third:
            response_id = await in_background(third, deltas=150, pause=0.02)
            await direct.cut()
            body = await read(stream_url(two[0], response_id))
            assert check_complete(body, with_ids=True).types[-1] == "response.completed"
            assert await read(stream_url(third, response_id)) == body
            await eventually(lambda: runs_nothing(third))
            assert await metric(third, "longrun_fenced_total") >= 1
            async with await Wire.open(f"{third.url}/readyz") as wire:
                await wire.rest()
            assert wire.status == 503
            problems = json.loads(wire.body)["problems"]
            assert {"LISTEN connection down", "lease not renewed"} <= set(problems)
    await check_logs(database, shared)
    async with connected(database.url) as connection:
        attempts = await connection.fetch(
            f'SELECT DISTINCT attempt FROM "{shared}".event_chunks WHERE response_id = $1',
            response_id,
        )
    assert {row["attempt"] for row in attempts} == {1, 2}


async def runs_nothing(replica: Replica) -> bool:
    return await metric(replica, "longrun_runs") == 0


# -- 6 ------------------------------------------------------------------------------------


async def test_6_status_and_terminal_event_change_together(
    two: list[Replica], database: Server
) -> None:
    """Looked at all the time, in one snapshot each: never one without the other."""
    schema = schema_of(two[0])
    first = await in_background(two[0], deltas=1)
    done = asyncio.Event()
    looks = 0

    async def look() -> None:
        nonlocal looks
        async with connected(database.url) as connection:
            while not done.is_set():
                wrong = await connection.fetch(
                    f"""
                    SELECT response.id, response.status, ending.type
                    FROM "{schema}".responses AS response
                    CROSS JOIN LATERAL (
                        SELECT substring(
                            convert_from(data, 'UTF8') FROM '.*"type":"(response\\.[a-z_.]+)","seq'
                        ) AS type
                        FROM "{schema}".event_chunks WHERE response_id = response.id
                        ORDER BY last DESC LIMIT 1
                    ) AS ending
                    WHERE response.id > $1
                    AND (response.finished_at IS NOT NULL) <> (ending.type IN (
                        'response.completed', 'response.failed', 'response.incomplete'
                    ))
                    """,
                    first,
                )
                assert wrong == []
                looks += 1

    looking = asyncio.create_task(look())
    chance = random.Random(5)
    ids = []
    for n in range(60):
        ids.append(await in_background(two[n % 2], deltas=chance.randrange(60), pause=0.001))
        if n % 3 == 0:
            await cancel(two[chance.randrange(2)], chance.choice(ids))
    ends = [await finished(two[0], response_id) for response_id in ids]
    done.set()
    await looking
    assert looks > 20
    assert {end["status"] for end in ends} == {"completed", "cancelled"}


async def test_6_there_is_exactly_one_terminal_event_and_it_is_the_last(
    two: list[Replica], database: Server
) -> None:
    """Also where a cancel and the run's own end meet."""
    chance = random.Random(6)
    ids = []
    for _ in range(30):
        response_id = await in_background(two[0], deltas=5, pause=0.005)
        ids.append(response_id)
        await asyncio.sleep(chance.uniform(0, 0.06))
        await asyncio.gather(*(cancel(two[n], response_id) for n in (0, 1)))
    statuses = set()
    for response_id in ids:
        end = await finished(two[0], response_id)
        reading = check_complete(await read(stream_url(two[1], response_id)), with_ids=True)
        assert reading.events[-1]["response"] == end
        assert [kind for kind in reading.types if kind in TERMINAL] == reading.types[-1:]
        expected = {"completed": "response.completed", "cancelled": "response.failed"}
        assert reading.types[-1] == expected[end["status"]]
        statuses.add(end["status"])
        # Nothing that comes later changes it.
        assert await cancel(two[1], response_id) == end
        assert await finished(two[1], response_id) == end
    assert statuses <= TERMINAL_STATUSES
    assert "cancelled" in statuses


# -- 8 ------------------------------------------------------------------------------------


def memory(replica: Replica) -> float:
    """The resident memory of a replica, in MB."""
    return float(psutil.Process(replica.process.pid).memory_info().rss / 1e6)


async def stalled(
    stack: contextlib.AsyncExitStack, replica: Replica, response_id: str, count: int
) -> list[Wire]:
    """Readers that take the head of the answer, and then nothing."""
    return [
        await stack.enter_async_context(
            await Wire.open(stream_url(replica, response_id), receive_buffer=4096)
        )
        for _ in range(count)
    ]


async def settled(replica: Replica) -> float:
    """The memory of a replica when it grows no more."""
    latest = [0.0]

    def is_steady() -> bool:
        latest.append(memory(replica))
        return len(latest) > 12 and max(latest[-10:]) - min(latest[-10:]) < 0.5

    await eventually(is_steady, every=0.1)
    return latest[-1]


async def test_8_memory_grows_neither_with_history_nor_with_what_stalled_readers_miss(
    database: Server, schema: str
) -> None:
    """Measured: 0.7 MB a stalled reader, in buffers on its way; its history is 40 MB."""
    async with migrated(database.url, schema) as store:
        response_id = await add_history(store, 40)
    environment = {"LONGRUN_SEND_TIMEOUT": "300"}
    with servers.replicas(1, database.url, schema=schema, environment=environment) as (replica,):
        await read(stream_url(replica, response_id))
        before = memory(replica)
        await read(stream_url(replica, response_id))
        assert memory(replica) - before < 15
        before = memory(replica)
        async with contextlib.AsyncExitStack() as stack:
            await stalled(stack, replica, response_id, 30)
            assert await settled(replica) - before < 30 * 2


async def test_8_memory_does_not_grow_with_what_is_written_while_readers_are_stalled(
    database: Server, schema: str
) -> None:
    """40 MB of live events pass by ten readers that take nothing and one that keeps up.

    Measured: the replica that only serves readers grows by 15 MB.
    """
    environment = {
        "LONGRUN_SEND_TIMEOUT": "300",
        "LONGRUN_MERGE_DELTAS": "false",
        "LONGRUN_MAX_ITEM_BYTES": str(100_000_000),
    }
    with servers.replicas(2, database.url, schema=schema, environment=environment) as both:
        for replica in both:
            await create(replica, script(deltas=100))
        before = [memory(replica) for replica in both]
        response_id = await in_background(both[0], deltas=40_000, delta="x" * 1000, hold=1000)
        async with contextlib.AsyncExitStack() as stack:
            for replica in both:
                await stalled(stack, replica, response_id, 10)
            keeping_up = [
                await stack.enter_async_context(await Wire.open(stream_url(replica, response_id)))
                for replica in both
            ]
            await asyncio.gather(*(take_all(wire, 40_000) for wire in keeping_up))
            after = [await settled(replica) for replica in both]
        for replica in both:
            replica.signal(signal.SIGKILL)
    grown = [now - then for then, now in zip(before, after, strict=True)]
    # The first also executes the run.
    assert grown[0] < 30 + 40, grown
    assert grown[1] < 30, grown


async def take_all(wire: Wire, count: int) -> None:
    """Read so many frames, and keep none."""
    seen = 0
    async with asyncio.timeout(120):
        while seen < count:
            assert await wire.more()
            seen += wire.forget()
