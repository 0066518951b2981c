"""WebSocket mode (contract, "WebSocket"): OpenAI's client, the Agents SDK, and odd frames."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from openai import AsyncOpenAI
from websockets.asyncio.client import ClientConnection, connect

from tests.reading import parse as parse_stream
from tests.reading import read as read_stream
from tests.reading import script, stream_url
from tests.servers import Replica

TERMINAL = ("response.completed", "response.failed", "response.incomplete", "error")


class Client:
    """A bare WebSocket client."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    async def create(self, input: Any, **fields: Any) -> None:
        event = {"type": "response.create", "model": "scripted", "input": input, **fields}
        await self.connection.send(json.dumps(event))

    async def next(self) -> dict[str, Any]:
        async with asyncio.timeout(30):
            return dict(json.loads(await self.connection.recv()))

    async def rest(self) -> list[dict[str, Any]]:
        """All events up to the next that ends a response, or tells of an error."""
        found = [await self.next()]
        while found[-1]["type"] not in TERMINAL:
            found.append(await self.next())
        return found

    async def ask(self, input: Any, **fields: Any) -> dict[str, Any]:
        """The last event of a response."""
        await self.create(input, **fields)
        return (await self.rest())[-1]


@contextlib.asynccontextmanager
async def connected(
    replica: Replica, path: str = "/v1/responses", **options: Any
) -> AsyncIterator[Client]:
    url = replica.url.replace("http", "ws", 1) + path
    async with connect(url, max_size=None, **options) as connection:
        yield Client(connection)


def text_of(event: dict[str, Any]) -> str:
    output = event["response"]["output"]
    return "".join(
        part["text"] for item in output if item["type"] == "message" for part in item["content"]
    )


class TestOpenAI:
    async def test_async_client(self, two: list[Replica]) -> None:
        async with (
            AsyncOpenAI(base_url=two[0].base_url, api_key="none") as client,
            client.responses.connect() as connection,
        ):
            await connection.response.create(model="scripted", input=script(deltas=5))
            events = []
            async for event in connection:
                events.append(event)
                if event.type == "response.completed":
                    break
            assert [e.sequence_number for e in events] == list(range(len(events)))
            first = events[-1].response
            assert first.output_text == "word0 word1 word2 word3 word4 "
            await connection.response.create(
                model="scripted", input="more", previous_response_id=first.id
            )
            async for event in connection:
                if event.type == "response.completed":
                    assert event.response.output_text == "more"
                    assert event.response.previous_response_id == first.id
                    break

    async def test_events_are_those_of_sse(self, two: list[Replica]) -> None:
        async with connected(two[0]) as client:
            await client.create(script(deltas=3, turns=[[["echo", {"text": "x"}]]]))
            events = await client.rest()
        response_id = events[0]["response"]["id"]
        replayed = parse_stream(await read_stream(stream_url(two[1], response_id)))
        assert [json.loads(frame.data) for frame in replayed.frames] == events
