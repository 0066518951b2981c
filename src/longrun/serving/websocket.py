"""One WebSocket (RFC 6455), from its handshake to its end. What arrives never waits for the
application, and nothing is kept but a part of a message."""

import asyncio
import base64
import binascii
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import unquote

from hypercorn.asyncio.task_group import _handle
from hypercorn.protocol.events import Body, Data, EndBody, Event, Request, Response, StreamClosed
from hypercorn.typing import TaskGroup, WorkerContext
from starlette.types import Message
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage
from wsproto.events import Event as Frame
from wsproto.frame_protocol import CloseReason
from wsproto.handshake import WEBSOCKET_VERSION
from wsproto.utilities import LocalProtocolError, generate_accept_token

from longrun import metrics
from longrun.http.frames import IN_PARTS, MORE
from longrun.serving.bounds import INBOX, SLICE, SMALL, Bounds, Pace
from longrun.serving.exchange import _no_threads, refusal

_TURN: Final = 100
"""Small frames after which others have their turn."""

_OVERHEAD: Final = 256
"""Bytes that a part of a message is counted for besides its own."""


class Inbox:
    """What a client sent and the application has not taken yet: parts of messages, in order.

    Args:
        taken: called when the application has taken something of what was too much.
    """

    def __init__(self, taken: Callable[[], None]) -> None:
        self._taken = taken
        self._parts: list[tuple[bool, bytearray, bool]] = []
        self._size = 0
        self._connected = False
        self._code: int | None = None
        self._arrived = asyncio.Event()

    @property
    def full(self) -> bool:
        return self._size >= INBOX

    def put(self, data: str | bytes | bytearray, more: bool) -> None:
        """A part of a message. More of it that comes before the first is taken is added to it."""
        if self._code is not None:
            return
        text = isinstance(data, str)
        new = data.encode() if isinstance(data, str) else data
        if self._parts and self._parts[-1][2]:
            self._parts[-1][1].extend(new)
            self._parts[-1] = (text, self._parts[-1][1], more)
            self._size += len(new)
        else:
            self._parts.append((text, bytearray(new), more))
            self._size += len(new) + _OVERHEAD
        self._arrived.set()

    def leave(self, code: int) -> None:
        """The client is gone, or said that it goes."""
        if self._code is None:
            self._code = code
            self._arrived.set()

    async def receive(self) -> Message:
        """ASGI's `receive`."""
        if not self._connected:
            self._connected = True
            return {"type": "websocket.connect"}
        while not self._parts:
            if self._code is not None:
                return {"type": "websocket.disconnect", "code": self._code}
            self._arrived.clear()
            await self._arrived.wait()
        was_full = self.full
        text, data, more = self._parts.pop(0)
        self._size -= len(data) + _OVERHEAD
        if was_full and not self.full:
            self._taken()
        said: Message = {"type": "websocket.receive", MORE: more}
        return {**said, "text": data.decode()} if text else {**said, "bytes": bytes(data)}


