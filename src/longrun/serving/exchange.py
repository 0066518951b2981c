"""One request and its answer, on either protocol. What arrives never waits for the application."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol
from urllib.parse import unquote

from hypercorn.asyncio.task_group import _handle
from hypercorn.events import Event as ConnectionEvent
from hypercorn.protocol.events import Body, EndBody, Event, Request, Response, StreamClosed
from hypercorn.protocol.http_stream import ASGIHTTPState, HTTPStream
from starlette.responses import Response as Answer
from starlette.types import Message

from longrun import ids
from longrun.errors import BadRequest, Forbidden, HeadersTooLarge, LongrunError, RequestTimeout
from longrun.http.answers import error_answer
from longrun.http.intake import ARRIVED
from longrun.http.streams import AT_ONCE, LEFT, SILENCE_IS_TIMED
from longrun.serving.bounds import INBOX, SLICE, Bounds

_REFUSALS: Final[dict[int, LongrunError]] = {
    400: BadRequest("The request is not valid HTTP."),
    403: Forbidden("This WebSocket was refused."),
    408: RequestTimeout("The request took too long to arrive."),
    426: BadRequest("Of WebSocket, version 13 is served (RFC 6455).", code="upgrade_required"),
    431: HeadersTooLarge("The request line and headers are too large."),
    500: LongrunError("The server had an error.", code="server_error"),
    501: BadRequest("This transfer encoding is not supported; send the body as it is or chunked."),
}


class Direct(Protocol):
    """A connection, as who writes to it in no task sees it."""

    def has_room(self, size: int) -> bool:
        """Whether so many bytes can be written without waiting for anything, nor after them."""

    def put(self, data: bytes) -> None:
        """Write bytes for which there is room."""


class Within(ConnectionEvent):
    """Says to the connection: it ends unless another of these comes within so many seconds."""

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds


def refusal(status: int) -> Answer:
    """An answer of the server's own, in the shape of all errors (contract, "Errors")."""
    answer = error_answer(_REFUSALS.get(status, _REFUSALS[400]))
    answer.status_code = status
    answer.headers["x-content-type-options"] = "nosniff"
    answer.headers["x-request-id"] = ids.new_request_id()
    return answer


class Inbox:
    """What a client sent and the application has not taken yet.

    Nothing that is put waits, so that no application can keep the server from reading; whoever
    puts looks at `full` before it reads more.

    Args:
        wanted: awaited when the application waits for a body of which nothing is there.
        taken: called when the application has taken what was there.
    """

    def __init__(self, wanted: Callable[[], Awaitable[None]], taken: Callable[[], None]) -> None:
        self.ended = False
        self._wanted = wanted
        self._taken = taken
        self._parts: list[bytes] = []
        self._size = 0
        self._told_end = False
        self._gone = False
        self._when_left: list[Callable[[], object]] = []
        self._arrived = asyncio.Event()

    @property
    def full(self) -> bool:
        return self._size >= INBOX

    def put(self, data: bytes) -> None:
        """A part of the body."""
        if data and not self._gone:
            self._parts.append(data)
            self._size += len(data)
            self._arrived.set()

    def end(self) -> None:
        """That was all of the body."""
        self.ended = True
        self._arrived.set()

    def leave(self) -> None:
        """The client is gone, or its answer is complete."""
        self._gone = True
        self._arrived.set()
        if not self.ended:
            self._parts.clear()
            self._size = 0
        calls, self._when_left = self._when_left, []
        for call in calls:
            call()

    def when_left(self, call: Callable[[], object]) -> None:
        """Call this when the client is gone, or its answer is complete."""
        if self._gone:
            call()
        else:
            self._when_left.append(call)

    async def receive(self) -> Message:
        """ASGI's `receive`."""
        while True:
            if (message := self.arrived()) is not None:
                return message
            if self._gone:
                return {"type": "http.disconnect"}
            self._arrived.clear()
            if not self.ended:
                await self._wanted()
            await self._arrived.wait()

    def arrived(self) -> Message | None:
        """What has come of the body, if anything."""
        return self._take() if self._parts or (self.ended and not self._told_end) else None

    def _take(self) -> Message:
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        self._size = 0
        self._told_end = self.ended
        if not self.ended:
            self._taken()
        return {"type": "http.request", "body": body, "more_body": not self.ended}


