"""Request bodies arrive in time, or their requests end."""

import asyncio
from collections.abc import Callable
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from longrun.errors import RequestTimeout

SLOWEST: Final = 1024
"""Bytes a second that a body has to come with, on average, after the first `timeout` seconds."""

ARRIVED: Final = "longrun.arrived"
"""The key in the scope's extensions under which the server gives a function that gives what
`receive` would give at once; None: it would have to wait. Most bodies are there by then, and need
no timer."""

_HAVE_BODIES: Final = frozenset({"POST", "PUT", "PATCH"})


class Intake:
    """Bounds the time that a body may take.

    Args:
        timeout: seconds without a byte of a body that is not complete; then 408.
    """

    def __init__(self, app: ASGIApp, *, timeout: float) -> None:
        self._app = app
        self._timeout = timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] in _HAVE_BODIES:
            arrived = (scope.get("extensions") or {}).get(ARRIVED)
            receive = _Body(receive, self._timeout, arrived or _nothing).receive
        await self._app(scope, receive, send)


def _nothing() -> None:
    return None


class _Body:
    """The body of one request."""

    def __init__(
        self, receive: Receive, timeout: float, arrived: Callable[[], Message | None]
    ) -> None:
        self._receive = receive
        self._arrived = arrived
        self._timeout = timeout
        self._began = asyncio.get_running_loop().time()
        self._size = 0
        self._ended = False

    async def receive(self) -> Message:
        """ASGI's `receive`.

        Raises:
            RequestTimeout: the next part of the body does not come.
        """
        if self._ended:
            return await self._receive()
        message = self._arrived() or await self._in_time()
        self._size += len(message.get("body", b""))
        self._ended = not message.get("more_body", False)
        return message

    async def _in_time(self) -> Message:
        try:
            async with asyncio.timeout_at(self._deadline()):
                return await self._receive()
        except TimeoutError:
            raise RequestTimeout("The request body did not arrive in time.") from None

    def _deadline(self) -> float:
        in_all = self._began + self._timeout + self._size / SLOWEST
        return min(asyncio.get_running_loop().time() + self._timeout, in_all)
