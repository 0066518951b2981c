"""Pure ASGI middleware: errors in the contract's shape, metrics, and the log of requests."""

import logging
import time

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from longrun import metrics
from longrun.errors import LongrunError, MethodNotAllowed, NotFound
from longrun.http.answers import error_answer

log = logging.getLogger("longrun.http")


class Errors:
    """Turns every exception into an answer; the text of one that is not ours goes to the log."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
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
            answer = _as_answer(error, scope)
            if started:
                log.warning("%s %s broke off", scope["method"], scope["path"])
                return
            await answer(scope, receive, send)


def _as_answer(error: Exception, scope: Scope) -> Response:
    if isinstance(error, LongrunError) and error.status != 500:
        return error_answer(error)
    log.error("%s %s failed", scope["method"], scope["path"], exc_info=error)
    return error_answer(LongrunError("The server had an error.", code="server_error"))


async def of_routing(request: Request, error: Exception) -> Response:
    """The answer to what Starlette's router raises: an unknown path, a method not allowed."""
    assert isinstance(error, HTTPException)
    where = f"{request.method} {request.url.path}"
    if error.status_code == 405:
        answer: LongrunError = MethodNotAllowed(f"Method not allowed: {where}.")
    else:
        answer = NotFound(f"Unknown path: {where}.")
    return error_answer(answer, error.headers)


class RequestLog:
    """Counts and logs each request when it ends."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 0
        began = time.perf_counter()

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            route = getattr(scope.get("endpoint"), "__name__", "unknown")
            metrics.requests.labels(scope["method"], route, str(status or 499)).inc()
            took = (time.perf_counter() - began) * 1000
            log.info("%s %s %d %.1f ms", scope["method"], scope["path"], status or 499, took)
