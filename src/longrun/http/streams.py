"""An event stream as an ASGI response: a tail, framed, with heartbeats and clean cuts."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

from starlette.types import Receive, Scope, Send

from longrun import metrics
from longrun.errors import TooManyRequests
from longrun.fanout.tail import Tail, Take
from longrun.http import sse
from longrun.store.records import Chunk

log = logging.getLogger("longrun.http.streams")

SILENCE_IS_TIMED: Final = "longrun.silence_is_timed"
"""The key in the scope's extensions by which the server says that it cuts clients off that take
nothing. Another server is not asked for that: there each send is timed here, as a whole."""

AT_ONCE: Final = "longrun.at_once"
"""The key in the scope's extensions under which the server gives a function that takes a part of
the body at once, in no task, unless something has to be waited for: then it returns False, and
nothing was sent. Not to be called while `send` is, nor before that has sent a part."""

LEFT: Final = "longrun.left"
"""The key in the scope's extensions under which the server gives a function that takes another one,
and calls that when the client is gone, or the answer complete. On other servers a task waits for
it."""

FIRST_SILENCE: Final = 0.05
"""Seconds without an event after which a stream says that it is open. No longer, since the headers
go out with the first bytes: until then proxies and browsers see nothing."""

WhenLeft = Callable[[Callable[[], object]], None]

_HEADERS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class EventStream:
    """Sends what a tail reads until the terminal event and `[DONE]`.

    The stream is cut when the client takes nothing for `send_timeout` seconds, or, between two
    frames, when the hub sends its readers away; the client resumes after its last event.

    Args:
        keepalive_interval: seconds of silence after which a comment line is sent.
        framed: makes frames of events, for this stream and others.
        disconnected: called when the client goes away before the end.
        ended: called when all events are sent, before `[DONE]`.
        begun: called when its first part is sent.
        closed: called when the stream is over, in whatever way.
    """

    def __init__(
        self,
        tail: Tail,
        *,
        keepalive_interval: float,
        framed: sse.Framed,
        send_timeout: float,
        disconnected: Callable[[], object] = lambda: None,
        ended: Callable[[], Awaitable[None]] | None = None,
        begun: Callable[[], object] = lambda: None,
        closed: Callable[[], object] = lambda: None,
    ) -> None:
        self._tail = tail
        self._keepalive_interval = keepalive_interval
        self._framed = framed
        self._send_timeout = send_timeout
        self._disconnected = disconnected
        self._ended = ended
        self._begun = begun
        self._closed = closed
        self._before_first = sse.RETRY if framed.with_ids else b""
        self._silence = FIRST_SILENCE
        self._take: Take | None = None
        self._gone = self._over = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._serve(scope, receive, send)
        finally:
            self._closed()

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body"})
            return
        with self._tail as tail:
            # What is there already is sent before there are tasks, which take as long.
            if tail.has_begun and await self._send_next(scope, send) is False:
                return
            when_left = (scope.get("extensions") or {}).get(LEFT)
            if when_left is None:
                await self._send_watching(scope, receive, send)
            else:
                await self._send_until_left(scope, send, when_left)
        if self._gone:
            self._disconnected()

    async def _send_watching(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send all, until the client is gone, which a task looks for."""
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(until_disconnected(receive))
            sending = group.create_task(self._send_all(scope, send))
            await asyncio.wait((watching, sending), return_when=asyncio.FIRST_COMPLETED)
            self._gone = not sending.done()
            watching.cancel()
            sending.cancel()

    async def _send_until_left(self, scope: Scope, send: Send, when_left: WhenLeft) -> None:
        """Send all, until the server says that the client is gone."""
        sending = asyncio.current_task()
        assert sending is not None

        def left() -> None:
            if not self._over:
                self._gone = True
                sending.cancel()

        when_left(left)
        try:
            await self._send_all(scope, send)
        except asyncio.CancelledError:
            # Somebody else may want this task to end, too.
            if not self._gone or sending.uncancel():
                raise
        finally:
            self._over = True

    async def _send_all(self, scope: Scope, send: Send) -> None:
        with self._tail as tail:
            while (sent := await self._send_next(scope, send)) is not None:
                if not sent:
                    return
        if tail.ended and self._ended is not None:
            await self._ended()
        # With what comes now the answer is complete, which the server says as it says that its
        # client is gone.
        self._over = True
        await self._deliver(scope, send, sse.DONE if tail.ended else b"", more=False)

    async def _send_next(self, scope: Scope, send: Send) -> bool | None:
        """Send what comes next. None: nothing does. False: the client took too long."""
        block = await self._tail.next(self._silence, self._take)
        if block is None:
            return None
        self._silence = self._keepalive_interval
        bodies = self._framed.bodies(block) if block else [sse.KEEPALIVE]
        if block:
            bodies[0] = self._before_first + bodies[0]
            self._before_first, self._take = b"", self._take_by(scope)
        # Nothing of the log is held while a slow client takes its time.
        del block
        bodies.reverse()
        while bodies:
            if not await self._deliver(scope, send, bodies.pop()):
                return False
        self._begun()
        return True

    def _take_by(self, scope: Scope) -> Take | None:
        """What takes the events that come while this stream waits, where the server can."""
        at_once: Callable[[bytes], bool] | None = (scope.get("extensions") or {}).get(AT_ONCE)
        if at_once is None:
            return None
        body_of = self._framed.body

        def take(block: list[Chunk]) -> bool:
            body = body_of(block)
            return body is not None and at_once(body)

        return take

    async def _deliver(self, scope: Scope, send: Send, body: bytes, more: bool = True) -> bool:
        """One send. False: the client took too long, and is left."""
        message = {"type": "http.response.body", "body": body, "more_body": more}
        if SILENCE_IS_TIMED in (scope.get("extensions") or ()):
            await send(message)
            return True
        try:
            async with asyncio.timeout(self._send_timeout):
                await send(message)
        except TimeoutError:
            metrics.reader_timeouts.inc()
            log.info("a reader did not take a part for %.0f s: left", self._send_timeout)
            return False
        return True


class OpenStreams:
    """How many streams each principal has open on this replica.

    Args:
        most: of one; None: no limit.
    """

    def __init__(self, most: int | None) -> None:
        self._most = most
        self._open: dict[str, int] = {}

    @contextlib.contextmanager
    def one_more(self, principal: str) -> Iterator[None]:
        """Count a stream while it is open.

        Raises:
            TooManyRequests: the principal has as many as it may have.
        """
        count = self._open.get(principal, 0)
        if self._most is not None and count >= self._most:
            raise TooManyRequests(
                f"You have {count} streams open here, which is your limit.",
                code="too_many_streams",
                retry_after=5,
            )
        self._open[principal] = count + 1
        try:
            yield
        finally:
            self._open[principal] -= 1
            if not self._open[principal]:
                del self._open[principal]


async def until_disconnected(receive: Receive) -> None:
    """Wait until the client is gone. Its request must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass
