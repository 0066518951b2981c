"""Postgres is restarted, away, cut off, full: runs wait, streams stay open, all goes on after it.

Each on a Postgres of its own, since it is hurt.
"""

import asyncio
import json
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import asyncpg
import psutil
import pytest

from tests import postgres, proxy, servers
from tests.faults.agents import AGENTS
from tests.faults.database import OwnPostgres
from tests.faults.ground import Follower, Ground, following, ground
from tests.reading import KEEPALIVE, Wire, eventually, metric, parse, stream_url
from tests.servers import Replica


@pytest.fixture(scope="module")
def own() -> Iterator[OwnPostgres]:
    with postgres.embedded() as server:
        yield OwnPostgres(server)


@pytest.fixture
def found(own: OwnPostgres, schema: str) -> Iterator[Ground]:
    environment = {"LONGRUN_RUN_BUFFER_BYTES": "65536", "LONGRUN_MAX_ITEM_BYTES": str(1 << 26)}
    with ground(own.server, f"trouble_{schema}", **environment) as made:
        made.start(2)
        yield made


def ready(replica: Replica) -> tuple[int, list[str]]:
    try:
        with urllib.request.urlopen(replica.url + "/readyz", timeout=10) as answer:
            return answer.status, json.load(answer)["problems"]
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)["problems"]


async def is_ready(replica: Replica, expected: int = 200) -> bool:
    return (await asyncio.to_thread(ready, replica))[0] == expected


async def check_unmoved(found: Ground, followers: list[Follower]) -> None:
    """All runs went on where they were, and nobody missed anything."""
    ids = [follower.response_id for follower in followers]
    await found.check_all(ids, followers)
    assert set((await found.attempts(ids)).values()) == {1}, "replicas took each other for dead"


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_a_restart(found: Ground, own: OwnPostgres, mode: str) -> None:
    one, two = found.replicas
    ids = [
        *await found.submit(one, 6, gates=("in b",)),
        *await found.submit(one, 6, gates=("delta 3",)),
    ]
    await found.reach(ids[:6], "in b")
    await found.reach(ids[6:], "delta 3")
    live = await found.submit(two, 6, deltas=60, pause=0.05, turns=())
    async with following([one, two], ids) as followers, following([one, two], live) as others:
        for follower in [*followers, *others]:
            await follower.until(lambda f=follower: len(f.lines) > 3)
        await asyncio.to_thread(own.restart, mode)
        found.open("in b", "delta 3")
        await eventually(lambda: is_ready(one))
        await eventually(lambda: is_ready(two))
        # Longer than a lease: they know that it was Postgres that was away.
        await asyncio.sleep(3)
    await check_unmoved(found, followers)
    text = "".join(f"word{n} " for n in range(60))
    for follower in others:
        events = [json.loads(line) for line in await found.log_of(follower.response_id)]
        assert follower.lines == [*await found.log_of(follower.response_id)]
        assert events[-1]["response"]["output"][-1]["content"][0]["text"] == text
        assert (await found.row(follower.response_id))["attempt"] == 1
        assert follower.breaks == 0, "the stream stayed open"


async def test_an_outage(found: Ground, own: OwnPostgres) -> None:
    """Longer than a lease. Runs wait with bounded memory; requests are told to come again."""
    one, two = found.replicas
    ids = await found.submit(one, 6, gates=("in b",))
    await found.reach(ids, "in b")
    # Would write 40 MB, at full speed.
    (torrent,) = await found.submit(one, turns=(), deltas=4000, delta="x" * 10_000, pause=0)
    async with following([two, one], ids) as followers:
        for follower in followers:
            await follower.until(lambda f=follower: len(f.lines) > 3)
        wire = await Wire.open(stream_url(two, ids[0]))
        await wire.until(lambda body: body.count(b"\n\n") >= 5)
        before = psutil.Process(one.process.pid).memory_info().rss
        await asyncio.to_thread(own.stop, "fast")
        found.open("in b")
        await eventually(lambda: is_ready(one, 503), timeout=10)
        await eventually(lambda: is_ready(two, 503), timeout=10)
        body = {"model": "gated", "input": "x", "background": True}
        post = await Wire.open(f"{one.base_url}/responses", method="POST", json=body)
        await post.rest()
        assert post.status == 503
        assert int(post.headers["retry-after"]) > 0
        post.close()
        began = len(wire.body)
        await wire.until(lambda body: bytes(body[began:]).count(KEEPALIVE) >= 4, timeout=15)
        wire.close()
        assert psutil.Process(one.process.pid).memory_info().rss - before < 30_000_000
        await asyncio.to_thread(own.start)
        back = time.monotonic()
        await eventually(lambda: is_ready(one), timeout=20)
        await eventually(lambda: is_ready(two), timeout=20)
    assert max(follower.times[-1] for follower in followers) - back < 15
    await check_unmoved(found, followers)
    await found.all_finished([torrent])
    assert (await found.row(torrent))["status"] == "completed"
    lines = await found.log_of(torrent)
    assert sum(len(json.loads(line).get("delta", "")) for line in lines) == 4000 * 10_000


async def test_a_postgres_that_hangs(found: Ground, own: OwnPostgres) -> None:
    """Frozen, as behind a network that swallows everything. Connections stay, nobody answers."""
    one, two = found.replicas
    ids = await found.submit(one, 6, gates=("in b",))
    await found.reach(ids, "in b")
    async with following([two, one], ids) as followers:
        own.freeze(True)
        try:
            found.open("in b")
            await asyncio.sleep(5)
        finally:
            own.freeze(False)
        await eventually(lambda: is_ready(one), timeout=30)
        await eventually(lambda: is_ready(two), timeout=30)
    await found.check_all(ids, followers)


