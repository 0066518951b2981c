"""HTTP/2: what is written in no task fits the windows, the frames and the connection."""

import asyncio
from typing import Any

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.task_group import TaskGroup
from hypercorn.events import Event, RawData
from hypercorn.typing import ConnectionState

from longrun.http.streams import AT_ONCE
from longrun.serving.bounds import Bounds, Context
from longrun.serving.http2 import HTTP2

ROOM = 40_000


class Room:
    """Of a connection, what is written in no task."""

    def __init__(self, parts: list[bytes]) -> None:
        self._parts = parts
        self._size = ROOM

    def has_room(self, size: int) -> bool:
        return size <= self._size

    def put(self, data: bytes) -> None:
        self._size -= len(data)
        self._parts.append(data)


async def received(sizes: list[int], window: int = 65_535) -> tuple[list[bool], list[int]]:
    """Of bodies that are to be written at once: which were, and the frames of data that a client
    with this window has of the answer."""
    config, parts, taken = Bounds(), [], []
    config.receive_timeout = config.send_timeout = 10
    config.max_headers, config.max_header_bytes = 100, 10_000

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        taken.extend(scope["extensions"][AT_ONCE](b"x" * size) for size in sizes)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def send(event: Event) -> None:
        if isinstance(event, RawData):
            parts.append(event.data)

    client = H2Connection(H2Configuration(client_side=True))
    client.initiate_connection()
    client.update_settings({4: window})
    asked = [(":method", "GET"), (":path", "/"), (":scheme", "http"), (":authority", "here")]
    client.send_headers(1, asked, end_stream=True)
    async with asyncio.timeout(10), TaskGroup(asyncio.get_running_loop()) as group:
        protocol = HTTP2(
            ASGIWrapper(app),
            config,
            Context(None),
            group,
            ConnectionState({}),
            True,
            ("127.0.0.1", 1),
            ("127.0.0.1", 2),
            send,
        )
        protocol.direct = Room(parts)
        await protocol.initiate()
        await protocol.handle(RawData(client.data_to_send()))
    events = client.receive_data(b"".join(parts))
    frames = [len(event.data) for event in events if isinstance(event, DataReceived)]
    return taken, [size for size in frames if size]


async def test_a_part_that_is_written_at_once_is_one_frame() -> None:
    assert await received([10, 300]) == ([True, True], [10, 300])


@pytest.mark.parametrize(
    ("sizes", "window"),
    [([100, 401], 500), ([100, 16_385], 65_535), ([16_000] * 3, 65_535)],
    ids=["window", "frame", "connection"],
)
async def test_nothing_is_written_at_once_that_does_not_fit(sizes: list[int], window: int) -> None:
    expected = [True] * (len(sizes) - 1)
    assert await received(sizes, window) == ([*expected, False], sizes[:-1])
