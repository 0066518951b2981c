"""WebSocket mode at `/responses`: one connection, many responses (contract, "WebSocket")."""

import asyncio
import contextlib
import logging
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection
from starlette.routing import BaseRoute, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from longrun import metrics
from longrun.backoff import jittered
from longrun.errors import BadRequest, Forbidden, LongrunError, TooManyRequests, Unavailable
from longrun.http.access import KEY_PROTOCOL
from longrun.http.bodies import Budget
from longrun.http.frames import ENDS_CONNECTION, Frame, Frames, Left, error_event, unknown_event
from longrun.http.held import Held, Holder
from longrun.http.lanes import Lane, Shared
from longrun.http.middleware import WEBSOCKET, as_told, log_line
from longrun.settings import Settings

log = logging.getLogger("longrun.http.sockets")

MOST_LANES: Final = 32
"""Named lanes of a connection, as with OpenAI."""

MOST_RUNNING: Final = 16
"""Responses that a connection has under way at once, as with OpenAI; more wait."""

MOST_WAITING: Final = 64
"""Events of a connection that wait for their turn."""

MOST_MISTAKES: Final = 100
"""Events in a row that are nothing of what is served; then the connection ends."""

LEAVING_PER_SECOND: Final = 50.0
"""Connections without a response that a stopping replica sends away per second."""

RESTART: Final = 1012
"""The close code of a replica that stops; clients connect again (RFC 6455, IANA's registry)."""

_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,256}")

Act = Callable[["OpenSocket", Frame], Awaitable[None]]
"""What is done for an event of a type. It is awaited before the next event is read; what it raises
is told to the client."""


class SocketAPI:
    """The endpoint.

    Args:
        acts: what is done for events of other types than `response.create`, by type.
    """

    def __init__(
        self, shared: Shared, settings: Settings, acts: Mapping[str, Act] | None = None
    ) -> None:
        self.shared = shared
        self.settings = settings
        self.acts: dict[str, Act] = {"response.create": _create, **(acts or {})}
        self.chains = Budget(settings.max_bodies_bytes)
        self._open: set[OpenSocket] = set()
        self._closed = asyncio.Event()
        self._leaves_at: float | None = None

    def routes(self) -> list[BaseRoute]:
        """The route, the same at the root and under `/v1`."""
        return [WebSocketRoute(prefix + "/responses", self.serve) for prefix in ("", "/v1")]

    async def serve(self, websocket: WebSocket) -> None:
        """`GET /responses` with `Upgrade: websocket`."""
        check_origin(websocket, self.settings.cors_origins)
        if self._leaves_at is not None:
            raise Unavailable("The server is stopping; connect again.", retry_after=1)
        most = self.settings.max_sockets
        if most is not None and len(self._open) >= most:
            raise Unavailable(
                f"{most} WebSockets are open here, which is the maximum.",
                code="too_many_sockets",
                retry_after=5,
            )
        socket = OpenSocket(websocket, self)
        with self._counted(socket):
            await websocket.accept(_subprotocol(websocket))
            await socket.serve()

    @contextlib.contextmanager
    def _counted(self, socket: "OpenSocket") -> Iterator[None]:
        self._open.add(socket)
        try:
            with metrics.sockets.track_inprogress():
                yield
        finally:
            self._open.discard(socket)
            self._closed.set()

    def send_away(self, within: float) -> None:
        """This replica stops: connections end, those without a response soon and spread over time,
        the others when theirs have ended or were sent away."""
        loop = asyncio.get_running_loop()
        self._leaves_at = loop.time() + within
        spread = min(within, len(self._open) / LEAVING_PER_SECOND)
        for socket in self._open:
            loop.call_later(jittered(spread / 2, spread=1), socket.leave)

    async def deserted(self) -> None:
        """Wait until no connection is open."""
        while self._open:
            self._closed.clear()
            await self._closed.wait()


