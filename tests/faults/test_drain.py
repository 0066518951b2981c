"""SIGTERM: requests and readers go elsewhere, runs finish or are handed over, nothing is lost."""

import asyncio
import json
import random
import signal
import time
from collections.abc import Iterator

import pytest

from tests import postgres
from tests.faults.ground import Balancer, Follower, Ground, following, ground
from tests.reading import Wire, create, eventually, parse, stream_url
from tests.servers import Replica
from tests.storing import locked, waiting_for_locks


@pytest.fixture
def found(database: postgres.Server, schema: str) -> Iterator[Ground]:
    with ground(database, f"drain_{schema}", LONGRUN_DRAIN_SECONDS="6") as made:
        yield made


async def test_runs_that_can_finish_do(found: Ground) -> None:
    one, two = found.start(2)
    ids = await found.submit(one, 10, gates=("in a",))
    await found.reach(ids, "in a")
    async with following([one, two], ids) as followers:
        one.signal(signal.SIGTERM)
        await eventually(lambda: "stopping" in one.output())
        found.open("in a")
    began = time.monotonic()
    assert one.wait(15) == 0
    assert time.monotonic() - began < 10
    for follower in followers:
        await found.check(follower.response_id)
        assert follower.lines == await found.log_of(follower.response_id)
        assert (await found.row(follower.response_id))["attempt"] == 1


async def test_the_rest_is_handed_over_between_two_steps(found: Ground) -> None:
    """No step is done twice, no attempt is used up, and the other goes on within a second."""
    one, two = found.start(2)
    ids = await found.submit(one, 10, gates=("in a",))
    await found.reach(ids, "in a")
    async with following([two], ids) as followers:
        one.signal(signal.SIGTERM)
        await eventually(lambda: "stopping" in one.output())
        # Past the half of the drain, when runs begin to leave at their next boundary.
        await asyncio.sleep(3.5)
        opened = time.monotonic()
        found.open("in a")
    for follower in followers:
        await found.check(follower.response_id)
        assert follower.lines == await found.log_of(follower.response_id)
        row = await found.row(follower.response_id)
        assert (row["attempt"], row["spent"]) == (2, 1)
        tools = found.effects_of(follower.response_id, "tool")
        assert sorted((what, attempt) for what, attempt, _ in tools) == [
            ("call_0_0", 1),
            ("call_0_1", 1),
        ]
        assert follower.times[-1] - opened < 3.0
    assert one.wait(15) == 0


async def test_new_work_is_left_to_the_others_and_readiness_says_no(found: Ground) -> None:
    """On old connections and new ones, as long as there are runs to be waited for."""
    one, other = found.start(2, LONGRUN_DRAIN_SECONDS="40")
    ids = await found.submit(one, 1, gates=("in a",))
    await found.reach(ids, "in a")
    kept = await connected(one)
    assert (await ask(kept, "GET", "/readyz"))[0] == 200
    slow = await connected(one)
    body = json.dumps({"model": "gated", "input": "x", "background": True}).encode()
    slow[1].write(head("POST", "/v1/responses", len(body)))
    await slow[1].drain()
    await ask(kept, "GET", "/healthz")
    one.signal(signal.SIGTERM)
    await eventually(lambda: "stopping" in one.output())
    slow[1].write(body)
    status, headers, answer = await read_answer(slow[0])
    assert (status, json.loads(answer)["status"]) == (200, "queued")
    assert headers["connection"] == "close"
    for reader, writer in (kept, slow):
        if writer is kept[1]:
            assert (await ask(kept, "GET", "/healthz"))[1]["connection"] == "close"
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
    new = await connected(one)
    status, _, answer = await ask(new, "GET", "/readyz")
    assert status == 503
    assert "draining" in json.loads(answer)["problems"]
    new[1].close()
    await new[1].wait_closed()
    system = json.loads(await Wire.fetch(f"{other.base_url}/system"))
    assert {each["pid"]: each["draining"] for each in system["replicas"]} == {
        one.process.pid: True,
        other.process.pid: False,
    }
    ids.append(await streamed(one, background=True))
    ids.append(await streamed(one))
    answered = await create(one, json.dumps({"deltas": 3}), model="gated")
    assert answered["status"] == "completed"
    # What has ended is replayed there to its end, too.
    async with await Wire.open(stream_url(one, answered["id"])) as wire:
        await wire.rest()
    assert parse(wire.body).done
    # And what is live is cancelled.
    (held,) = await found.submit(one, gates=("in a",))
    await found.reach([held], "in a")
    assert await cancel(one, held) == 200
    assert (await found.row(held))["status"] == "cancelled"
    found.open("in a")
    await found.all_finished(ids)
    assert one.wait(15) == 0
    assert await found.value("SELECT count(*) FROM responses") == 6
    # None of it has used up an attempt, and nothing of it was executed there.
    assert await found.value("SELECT max(spent) FROM responses") == 1


