"""The reading client, in a process of its own: sockets, bytes and the clock, nothing else.

While it reads it only notes what came when. Chunked encoding, frames and numbers are looked at
when all is over, so that on a small machine the client does not take the server's time.
"""

import asyncio
import bisect
import contextlib
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

from tests.bench import gate, processes

TIMEOUT: Final = 60.0
"""Seconds in which all streams of a reading must have ended."""

_FIRST: Final = re.compile(rb"^data: [^\n]*\n\n", re.MULTILINE)
_LAST_CHUNK: Final = b"0\r\n\r\n"
_FRAME: Final = re.compile(
    rb"(?:retry: \d+\n)?event: (?P<type>[a-z_.]+)\n(?:id: \d+\n)?data: (?P<data>[^\n]*)\n\n"
    rb"|: keepalive\n|data: (?P<done>\[DONE\])\n\n"
)
_NUMBER: Final = re.compile(rb'"sequence_number":(\d+)')
_CLOCKS: Final = re.compile(rb'"delta":"((?:\d{9,} )+)"')
"""Of deltas that were merged, one after the other."""


class Stream(NamedTuple):
    """One GET of an event stream; or, with a body, one POST.

    Attributes:
        after: the number of the event after which it begins.
        gate: when this one (`gate.py`) is opened, and `phase` seconds later, it connects; empty: at
            once.
    """

    port: int
    path: str
    body: str = ""
    after: int = -1
    gate: str = ""
    phase: float = 0.0

    @property
    def request(self) -> bytes:
        head = f"{'POST' if self.body else 'GET'} {self.path} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        if self.body:
            head += "Content-Type: application/json\r\n"
            head += f"Content-Length: {len(self.body.encode())}\r\n"
        return f"{head}\r\n{self.body}".encode()


class Reading(NamedTuple):
    """What a stream brought.

    Attributes:
        events: how many.
        latencies: seconds from emission to arrival, of deltas that carry their clock and were
            emitted after this stream was open.
        problems: what was lost, out of order or not as it should be.
        first: seconds from the beginning of the connection to the first event.
        body: the stream itself, if it was asked for.
    """

    events: int
    latencies: list[float]
    problems: list[str]
    first: float = 0.0
    body: str = ""


class Readings(NamedTuple):
    """Several streams, opened at the same time, again and again."""

    seconds: float
    streams: list[Reading]
    cpu: float = 0.0
    """Of a core, that the client used of this time: near 1, it is the client that is measured."""

    @property
    def events(self) -> int:
        return sum(stream.events for stream in self.streams)

    @property
    def problems(self) -> list[str]:
        return [problem for stream in self.streams for problem in stream.problems]


class Streams:
    """Streams that are being read, in a process of their own."""

    def __init__(self, child: processes.Child) -> None:
        self._child = child

    def wait_open(self) -> None:
        """Wait until something has come on every stream that has no gate."""
        self._child.ready()

    def read(self) -> Readings:
        """Wait until all have ended."""
        seconds, streams, cpu = self._child.result()
        return Readings(seconds, [Reading(*stream) for stream in streams], cpu)


@contextlib.contextmanager
def reading(
    streams: Sequence[Stream], *, times: int = 1, bodies: bool = False
) -> Iterator[Streams]:
    """Begin to read streams, all at the same time.

    Args:
        times: so often, one after the other; `seconds` is the sum.
        bodies: give back what came, too.
    """
    with processes.started(_read, streams=streams, times=times, bodies=bodies) as child:
        yield Streams(child)


def read(streams: Sequence[Stream], *, times: int = 1, bodies: bool = False) -> Readings:
    """Read all of these streams, to their ends."""
    with reading(streams, times=times, bodies=bodies) as begun:
        begun.wait_open()
        return begun.read()


class _Client(asyncio.Protocol):
    """Sends one request and notes what comes when."""

    def __init__(self, stream: Stream) -> None:
        self.pieces: list[bytes] = []
        self.times: list[int] = []
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[int] = loop.create_future()
        self.stream = stream
        self.began = 0
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclass of asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self.stream.request)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        self.pieces.append(data)
        self.times.append(now)
        if not self.opened.done():
            self.opened.set_result(None)
        tail = data if len(data) > 5 else b"".join(self.pieces[-5:])
        if tail.endswith(_LAST_CHUNK):
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()

    def _end(self) -> None:
        if not self.opened.done():
            self.opened.set_result(None)
        if not self.ended.done():
            self.ended.set_result(time.monotonic_ns())
            self._transport.close()


