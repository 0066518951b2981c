"""Pure ASGI middleware: errors in the contract's shape, metrics, and the log of requests."""

import logging
import re
import time
from collections.abc import Callable
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from longrun import ids, metrics
from longrun.errors import (
    LongrunError,
    MethodNotAllowed,
    NotFound,
    NotRunning,
    NotServed,
    OtherCell,
    Unreadable,
)
from longrun.http.answers import also_said, error_answer
from longrun.loglines import one_line

log = logging.getLogger("longrun.http")

_METHODS: Final = frozenset(
    {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE", "WEBSOCKET"}
)
"""Those that have a place of their own in the metrics; clients can invent any number."""

WEBSOCKET: Final = "WEBSOCKET"
"""What the log and the metrics have for one in place of a method."""

_PROBES: Final = frozenset({"/healthz", "/readyz", "/metrics"})
"""What machines ask for every few seconds: answered always, and not worth a line each."""

_BEGIN_ANSWERS: Final = frozenset(
    {"http.response.start", "websocket.accept", "websocket.http.response.start"}
)

_NOSNIFF: Final = (b"x-content-type-options", b"nosniff")


_A_REQUEST_ID: Final = re.compile(rb"[\w.:-]{1,128}", re.ASCII)


def _request_id(scope: Scope) -> bytes:
    """The id that a proxy gave this request, if it is a plain one, else one of ours."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _A_REQUEST_ID.fullmatch(value):
            return bytes(value)
    return ids.new_request_id().encode()


def _what(scope: Scope) -> str:
    """Method and path for the log. The path as it came, since decoding brings line ends."""
    path = scope.get("raw_path") or scope["path"].encode("utf-8", "surrogatepass")
    return one_line(f"{scope.get('method', WEBSOCKET)} {path.decode('latin-1')}")


def _is_probe(scope: Scope) -> bool:
    # As Starlette's router takes the path of a mounted application.
    return scope["path"].removeprefix(scope.get("root_path", "")) in _PROBES


class Errors:
    """Turns every exception into an answer; the text of one that is not ours goes to the log.

    Args:
        cell: the one of this replica. What is not here and names another is answered so.
    """

    def __init__(self, app: ASGIApp, *, cell: str = ids.FIRST_CELL) -> None:
        self._app = app
        self._cell = cell

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def noting(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except Exception as error:
            if isinstance(error, HTTPException):
                answer = of_routing(scope, error)
            else:
                answer = error_answer(as_told(error, _what(scope), self._cell))
            if started:
                log.warning("%s broke off", _what(scope))
                return
            await answer(scope, receive, send)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refusals of a WebSocket are answers as any others, before it is accepted."""
        begun = False

        async def noting(message: Message) -> None:
            nonlocal begun
            if not begun and message["type"] == "websocket.close":
                # Of Starlette's router.
                raise NotServed("WebSocket is served only at /responses and /v1/responses.")
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except Exception as error:
            told = as_told(error, _what(scope), self._cell)
            if begun:
                await send({"type": "websocket.close", "code": 1011})
            else:
                await _refuse_websocket(scope, send, error_answer(told))


def as_told(error: Exception, what: str, here: str) -> LongrunError:
    """An error as its client is told of it; of one that is not ours, the log has the text.

    Args:
        what: of which it came, for the log.
        here: the cell of this replica.
    """
    if isinstance(error, LongrunError) and error.lost is not None:
        cell = ids.cell_of(error.lost)
        if cell is not None and cell != here:
            return OtherCell(error.lost, cell, here, error.param)
    if isinstance(error, Unreadable) or (isinstance(error, LongrunError) and error.status != 500):
        return error
    log.error("%s failed", what, exc_info=error)
    return LongrunError("The server had an error.", code="server_error")


class Started:
    """Refuses what needs more than this process as long as the application is not running.

    Raises:
        NotRunning: says how it is started.
    """

    def __init__(self, app: ASGIApp, running: Callable[[], bool]) -> None:
        self._app = app
        self._running = running

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and not self._running() and not _is_probe(scope):
            raise NotRunning()
        await self._app(scope, receive, send)


async def _refuse_websocket(scope: Scope, send: Send, answer: Response) -> None:
    if "websocket.http.response" not in (scope.get("extensions") or ()):
        # All that such a server can say is 403.
        await send({"type": "websocket.close", "code": 1008})
        return
    start = {"status": answer.status_code, "headers": answer.raw_headers}
    await send({"type": "websocket.http.response.start", **start})
    await send({"type": "websocket.http.response.body", "body": bytes(answer.body)})


def of_routing(scope: Scope, error: HTTPException) -> Response:
    """The answer to what Starlette's router raises: an unknown path, a method not allowed."""
    where = f"{scope['method']} {Request(scope).url.path}"
    if error.status_code == 405:
        answer: LongrunError = MethodNotAllowed(f"Method not allowed: {where}.")
    else:
        answer = NotFound(f"Unknown path: {where}.")
    return error_answer(answer, error.headers)


class RequestLog:
    """Counts and logs each request when it ends, probes at debug level only. Every answer says
    which request it is of (`x-request-id`, the one in the log), and has no browser guess what it
    is."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        status, answered = 0, None
        request_id = _request_id(scope)
        began = time.perf_counter()

        async def noting(message: Message) -> None:
            nonlocal status, answered
            if message["type"] in _BEGIN_ANSWERS:
                status, answered = message.get("status", 101), time.perf_counter() - began
                headers = [*message.get("headers", ()), (b"x-request-id", request_id)]
                headers += also_said(scope)
                message["headers"] = headers if _NOSNIFF in headers else [*headers, _NOSNIFF]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            route = getattr(scope.get("endpoint"), "__name__", "unknown")
            method = scope.get("method", WEBSOCKET)
            method = method if method in _METHODS else "other"
            metrics.requests.labels(method, route, str(status or 499)).inc()
            took = time.perf_counter() - began
            metrics.request_seconds.labels(route).observe(took if answered is None else answered)
            _log(scope, status or 499, took, request_id.decode("ascii"))


def _log(scope: Scope, status: int, took: float, request_id: str) -> None:
    level = logging.DEBUG if _is_probe(scope) else logging.INFO
    if log.isEnabledFor(level):
        method, _, path = _what(scope).partition(" ")
        log_line(method, path, status, took, request_id, level)


def log_line(
    method: str,
    path: str,
    status: int,
    took: float,
    request_id: str = "-",
    level: int = logging.INFO,
) -> None:
    """One line of the log of requests; `took` in seconds."""
    fields = {"method": method, "path": path, "status": status, "request_id": request_id}
    extra = {**fields, "duration": took}
    what = f"{method} {path}"
    log.log(level, "%s %d %.1f ms %s", what, status, took * 1000, request_id, extra=extra)