async def connected(replica: Replica) -> "Connection":
    return await asyncio.open_connection(*replica.url.removeprefix("http://").split(":"))


async def streamed(replica: Replica, **fields: bool) -> str:
    """The id of a response, of whose stream nothing is missing."""
    body = {"model": "gated", "input": json.dumps({"deltas": 3}), "stream": True, **fields}
    url = f"{replica.base_url}/responses"
    async with await Wire.open(url, method="POST", json=body) as wire:
        await wire.rest()
    reading = parse(wire.body)
    assert (wire.status, reading.done, wire.complete) == (200, True, True)
    assert reading.numbers == list(range(len(reading.frames)))
    assert reading.types[:2] == ["response.created", "response.queued"]
    return str(reading.events[0]["response"]["id"])


async def test_while_every_replica_drains_new_work_is_refused(found: Ground) -> None:
    both = found.start(2, LONGRUN_DRAIN_SECONDS="40")
    for replica in both:
        ids = await found.submit(replica, 1, gates=("in a",))
        await found.reach(ids, "in a")
    for replica in both:
        replica.signal(signal.SIGTERM)
    await eventually(lambda: draining(found, 2))
    for replica in both:
        url = f"{replica.base_url}/responses"
        async with await Wire.open(url, method="POST", json={"model": "gated", "input": "x"}) as no:
            await no.rest()
        assert (no.status, int(no.headers["retry-after"])) == (503, 1)
        assert json.loads(bytes(no.body))["error"]["type"] == "server_error"
    found.open("in a")
    for replica in both:
        assert replica.wait(15) == 0
    assert await found.value("SELECT count(*) FROM responses") == 2


async def draining(found: Ground, count: int) -> bool:
    return bool(await found.value("SELECT count(*) FROM replicas WHERE draining") == count)


async def test_answers_that_stream_stay_until_the_drain_is_over(found: Ground) -> None:
    """Their clients do not know of another replica; when they have to go they have the id."""
    one, two = found.start(2, LONGRUN_DRAIN_SECONDS="5")
    body = {"model": "gated", "input": json.dumps({"deltas": 2000, "pause": 0.01}), "stream": True}
    url = f"{one.base_url}/responses"
    early = await Wire.open(url, method="POST", json=body)
    while len(parse(early.body).frames) < 5:
        await early.more()
    began = time.monotonic()
    one.signal(signal.SIGTERM)
    await eventually(lambda: draining(found, 1))
    late = await Wire.open(url, method="POST", json=body)
    for wire in (early, late):
        await wire.rest(30)
        reading = parse(wire.body)
        assert (wire.complete, reading.rest, reading.done) == (True, b"", False)
        assert reading.numbers == list(range(len(reading.frames)))
        assert len(reading.frames) > 50
        assert time.monotonic() - began > 4
        id_ = reading.events[0]["response"]["id"]
        assert (await found.row(id_))["status"] == "in_progress"
        assert await delete(two, id_) == 200
        wire.close()
    assert one.wait(15) == 0


async def delete(replica: Replica, id_: str) -> int:
    async with await Wire.open(f"{replica.base_url}/responses/{id_}", method="DELETE") as wire:
        await wire.rest()
        return wire.status


Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def head(method: str, path: str, length: int = 0) -> bytes:
    return (
        f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {length}\r\n\r\n"
    ).encode()


async def ask(kept: Connection, method: str, path: str) -> tuple[int, dict[str, str], bytes]:
    kept[1].write(head(method, path))
    return await read_answer(kept[0])


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    async with asyncio.timeout(20):
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
        body = await reader.readexactly(int(headers.get("content-length", 0)))
    return int(lines[0].split()[1]), headers, body


