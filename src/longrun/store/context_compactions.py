"""Compacted contexts on their way to clients and back: signed, for one principal alone.

What a client gets as `encrypted_content` stands by itself: nothing of it is stored, so it is good
after a restart, on any replica, and as long as the client keeps it. It is signed with a secret that
is in Postgres, one for all replicas; and where stored data is encrypted (LONGRUN_ENCRYPTION_KEYS)
it is encrypted too, with the key ring. Without a key ring whoever holds it may decode it: it tells
what they have said and got themselves.
"""

import hashlib
import secrets
from collections.abc import Iterable
from typing import Final

from itsdangerous import BadData, URLSafeSerializer

from longrun.errors import CompactionUnreadable, Unreadable
from longrun.history.context_compaction import PREFIX, Compacted
from longrun.store.database import Database
from longrun.store.sealing import Place

_PURPOSE: Final = "context_compaction"

_BEGINS: Final = f"{PREFIX}1."
"""With the version of the format."""


class ContextCompactions:
    """Signs and reads them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queries = database.queries
        self._sealing = database.sealing
        self._secret: str | None = None

    async def content(self, compacted: Compacted, principal: str) -> str:
        """The `encrypted_content` of an item that carries a compacted context of a principal's.

        Raises:
            Unavailable: Postgres is away.
        """
        serializer = await self._serializer(principal)
        return _BEGINS + str(
            serializer.dumps(self._sealing.seal_text(_place(principal), compacted.text()))
        )

    async def opened(self, contents: Iterable[str], principal: str) -> dict[str, Compacted]:
        """What each of these `encrypted_content` of a principal's carries.

        Raises:
            CompactionUnreadable: one is not as it was given to that principal.
            Unavailable: Postgres is away.
        """
        wanted = set(contents)
        if not wanted:
            return {}
        serializer = await self._serializer(principal)
        return {content: self._opened(content, principal, serializer) for content in wanted}

    def _opened(self, content: str, principal: str, serializer: URLSafeSerializer) -> Compacted:
        try:
            sealed = serializer.loads(content.removeprefix(_BEGINS))
            return Compacted.read(self._sealing.open_text(_place(principal), sealed))
        except (BadData, Unreadable):
            # Of what is signed and cannot be decrypted, the log names the key that is missing.
            raise CompactionUnreadable(content) from None

    async def _serializer(self, principal: str) -> URLSafeSerializer:
        while self._secret is None:
            # Of two that make one at once, the second sees the first's at the next look.
            row = await self._database.fetch_row(
                self._queries.signing_secret, _PURPOSE, secrets.token_urlsafe(32)
            )
            self._secret = None if row is None else row["secret"]
        return URLSafeSerializer(
            self._secret,
            salt=f"longrun.{_PURPOSE} {principal}",
            signer_kwargs={"digest_method": hashlib.sha256, "key_derivation": "hmac"},
        )


def _place(principal: str) -> Place:
    """Each principal's are encrypted with a key of their own, and opened for no other."""
    return Place(f"principal {principal}", _PURPOSE)