class Socket:
    """In place of Hypercorn's WSStream (hypercorn/protocol/ws_stream.py):

    - It keeps a message until it is whole, and counts characters; and what it puts into a full
      queue stops all reading from the connection. Here parts are handed on as they come
      (`IN_PARTS`), and nothing more is read as long as there are enough that nobody takes.
    - It takes permessage-deflate: a buffer for each connection, and a few bytes may become
      gigabytes. Here nothing is compressed.
    - A large message is one frame, which every layer below copies. Here it goes out in slices.
    - Its pings ask for nothing. Here a client that does not answer is gone.
    - Its refusals have no body.

    Attributes:
        inbox: what the client sent.
        is_open: the handshake is done: what follows are frames.
        finished: the application has returned.
    """

    def __init__(
        self,
        app: Any,
        config: Bounds,
        context: WorkerContext,
        task_group: TaskGroup,
        ssl: bool,
        client: tuple[str, int] | None,
        server: tuple[str, int] | None,
        send: Callable[[Event], Awaitable[None]],
        stream_id: int,
        *,
        opened: Callable[[], None],
        taken: Callable[[], None],
    ) -> None:
        self.app = app
        self.config = config
        self.context = context
        self.task_group = task_group
        self.scheme = "wss" if ssl else "ws"
        self.client = client
        self.server = server
        self.send = send
        self.stream_id = stream_id
        self.closed = False
        self.connection: Connection
        self.inbox = Inbox(taken)
        self.is_open = False
        self.finished = False
        self._opened = opened
        self._request: Request | None = None
        self._has_body = False
        self._refused = False
        self._answer: Message = {}
        self._one_message = asyncio.Lock()
        self._small = 0
        self._pace = Pace(rate=5_000, burst=20_000)
        self._loop = asyncio.get_running_loop()
        self._heard = self._loop.time()
        self._pinged: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def idle(self) -> bool:
        return False

    async def handle(self, event: Event) -> None:
        if isinstance(event, Request):
            self._request = event
        elif isinstance(event, Body):
            self._has_body = True
        elif isinstance(event, EndBody) and self._request is not None:
            self._begin(self._request)
        elif isinstance(event, StreamClosed):
            self._end(CloseReason.ABNORMAL_CLOSURE)

    def _begin(self, request: Request) -> None:
        raw_path, _, query = request.raw_path.partition(b"?")
        self.scope: Any = {
            "type": "websocket",
            "asgi": {"spec_version": "2.3", "version": "3.0"},
            "scheme": self.scheme,
            "http_version": request.http_version,
            "path": unquote(raw_path.decode("latin-1")),
            "raw_path": raw_path,
            "query_string": query,
            "root_path": self.config.root_path,
            "headers": request.headers,
            "client": self.client,
            "server": self.server,
            "state": request.state.copy(),
            "subprotocols": _listed(request, b"sec-websocket-protocol"),
            "extensions": {"websocket.http.response": {}, IN_PARTS: {}},
        }
        status = self._refusal_of(request)
        if status is not None:
            self.task_group.spawn(self._refuse, status)
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

    def _refusal_of(self, request: Request) -> int | None:
        headers, most = request.headers, self.config
        size = len(request.raw_path) + sum([len(name) + len(value) for name, value in headers])
        if size > most.max_header_bytes or len(headers) > most.max_headers:
            return 431
        if _listed(request, b"sec-websocket-version") != [WEBSOCKET_VERSION.decode()]:
            return 426
        return 400 if self._has_body or _key(request) is None else None

    # -- from the client ------------------------------------------------------------------

    async def receive(self, data: bytes) -> None:
        """What came by the connection after the handshake."""
        self._heard, self._pinged = self._loop.time(), None
        if self.closed:
            return
        self.connection.receive_data(data)
        for frame in self.connection.events():
            await self._take(frame)
            if self.closed:
                return

    async def _take(self, frame: Frame) -> None:
        if isinstance(frame, TextMessage | BytesMessage):
            self.inbox.put(frame.data, not frame.message_finished)
            if len(frame.data) < SMALL:
                await self._slow_down()
        elif isinstance(frame, Ping):
            await self._send_frame(frame.response())
            await self._slow_down()
        elif isinstance(frame, Pong):
            await self._slow_down()
        elif isinstance(frame, CloseConnection):
            # What the client has said, or what is wrong with what it sends.
            await self._close(frame.code)
            await self._leave(frame.code)

    async def _slow_down(self) -> None:
        """The smaller the frames, the more time they cost: others have their turn."""
        self._small += 1
        if self._small >= _TURN:
            wait = self._pace.spend(self._small)
            self._small = 0
            await asyncio.sleep(wait)

    async def _leave(self, code: int) -> None:
        self._end(code)
        await self.send(StreamClosed(self.stream_id))

    def _end(self, code: int) -> None:
        self.closed = True
        self.inbox.leave(code)
        if self._timer is not None:
            self._timer.cancel()

    # -- from the application -------------------------------------------------------------

    async def app_send(self, message: Any) -> None:
        if message is None:
            self.finished = True
        if self.closed or self._refused:
            return
        if message is None:
            await self._app_ended()
        elif message["type"] == "websocket.accept":
            await self._accept_with(message)
        elif message["type"] == "websocket.send":
            await self._send_message(message)
        elif message["type"] == "websocket.http.response.start":
            self._answer = message
        elif message["type"] == "websocket.http.response.body":
            await self._answered(message)
        elif self.is_open:
            await self._close(
                message.get("code", CloseReason.NORMAL_CLOSURE), message.get("reason")
            )
        else:
            await self._refuse(403)

    async def _app_ended(self) -> None:
        """The application has returned, without a word or after its last."""
        if not self.is_open:
            await self._refuse(500)
            return
        await self._close(CloseReason.INTERNAL_ERROR)
        await self._leave(CloseReason.NORMAL_CLOSURE)

    async def _accept_with(self, message: Message) -> None:
        assert self._request is not None
        key = _key(self._request)
        assert key is not None
        headers = [
            (b"upgrade", b"websocket"),
            (b"connection", b"Upgrade"),
            (b"sec-websocket-accept", generate_accept_token(key)),
        ]
        if message.get("subprotocol") is not None:
            headers.append((b"sec-websocket-protocol", message["subprotocol"].encode()))
        headers += message.get("headers", ())
        self._request = None
        self.connection = Connection(ConnectionType.SERVER)
        await self.send(Response(self.stream_id, headers=headers, status_code=101))
        self.is_open = True
        self._heard = self._loop.time()
        self._tick()
        self._opened()

    async def _send_message(self, message: Message) -> None:
        text = message.get("text")
        async with self._one_message:
            if text is None:
                whole = message["bytes"]
                for part, last in _slices(whole):
                    await self._send_frame(BytesMessage(data=part, message_finished=last))
            elif len(text) <= SLICE:
                await self._send_frame(TextMessage(data=text))
            else:
                for part, last in _slices(text):
                    await self._send_frame(TextMessage(data=part, message_finished=last))

    async def _close(self, code: int, reason: str | None = None) -> None:
        await self._send_frame(CloseConnection(code, reason or None))

    async def _send_frame(self, frame: Frame) -> None:
        try:
            data = self.connection.send(frame)
        except LocalProtocolError:
            return  # it is closing: nothing more is said
        await self.send(Data(self.stream_id, data=data))

    # -- refusals -------------------------------------------------------------------------

    async def _answered(self, message: Message) -> None:
        if self._answer:
            status, headers = self._answer["status"], list(self._answer["headers"])
            self._answer = {}
            headers.append((b"connection", b"close"))
            await self.send(Response(self.stream_id, headers=headers, status_code=status))
        await self.send(Body(self.stream_id, data=message.get("body", b"")))
        if not message.get("more_body", False):
            await self._end_of_answer()

    async def _refuse(self, status: int) -> None:
        answer = refusal(status)
        headers = [*answer.raw_headers, (b"connection", b"close")]
        if status == 426:
            headers += [(b"sec-websocket-version", WEBSOCKET_VERSION), (b"upgrade", b"websocket")]
        await self.send(Response(self.stream_id, headers=headers, status_code=status))
        await self.send(Body(self.stream_id, data=bytes(answer.body)))
        await self._end_of_answer()

    async def _end_of_answer(self) -> None:
        self._refused = True
        await self.send(EndBody(self.stream_id))
        await self.send(StreamClosed(self.stream_id))

    # -- whether anybody is there ---------------------------------------------------------

    def _tick(self) -> None:
        self._timer = self._loop.call_later(self.config.ping_interval, self._look)

    def _look(self) -> None:
        if self.closed:
            return
        silence = self._loop.time() - (self._pinged or self._loop.time())
        if silence >= self.config.send_timeout and not self.inbox.full:
            metrics.reader_timeouts.inc()
            self.task_group.spawn(self._leave, CloseReason.ABNORMAL_CLOSURE)
            return
        if self._pinged is None and self._loop.time() - self._heard >= self.config.ping_interval:
            self._pinged = self._loop.time()
            self.task_group.spawn(self._send_frame, Ping())
        self._tick()


def _slices(whole: Any) -> list[tuple[Any, bool]]:
    """Parts of a text or of bytes, each with whether it is the last."""
    return [
        (whole[at : at + SLICE], at + SLICE >= len(whole))
        for at in range(0, max(len(whole), 1), SLICE)
    ]


def _listed(request: Request, name: bytes) -> list[str]:
    """The elements of a header that is a list."""
    values = [value for each, value in request.headers if each == name]
    return [item.strip().decode("latin-1") for value in values for item in value.split(b",")]


def _key(request: Request) -> bytes | None:
    """`Sec-WebSocket-Key`, if it is one: 16 bytes, as base64."""
    found = [value for name, value in request.headers if name == b"sec-websocket-key"]
    try:
        if len(found) == 1 and len(base64.b64decode(found[0], validate=True)) == 16:
            return found[0]
    except binascii.Error:
        pass
    return None
