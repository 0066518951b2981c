"""A bare client of WebSocket mode."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.servers import Replica

ENDS = ("response.completed", "response.failed", "response.incomplete", "error")


class Client:
    """One connection. `last`: the event that came last."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.last: dict[str, Any] = {}

    async def create(self, input: Any, **fields: Any) -> None:
        event = {"type": "response.create", "model": "scripted", "input": input, **fields}
        await self.connection.send(json.dumps(event))

    async def next(self) -> dict[str, Any]:
        async with asyncio.timeout(30):
            self.last = dict(json.loads(await self.connection.recv()))
        return self.last

    async def close_code(self) -> int | None:
        """Read what comes until the server closes, and how it does; None: without a word."""
        with contextlib.suppress(ConnectionClosed):
            while True:
                await self.next()
        return self.connection.protocol.close_rcvd and self.connection.protocol.close_rcvd.code

    async def rest(self) -> list[dict[str, Any]]:
        """All events up to the next that ends a response, or tells of an error."""
        found = [await self.next()]
        while found[-1]["type"] not in ENDS:
            found.append(await self.next())
        return found

    async def ended(self) -> dict[str, Any]:
        """The next event that ends a response, or tells of an error."""
        return (await self.rest())[-1]

    async def error(self) -> dict[str, Any]:
        """The next event that tells of an error."""
        while (event := await self.next())["type"] != "error":
            pass
        return event

    async def ask(self, input: Any, **fields: Any) -> dict[str, Any]:
        """Create a response; its last event."""
        await self.create(input, **fields)
        return await self.ended()


def url_of(replica: Replica, path: str = "/v1/responses") -> str:
    return replica.url.replace("http", "ws", 1) + path


@contextlib.asynccontextmanager
async def connected(
    replica: Replica, path: str = "/v1/responses", **options: Any
) -> AsyncIterator[Client]:
    async with connect(url_of(replica, path), max_size=None, **options) as connection:
        yield Client(connection)


def text_of(event: dict[str, Any]) -> str:
    """The text of a response in its last event."""
    messages = [item for item in event["response"]["output"] if item["type"] == "message"]
    return "".join(part["text"] for item in messages for part in item["content"])
