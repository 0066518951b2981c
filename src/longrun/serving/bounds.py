"""What one client may hold of a replica: bytes, seconds, frames. And the Hypercorn settings."""

import asyncio
import time
from typing import Final

from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config

SLICE: Final = 64 * 1024
"""Bytes that are handed to a transport at once; the next ones wait until it has room."""

INBOX: Final = 64 * 1024
"""Bytes of a body that wait for the application; then nothing more is read (HTTP/1.1), or the
stream's window stays shut (HTTP/2)."""

DISCARD_BYTES: Final = 64 * 1024 * 1024
"""How much of a body is read and dropped that was answered before its end: clients that read only
when they have sent all would otherwise see a reset, and no answer."""

LINGER: Final = 2.0
"""Seconds in which a client may take the last answer and close, before its connection is closed:
bytes that nobody read would make a reset of it, which overtakes the answer."""

STREAMS: Final = 250
"""Streams of one HTTP/2 connection at once."""

SMALL: Final = 256
"""A chunk or a frame below this size costs more to take apart than to carry."""


class Context(WorkerContext):
    """Hypercorn's context of all connections.

    Attributes:
        leaving: this process takes no more connections soon, so that each has its last answer.
    """

    leaving = False


class Bounds(Config):
    """Hypercorn's settings, and those that it does not have.

    Attributes:
        send_timeout: seconds in which a client has to take something of what waits for it.
        receive_timeout: seconds for the head of a request, from its first byte, and for the rest
            of a body that is answered already.
        ping_interval: seconds of silence after which the client of a WebSocket is asked whether it
            is there; it has `send_timeout` seconds to say so.
        max_headers: how many headers a request may have.
        max_header_bytes: how large they may be together, with the request line.
    """

    h2_max_concurrent_streams = STREAMS
    ssl_handshake_timeout = 10.0
    include_server_header = False
    accesslog = None
    send_timeout: float
    receive_timeout: float
    ping_interval: float
    max_headers: int
    max_header_bytes: int
    _said: tuple[int, list[tuple[bytes, bytes]]] = (0, [])

    def response_headers(self, protocol: str) -> list[tuple[bytes, bytes]]:
        """Those of each answer, made once for all of a second."""
        now = int(time.time())
        if self._said[0] != now:
            self._said = (now, super().response_headers(protocol))
        return self._said[1]


class Pace:
    """How much of something a client may send without being slowed down.

    Args:
        rate: a second.
        burst: at once.
    """

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._left = burst
        self._at = asyncio.get_running_loop().time()

    def spend(self, count: float) -> float:
        """Seconds to wait before more is read from the client."""
        now = asyncio.get_running_loop().time()
        self._left = min(self._burst, self._left + (now - self._at) * self._rate) - count
        self._at = now
        return max(0.0, -self._left / self._rate)
