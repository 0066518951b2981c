"""Every request but those for public paths is somebody's, and may do what they may do.

An admin sees what is any principal's, under its id, and lists what is everybody's with the header
`longrun-principal: *`; to change something they say there for whom they act. Others may act for
principals below theirs.
"""

import re
from collections.abc import Awaitable, Callable
from functools import partial
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

EVERYBODY: Final = "*"
"""What an admin says there to read whatever is anybody's."""

_PUBLIC: Final = frozenset({"/", "/healthz", "/readyz", "/metrics", "/openapi.json"})
"""Nothing of a principal's is there."""

_PUBLIC_FOLDER: Final = "/console/"

_READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})


_STREAM_TOKEN: Final = re.compile(r"(?:/v1)?/responses/([^/]+)/stream_token")
"""To ask for one is to read, by whatever method."""

_RESPONSE: Final = re.compile(r"(?:/v1)?/responses/([^/]+)")

_AGAIN: Final = "longrun.caller_again"
"""Where the scope of a WebSocket has what finds out anew who is at its other end."""

KEY_PROTOCOL: Final = "openai-insecure-api-key."
"""Begins a WebSocket subprotocol that is a key, as OpenAI has it: pages cannot set headers."""


class Access:
    """Finds out who sent a request before anything else is done for it."""

    def __init__(
        self, app: ASGIApp, *, authentication: Authentication, stream_tokens: StreamTokens
    ) -> None:
        self._app = app
        self._authentication = authentication
        self._stream_tokens = stream_tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            scope = _with_key(scope)
            scope[_AGAIN] = partial(self._caller, HTTPConnection(scope))
        if scope["type"] in ("http", "websocket") and not _is_public(path_of(scope)):
            scope[_CALLER] = await self._caller(HTTPConnection(scope))
        await self._app(scope, receive, send)

    async def _caller(self, connection: HTTPConnection) -> Caller:
        # By a WebSocket, runs are started.
        method, path = connection.scope.get("method", "POST"), path_of(connection.scope)
        if method == "GET" and (response := _RESPONSE.fullmatch(path)):
            token = connection.query_params.get("token")
            if token and await self._authentication.is_required():
                return await self._stream_tokens.caller(token, response[1])
        caller = _acting(connection, await self._authentication.caller(connection))
        reads = method in _READS or _STREAM_TOKEN.fullmatch(path)
        caller.require("read" if reads else "write")
        if connection.headers.get(ACTS_FOR) == EVERYBODY and method not in _READS:
            raise BadRequest(
                f"The header {ACTS_FOR} must name a principal here: {EVERYBODY!r} is for reading "
                "only."
            )
        return caller


def path_of(scope: Scope) -> str:
    """The path of a request within this application, which may be mounted in another."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def _is_public(path: str) -> bool:
    return path in _PUBLIC or path.startswith(_PUBLIC_FOLDER)


def _with_key(scope: Scope) -> Scope:
    """The scope of a WebSocket, with the key that is among its subprotocols as if it had come in
    the header."""
    named = {name for name, _ in scope["headers"]}
    for each in scope.get("subprotocols", ()):
        key = each.removeprefix(KEY_PROTOCOL)
        if key != each and b"authorization" not in named:
            said = (b"authorization", b"Bearer " + key.encode("latin-1", "replace"))
            return {**scope, "headers": [*scope["headers"], said]}
    return scope


def _acting(connection: HTTPConnection, caller: Caller) -> Caller:
    """The caller, for whom they say that they act.

    Raises:
        Forbidden: they may not act for them.
        BadRequest: there can be no such principal, or they name several.
    """
    said = connection.headers.getlist(ACTS_FOR)
    if not said:
        return caller
    if len(said) > 1:
        # Which of them a proxy in front has looked at is not known.
        raise BadRequest(f"The header {ACTS_FOR} must be sent once.")
    [principal] = said
    if principal == EVERYBODY and caller.is_admin:
        return caller
    if not caller.may_act_for(principal):
        raise Forbidden(f"This key may not act for the principal {shortened(principal)!r}.")
    try:
        return caller.acting_for(principal)
    except ValueError as error:
        raise BadRequest(f"The header {ACTS_FOR}: {error}.") from None


def known_caller(scope: Scope) -> Caller | None:
    """Who sent a request, where that was asked."""
    caller: Caller | None = scope.get(_CALLER)
    return caller


def caller_of(request: HTTPConnection) -> Caller:
    """Who sent a request."""
    caller: Caller = request.scope[_CALLER]
    return caller


async def caller_again(connection: HTTPConnection) -> Caller:
    """Who is at the other end of a WebSocket now: a key may have been revoked, or have expired.

    Raises:
        Unauthorized: nobody who may call any more.
        Unavailable: this cannot be found out just now.
    """
    find: Callable[[], Awaitable[Caller]] = connection.scope[_AGAIN]
    return await find()


def for_everybody(request: Request) -> bool:
    """Whether a request is an admin's, to read what is everybody's."""
    return caller_of(request).is_admin and request.headers.get(ACTS_FOR) == EVERYBODY


def principal_of(request: Request) -> str:
    """Whom a request is made for: they own what it creates, and see what is theirs."""
    return caller_of(request).principal


async def reader_of(
    request: Request,
    id_: str,
    owner: Callable[[str], Awaitable[str | None]],
    is_id: Callable[[str], bool] = ids.is_response_id,
) -> str:
    """Whose responses or conversations a request may read when it asks for one: an admin's are
    everybody's.

    Args:
        owner: says whose the one with this id is.
    """
    caller = caller_of(request)
    acts = ACTS_FOR in request.headers and not for_everybody(request)
    if not caller.is_admin or acts or not is_id(id_):
        return caller.principal
    found = await owner(id_)
    return caller.principal if found is None else found
