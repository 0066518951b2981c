"""Every request but those for public paths is somebody's, and may do what they may do.

An admin sees what is any principal's, under its id; for lists, or to change something, they say for
whom they act, in the header `longrun-principal`. Others may act for principals below theirs.
"""

import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

from starlette.requests import HTTPConnection, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from longrun import ids
from longrun.access.authentication import Authentication
from longrun.access.callers import Caller
from longrun.access.stream_tokens import StreamTokens
from longrun.errors import BadRequest, Forbidden
from longrun.http.problems import shortened

_CALLER: Final = "longrun.caller"
"""Where a request's ASGI scope has who sent it."""

ACTS_FOR: Final = "longrun-principal"

_PUBLIC: Final = frozenset({"/", "/healthz", "/readyz", "/metrics", "/openapi.json"})
"""Nothing of a principal's is there."""

_PUBLIC_FOLDER: Final = "/console/"

_READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})


_STREAM_TOKEN: Final = re.compile(r"(?:/v1)?/responses/([^/]+)/stream_token")
"""To ask for one is to read, by whatever method."""

_RESPONSE: Final = re.compile(r"(?:/v1)?/responses/([^/]+)")


class Access:
    """Finds out who sent a request before anything else is done for it."""

    def __init__(
        self, app: ASGIApp, *, authentication: Authentication, stream_tokens: StreamTokens
    ) -> None:
        self._app = app
        self._authentication = authentication
        self._stream_tokens = stream_tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not _is_public(scope["path"]):
            scope[_CALLER] = await self._caller(HTTPConnection(scope))
        await self._app(scope, receive, send)

    async def _caller(self, connection: HTTPConnection) -> Caller:
        method, path = connection.scope["method"], connection.scope["path"]
        token, response = connection.query_params.get("token"), _RESPONSE.fullmatch(path)
        if token and response and method == "GET" and await self._authentication.is_required():
            return await self._stream_tokens.caller(token, response[1])
        caller = _acting(connection, await self._authentication.caller(connection))
        reads = method in _READS or _STREAM_TOKEN.fullmatch(path)
        caller.require("read" if reads else "write")
        return caller


def _is_public(path: str) -> bool:
    return path in _PUBLIC or path.startswith(_PUBLIC_FOLDER)


def _acting(connection: HTTPConnection, caller: Caller) -> Caller:
    """The caller, for whom they say that they act.

    Raises:
        Forbidden: they may not act for them.
        BadRequest: there can be no such principal.
    """
    principal = connection.headers.get(ACTS_FOR)
    if principal is None:
        return caller
    if not caller.may_act_for(principal):
        raise Forbidden(f"This key may not act for the principal {shortened(principal)!r}.")
    try:
        return replace(caller, principal=principal)
    except ValueError as error:
        raise BadRequest(f"The header {ACTS_FOR}: {error}.") from None


def caller_of(request: Request) -> Caller:
    """Who sent a request."""
    caller: Caller = request.scope[_CALLER]
    return caller


def principal_of(request: Request) -> str:
    """Whom a request is made for: they own what it creates, and see what is theirs."""
    return caller_of(request).principal


async def reader_of(
    request: Request, response_id: str, owner: Callable[[str], Awaitable[str | None]]
) -> str:
    """Whose responses a request may read when it asks for one: an admin's are everybody's.

    Args:
        owner: says whose a response is.
    """
    caller = caller_of(request)
    if not caller.is_admin or ACTS_FOR in request.headers or not ids.is_response_id(response_id):
        return caller.principal
    found = await owner(response_id)
    return caller.principal if found is None else found
