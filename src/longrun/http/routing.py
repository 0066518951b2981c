"""Routes to functions of ours, with nothing around these."""

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

Endpoint = Callable[[Request], Awaitable[ASGIApp]]


class Straight(Route):
    """A Starlette route without its two layers for exceptions: what the endpoint raises goes to
    `Errors` (middleware.py), and the answer is sent by nobody in between.

    Args:
        endpoint: an async function, or method.
    """

    def __init__(self, path: str, endpoint: Endpoint, *, method: str) -> None:
        super().__init__(path, endpoint, methods=[method])
        self.app = _asgi(endpoint)


def _asgi(endpoint: Endpoint) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        answer = await endpoint(Request(scope, receive, send))
        await answer(scope, receive, send)

    return app
