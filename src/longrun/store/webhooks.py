"""Webhook endpoints as their API reads and changes them. What one is, its secrets included, is
encrypted where a store is."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from asyncpg import Record

from longrun.jsontext import dumps, loads
from longrun.store.database import Connection, Database
from longrun.store.sealing import Sealing, webhook_place

OF_SETTINGS: Final = "settings"
"""The id of the endpoint that the settings name, which belongs to no principal."""


@dataclass(frozen=True, slots=True)
class Document:
    """What an endpoint is, besides its events.

    Attributes:
        secret: `whsec_…`, with which is signed.
        previous: the secret before that one, which signs besides for some time.
    """

    name: str
    url: str
    secret: str
    previous: str | None = None

    @classmethod
    def opened(cls, endpoint_id: str, text: str, sealing: Sealing) -> "Document":
        """What is stored of it.

        Raises:
            Unreadable: it cannot be decrypted.
        """
        return cls(**loads(sealing.open_text(webhook_place(endpoint_id), text)))

    def sealed(self, endpoint_id: str, sealing: Sealing) -> str:
        """As it is stored."""
        return sealing.seal_text(webhook_place(endpoint_id), dumps(asdict(self)).decode())


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A webhook endpoint; times in seconds since the epoch.

    Attributes:
        overlaps: the secret before signs, too.
        disabled_at: since when nothing is delivered, as it answered 410, or nothing could be
            delivered for days; None: it is.
    """

    id: str
    event_types: tuple[str, ...]
    document: Document
    created_at: int
    updated_at: int
    disabled_at: int | None
    overlaps: bool

    @property
    def secrets(self) -> tuple[str, ...]:
        """What signs, the newest first."""
        return signing(self.document, overlaps=self.overlaps)


def signing(document: Document, *, overlaps: bool) -> tuple[str, ...]:
    """The secrets that sign, the newest first."""
    before = document.previous if overlaps else None
    return (document.secret,) if before is None else (document.secret, before)


class WebhookEndpoints:
    """The endpoints of all principals; each call names the one that it is for.

    Every method raises `Unavailable` when Postgres is away, and those that give something
    `Unreadable` when it cannot be opened. None or False where an endpoint is not there or is
    another principal's, which cannot be told apart.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queries = database.queries
        self._sealing = database.sealing

    async def create(
        self,
        endpoint_id: str,
        principal: str,
        event_types: Sequence[str],
        document: Document,
        most: int,
    ) -> Endpoint | None:
        """A new endpoint; None: the principal has `most` of them already."""
        rows = await self._database.fetch_once(
            self._queries.create_webhook_endpoint,
            endpoint_id,
            principal,
            event_types,
            document.sealed(endpoint_id, self._sealing),
            most,
        )
        return self._opened(rows[0]) if rows else None

    async def get(self, endpoint_id: str, principal: str) -> Endpoint | None:
        row = await self._database.fetch_row(
            self._queries.get_webhook_endpoint, endpoint_id, principal
        )
        return self._opened(row) if row else None

    async def page(self, principal: str, after: str | None, limit: int) -> list[Endpoint]:
        """Some of a principal's, the newest first, after the one with that id."""
        rows = await self._database.fetch(
            self._queries.list_webhook_endpoints, principal, after, limit
        )
        return [self._opened(row) for row in rows]

    async def update(
        self,
        endpoint_id: str,
        principal: str,
        *,
        event_types: Sequence[str] | None,
        name: str | None,
        url: str | None,
    ) -> Endpoint | None:
        """Change what is given of it; what was disabled is enabled again. Where nothing would be
        another, nothing is written."""

        async def change(connection: Connection, before: Endpoint) -> Record | None:
            given = {k: v for k, v in (("name", name), ("url", url)) if v is not None}
            document = replace(before.document, **given)
            types = before.event_types if event_types is None else tuple(event_types)
            same = (document, types) == (before.document, before.event_types)
            if same and before.disabled_at is None:
                return None
            return await connection.fetchrow(
                self._queries.update_webhook_endpoint,
                endpoint_id,
                principal,
                types,
                document.sealed(endpoint_id, self._sealing),
            )

        return await self._changed(endpoint_id, principal, change)

    async def rotate(
        self, endpoint_id: str, principal: str, secret: str, overlap: float
    ) -> Endpoint | None:
        """Give it another secret; the one before signs, too, for `overlap` more seconds."""

        async def change(connection: Connection, before: Endpoint) -> Record | None:
            document = replace(
                before.document,
                secret=secret,
                previous=before.document.secret if overlap else None,
            )
            return await connection.fetchrow(
                self._queries.rotate_webhook_secret,
                endpoint_id,
                principal,
                document.sealed(endpoint_id, self._sealing),
                overlap,
            )

        return await self._changed(endpoint_id, principal, change)

    async def _changed(
        self, endpoint_id: str, principal: str, change: Callable[[Connection, Endpoint], Any]
    ) -> Endpoint | None:
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(
                self._queries.lock_webhook_endpoint, endpoint_id, principal
            )
            if row is None:
                return None
            before = self._opened(row)
            changed = await change(connection, before)
        return before if changed is None else self._opened(changed)

    async def delete(self, endpoint_id: str, principal: str) -> bool:
        rows = await self._database.fetch_once(
            self._queries.delete_webhook_endpoint, endpoint_id, principal
        )
        return bool(rows)

    def _opened(self, row: Record) -> Endpoint:
        disabled = row["disabled_at"]
        return Endpoint(
            row["id"],
            tuple(row["event_types"]),
            Document.opened(row["id"], row["document"], self._sealing),
            int(row["created_at"].timestamp()),
            int(row["updated_at"].timestamp()),
            None if disabled is None else int(disabled.timestamp()),
            row["overlaps"],
        )
