"""Stream tokens: let a browser's EventSource, which can send no key, read one response for a while.

A token says which response, whose it is and until when, and is signed. What it is signed with is in
Postgres, new each day, so that every replica takes the tokens of all.
"""

import asyncio
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from itsdangerous import BadData, URLSafeSerializer

from longrun.access.callers import Caller
from longrun.errors import Unauthorized

REMEMBERED: Final = 600.0
"""Seconds after which the secrets are read again."""

SOONEST: Final = 2.0
"""Seconds between two readings, however many tokens come that none of them has signed."""

_SALT: Final = "longrun.stream_token"

_READS: Final = frozenset({"read"})


class Secrets(Protocol):
    """Where the secrets are kept; `store/keys.py`."""

    async def secrets(self, fresh: str) -> list[str]: ...


@dataclass(frozen=True, slots=True)
class StreamToken:
    """A token, and until when it is taken, in seconds since 1970."""

    text: str
    expires_at: int


class StreamTokens:
    """Gives tokens, and tells whose they are.

    Args:
        seconds: how long a token is taken. A stream that it opened goes on after that.
    """

    def __init__(self, store: Secrets, seconds: float) -> None:
        self._store = store
        self._seconds = seconds
        self._secrets: Sequence[str] = ()
        self._read_at = float("-inf")

    async def issue(self, response_id: str, principal: str) -> StreamToken:
        """A token for one response of a principal.

        Raises:
            Unavailable: Postgres is away.
        """
        expires_at = int(time.time() + self._seconds)
        said = [response_id, principal, expires_at]
        return StreamToken(str((await self._serializer(REMEMBERED)).dumps(said)), expires_at)

    async def caller(self, token: str, response_id: str) -> Caller:
        """Whoever may read a response by a token.

        Raises:
            Unauthorized: it is not one of ours, of another response, or too old.
            Unavailable: Postgres is away.
        """
        said = await self._said(token)
        if said is None or said[0] != response_id:
            raise Unauthorized("Incorrect stream token provided.", param="token")
        if said[2] < time.time():
            raise Unauthorized("The stream token has expired.", param="token", code="token_expired")
        return Caller(said[1], _READS)

    async def _said(self, token: str) -> list[Any] | None:
        # Another replica may have signed it with a secret that is newer than those read here.
        for age in (REMEMBERED, SOONEST):
            try:
                said: list[Any] = (await self._serializer(age)).loads(token)
            except BadData:
                continue
            return said
        return None

    async def _serializer(self, age: float) -> URLSafeSerializer:
        now = asyncio.get_running_loop().time()
        if now - self._read_at > age:
            self._secrets = await self._store.secrets(secrets.token_urlsafe(32))
            self._read_at = now
        return URLSafeSerializer(list(self._secrets), salt=_SALT)
