"""HTTP/1.1: what is written of an answer, and when."""

import asyncio
from typing import Any

import pytest
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.task_group import TaskGroup
from hypercorn.events import Event, RawData
from hypercorn.typing import ConnectionState

from longrun.serving.bounds import Bounds, Context
from longrun.serving.http1 import HTTP1

START = {"type": "http.response.start", "status": 200, "headers": [(b"x-is", b"there")]}


def body(data: bytes, more: bool = True) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


async def written(*messages: dict[str, Any], method: str = "GET") -> list[bytes]:
    """What is written, each time, when an application answers so."""
    config, parts = Bounds(), []
    config.receive_timeout = 10
    config.max_headers, config.max_header_bytes = 100, 10_000

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

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
        await protocol.handle(RawData(f"{method} / HTTP/1.1\r\nHost: here\r\n\r\n".encode()))
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
