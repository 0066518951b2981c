"""A request with an Idempotency-Key is one run, whatever becomes of the replica that took it."""

import asyncio
import json
import signal
from collections.abc import Iterator

import openai
import pytest
from openai import AsyncOpenAI

from tests import postgres
from tests.faults.ground import Ground, ground, script
from tests.faults.test_follow import Relay
from tests.reading import eventually


@pytest.fixture
def found(database: postgres.Server, schema: str) -> Iterator[Ground]:
    with ground(database, f"idempotency_{schema}", LONGRUN_KEEPALIVE_INTERVAL="60") as made:
        yield made


def retrying(url: str) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=url, api_key="none", max_retries=2)


async def only_one(found: Ground) -> str:
    """The id of the only response there is, once there is one."""
    await eventually(lambda: found.value("SELECT count(*) > 0 FROM responses"))
    [row] = await found.sql("SELECT id FROM responses")
    return str(row["id"])


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("gate", ["model 0", "delta 3"])
async def test_killed_before_its_answer_it_is_not_run_again(
    found: Ground, gate: str, stream: bool
) -> None:
    """The SDK's own retry of a broken connection, of the first event or of the answer, comes to the
    other replica, and gets what the first one has begun."""
    relay = Relay()
    relay.replicas = found.start(2)
    asked = {"model": "gated", "input": json.dumps(script(gates=(gate,)))}
    async with asyncio.timeout(60), relay.listening() as url, retrying(url) as client:
        headers = {"Idempotency-Key": "k"}
        asking = asyncio.create_task(client.responses.create(**asked, extra_headers=headers))
        response_id = await only_one(found)
        await found.reach([response_id], gate)
        relay.replicas[0].signal(signal.SIGKILL)
        if stream:
            # One that has seen events resumes by itself, with the same request.
            streamed = await client.responses.create(
                **asked,
                stream=True,
                extra_headers=headers,
            )
            found.open(gate)
            events = [event async for event in streamed]
            assert [e.sequence_number for e in events] == list(range(len(events)))
            assert events[-1].response.id == response_id
        found.open(gate)
        answer = await asking
    assert (answer.id, answer.status) == (response_id, "completed")
    assert await only_one(found) == response_id
    await found.check(response_id)
    assert len(found.effects_of(response_id, "tool")) == 2


async def test_a_drain_sends_it_to_the_other_replica(found: Ground) -> None:
    """What would be a 503 that must not be repeated is one that may be, with a key."""
    relay = Relay()
    one, _ = relay.replicas = found.start(2, LONGRUN_DRAIN_SECONDS="1")
    asked = {"model": "gated", "input": json.dumps(script(gates=("in b",)))}
    async with asyncio.timeout(60), relay.listening() as url, retrying(url) as client:
        headers = {"Idempotency-Key": "k"}
        keyed = asyncio.create_task(client.responses.create(**asked, extra_headers=headers))
        response_id = await only_one(found)
        keyless = asyncio.create_task(client.responses.create(**asked))
        await eventually(lambda: found.value("SELECT count(*) = 2 FROM responses"))
        ids = [row["id"] for row in await found.sql("SELECT id FROM responses")]
        await found.reach(ids, "in b")
        one.signal(signal.SIGTERM)
        with pytest.raises(openai.InternalServerError) as refused:
            await keyless
        assert refused.value.code == "still_running"
        assert refused.value.response.headers["x-should-retry"] == "false"
        await found.all_at_attempt(ids, 2)
        found.open("in b")
        answer = await keyed
    assert (answer.id, answer.status) == (response_id, "completed")
    assert await found.value("SELECT count(*) FROM responses") == 2
