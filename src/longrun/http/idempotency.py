"""`Idempotency-Key`: a request that was sent before is answered with the response that it created
(contract, "Requests")."""

import asyncio
import contextlib
import hashlib
import re
from collections.abc import Callable
from typing import Any, Final, TypeVar

from starlette.requests import Request

from longrun.errors import BadRequest, LongrunError
from longrun.http.access import principal_of
from longrun.http.creations import Runs
from longrun.http.rates import check_run, count_repeated
from longrun.jsontext import canonical
from longrun.protocol import Once
from longrun.store.idempotency import Created, IdempotencyKeys

T = TypeVar("T")

HEADER: Final = "Idempotency-Key"

DOES: Final = (
    "Makes the request safe to repeat: sent again with the same key and body, it is answered with "
    "the response that it created, streamed or plain. Up to 255 characters of printable ASCII."
)

_KEY: Final = re.compile(r"[ -~]{1,255}")

_OF_THE_ANSWER: Final = frozenset({"stream", "stream_options"})
"""Parameters that say how the answer comes, and nothing of the response."""


def key_of(request: Request) -> str | None:
    """The key of a request; None: it has none.

    Raises:
        BadRequest: it cannot be a key.
    """
    said = request.headers.getlist(HEADER)
    if not said:
        return None
    if len(said) > 1:
        raise BadRequest(f"The header {HEADER} must be sent once.", param=HEADER)
    if not _KEY.fullmatch(said[0]):
        raise BadRequest(
            f"The header {HEADER} must be 1 to 255 characters of printable ASCII.", param=HEADER
        )
    return said[0]


def parsed(parse: Callable[[Any], T], key: str | None, body: Any) -> tuple[T, Once | None]:
    """A decoded body as it is parsed, and what it is with a key. May be called in a thread."""
    return parse(body), None if key is None else once(key, body)


def once(key: str, body: Any) -> Once:
    """What a key and a decoded body stand for: the same request has the same, however its JSON is
    written, and however its answer is to come."""
    said = body
    if isinstance(body, dict):
        said = {
            name: value
            for name, value in body.items()
            if value is not None and name not in _OF_THE_ANSWER
        }
    return Once(key, hashlib.sha256(canonical(said)).digest())


async def earlier(request: Request, key: str, keys: IdempotencyKeys) -> Created | None:
    """What the key of a request has created, found before anything of the request is read.

    A repeated request counts among a principal's other ones, and not among those for a run; only
    of one that is none it matters whether there was room among these.

    Raises:
        RateLimited: there was none, or there are too many other requests.
    """
    found = await keys.find(principal_of(request), key)
    if found is None:
        check_run(request.scope)
    else:
        await count_repeated(request.scope)
    return found


class Awaited:
    """Ends runs that nobody waits for any more, of foreground requests with a key: not when a
    client goes, which may come back for its response, but some time after the last one.

    Args:
        seconds: that time.
    """

    def __init__(self, keys: IdempotencyKeys, runs: Runs, seconds: float) -> None:
        self._keys = keys
        self._runs = runs
        self._seconds = seconds

    async def joined(self, principal: str, key: str, response_id: str) -> None:
        """Another connection waits for a response."""
        await self._keys.change_awaited(principal, key, response_id, 1)

    def left(self, principal: str, key: str, response_id: str) -> None:
        """A connection has gone that waited for it."""
        self._runs.soon(self._leave(principal, key, response_id))

    async def _leave(self, principal: str, key: str, response_id: str) -> None:
        def look() -> None:
            self._runs.soon(self._end_unless_awaited(principal, key, response_id))

        with contextlib.suppress(LongrunError):
            await self._keys.change_awaited(principal, key, response_id, -1)
            asyncio.get_running_loop().call_later(self._seconds, look)

    async def _end_unless_awaited(self, principal: str, key: str, response_id: str) -> None:
        with contextlib.suppress(LongrunError):
            if not await self._keys.is_awaited(principal, key, response_id):
                self._runs.cancel_soon(response_id, principal)
