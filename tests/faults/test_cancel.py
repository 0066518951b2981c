"""Cancel: on any replica, whatever the owner does; and what it stops really stops."""

import asyncio
import json
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from tests import postgres
from tests.faults.ground import Ground, check_events, following, ground, script
from tests.reading import Wire, create, eventually
from tests.servers import Replica


@pytest.fixture(scope="module")
def found(database: postgres.Server) -> Iterator[Ground]:
    with ground(database, "cancel", LONGRUN_LEASE_SECONDS="3") as made:
        made.start(2)
        yield made


async def cancel(replica: Replica, response_id: str) -> tuple[int, dict[str, object]]:
    url = f"{replica.base_url}/responses/{response_id}/cancel"
    async with await Wire.open(url, method="POST") as wire:
        await wire.rest()
        return wire.status, json.loads(bytes(wire.body))


async def check_cancelled(found: Ground, response_id: str) -> None:
    events = await found.check(response_id, status="cancelled")
    final = events[-1]
    assert final["type"] == "response.failed"
    assert final["response"]["status"] == "cancelled"
    assert final["response"]["error"] is None


@pytest.mark.parametrize("place", [0, 1], ids=["its owner", "another"])
async def test_a_live_run_ends_at_once(found: Ground, place: int) -> None:
    owner, other = found.replicas[:2]
    ids = await found.submit(owner, 5, turns=((("stuck", {}),),))
    await eventually(lambda: all(found.effects_of(id_, "tool") for id_ in ids))
    async with following([other], ids) as followers:
        began = time.monotonic()
        answers = await asyncio.gather(*(cancel(found.replicas[place], id_) for id_ in ids))
    assert [(status, answer["status"]) for status, answer in answers] == [(200, "cancelled")] * 5
    assert max(follower.times[-1] for follower in followers) - began < 3.0
    # The tools were stopped: their own cleanup ran.
    await eventually(lambda: all(found.effects_of(id_, "stopped") for id_ in ids))
    for follower in followers:
        await check_cancelled(found, follower.response_id)
        assert follower.lines == await found.log_of(follower.response_id)
        again = await cancel(other, follower.response_id)
        assert (again[0], again[1]["status"]) == (200, "cancelled")


@asynccontextmanager
async def silent_provider() -> AsyncIterator[tuple[int, Counter[str]]]:
    """Something that a model has a request open to. Counts requests and their ends."""
    seen: Counter[str] = Counter()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen["open"] += 1
        await reader.read()
        seen["closed"] += 1
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], seen
    finally:
        server.close()


async def test_the_request_to_the_model_is_closed(found: Ground) -> None:
    owner, other = found.replicas[:2]
    async with silent_provider() as (port, seen):
        (id_,) = await found.submit(owner, request=port)
        await eventually(lambda: seen["open"] == 1)
        assert (await cancel(other, id_))[0] == 200
        await eventually(lambda: seen["closed"] == 1, timeout=5)
    await check_cancelled(found, id_)


async def test_a_frozen_owner_does_not_hold_it_up(found: Ground) -> None:
    (owner,) = found.start()
    other = found.replicas[0]
    ids = await found.submit(owner, 3, gates=("delta 3",))
    await found.reach(ids, "delta 3")
    owner.signal(signal.SIGSTOP)
    async with following([other], ids) as followers:
        began = time.monotonic()
        answers = await asyncio.gather(*(cancel(other, id_) for id_ in ids))
        assert {(status, answer["status"]) for status, answer in answers} == {(200, "cancelled")}
        assert time.monotonic() - began < 3.0
    before = {id_: await found.log_of(id_) for id_ in ids}
    found.open("delta 3")
    owner.signal(signal.SIGCONT)
    await eventually(lambda: "\nlongrun_runs 0.0" in metrics(owner))
    for follower in followers:
        await check_cancelled(found, follower.response_id)
        assert await found.log_of(follower.response_id) == before[follower.response_id]
    found.close()
    owner.end()