async def _read(
    parent: processes.Parent, streams: list[Any], times: int, bodies: bool
) -> tuple[float, list[Reading], float]:
    nanoseconds = used = 0
    readings: list[Reading] = []
    for number in range(times):
        began, used_before = time.monotonic_ns(), time.process_time_ns()
        clients = [_Client(Stream(*stream)) for stream in streams]
        later = [client for client in clients if client.stream.gate]
        first = [client for client in clients if not client.stream.gate]
        await asyncio.gather(*map(_connect, first))
        async with asyncio.timeout(TIMEOUT):
            await asyncio.gather(*(client.opened for client in first))
            if number == 0:
                parent.ready()
            await asyncio.gather(*map(_connect, later))
            ends = await asyncio.gather(*(client.ended for client in clients))
        nanoseconds += max(ends) - began
        used += time.process_time_ns() - used_before
        readings += [_look(client, bodies) for client in clients]
    return nanoseconds / 1e9, readings, used / nanoseconds


async def _connect(client: _Client) -> None:
    loop = asyncio.get_running_loop()
    if client.stream.gate:
        start = await gate.opened(Path(client.stream.gate))
        await asyncio.sleep(max(0.0, start + client.stream.phase - time.monotonic()))
    client.began = time.monotonic_ns()
    await loop.create_connection(lambda: client, "127.0.0.1", client.stream.port)


def _look(client: _Client, bodies: bool) -> Reading:
    """What a client has noted, once the clock is not looked at any more."""
    raw = b"".join(client.pieces)
    head = raw.find(b"\r\n\r\n") + 4
    if not raw.startswith(b"HTTP/1.1 200"):
        return Reading(0, [], [f"no stream: {raw[:300]!r}"])
    parts = list(_parts(raw, head))
    body = b"".join(raw[start:end] for start, end in parts)
    arrivals = _Arrivals(client, parts)
    first = _FIRST.search(body)
    waited = (arrivals.of(first.end() - 1) - client.began) / 1e9 if first else 0.0
    return Reading(*_check(body, arrivals), waited, body.decode() if bodies else "")


def _parts(raw: bytes, at: int) -> Iterator[tuple[int, int]]:
    """Where the data of a chunked body lies."""
    while at < len(raw):
        line = raw.find(b"\r\n", at)
        size = int(raw[at:line], 16)
        if size:
            yield line + 2, line + 2 + size
        at = line + 2 + size + 2


class _Arrivals:
    """When each byte of the body came."""

    def __init__(self, client: _Client, parts: list[tuple[int, int]]) -> None:
        self._times = client.times
        self.after = client.stream.after
        self._ends: list[int] = []
        total = 0
        for piece in client.pieces:
            total += len(piece)
            self._ends.append(total)
        self._parts = parts
        self._starts: list[int] = []
        total = 0
        for start, end in parts:
            self._starts.append(total)
            total += end - start

    @property
    def opened(self) -> int:
        return self._times[0]

    def of(self, offset: int) -> int:
        """Monotonic nanoseconds at which the byte at this offset of the body was there."""
        part = bisect.bisect_right(self._starts, offset) - 1
        raw = self._parts[part][0] + offset - self._starts[part]
        return self._times[bisect.bisect_right(self._ends, raw)]


def _check(body: bytes, arrivals: _Arrivals) -> tuple[int, list[float], list[str]]:
    """Every event once and in order, the terminal one last, then `[DONE]`, and nothing else."""
    latencies: list[float] = []
    problems: list[str] = []
    expected, at, last, done = arrivals.after + 1, 0, b"", False
    while match := _FRAME.match(body, at):
        at = match.end()
        done = done or match["done"] is not None
        number = _NUMBER.search(match["data"] or b"")
        if number is None:
            continue
        if int(number[1]) != expected:
            problems.append(f"event {expected} was due, event {int(number[1])} came")
        expected, last = int(number[1]) + 1, match["type"]
        clocks = _CLOCKS.search(match["data"])
        for clock in map(int, clocks[1].split() if clocks else ()):
            if clock > arrivals.opened:
                latencies.append((arrivals.of(at - 1) - clock) / 1e9)
    if at != len(body) or not done or last != b"response.completed":
        problems.append(f"the stream ends after {last.decode()!r} with {body[at - 40 :][:300]!r}")
    return expected - arrivals.after - 1, latencies, problems[:5]
