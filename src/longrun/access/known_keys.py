"""Keys that were looked up lately, so that a request does not ask Postgres who is calling.

What is remembered is forgotten after `LONGRUN_KEY_CACHE_SECONDS`, and at once when a replica or a
command says that keys have changed; so a key that was revoked is refused everywhere within
seconds, with NOTIFY and without it.
"""

import asyncio
import logging
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final, Protocol

from longrun.access.callers import Caller
from longrun.access.keys import hash_of, matches, prefix_of
from longrun.errors import Unavailable
from longrun.store.keys import StoredKey

log = logging.getLogger("longrun.access")

MOST_REMEMBERED: Final = 10_000
"""Prefixes, those that nobody has too: guesses take no more memory than this, and no more
questions to Postgres than one for each of them."""

_NOBODYS: Final = hash_of("")
"""What a key is compared with where there is none, so that both take the same time."""


class KeyStore(Protocol):
    """Where keys are kept; `store/keys.py`."""

    async def find(self, prefix: str) -> StoredKey | None: ...

    async def exist(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class _Known:
    key: StoredKey | None
    until: float


class KnownKeys:
    """The keys of this replica's callers.

    Args:
        seconds: how long an answer of Postgres is taken for true.
    """

    def __init__(self, keys: KeyStore, seconds: float) -> None:
        self._keys = keys
        self._seconds = seconds
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._any: bool | None = None
        self._any_until = 0.0
        self._changes = 0

    def forget(self) -> None:
        """Keys have changed somewhere: ask again. A hint; sets flags only."""
        self._changes += 1
        self._known.clear()
        self._any_until = 0.0

    async def exist(self) -> bool:
        """Whether a key was ever created. Once one was, that stays so.

        Raises:
            Unavailable: Postgres is away, and has never been asked.
        """
        now = asyncio.get_running_loop().time()
        if self._any or now < self._any_until:
            return bool(self._any)
        try:
            found = await self._keys.exist()
        except Unavailable:
            if self._any is None:
                raise
            # Asked again with the next request; until then what was true is.
            return self._any
        self._any, self._any_until = found, now + self._seconds
        return found

    async def caller(self, text: str) -> Caller | None:
        """Whose key a text is; None where it is nobody's, or no longer.

        Raises:
            Unavailable: Postgres is away, and the key has not been seen lately.
        """
        prefix = prefix_of(text)
        if prefix is None:
            return None
        key = await self._find(prefix)
        if not matches(text, _NOBODYS if key is None else key.hash) or key is None:
            return None
        return Caller(
            key.principal,
            key.scopes,
            key.prefix,
            key.agent,
            max_runs=key.max_runs,
            max_requests=key.max_requests,
            max_tokens=key.max_tokens,
            # A chat token's user is below the principal that created it, and has no `/` in it.
            account=None if key.agent is None else key.principal.rpartition("/")[0],
        )

    async def _find(self, prefix: str) -> StoredKey | None:
        now = asyncio.get_running_loop().time()
        known = self._known.get(prefix)
        if known is not None and now < known.until:
            return known.key
        changes = self._changes
        key = await self._keys.find(prefix)
        lasts = self._seconds
        if key is not None and key.expires_in is not None:
            lasts = min(lasts, key.expires_in)
        if changes == self._changes:
            self._known[prefix] = _Known(key, now + lasts)
            self._known.move_to_end(prefix)
            if len(self._known) > MOST_REMEMBERED:
                self._known.popitem(last=False)
        return key
