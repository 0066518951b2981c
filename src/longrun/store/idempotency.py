"""Idempotency keys: what a principal created with one is found again, and created once.

The creation itself claims the key (`create_response` and `create_responses` in
`sql/queries/responses.sql`). Here are the hashes that it is known by, and what finds it.

A key is stored as a hash of it and its principal, the body of its request as a hash that the
response's id is part of. With encryption keys both are keyed by those, once by each of the ring:
replicas whose rings differ by one, as while a key is rotated, still mean the same.
"""

from dataclasses import dataclass
from typing import Any, Final

from longrun.protocol import Once, RunRequest, Status, is_terminal
from longrun.store.database import Database
from longrun.store.sealing import Sealing

HASH_BYTES: Final = 32


def key_hashes(sealing: Sealing, principal: str, key: str) -> list[bytes]:
    """What a principal's key is found by."""
    return sealing.keyed_hashes("idempotency key", principal, key)


def body_hash(sealing: Sealing, response_id: str, digest: bytes) -> bytes:
    """What the body that created a response is told by: a hash for each key of the ring."""
    return b"".join(sealing.keyed_hashes("request body", response_id, digest.hex()))


def columns_of_key(request: RunRequest, sealing: Sealing) -> dict[str, Any]:
    """The parameters of `create_response` that claim the key of a request."""
    once = request.once
    if once is None:
        return {"key_hashes": None, "body_hash": None}
    return {
        "key_hashes": key_hashes(sealing, request.principal, once.key),
        "body_hash": body_hash(sealing, request.response_id, once.digest),
    }


@dataclass(frozen=True, slots=True)
class Created:
    """What was created with a key.

    Attributes:
        status: of the response; None: it is gone.
        body_hash: what the body of its request is told by.
    """

    response_id: str
    status: Status | None
    body_hash: bytes | None

    @property
    def finished(self) -> bool:
        return self.status is not None and is_terminal(self.status)


class IdempotencyKeys:
    """The keys of all principals."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queries = database.queries
        self._sealing = database.sealing
        self._seconds = database.settings.idempotency_key_seconds

    async def find(self, principal: str, key: str) -> Created | None:
        """What the principal has created with a key, if anything, as far as it is remembered."""
        hashes = key_hashes(self._sealing, principal, key)
        row = await self._database.fetch_row(
            self._queries.find_by_key, principal, hashes, self._seconds
        )
        return Created(**row) if row else None

    def is_same(self, created: Created, once: Once) -> bool:
        """Whether a request is the one that created a response, by its body."""
        stored = created.body_hash or b""
        known = {stored[at : at + HASH_BYTES] for at in range(0, len(stored), HASH_BYTES)}
        found = body_hash(self._sealing, created.response_id, once.digest)
        return any(found[at : at + HASH_BYTES] in known for at in range(0, len(found), HASH_BYTES))

    async def change_awaited(self, principal: str, key: str, response_id: str, by: int) -> None:
        """So many connections more wait for a response that was created with a key, or fewer."""
        hashes = key_hashes(self._sealing, principal, key)
        await self._database.execute(
            self._queries.change_awaited, principal, hashes, response_id, by
        )

    async def is_awaited(self, principal: str, key: str, response_id: str) -> bool:
        """Whether any connection waits for it."""
        hashes = key_hashes(self._sealing, principal, key)
        rows = await self._database.fetch(self._queries.is_awaited, principal, hashes, response_id)
        return bool(rows)

    async def expire(self) -> int:
        """Delete some keys whose time is over; returns how many."""
        rows = await self._database.fetch_once(self._queries.forget_keys, self._seconds)
        return len(rows)