async def test_a_dead_owner_does_not_hold_it_up(found: Ground) -> None:
    (owner,) = found.start()
    other = found.replicas[0]
    ids = await found.submit(owner, 3, gates=("in a",))
    await found.reach(ids, "in a")
    owner.signal(signal.SIGKILL)
    answers = await asyncio.gather(*(cancel(other, id_) for id_ in ids))
    assert {(status, answer["status"]) for status, answer in answers} == {(200, "cancelled")}
    for id_ in ids:
        await check_cancelled(found, id_)


async def test_who_cancels_dies_in_the_middle(found: Ground) -> None:
    """The claim of the cancel is committed, its end is not: another replica ends it."""
    (owner,) = found.start()
    other = found.replicas[0]
    ids = await found.submit(owner, 3, gates=("in a",))
    await found.reach(ids, "in a")
    await found.sql("UPDATE responses SET cancelled = true WHERE id = ANY($1)", ids)
    owner.signal(signal.SIGKILL)
    async with following([other], ids):
        pass
    for id_ in ids:
        await check_cancelled(found, id_)


async def test_a_client_that_closed_its_half_is_told_of_the_cancel(found: Ground) -> None:
    """It was told that the server is stopping, and that the run it had just ended goes on."""
    (owner,) = found.replicas[:1]
    body = json.dumps({"model": "gated", "input": json.dumps(script(turns=((("stuck", {}),),)))})
    host, port = owner.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = "POST /responses HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
    newest = "SELECT max(id) FROM responses"
    await eventually(lambda: _has_effect(found, newest))
    writer.write_eof()
    answer = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    status, _, rest = answer.partition(b"\r\n")
    assert status.startswith(b"HTTP/1.1 200"), answer
    given = json.loads(rest.split(b"\r\n\r\n", 1)[1])
    assert given["status"] == "cancelled"
    await check_cancelled(found, given["id"])


async def _has_effect(found: Ground, newest: str) -> bool:
    return bool(found.effects_of(await found.value(newest), "tool"))


async def test_what_cannot_be_cancelled(found: Ground) -> None:
    one = found.replicas[0]
    status, answer = await cancel(one, "resp_" + "0" * 32)
    assert (status, set(answer)) == (404, {"error"})
    done = await create(one, json.dumps({"deltas": 1}), model="gated")
    status, answer = await cancel(one, done["id"])
    assert status == 400
    assert answer["error"]["type"] == "invalid_request_error"  # type: ignore[index]
    (id_,) = await found.submit(one, turns=(), deltas=1)
    await found.all_finished([id_])
    status, answer = await cancel(one, id_)
    assert (status, answer["status"]) == (200, "completed")


async def test_cancel_races_with_the_end(found: Ground) -> None:
    """Exactly one wins, and every answer says which: the cancel's, the log's, a later poll's."""
    one, two = found.replicas[:2]
    won: Counter[str] = Counter()
    began = time.monotonic()
    await found.all_finished(await found.submit(one, 10, turns=(), deltas=1))
    long = min(2 * (time.monotonic() - began), 1.0)

    async def race(number: int) -> None:
        (id_,) = await found.submit(one, turns=(), deltas=1)
        # From at once to when it is over, however busy the machine is.
        await asyncio.sleep(long * (number % 16) / 16)
        (status, answer), (again, repeated) = await asyncio.gather(
            cancel(one if number % 3 else two, id_), cancel(two, id_)
        )
        assert (status, again) == (200, 200)
        events = [json.loads(line) for line in await found.log_of(id_)]
        outcome = str((await found.row(id_))["status"])
        check_events(id_, events, outcome)
        assert answer["status"] == repeated["status"] == outcome
        assert events[-1]["response"]["status"] == outcome
        won[outcome] += 1

    for batch in range(20):
        await asyncio.gather(*(race(batch * 10 + place) for place in range(10)))
    assert set(won) == {"completed", "cancelled"}, won
    assert sum(won.values()) == 200


def metrics(replica: Replica) -> str:
    import urllib.request

    with urllib.request.urlopen(replica.url + "/metrics", timeout=20) as answer:
        return str(answer.read().decode())
