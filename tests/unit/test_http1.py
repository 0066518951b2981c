"""HTTP/1.1: what is written of an answer, and when."""

import asyncio
from typing import Any

import pytest
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.task_group import TaskGroup
from hypercorn.events import Event, RawData
from hypercorn.typing import ConnectionState

from longrun.http.streams import AT_ONCE
from longrun.serving.bounds import Bounds, Context
from longrun.serving.http1 import HTTP1

START = {"type": "http.response.start", "status": 200, "headers": [(b"x-is", b"there")]}


def body(data: bytes, more: bool = True) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


class Room:
    """Of a connection, what is written in no task.

    Args:
        size: bytes for which there is room.
    """

    def __init__(self, parts: list[bytes], size: int) -> None:
        self._parts = parts
        self._size = size

    def has_room(self, size: int) -> bool:
        return size <= self._size

    def put(self, data: bytes) -> None:
        self._size -= len(data)
        self._parts.append(data)


async def written(
    *messages: Any, method: str = "GET", version: str = "1.1", room: int = 1000
) -> list[bytes]:
    """What is written, each time, when an application answers so; bytes are to be written at once,
    and are sent where that cannot be."""
    config, parts = Bounds(), []
    config.receive_timeout = 10
    config.max_headers, config.max_header_bytes = 100, 10_000

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            at_once = scope["extensions"].get(AT_ONCE)
            if not isinstance(message, bytes):
                await send(message)
            elif at_once is None or not at_once(message):
                await send(body(b"sent: " + message))

    async def send(event: Event) -> None:
        if isinstance(event, RawData):
            parts.append(event.data)

    async with asyncio.timeout(10), TaskGroup(asyncio.get_running_loop()) as group:
        protocol = HTTP1(
            ASGIWrapper(app),
            config,
            Context(None),
            group,
            ConnectionState({}),
            False,
            ("127.0.0.1", 1),
            ("127.0.0.1", 2),
            send,
        )
        protocol.direct = Room(parts, room)
        await protocol.handle(RawData(f"{method} / HTTP/{version}\r\nHost: here\r\n\r\n".encode()))
    return parts


async def test_the_head_is_written_with_the_first_part_of_the_body() -> None:
    first, second, end = await written(START, body(b"one"), body(b"two"), body(b"", more=False))
    assert first.startswith(b"HTTP/1.1 200 \r\nx-is: there\r\n")
    assert first.endswith(b"\r\n\r\n3\r\none\r\n")
    assert (second, end) == (b"3\r\ntwo\r\n", b"0\r\n\r\n")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_head_without_a_body_is_written_too(method: str) -> None:
    start = {**START, "headers": [(b"content-length", b"0")]}
    [head] = await written(start, body(b"", more=False), method=method)
    assert head.startswith(b"HTTP/1.1 200 \r\ncontent-length: 0\r\n")
    assert head.endswith(b"\r\n\r\n")


async def test_the_head_of_an_answer_that_breaks_off_is_written() -> None:
    [head] = await written(START)
    assert head.startswith(b"HTTP/1.1 200 \r\nx-is: there\r\n")


@pytest.mark.parametrize(
    "header",
    [
        (b"x-is", b"there\r\nx-more: of it"),
        (b"x-is", b"a\nb"),
        (b"x-is", b"a\x00b"),
        (b"x-is there\r\nx-more", b"of it"),
        (b"", b"there"),
    ],
    ids=["lines", "line", "nul", "name", "nameless"],
)
async def test_no_header_of_an_answer_makes_another_one(header: tuple[bytes, bytes]) -> None:
    parts = await written({**START, "headers": [header]}, body(b"", more=False))
    answer = b"".join(parts)
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert b"x-more" not in answer


async def test_headers_by_which_an_answer_is_framed_are_said_once() -> None:
    headers = [(b"x-is", b"there"), (b"Connection", b"close"), (b"Content-Length", b"3")]
    [head] = await written({**START, "headers": headers}, body(b"one", more=False))
    said = head.lower().partition(b"\r\n\r\n")[0]
    names = [line.partition(b":")[0] for line in said.split(b"\r\n")[1:]]
    assert sorted(names) == [b"connection", b"content-length", b"date", b"x-is"]


async def test_a_part_that_is_written_at_once_is_a_chunk_as_any_other() -> None:
    _, *parts = await written(START, body(b"one"), b"two", b"eleven long", body(b"", more=False))
    assert parts == [b"3\r\ntwo\r\n", b"b\r\neleven long\r\n", b"0\r\n\r\n"]


@pytest.mark.parametrize(
    "messages",
    [
        # Its head has not been written.
        (START, b"two"),
        # There is no room.
        (START, body(b"one"), b"x" * 2000),
        # It is as long as it says, and h11 counts.
        ({**START, "headers": [(b"content-length", b"9")]}, body(b"1"), b"2 "),
    ],
    ids=["before the head", "full", "not chunked"],
)
async def test_nothing_is_written_at_once_that_is_not_the_next_chunk(messages: Any) -> None:
    assert b"sent: " in b"".join(await written(*messages))


async def test_a_client_that_knows_no_chunks_gets_none() -> None:
    first, second = await written(START, body(b"one"), b"two", version="1.0")
    assert first.endswith(b"one")
    assert second == b"sent: two"
