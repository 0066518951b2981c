"""API keys in Postgres; of each only a hash."""

from dataclasses import dataclass
from typing import Any, Final

from longrun.store.announcements import control_channel
from longrun.store.database import Database

KEYS_CHANGED: Final = "keys"
"""The message of the control channel by which replicas hear of it."""


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key that is valid.

    Attributes:
        agent: the only one that may be run with it, for a chat token.
        max_runs: live responses of its principal beyond which it creates none; None: no limit.
        max_requests: how often a run may be asked for with it in a minute; None: no limit.
        max_tokens: tokens of its principal in a day beyond which it creates none; None: no limit.
        expires_in: seconds from now; None: it does not expire.
    """

    prefix: str
    hash: bytes
    principal: str
    scopes: frozenset[str]
    agent: str | None
    max_runs: int | None
    expires_in: float | None
    max_requests: int | None = None
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class KeyToStore:
    """A key to be created.

    Attributes:
        expires_in: seconds; None: never.
        agent: the only one that may be run with it: it is a chat token then, for a page.
        runs: how many of them.
        max_runs, max_requests, max_tokens: as of `StoredKey`.
    """

    prefix: str
    hash: bytes
    name: str
    principal: str
    scopes: frozenset[str]
    expires_in: float | None = None
    agent: str | None = None
    runs: int | None = None
    max_runs: int | None = None
    max_requests: int | None = None
    max_tokens: int | None = None


class Keys:
    """The keys of all principals."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queries = database.queries

    async def find(self, prefix: str) -> StoredKey | None:
        """The key with a public part, if it is valid now."""
        row = await self._database.fetch_row(self._queries.find_key, prefix)
        return None if row is None else StoredKey(**{**row, "scopes": frozenset(row["scopes"])})

    async def exist(self) -> bool:
        """Whether a key was ever created."""
        row = await self._database.fetch_row(self._queries.any_key)
        return bool(row and row[0])

    async def create(self, key: KeyToStore) -> bool:
        """Store a key. False: another key has this name."""
        async with self._database.transaction() as connection:
            created = await connection.fetchrow(*self._insert(key))
            if key.agent is None:
                await self._tell(connection)
        return created is not None

    def _insert(self, key: KeyToStore) -> tuple[Any, ...]:
        return self._queries.bind(
            "create_key",
            prefix=key.prefix,
            hash=key.hash,
            name=key.name,
            principal=key.principal,
            scopes=sorted(key.scopes),
            expires_in=key.expires_in,
            agent=key.agent,
            runs_left=key.runs,
            max_runs=key.max_runs,
            max_requests=key.max_requests,
            max_tokens=key.max_tokens,
        )

    async def rotate(self, name: str, prefix: str, hash_: bytes, overlap: float) -> bool:
        """Give a key's name, principal, scopes and limits to a new one. The old one stays valid for
        `overlap` more seconds; the new one does not expire. False: no key has this name."""
        async with self._database.transaction() as connection:
            old = await connection.fetchrow(self._queries.replace_key, name, overlap)
            if old is None:
                return False
            new = KeyToStore(prefix, hash_, name, **{**old, "scopes": frozenset(old["scopes"])})
            await connection.fetchrow(*self._insert(new))
            await self._tell(connection)
        return True

    async def revoke(self, name_or_prefix: str) -> list[str]:
        """Revoke what has this name, or this prefix; returns the prefixes."""
        async with self._database.transaction() as connection:
            rows = await connection.fetch(self._queries.revoke_keys, name_or_prefix)
            await self._tell(connection)
        return [row["prefix"] for row in rows]

    async def all(self) -> list[dict[str, Any]]:
        """Every key, the oldest first, without its hash."""
        return [dict(row) for row in await self._database.fetch(self._queries.list_keys)]

    async def use_run(self, prefix: str) -> bool:
        """Take one of a chat token's runs. False: there are none left."""
        return await self._database.fetch_row(self._queries.use_run, prefix) is not None

    async def give_run_back(self, prefix: str) -> None:
        """A run that was taken of a chat token's was not started."""
        await self._database.execute(self._queries.give_run_back, prefix)

    async def secrets(self, fresh: str) -> list[str]:
        """What stream tokens are signed with, the newest last; `fresh` is that where there is none
        of the last day."""
        rows = await self._database.fetch(self._queries.token_secrets, fresh)
        return [row["secret"] for row in rows]

    async def forget_chat_tokens(self) -> None:
        """Delete those that expired a day ago."""
        await self._database.execute(self._queries.forget_chat_tokens)

    async def _tell(self, connection: Any) -> None:
        """Have every replica look again."""
        channel = control_channel(self._database.settings.db_schema)
        await connection.execute(self._queries.tell_keys_changed, channel, KEYS_CHANGED)