class Exchange(HTTPStream):
    """Hypercorn's HTTPStream, with an inbox in place of its queue, and with slices.

    The queue (hypercorn/asyncio/task_group.py, `spawn_app`) holds ten messages, whatever their
    size, and everything that is put into a full one waits: a body of more chunks that an
    application does not read stops all reading from the connection, and even the notice that the
    client is gone. A release that no longer awaits `app_put` in `HTTPStream.handle` has mended it.

    A large body is handed on in slices, so that no layer below holds a copy of all of it.

    Attributes:
        finished: the application has returned.
        at_once: sends a part of the body at once, or returns False (http/streams.py).
    """

    config: Bounds
    at_once: Callable[[bytes], bool] | None = None

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.finished = False
        self.inbox = Inbox(_nothing, lambda: None)

    async def handle(self, event: Event) -> None:
        if isinstance(event, Request):
            await self._begin(event)
        elif isinstance(event, Body):
            self.inbox.put(bytes(event.data))
        elif isinstance(event, EndBody):
            self.inbox.end()
        elif isinstance(event, StreamClosed):
            self.closed = True
            self.inbox.leave()

    async def _begin(self, request: Request) -> None:
        raw_path, _, query = request.raw_path.partition(b"?")
        self.start_time = 0.0
        self.scope = {
            "type": "http",
            "http_version": request.http_version,
            "asgi": {"spec_version": "2.1", "version": "3.0"},
            "method": request.method,
            "scheme": self.scheme,
            "path": unquote(raw_path.decode("latin-1")),
            "raw_path": raw_path,
            "query_string": query,
            "root_path": self.config.root_path,
            "headers": request.headers,
            "client": self.client,
            "server": self.server,
            "state": request.state.copy(),  # type: ignore[typeddict-item]
            "extensions": self._extensions(request.method),
        }
        if self._has_large_head(request):
            # As if the application did it: reading goes on, whether or not the client takes it.
            self.task_group.spawn(self._refuse, 431)
            return
        self.task_group.spawn(
            _handle,
            self.app,
            self.config,
            self.scope,
            self.inbox.receive,
            self.app_send,
            _no_threads,
            _no_threads,
        )

    def _extensions(self, method: str) -> Any:
        extensions: dict[str, Any] = {
            SILENCE_IS_TIMED: {},
            LEFT: self.inbox.when_left,
            ARRIVED: self.inbox.arrived,
        }
        if self.at_once is not None and method != "HEAD":
            extensions[AT_ONCE] = self.at_once
        return extensions

    def _has_large_head(self, request: Request) -> bool:
        """What came in one piece was not counted before."""
        headers, most = request.headers, self.config
        size = len(request.raw_path) + sum([len(name) + len(value) for name, value in headers])
        return size > most.max_header_bytes or len(headers) > most.max_headers

    async def _refuse(self, status_code: int) -> None:
        await self._send_error_response(status_code)
        await self.send(StreamClosed(self.stream_id))
        self.finished = True

    async def app_send(self, message: Any) -> None:
        if message is None:
            self.finished = True
        elif message["type"] == "http.response.body" and len(message.get("body", b"")) > SLICE:
            await self._send_slices(message)
            return
        await super().app_send(message)

    async def _send_slices(self, message: Any) -> None:
        body, more = memoryview(message["body"]), message.get("more_body", False)
        for at in range(0, len(body), SLICE):
            last = at + SLICE >= len(body)
            part: Any = dict(message, body=body[at : at + SLICE], more_body=more or not last)
            await super().app_send(part)

    async def _send_error_response(self, status_code: int) -> None:
        answer = refusal(status_code)
        send, stream = self.send, self.stream_id
        await send(Response(stream, headers=list(answer.raw_headers), status_code=status_code))
        if self.scope["method"] != "HEAD":
            await send(Body(stream, data=bytes(answer.body)))
        await send(EndBody(stream))
        self.state = ASGIHTTPState.CLOSED


async def _nothing() -> None:
    pass


def _no_threads(*_: Any) -> None:
    raise NotImplementedError
