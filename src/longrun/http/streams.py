"""An event stream as an ASGI response: a tail, framed, with heartbeats and clean cuts."""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from starlette.types import Receive, Scope, Send

from longrun import metrics
from longrun.fanout.tail import Tail
from longrun.http import sse

log = logging.getLogger("longrun.http.streams")

ABORT: Final = "longrun.abort"
"""The key under which the server puts a way to drop a connection into the scope's extensions."""

FIRST_SILENCE: Final = 0.05
"""Seconds without an event after which a stream says that it is open. No longer, since the headers
go out with the first bytes: until then proxies and browsers see nothing."""

_HEADERS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class EventStream:
    """Sends what a tail reads until the terminal event and `[DONE]`.

    The stream is cut, always between two frames, when the client takes nothing for
    `send_timeout` seconds or when the hub sends its readers away; the client resumes after its
    last event.

    Args:
        keepalive_interval: seconds of silence after which a comment line is sent.
        with_ids: give each frame its `id:`, on GET streams.
        disconnected: called when the client goes away before the end.
    """

    def __init__(
        self,
        tail: Tail,
        *,
        keepalive_interval: float,
        with_ids: bool,
        send_timeout: float,
        disconnected: Callable[[], object] = lambda: None,
    ) -> None:
        self._tail = tail
        self._keepalive_interval = keepalive_interval
        self._with_ids = with_ids
        self._send_timeout = send_timeout
        self._disconnected = disconnected

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(until_disconnected(receive))
            sending = group.create_task(self._send_all(scope, send))
            await asyncio.wait((watching, sending), return_when=asyncio.FIRST_COMPLETED)
            gone = not sending.done()
            watching.cancel()
            sending.cancel()
        if gone:
            self._disconnected()

    async def _send_all(self, scope: Scope, send: Send) -> None:
        before_first = sse.RETRY if self._with_ids else b""
        silence = FIRST_SILENCE
        with self._tail as tail:
            while (block := await tail.next(silence)) is not None:
                silence = self._keepalive_interval
                if block:
                    body = before_first + sse.frames(block, with_ids=self._with_ids)
                    before_first = b""
                else:
                    body = sse.KEEPALIVE
                # Nothing of the log is held while a slow client takes its time.
                del block
                if not await self._deliver(scope, send, body):
                    return
        await self._deliver(scope, send, sse.DONE if tail.ended else b"", more=False)

    async def _deliver(self, scope: Scope, send: Send, body: bytes, more: bool = True) -> bool:
        """One send. False: the client took too long, and was cut."""
        try:
            async with asyncio.timeout(self._send_timeout):
                await send({"type": "http.response.body", "body": body, "more_body": more})
        except TimeoutError:
            metrics.reader_timeouts.inc()
            log.info("a reader took nothing for %.0f s: cut", self._send_timeout)
            abort = (scope.get("extensions") or {}).get(ABORT)
            if abort is not None:
                abort()
            return False
        return True


async def until_disconnected(receive: Receive) -> None:
    """Wait until the client is gone. Its request must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass
