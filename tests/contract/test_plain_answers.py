"""Plain answers that take long: spaces come first, and then a Response object in any case."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from openai import AsyncOpenAI

from tests import servers
from tests.postgres import Server
from tests.reading import Wire, eventually, script
from tests.servers import Replica

INTERVAL = 0.3


@pytest.fixture(scope="module")
def pair(database: Server) -> Iterator[list[Replica]]:
    environment = {"LONGRUN_KEEPALIVE_INTERVAL": str(INTERVAL)}
    with servers.replicas(2, database.url, schema="plain", environment=environment) as started:
        yield started


async def asked(replica: Replica, input: str, **more: Any) -> Wire:
    body = {"model": "scripted", "input": input, **more}
    return await Wire.open(f"{replica.base_url}/responses", method="POST", json=body)


async def only_live(replica: Replica) -> str:
    """The id of the only response that is under way."""
    found: list[str] = []

    async def one() -> bool:
        page = json.loads(await Wire.fetch(f"{replica.base_url}/responses?status=in_progress"))
        found[:] = [each["id"] for each in page["data"]]
        return len(found) == 1

    await eventually(one)
    return found[0]


async def test_a_short_one_is_as_ever(pair: list[Replica]) -> None:
    async with await asked(pair[0], "hello") as wire:
        body = bytes(await wire.rest())
    assert not body.startswith(b" ")
    assert int(wire.headers["content-length"]) == len(body)


async def test_a_long_one_begins_with_spaces(pair: list[Replica]) -> None:
    """Over HTTP/1.1, chunk by chunk, as they come."""
    async with await asked(pair[0], script(deltas=3, hold=1.5)) as wire:
        assert wire.status == 200
        assert wire.headers["content-type"] == "application/json"
        assert wire.headers["transfer-encoding"] == "chunked"
        assert wire.headers["x-accel-buffering"] == "no"
        assert "x-request-id" in wire.headers
        begun = bytes(await wire.until(lambda body: len(body) >= 2))
        assert begun.strip() == b""
        body = bytes(await wire.rest())
    assert wire.complete
    assert 2 <= len(body) - len(body.lstrip()) <= 6
    answer = json.loads(body)
    assert answer["status"] == "completed"
    stored = json.loads(await Wire.fetch(f"{pair[1].base_url}/responses/{answer['id']}"))
    assert answer == stored


@pytest.mark.parametrize("fails", [True, False], ids=["failed", "not stored"])
async def test_whatever_becomes_of_the_run(pair: list[Replica], fails: bool) -> None:
    said = script(turns=[[["echo", {"text": "x", "pause": 0.8}]]], fail=1 if fails else None)
    async with await asked(pair[0], said, store=fails) as wire:
        body = bytes(await wire.rest())
    assert body.startswith(b" ")
    answer = json.loads(body)
    assert answer["status"] == ("failed" if fails else "completed")
    async with await Wire.open(f"{pair[1].base_url}/responses/{answer['id']}") as poll:
        assert poll.status == (200 if fails else 404)


async def test_one_that_was_deleted_meanwhile_says_so(pair: list[Replica]) -> None:
    async with await asked(pair[0], script(deltas=3, hold=20)) as wire:
        await wire.until(lambda body: len(body) >= 1)
        id_ = await only_live(pair[1])
        async with AsyncOpenAI(base_url=pair[1].base_url, api_key="none") as client:
            await client.responses.delete(id_)
        body = bytes(await wire.rest(20))
    assert wire.complete
    answer = json.loads(body)
    assert (answer["id"], answer["status"]) == (id_, "cancelled")


async def test_a_client_that_goes_ends_its_run(pair: list[Replica]) -> None:
    """After the answer has begun, too."""
    async with await asked(pair[0], script(deltas=3, hold=60)) as wire:
        await wire.until(lambda body: len(body) >= 1)
        id_ = await only_live(pair[1])

    async def cancelled() -> bool:
        found = json.loads(await Wire.fetch(f"{pair[1].base_url}/responses/{id_}"))
        return bool(found["status"] == "cancelled")

    await eventually(cancelled)


async def test_many_wait_at_once(pair: list[Replica]) -> None:
    async with AsyncOpenAI(base_url=pair[0].base_url, api_key="none", max_retries=0) as client:
        said = script(deltas=3, hold=1.0)
        answers = await asyncio.gather(
            *(client.responses.create(model="scripted", input=said) for _ in range(20))
        )
    assert {each.status for each in answers} == {"completed"}
    assert len({each.id for each in answers}) == 20
