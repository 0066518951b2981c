"""HTTP/1.1: Hypercorn's H11Protocol, within bounds; of upgrades, WebSocket alone."""

import asyncio
import functools
import re
from collections.abc import Sequence
from typing import Any, Final

import h11
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Body, EndBody, Request, Response, StreamClosed
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol

from longrun.serving.bounds import (
    DISCARD_BYTES,
    INBOX,
    SMALL,
    Bounds,
    Context,
    Pace,
)
from longrun.serving.exchange import Direct, Exchange, Inbox, Within, refusal
from longrun.serving.websocket import Socket

_TURN = 100
"""Parts of a body after which others have their turn."""

_Headers = Sequence[tuple[bytes, bytes]]

_FRAMING: Final = frozenset({b"connection", b"content-length", b"transfer-encoding"})
"""The headers of an answer that h11 decides by, and about."""

_NAME: Final = re.compile(rb"[-!#$%&'*+.^_`|~0-9A-Za-z]+")
_VALUE: Final = re.compile(rb"(?:[^\x00\s](?:[^\x00\n\v\f\r]*[^\x00\s])?)?")
"""As RFC 9110 has them, sections 5.1 and 5.5, and h11."""


class HTTP1(H11Protocol):
    """Hypercorn's H11Protocol (hypercorn/protocol/h11.py), with what it does in mended ways:

    - `_handle_events` waits within itself, for room in a queue and for the next turn of a client
      that sends ahead, and so does not hear that the client is gone. Here nothing in it waits;
      what cannot be taken yet is kept, up to a bound, and taken when there is room.
    - `_maybe_recycle` closes a connection whose request has not arrived in full, which resets it
      before the answer is read; where the request's body filled the queue it does nothing at all.
      Here the rest of the body is dropped, within bounds of bytes and time.
    - `_check_protocol` takes h2c: not served here. `_create_stream` makes a WSStream of what asks
      for WebSocket; here it is a `Socket`, which begins when the request has arrived in full.
    - `_send_error_response` has no body.
    - 100 Continue is said when the application asks for the body, and not to a client that is
      refused.
    - The head of an answer is sent with the first part of its body: one write less for each.
    - h11 goes through all headers of an answer three times, which takes as long as all else of a
      head. Here it gets those that it decides by, and the others are written beside it.
    - What an event stream brings is written without h11's account of it, in no task (`at_once`).

    A release in which `_handle_events` no longer awaits `can_read` or the stream has mended the
    first, one in which `_maybe_recycle` reads on the second.

    A request that says twice where it ends is refused (`_is_framed_twice`); h11 takes it.
    """

    config: Bounds
    context: Context
    stream: Exchange | Socket | None  # type: ignore[assignment]
    connection: h11.Connection
    direct: Direct | None = None

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._backlog = bytearray()
        self._head = b""
        self._chunked = False
        self._closed = False
        self._handling = False
        self._in_head = False
        self._stalled = False
        self._discarding: int | None = None
        self._unasked = False
        self._small = 0
        self._pace = Pace(rate=5_000, burst=20_000)

    async def handle(self, event: Event) -> None:
        if isinstance(event, RawData):
            self._backlog += event.data
            await self._handle_events()
            while len(self._backlog) > INBOX:
                await self.can_read.clear()
                await self.can_read.wait()
        elif isinstance(event, Closed):
            self._closed = True
            self._backlog.clear()
            await self._close_stream()

    @property
    def is_asking(self) -> bool:
        """Whether a part of a request has come."""
        return self._in_head

    async def say_goodbye(self) -> None:
        """Nothing more is answered: which its last answer has said."""

    async def time_out(self) -> None:
        """The connection's time is over: say so to a client that was about to ask something."""
        if self._in_head and self.connection.our_state is h11.IDLE:
            await self._send_error_response(408)

    async def _handle_events(self) -> None:
        if self._handling:
            return
        self._handling = True
        try:
            while await self._handle_next():
                pass
        finally:
            self._handling = False
        await self.can_read.set()

    async def _handle_next(self) -> bool:
        """Take one event. False: there is none that can be taken now."""
        if self.stream is not None and self.stream.inbox.full:
            self._stalled = True
            return False
        if isinstance(self.stream, Socket) and self.stream.is_open:
            return await self._frames(self.stream)
        try:
            if self._backlog and self._wants_head:
                self.connection.receive_data(bytes(self._backlog))
                self._backlog.clear()
            event = self.connection.next_event()
            if event is h11.NEED_DATA and self._backlog:
                self.connection.receive_data(bytes(self._backlog))
                self._backlog.clear()
                return True
        except h11.RemoteProtocolError as error:
            if self.connection.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
                await self._send_error_response(error.error_status_hint)
            await self._close_stream()
            await self.send(Closed())
            return False
        if event is h11.PAUSED:
            self._stalled = True
            return False
        if event is h11.NEED_DATA:
            await self._expect_head()
            return False
        if isinstance(event, h11.Request):
            return await self._request(event)
        if isinstance(event, h11.Data):
            await self._body(event)
        elif isinstance(event, h11.EndOfMessage):
            await self._end_of_body()
            # Most often that was all: h11 need not be asked.
            return bool(self._backlog or self.connection.trailing_data[0])
        return not isinstance(event, h11.ConnectionClosed)

    @property
    def _wants_head(self) -> bool:
        """Whether h11 has nothing left, and waits for a request."""
        connection = self.connection
        return connection.their_state is h11.IDLE and not connection.trailing_data[0]

    async def _expect_head(self) -> None:
        """A head that has begun has to end soon, however its bytes come."""
        if self._in_head or self.connection.their_state is not h11.IDLE:
            return
        if self.connection.trailing_data[0]:
            self._in_head = True
            await self.send(Within(self.config.receive_timeout))

    async def _request(self, request: h11.Request) -> bool:
        self._in_head = False
        await self.send(Updated(idle=False))
        if request.http_version >= b"2" or _is_framed_twice(request):
            await self._send_error_response(400, to_head=request.method == b"HEAD")
            await self.send(Closed())
            return False
        await self._create_stream(request)
        return True

    async def _create_stream(self, request: h11.Request) -> None:
        given = (
            self.app,
            self.config,
            self.context,
            self.task_group,
            self.ssl,
            self.client,
            self.server,
            self.stream_send,
            STREAM_ID,
        )
        if _is_websocket(request):
            self.stream = Socket(*given, opened=self._opened, taken=self._go_on)
        else:
            self.stream = Exchange(*given)
            self.stream.inbox = Inbox(self._continue, self._go_on)
            self.stream.at_once = self._at_once
        self._unasked = False
        await self.stream.handle(
            Request(
                stream_id=STREAM_ID,
                headers=list(request.headers),
                http_version=request.http_version.decode(),
                method=request.method.decode("ascii").upper(),
                raw_path=request.target,
                state=self.connection_state,
            )
        )

    async def _body(self, event: h11.Data) -> None:
        if self._discarding is not None:
            self._discarding -= len(event.data)
            if self._discarding < 0:
                await self.send(Closed())
        elif self.stream is not None:
            await self.stream.handle(Body(stream_id=STREAM_ID, data=event.data))
        if len(event.data) < SMALL:
            await self._slow_down()

    async def _slow_down(self) -> None:
        """The smaller the chunks of a body, the more time it costs: others have their turn."""
        self._small += 1
        if self._small >= _TURN:
            wait = self._pace.spend(self._small)
            self._small = 0
            await asyncio.sleep(wait)

    async def _end_of_body(self) -> None:
        if self._discarding is not None:
            self._discarding = None
            await self._recycle()
        elif self.stream is not None:
            await self.stream.handle(EndBody(stream_id=STREAM_ID))

    # -- WebSocket ------------------------------------------------------------------------

    def _opened(self) -> None:
        """From here on frames come, and may have come ahead of the answer."""
        self._backlog[:0] = self.connection.trailing_data[0]
        self._stalled = True
        self._go_on()

    async def _frames(self, socket: Socket) -> bool:
        if not self._backlog:
            return False
        data = bytes(self._backlog)
        self._backlog.clear()
        await socket.receive(data)
        return True

    # -- the answer -----------------------------------------------------------------------

    async def stream_send(self, event: StreamEvent) -> None:
        if isinstance(event, Response) and event.status_code >= 200:
            headers = event.headers
            if self.connection.they_are_waiting_for_100_continue:
                # It need not send its body, and perhaps will not: nothing can follow.
                self._unasked = True
            if self._unasked or self.context.leaving:
                headers = [*headers, (b"connection", b"close")]
            self._begin_answer(event.status_code, headers)
            return
        if isinstance(event, StreamClosed):
            await self._send_head()
        await super().stream_send(event)

    def _begin_answer(self, status_code: int, headers: _Headers) -> None:
        """Make the head of an answer, which is sent with the first of its body.

        Raises:
            LocalProtocolError: a header cannot be one.
        """
        framing = [each for each in headers if each[0].lower() in _FRAMING]
        others = [_line(*each) for each in headers if each[0].lower() not in _FRAMING]
        of_server = [_line(*each) for each in self.config.response_headers("h11")]
        head = self._encoded(h11.Response(headers=framing, status_code=status_code))
        self._chunked = b"\r\ntransfer-encoding: chunked\r\n" in head.lower()
        begin = head.find(b"\r\n") + 2
        self._head = head and b"".join((head[:begin], *others, head[begin:-2], *of_server, b"\r\n"))

    async def _send_h11_event(self, event: Any) -> None:
        if data := self._encoded(event):
            head, self._head = self._head, b""
            await self.send(RawData(head + data))
        elif isinstance(event, h11.EndOfMessage):
            await self._send_head()

    def _encoded(self, event: Any) -> bytes:
        try:
            return self.connection.send(event) or b""
        except h11.LocalProtocolError:
            if self.connection.their_state is not h11.ERROR:
                raise
            return b""

    def _at_once(self, data: bytes) -> bool:
        """Write a part of a body as a chunk (RFC 9112, section 7.1), if nothing has to wait."""
        if not self._chunked or self._head or self.connection.our_state is not h11.SEND_BODY:
            return False
        chunk = b"%x\r\n%b\r\n" % (len(data), data)
        if self.direct is None or not self.direct.has_room(len(chunk)):
            return False
        self.direct.put(chunk)
        return True

    async def _send_head(self) -> None:
        if self._head:
            head, self._head = self._head, b""
            await self.send(RawData(head))

    async def _continue(self) -> None:
        if self.connection.they_are_waiting_for_100_continue:
            await self._send_h11_event(
                h11.InformationalResponse(
                    status_code=100, headers=self.config.response_headers("h11")
                )
            )

    async def _send_error_response(self, status_code: int, *, to_head: bool = False) -> None:
        answer = refusal(status_code)
        self._begin_answer(status_code, [*answer.raw_headers, (b"connection", b"close")])
        if not to_head:
            await self._send_h11_event(h11.Data(data=bytes(answer.body)))
        await self._send_h11_event(h11.EndOfMessage())

    # -- after the answer -----------------------------------------------------------------

    async def _maybe_recycle(self) -> None:
        await self._close_stream()
        answered = self.connection.our_state in {h11.DONE, h11.MUST_CLOSE}
        if answered and self.connection.their_state is h11.SEND_BODY and not self._unasked:
            self._discarding = DISCARD_BYTES
            await self.send(Within(self.config.receive_timeout))
            self._go_on()
        else:
            await self._recycle()

    async def _recycle(self) -> None:
        if self.connection.our_state is self.connection.their_state is h11.DONE:
            self.connection.start_next_cycle()
            await self.send(Updated(idle=True))
            self._go_on()
        else:
            await self.send(Closed())

    def _go_on(self) -> None:
        """There is room again: take what had to wait."""
        if self._stalled and not self._closed:
            self._stalled = False
            self.task_group.spawn(self._handle_events)


def _is_framed_twice(request: h11.Request) -> bool:
    """Whether a request has both a length and a transfer encoding. A proxy that goes by the other
    one takes what follows for a request of the next client (RFC 9112, section 6.1)."""
    names = {name for name, _ in request.headers}
    return b"content-length" in names and b"transfer-encoding" in names


@functools.lru_cache(maxsize=256)
def _line(name: bytes, value: bytes) -> bytes:
    """A header of an answer as it is written. Most are the same each time.

    Raises:
        LocalProtocolError: it cannot be one.
    """
    if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
        raise h11.LocalProtocolError(f"{name!r} cannot have the value {value!r}")
    return b"%b: %b\r\n" % (name, value)


def _is_websocket(request: h11.Request) -> bool:
    """Whether a request asks for WebSocket (RFC 6455, section 4.2.1). Another one that names it is
    answered as if it did not, as a server may (RFC 9110, section 7.8)."""

    def names(header: bytes, token: bytes) -> bool:
        return any(
            token == each.strip().lower()
            for name, value in request.headers
            if name == header
            for each in value.split(b",")
        )

    return (
        request.method == b"GET"
        and request.http_version == b"1.1"
        and names(b"connection", b"upgrade")
        and names(b"upgrade", b"websocket")
    )