async def test_a_replica_that_cannot_reach_it_sends_its_readers_elsewhere(
    found: Ground, own: OwnPostgres
) -> None:
    """Its packets are swallowed; the other replica's are not."""
    near = found.replicas[0]
    (response_id,) = await found.submit(near, gates=("in b",))
    await found.reach([response_id], "in b")
    async with proxy.before(own.server.url) as way:
        environment = {**near.environment, "LONGRUN_DATABASE_URL": way.url}
        far = await asyncio.to_thread(
            servers.start, way.url, schema=found.schema, agents=AGENTS, environment=environment
        )
        found.replicas.append(far)
        async with await Wire.open(stream_url(far, response_id)) as wire:
            await wire.until(lambda body: body.count(b"\n\n") > 3)
            way.silent = True
            await wire.rest(timeout=60)
        assert wire.complete
        reading = parse(wire.body)
        assert reading.rest == b""
        assert not reading.done
        status, problems = await asyncio.to_thread(ready, far)
        assert status == 503
        assert "Postgres does not answer" in problems
        found.open("in b")
        async with await Wire.open(stream_url(near, response_id, reading.numbers[-1])) as resumed:
            await resumed.rest()
        assert parse(resumed.body).done
        way.silent = False
        await eventually(lambda: is_ready(far), timeout=30)
        far.end()


async def test_a_replica_stops_in_time_while_postgres_hangs(
    found: Ground, own: OwnPostgres
) -> None:
    one, two = found.replicas
    ids = await found.submit(one, 3, gates=("in b",))
    await found.reach(ids, "in b")
    async with following([two], ids) as followers:
        stream = await Wire.open(stream_url(one, ids[0]))
        await stream.until(lambda body: body.count(b"\n\n") > 3)
        own.freeze(True)
        try:
            polls = [ask(one, f"/responses/{ids[0]}") for _ in range(5)]
            one.signal(signal.SIGTERM)
            assert await asyncio.to_thread(one.wait, 45) == 0
        finally:
            own.freeze(False)
        for each in (stream, *polls):
            each.close()
        found.open("in b")
    await found.check_all(ids, followers)


def ask(replica: Replica, path: str) -> socket.socket:
    """A request whose answer nobody waits for."""
    connection = socket.create_connection(("127.0.0.1", int(replica.url.rsplit(":")[-1])))
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return connection


async def test_a_crash_of_one_backend(found: Ground, own: OwnPostgres) -> None:
    """Postgres ends all connections and recovers; its start time stays, its locks are gone."""
    one, two = found.replicas
    ids = await found.submit(one, 6, gates=("in b",))
    await found.reach(ids, "in b")
    async with following([two, one], ids) as followers:
        pid = await found.value(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'longrun' LIMIT 1"
        )
        own.kill(pid)
        await eventually(lambda: answers(found))
        found.open("in b")
    await check_unmoved(found, followers)


async def answers(found: Ground) -> bool:
    try:
        return bool(await found.value("SELECT true"))
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return False


async def test_a_full_notification_queue(found: Ground, own: OwnPostgres) -> None:
    """A session that LISTENs and reads nothing fills it for all. NOTIFY is a hint."""
    for replica in found.replicas:
        replica.end()
    await asyncio.to_thread(own.stop, "fast")
    await asyncio.to_thread(own.start, "-c max_notify_queue_pages=64")
    one, two = found.start(2)
    ids = await found.submit(one, 6, gates=("in b",))
    await found.reach(ids, "in b")
    async with following([two, one], ids) as followers, found.connected() as deaf:
        await deaf.execute("LISTEN anything")
        await deaf.execute("BEGIN; SELECT 1")
        await fill(found)
        found.open("in b")
        (more,) = await found.submit(one)
        await found.all_finished([*ids, more], timeout=30)
        assert await is_ready(one)
        assert await is_ready(two)
        await eventually(lambda: all(follower.done for follower in followers))
        await deaf.execute("ROLLBACK")
    await check_unmoved(found, followers)
    # Once there is room again, what is read elsewhere is announced as before, without anybody
    # else's asking. Whichever of the two executes it, the other one has a reader.
    found.close()
    (after,) = await found.submit(one, gates=("in b",))
    await found.reach([after], "in b")
    async with following([two, one], [after, after]) as followers:
        await eventually(lambda: all(follower.lines for follower in followers))
        said = await announced(one, two)
        found.open("in b")

        async def announces() -> bool:
            return await announced(one, two) > said

        await eventually(announces)
    await asyncio.to_thread(own.stop, "fast")
    await asyncio.to_thread(own.start)


async def announced(*replicas: Replica) -> float:
    """How many messages these have sent."""
    return sum([await metric(replica, "longrun_announcements_total") for replica in replicas])


async def fill(found: Ground) -> None:
    """Send notifications until Postgres takes no more."""
    async with found.connected() as connection:
        payload = "x" * 7900
        for _ in range(100):
            try:
                await connection.execute(
                    "SELECT pg_notify('filling', n || $1) FROM generate_series(1, 20) AS n", payload
                )
            except asyncpg.ProgramLimitExceededError:
                return
    raise AssertionError("the queue does not fill")
