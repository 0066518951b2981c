"""Streams as they are on the wire: bytes, frames, heartbeats, and how they ended.

`Wire` is a connection of our own, so that a test can stall it, read it byte by byte, and see
the difference between a stream that ended and one that broke off.
"""

import asyncio
import functools
import inspect
import json
import re
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self, get_args
from urllib.parse import urlsplit

from openai import BaseModel
from openai.types.responses import ResponseStreamEvent

from tests.servers import Replica

KEEPALIVE = b": keepalive\n"
RETRY = b"retry: 1000\n"
DONE = b"data: [DONE]\n\n"
TERMINAL = frozenset({"response.completed", "response.failed", "response.incomplete"})
TERMINAL_STATUSES = frozenset({"completed", "failed", "incomplete", "cancelled"})

_PART = re.compile(
    rb"(?P<keepalive>: keepalive\n)"
    rb"|(?P<retry>retry: [0-9]+\n)(?=event: )"
    rb"|event: (?P<type>[a-z_.]+)\n(?:id: (?P<id>[0-9]+)\n)?data: (?P<data>\{[^\n]*\})\n\n"
    rb"|(?P<done>data: \[DONE\]\n\n)"
)


@dataclass(frozen=True)
class Frame:
    """One event on the wire. `raw` is all of it, the blank line included."""

    type: str
    id: int | None
    data: bytes
    raw: bytes

    @functools.cached_property
    def event(self) -> dict[str, Any]:
        return dict(json.loads(self.data))

    @property
    def number(self) -> int:
        return int(self.event["sequence_number"])


@dataclass(frozen=True, slots=True)
class Reading:
    """The body of a stream, taken apart.

    Attributes:
        rest: what follows the last whole frame; empty unless the stream was cut within one.
    """

    frames: list[Frame]
    keepalives: int
    done: bool
    rest: bytes

    @property
    def numbers(self) -> list[int]:
        return [frame.number for frame in self.frames]

    @property
    def types(self) -> list[str]:
        return [frame.type for frame in self.frames]

    @property
    def events(self) -> list[dict[str, Any]]:
        return [frame.event for frame in self.frames]


def parse(body: bytes | bytearray) -> Reading:
    """Take a body apart. Nothing may be in it but frames, heartbeats and, last, `[DONE]`."""
    body = bytes(body)
    frames: list[Frame] = []
    keepalives, at, done = 0, 0, False
    while part := _PART.match(body, at):
        assert not done, f"after [DONE]: {body[at : at + 200]!r}"
        at = part.end()
        if part["type"] is not None:
            number = None if part["id"] is None else int(part["id"])
            frames.append(Frame(part["type"].decode(), number, part["data"], part[0]))
        elif part["done"] is not None:
            done = True
        elif part["retry"] is not None:
            assert not frames, "retry: stands in the first frame alone"
        else:
            keepalives += 1
    return Reading(frames, keepalives, done, body[at:])


def frames_alone(body: bytes | bytearray) -> bytes:
    """The frames alone, for comparing bodies byte for byte: without `retry:` too."""
    whole = bytes(body).replace(RETRY, b"", 1)
    return (
        whole
        if KEEPALIVE not in whole
        else b"".join(line for line in whole.splitlines(keepends=True) if line != KEEPALIVE)
    )


@functools.cache
def event_models() -> dict[str, type[BaseModel]]:
    """The models of all stream events that `openai` knows, by their `type`."""
    union = get_args(ResponseStreamEvent)[0]
    return {get_args(model.model_fields["type"].annotation)[0]: model for model in get_args(union)}


def validated(frame: Frame) -> BaseModel:
    """The frame's event as `openai` models it; fails where a type or a Literal does not fit."""
    assert frame.event["type"] == frame.type
    return event_models()[frame.type].model_validate_json(frame.data, strict=True)


def check_complete(body: bytes | bytearray, *, with_ids: bool, after: int = -1) -> Reading:
    """A whole stream: what the contract promises of each."""
    reading = parse(body)
    assert reading.rest == b""
    assert reading.done
    assert bytes(body).endswith(DONE)
    count = len(reading.frames)
    assert reading.numbers == list(range(after + 1, after + 1 + count))
    ids = reading.numbers if with_ids else [None] * count
    assert [frame.id for frame in reading.frames] == ids
    if after < 0:
        assert reading.types[0] == "response.created"
    assert "response.created" not in reading.types[1:]
    if count:
        assert reading.types[-1] in TERMINAL
        assert not TERMINAL.intersection(reading.types[:-1])
    for frame in reading.frames:
        validated(frame)
    return reading


