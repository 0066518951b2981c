"""A run that was asked for on a WebSocket, whose replica is killed: it goes on, over HTTP."""

import json
import signal
from collections.abc import Iterator

import pytest

from tests import postgres
from tests.faults.ground import Ground, ground, script
from tests.reading import parse, read, stream_url
from tests.sockets import connected


@pytest.fixture
def found(database: postgres.Server, schema: str) -> Iterator[Ground]:
    with ground(database, f"sockets_{schema}") as made:
        yield made


async def test_the_client_resumes_elsewhere_and_tools_are_called_once(found: Ground) -> None:
    first, second = found.start(2)
    async with connected(first) as client:
        text = json.dumps(script(gates=("in b", "delta 3")))
        await client.create(text, model="gated", stream_id="lane")
        response_id = (await client.next())["response"]["id"]
        await found.reach([response_id], "in b")
        first.signal(signal.SIGKILL)
        assert await client.close_code() is None
        seen = client.last["sequence_number"]
    found.open("in b", "delta 3")
    rest = parse(await read(stream_url(second, response_id, seen)))
    assert rest.numbers == list(range(seen + 1, rest.numbers[-1] + 1))
    await found.check(response_id)
    async with connected(second) as client:
        event = await client.ask("and on", model="gated", previous_response_id=response_id)
        assert event["type"] == "response.completed", event