async def test_readers_are_sent_away_between_two_frames_and_over_time(found: Ground) -> None:
    one, two = found.start(2)
    (id_,) = await found.submit(two, turns=(), deltas=2000, pause=0.01)
    wires = [await Wire.open(stream_url(one, id_)) for _ in range(200)]
    ends: list[float] = []

    async def to_the_end(wire: Wire) -> None:
        await wire.rest(30)
        ends.append(time.monotonic())

    began = time.monotonic()
    one.signal(signal.SIGTERM)
    await asyncio.gather(*map(to_the_end, wires))
    for wire in wires:
        assert wire.complete
        reading = parse(wire.body)
        assert reading.rest == b""
        assert not reading.done
        assert reading.numbers == list(range(len(reading.frames)))
        wire.close()
    assert ends[-1] - began < 9
    assert ends[-1] - ends[0] > 1.5, "not all at once"
    assert await cancel(two, id_) == 200
    assert one.wait(15) == 0


async def cancel(replica: Replica, id_: str) -> int:
    async with await Wire.open(f"{replica.base_url}/responses/{id_}/cancel", method="POST") as wire:
        await wire.rest()
        return wire.status


async def test_a_second_signal_is_immediate(found: Ground) -> None:
    one, two = found.start(2)
    ids = await found.submit(one, 3, gates=("in a",))
    await found.reach(ids, "in a")
    one.signal(signal.SIGTERM)
    await eventually(lambda: "stopping" in one.output())
    began = time.monotonic()
    one.signal(signal.SIGTERM)
    assert one.wait(5) != 0
    assert time.monotonic() - began < 2
    found.open("in a")
    async with following([two], ids) as followers:
        pass
    for follower in followers:
        await found.check(follower.response_id)


async def test_a_tool_that_cannot_be_stopped_does_not_hold_the_process(found: Ground) -> None:
    one, two = found.start(2, LONGRUN_DRAIN_SECONDS="2")
    (id_,) = await found.submit(one, turns=((("sleep_in_thread", {"seconds": 40.0}),),))
    await eventually(lambda: bool(found.effects_of(id_, "tool")))
    one.signal(signal.SIGTERM)
    await found.all_at_attempt([id_], 2, timeout=20)
    assert one.wait(15) == 0
    assert (await found.row(id_))["spent"] == 1
    assert await cancel(two, id_) == 200


async def test_rows_that_are_locked_do_not_hold_the_process(found: Ground) -> None:
    """The runs can neither write nor be handed over; whoever comes next carries them on."""
    (one,) = found.start(1, LONGRUN_DRAIN_SECONDS="2")
    ids = await found.submit(one, 3, gates=("in a",))
    await found.reach(ids, "in a")
    async with locked(found.database.url, found.schema, *ids):
        found.open("in a")
        await eventually(lambda: waits_for_a_lock(found))
        one.signal(signal.SIGTERM)
        assert await asyncio.to_thread(one.wait, 20) == 0
    assert "Traceback" not in one.output()
    (two,) = found.start()
    async with following([two], ids) as followers:
        pass
    for follower in followers:
        await found.check(follower.response_id)


async def waits_for_a_lock(found: Ground) -> bool:
    return await waiting_for_locks(found.database.url) > 0


# -- a rolling restart --------------------------------------------------------------------


async def test_a_rolling_restart_loses_nothing(found: Ground) -> None:
    found.environment["LONGRUN_DRAIN_SECONDS"] = "1.5"
    live, fresh = found.start(3), found.start(3)
    balancer = Balancer(live)
    ids: list[str] = []
    followers: list[Follower] = []
    stop = asyncio.Event()

    async def load(number: int, group: asyncio.TaskGroup) -> None:
        pick = random.Random(number)
        while not stop.is_set():
            fields = {
                "turns": ((("work", {"name": "a"}), ("work", {"name": "b"})),),
                "deltas": 6,
                "pause": pick.choice((0.0, 0.02, 0.2, 0.6)),
            }
            body = {"model": "gated", "input": json.dumps(fields), "background": True}
            answer = await balancer.post(body)
            ids.append(answer["id"])
            follower = Follower(balancer.replicas, answer["id"], number)
            followers.append(follower)
            group.create_task(follower.run())
            await asyncio.sleep(pick.uniform(0.2, 0.6))

    async with asyncio.timeout(100), asyncio.TaskGroup() as group:
        for number in range(4):
            group.create_task(load(number, group))
        await asyncio.sleep(1)
        for place, new in enumerate(fresh):
            old, balancer.replicas[place] = balancer.replicas[place], new
            old.signal(signal.SIGTERM)
            assert await asyncio.to_thread(old.wait, 20) == 0
        stop.set()
    await found.all_finished(ids)
    assert len(ids) > 20
    await found.check_all(ids, followers)
    assert await found.value("SELECT max(spent) FROM responses") == 1
    assert await found.value("SELECT count(*) FROM responses") == len(ids)