class Wire:
    """One connection with one request on it, read only when a test reads it.

    Attributes:
        body: what came so far, with the transfer encoding taken off.
        complete: the server said that this was all: the body did not just break off.
        closed: the server closed the connection, or reset it.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        self.complete = False
        self.closed = False
        self._raw = bytearray()
        self._left = -1
        self._chunked = False
        self._counted = 0
        self._frames = 0

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        method: str = "GET",
        json: Any = None,
        content: bytes | None = None,
        headers: dict[str, str] | None = None,
        receive_buffer: int | None = None,
        wait: bool = True,
    ) -> Self:
        """Send a request and read the head of its answer.

        Args:
            json: the body, which is sent with the headers that it needs.
            content: what is sent after the headers, as it is.
            receive_buffer: of the socket, in bytes: a small one makes a stall felt soon.
            wait: False: do not wait for an answer, since the request is not sent whole.
        """
        where = urlsplit(url)
        connection = socket.socket()
        connection.setblocking(False)
        if receive_buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        wire = cls(connection)
        try:
            loop = asyncio.get_running_loop()
            await loop.sock_connect(connection, (where.hostname, where.port))
            target = f"{where.path}?{where.query}" if where.query else where.path
            await loop.sock_sendall(
                connection, _request(method, target, where.netloc, json, headers or {})
            )
            if content:
                await loop.sock_sendall(connection, content)
            async with asyncio.timeout(60):
                while wait and not wire.status and await wire.more(1024):
                    pass
        except BaseException:
            connection.close()
            raise
        return wire

    @classmethod
    async def fetch(cls, url: str) -> bytes:
        """The body of a plain GET, which must succeed."""
        async with await cls.open(url) as wire:
            await wire.rest()
            assert wire.status == 200, bytes(wire.body)
            return bytes(wire.body)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.connection.close()

    @property
    def port(self) -> int:
        """Of this end."""
        return int(self.connection.getsockname()[1])

    @property
    def frames(self) -> int:
        """How many whole frames came so far (`[DONE]` is one too)."""
        end = self.body.rfind(b"\n\n", self._counted)
        if end >= 0:
            self._frames += self.body.count(b"\n\n", self._counted, end + 2)
            self._counted = end + 2
        return self._frames

    def forget(self) -> int:
        """Drop the whole frames that came so far; how many they were."""
        dropped = self.frames
        del self.body[: self._counted]
        self._frames = self._counted = 0
        return dropped

    @property
    def at_boundary(self) -> bool:
        """Whether all that came is whole sends of the server (its chunks of the encoding)."""
        return self._left <= 0 and self._raw in (b"", b"\r\n")

    async def more(self, size: int = 256 * 1024) -> bool:
        """Receive once. False: there is nothing more to come."""
        if self.complete or self.closed:
            return False
        try:
            received = await asyncio.get_running_loop().sock_recv(self.connection, size)
        except (ConnectionError, TimeoutError):
            received = b""
        self.closed = not received
        self._raw += received
        self._take()
        return not self.closed

    async def until(self, enough: Callable[[bytearray], bool], timeout: float = 60) -> bytearray:
        """Receive until the body is as wanted; fail when it ends before."""
        async with asyncio.timeout(timeout):
            while not enough(self.body):
                if not await self.more():
                    raise AssertionError(f"ended before: {bytes(self.body[-500:])!r}")
        return self.body

    async def rest(self, timeout: float = 120) -> bytearray:
        """Receive until the end of the body or of the connection."""
        async with asyncio.timeout(timeout):
            while await self.more():
                pass
        return self.body

    def _take(self) -> None:
        if not self.status and b"\r\n\r\n" in self._raw:
            self._take_head()
        while self.status and not self.complete and self._raw:
            if self._left < 0 and not self._take_chunk_head():
                return
            if self._left > 0:
                part = self._raw[: self._left]
                self.body += part
                del self._raw[: len(part)]
                self._left -= len(part)
            if self._left == 0:
                self._end_of_part()

    def _take_head(self) -> None:
        head, _, rest = bytes(self._raw).partition(b"\r\n\r\n")
        self._raw = bytearray(rest)
        first, *lines = head.decode("latin-1").split("\r\n")
        self.status = int(first.split()[1])
        self.headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}
        self._chunked = self.headers.get("transfer-encoding") == "chunked"
        if not self._chunked:
            self._left = int(self.headers.get("content-length", 0))
            self.complete = self._left == 0

    def _take_chunk_head(self) -> bool:
        end = self._raw.find(b"\r\n", 2 if self._raw.startswith(b"\r\n") else 0)
        if end < 0:
            return False
        size = int(self._raw[:end], 16)
        del self._raw[: end + 2]
        self._left = size
        self.complete = size == 0
        return not self.complete

    def _end_of_part(self) -> None:
        if self._chunked:
            self._left = -1
        else:
            self.complete = True


def _request(method: str, target: str, host: str, body: Any, headers: dict[str, str]) -> bytes:
    content = b"" if body is None else json.dumps(body).encode()
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}"]
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(content)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


def script(**fields: Any) -> str:
    """An input for the scripted agents (tests/scripted.py, `Script`)."""
    return json.dumps(fields)


def stream_url(replica: Replica, response_id: str, after: int | None = None) -> str:
    """Where a replica streams a response, from a cursor on."""
    cursor = "" if after is None else f"&starting_after={after}"
    return f"{replica.base_url}/responses/{response_id}?stream=true{cursor}"


async def create(replica: Replica, input: Any, **fields: Any) -> dict[str, Any]:
    """`POST /responses`, not streamed; the answer."""
    body = {"model": "scripted", "input": input, **fields}
    async with await Wire.open(f"{replica.base_url}/responses", method="POST", json=body) as wire:
        await wire.rest()
        assert wire.status == 200, bytes(wire.body)
        return dict(json.loads(wire.body))


async def in_background(replica: Replica, **fields: Any) -> str:
    """Start a script in the background; the response's id."""
    return str((await create(replica, script(**fields), background=True))["id"])