class OpenSocket:
    """One connection: events of its client in, events of its responses out.

    Attributes:
        connection: the request that opened it.
        running: bounds how many responses are under way.
    """

    def __init__(self, websocket: WebSocket, api: SocketAPI) -> None:
        self.connection: HTTPConnection = websocket
        self.running = asyncio.Semaphore(MOST_RUNNING)
        self._websocket = websocket
        self._api = api
        self._frames = Frames(websocket, api.shared.bodies, api.settings.receive_timeout)
        self._lanes: dict[str | None, Lane] = {}
        self._working: dict[Lane, asyncio.Task[None]] = {}
        self._one_message = asyncio.Lock()
        self._over = asyncio.Event()
        self._close: tuple[int, str] | None = None
        self._last_word: LongrunError | None = None
        self._leaving = False
        self._mistakes = 0
        self._group: asyncio.TaskGroup

    async def serve(self) -> None:
        """Until the client leaves, or has to."""
        loop = asyncio.get_running_loop()
        age = loop.call_later(self._api.settings.socket_seconds, self._grow_old)
        try:
            async with asyncio.TaskGroup() as self._group:
                reading = self._group.create_task(self._read_all())
                await self._over.wait()
                for task in (reading, *self._working.values()):
                    task.cancel()
            if self._last_word is not None:
                await self.tell(self._last_word, None)
            if self._close is not None:
                code, reason = self._close
                with contextlib.suppress(WebSocketDisconnect, RuntimeError):
                    await self._websocket.close(code, reason)
        finally:
            age.cancel()
            for lane in self._lanes.values():
                lane.drop()

    # -- in -------------------------------------------------------------------------------

    async def _read_all(self) -> None:
        while True:
            try:
                frame = await self._frames.next()
                await self._act(frame)
                self._mistakes = 0
            except Left:
                self._end(None)
                return
            except ENDS_CONNECTION as error:
                await self.tell(error, None)
                self._end((1009 if error.status == 413 else 1008, error.message))
                return
            except Exception as error:
                self._mistakes += 1
                await self.tell(error, None)
                if self._mistakes >= MOST_MISTAKES:
                    self._end((1008, "Too many invalid events in a row."))
                    return

    async def _act(self, frame: Frame) -> None:
        kind = frame.said.get("type")
        act = self._api.acts.get(kind) if isinstance(kind, str) else None
        try:
            if act is None:
                raise unknown_event(kind, list(self._api.acts))
            await act(self, frame)
        except BaseException:
            frame.kept.close()
            raise

    def put(self, frame: Frame) -> None:
        """Have a response created, in its lane, after those before it there.

        Raises:
            BadRequest: there can be no such lane, or are too many.
            TooManyRequests: too much waits.
        """
        lane = self._lane(frame.said.get("stream_id"))
        if sum(len(each.waiting) for each in self._lanes.values()) >= MOST_WAITING:
            raise TooManyRequests(
                f"{MOST_WAITING} events of this connection are waiting, which is the maximum.",
                code="websocket_queue_full",
                retry_after=1,
            )
        lane.waiting.append(frame)
        if lane not in self._working:
            task = self._group.create_task(lane.work())
            self._working[lane] = task
            task.add_done_callback(lambda _: self._idle(lane))

    def _lane(self, name: object) -> Lane:
        if name is not None and not (isinstance(name, str) and _NAME.fullmatch(name)):
            raise BadRequest(
                "stream_id must be 1 to 256 letters, digits, underscores, hyphens or periods.",
                param="stream_id",
                code="invalid_stream_id",
            )
        lane = self._lanes.get(name)
        if lane is None:
            if len(self._lanes.keys() - {None}) >= MOST_LANES and name is not None:
                raise BadRequest(
                    f"A connection may use at most {MOST_LANES} values of stream_id.",
                    param="stream_id",
                    code="websocket_stream_limit_reached",
                )
            api = self._api
            holder = Holder(api.chains, api.settings.max_body_bytes)
            lane = self._lanes[name] = Lane(name, self, api.shared, holder)
        return lane

    def lane_of(self, response_id: str) -> Lane | None:
        """The lane on which a response is produced just now."""
        return next((each for each in self._lanes.values() if each.live == response_id), None)

    def held(self, response_id: str | None, principal: str) -> tuple[Held, Lane] | None:
        """The chain that ends with a response of this connection which is not stored."""
        for lane in self._lanes.values():
            found = lane.holder.held
            if found is not None and (found.id, found.principal) == (response_id, principal):
                return found, lane
        return None

    # -- out ------------------------------------------------------------------------------

    async def send(self, event: str) -> None:
        """Send an event, whole. Where nobody takes it any more, this does not return."""
        async with self._one_message:
            try:
                await self._websocket.send({"type": "websocket.send", "text": event})
                return
            except (WebSocketDisconnect, RuntimeError):
                self._end(None)
        await asyncio.Event().wait()

    async def tell(
        self, error: Exception, stream_id: str | None, took: float | None = None
    ) -> None:
        """Tell the client of an error, as an event."""
        told = as_told(error, self._what, self._api.settings.cell)
        self._count(told.status, took or 0.0)
        await self.send(error_event(told, stream_id))

    def created(self, took: float) -> None:
        """A response was created, after so many seconds."""
        self._count(200, took)

    @property
    def _what(self) -> str:
        return f"{WEBSOCKET} {self._websocket.url.path} event"

    def _count(self, status: int, took: float) -> None:
        metrics.socket_events.labels(str(status)).inc()
        log_line(WEBSOCKET, f"{self._websocket.url.path} event", status, took)

    # -- the end --------------------------------------------------------------------------

    def leave(self) -> None:
        """Its client is to go on elsewhere, as soon as no response is under way here."""
        self._leaving = True
        if not self._working:
            self._end((RESTART, "The server is stopping; connect again."))

    def _idle(self, lane: Lane) -> None:
        del self._working[lane]
        if self._leaving:
            self.leave()

    def _grow_old(self) -> None:
        minutes = self._api.settings.socket_seconds / 60
        self._last_word = BadRequest(
            f"This connection has reached its limit of {minutes:g} minutes; connect again.",
            code="websocket_connection_limit_reached",
        )
        self._end((1001, "The connection has reached its limit."))

    def _end(self, close: tuple[int, str] | None) -> None:
        """Args:
        close: what the client is told; None: it is gone.
        """
        if not self._over.is_set():
            self._close = close
            self._over.set()


async def _create(socket: OpenSocket, frame: Frame) -> None:
    """`response.create`."""
    socket.put(frame)


def check_origin(websocket: WebSocket, pages: tuple[str, ...] | list[str]) -> None:
    """Check that no web page of elsewhere has opened this: what browsers ask before other requests
    of pages, they do not ask before a WebSocket.

    Args:
        pages: origins that may (LONGRUN_CORS_ORIGINS); `*` for all.

    Raises:
        Forbidden: it is a page's, and not of this server.
    """
    origin = websocket.headers.get("origin")
    if origin is None or "*" in pages or origin in pages:
        return
    try:
        page = urlsplit(origin).netloc.lower()
    except ValueError:
        page = ""
    if not page or page != websocket.headers.get("host", "").lower():
        raise Forbidden(
            f"Pages of {origin[:200]!r} may not connect to this server. Its operator can allow "
            "them with LONGRUN_CORS_ORIGINS."
        )


def _subprotocol(websocket: WebSocket) -> str | None:
    """The first that a client offers and that is no key: browsers want one of theirs back."""
    offered: list[str] = websocket.scope.get("subprotocols") or []
    return next((each for each in offered if not each.startswith(KEY_PROTOCOL)), None)
