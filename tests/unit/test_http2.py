"""HTTP/2: what is written in no task fits the windows, the frames and the connection; and what
streams do that wait for a window."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, DataReceived, StreamEnded, StreamReset
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.task_group import TaskGroup
from hypercorn.events import Closed, Event, RawData
from hypercorn.typing import ConnectionState

from longrun.http.streams import AT_ONCE
from longrun.serving.bounds import Bounds, Context
from longrun.serving.http2 import HTTP2
from tests.unit import clock

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


ASK = [(":method", "GET"), (":path", "/"), (":scheme", "http"), (":authority", "here")]
SILENCE = 10
"""Seconds in which a client has to take something."""


class Talk:
    """A client that opens windows as a test says, and a server whose streams each answer with so
    many bytes.

    Attributes:
        got: how many bytes came, by stream.
        ended, reset: the streams that were.
        looks: how often a window was looked at.
    """

    def __init__(self, group: TaskGroup, size: int, window: int) -> None:
        config = Bounds()
        config.receive_timeout = config.send_timeout = SILENCE
        config.max_headers, config.max_header_bytes = 100, 10_000

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"x" * size})

        self.client = H2Connection(H2Configuration(client_side=True))
        self.client.initiate_connection()
        self.client.update_settings({4: window})
        state, address = ConnectionState({}), ("127.0.0.1", 1)
        self.server = HTTP2(
            ASGIWrapper(app),
            config,
            Context(None),
            group,
            state,
            True,
            address,
            address,
            self._take,
        )
        self.got: dict[int, int] = {}
        self.ended: set[int] = set()
        self.reset: set[int] = set()
        self.gone = False
        self.looks = 0
        look = self.server.connection.local_flow_control_window

        def counted(stream_id: int) -> int:
            self.looks += 1
            return look(stream_id)

        self.server.connection.local_flow_control_window = counted  # type: ignore[method-assign]

    async def ask(self, streams: int) -> list[int]:
        await self.server.initiate()
        asked = [2 * n + 1 for n in range(streams)]
        for stream in asked:
            self.client.send_headers(stream, ASK, end_stream=True)
            self.got[stream] = 0
        await self.say()
        return asked

    async def say(self) -> None:
        """What the client has to say, and what becomes of it."""
        await self.server.handle(RawData(self.client.data_to_send()))
        await asyncio.sleep(0.01)

    async def open(self, size: int, stream: int | None = None) -> None:
        self.client.increment_flow_control_window(size, stream)
        await self.say()

    async def _take(self, event: Event) -> None:
        if not isinstance(event, RawData):
            return
        for each in self.client.receive_data(event.data):
            if isinstance(each, DataReceived):
                self.got[each.stream_id] += len(each.data)
            elif isinstance(each, StreamEnded):
                self.ended.add(each.stream_id)
            elif isinstance(each, StreamReset):
                self.reset.add(each.stream_id)
            elif isinstance(each, ConnectionTerminated):
                self.gone = True


@contextlib.asynccontextmanager
async def talking(size: int, window: int) -> AsyncIterator[Talk]:
    async with TaskGroup(asyncio.get_running_loop()) as group:
        talk = Talk(group, size, window)
        try:
            yield talk
        finally:
            await talk.server.handle(Closed())


def test_a_byte_of_the_connection_s_window_is_no_work_for_all_its_streams() -> None:
    """Each of them looked for it: 250 looks a byte."""

    async def run() -> None:
        async with talking(size=10_000, window=1 << 20) as talk:
            streams = await talk.ask(100)
            before = talk.looks
            for _ in range(500):
                await talk.open(1)
            assert sum(talk.got.values()) == 65_535 + 500
            assert talk.looks - before < 5 * 500
            await talk.open(1 << 20)
            assert talk.ended == set(streams)

    clock.run(run())


def test_streams_have_the_connection_s_window_in_turn() -> None:
    """One that waits its turn is not cut while the client takes something of the others."""

    async def run() -> None:
        async with talking(size=20_000, window=1 << 20) as talk:
            streams = await talk.ask(10)
            waiting = {stream for stream in streams if talk.got[stream] < 20_000}
            before = dict(talk.got)
            for _ in range(3 * len(waiting)):
                await asyncio.sleep(SILENCE / 2)
                await talk.open(100)
            assert not talk.reset
            assert {talk.got[each] - before[each] for each in waiting} == {300}

    clock.run(run())


def test_one_that_is_reset_in_its_turn_leaves_it_to_the_next() -> None:
    async def run() -> None:
        async with talking(size=70_000, window=1 << 20) as talk:
            first, second, third = await talk.ask(3)
            talk.client.increment_flow_control_window(1000)
            for stream in (first, second, third):
                if talk.got[stream] == 0:
                    talk.client.reset_stream(stream)
                    break
            await talk.say()
            assert sum(talk.got.values()) == 65_535 + 1000

    clock.run(run())


def test_one_whose_own_window_stays_shut_is_cut_whatever_the_connection_takes() -> None:
    """It was never cut while other streams of its connection were read."""

    async def run() -> None:
        async with talking(size=100, window=0) as talk:
            stalled, other = await talk.ask(2)
            for _ in range(2 * SILENCE):
                await asyncio.sleep(1)
                await talk.open(1)
                await talk.open(1, other)
            assert talk.reset == {stalled}
            assert talk.got == {stalled: 0, other: 2 * SILENCE}

    clock.run(run())


@pytest.mark.parametrize(("changes", "gone"), [(5, False), (200, True)])
def test_windows_of_all_streams_that_change_all_the_time_are_a_flood(
    changes: int, gone: bool
) -> None:
    async def run() -> None:
        async with talking(size=1000, window=0) as talk:
            await talk.ask(100)
            for window in range(1, changes + 1):
                if not talk.gone:
                    talk.client.update_settings({4: window})
                    await talk.say()
            assert talk.gone == gone

    clock.run(run())