async def retrieve(replica: Replica, response_id: str) -> dict[str, Any]:
    """`GET /responses/{id}`."""
    async with await Wire.open(f"{replica.base_url}/responses/{response_id}") as wire:
        await wire.rest()
        assert wire.status == 200, bytes(wire.body)
        return dict(json.loads(wire.body))


async def finished(replica: Replica, response_id: str, timeout: float = 60) -> dict[str, Any]:
    """Poll a response until it is finished."""
    found: dict[str, Any] = {}

    async def is_finished() -> bool:
        found.update(await retrieve(replica, response_id))
        return found["status"] in TERMINAL_STATUSES

    await eventually(is_finished, timeout)
    return found


async def delete(replica: Replica, response_id: str) -> None:
    """`DELETE /responses/{id}`; a live run ends with it."""
    url = f"{replica.base_url}/responses/{response_id}"
    async with await Wire.open(url, method="DELETE") as wire:
        await wire.rest()
        assert wire.status == 200, bytes(wire.body)


async def metric(replica: Replica, name: str) -> float:
    """A gauge or counter without labels."""
    for line in (await Wire.fetch(f"{replica.url}/metrics")).decode().splitlines():
        if line.startswith(f"{name} "):
            return float(line.split()[1])
    raise AssertionError(f"no metric {name}")


async def read(url: str, headers: dict[str, str] | None = None, timeout: float = 120) -> bytes:
    """A whole stream, without its heartbeats; it must have ended as a body should."""
    async with await Wire.open(url, headers=headers) as wire:
        await wire.rest(timeout)
        assert wire.status == 200, bytes(wire.body)
        assert wire.complete
        return frames_alone(wire.body)


def rest_of(frames: Sequence[Frame], cursor: int) -> bytes:
    """What a stream of a finished response sends after a cursor."""
    return b"".join(frame.raw for frame in frames[cursor + 1 :]) + DONE


async def eventually(
    condition: Callable[[], bool | Awaitable[bool]], timeout: float = 30, every: float = 0.02
) -> None:
    """Poll until a condition holds; fail after the deadline."""
    deadline = time.monotonic() + timeout
    while True:
        holds = condition()
        if await holds if inspect.isawaitable(holds) else holds:
            return
        assert time.monotonic() < deadline, (
            f"not within {timeout} s: {inspect.getsource(condition)}"
        )
        await asyncio.sleep(every)
