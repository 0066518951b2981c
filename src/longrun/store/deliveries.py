"""What is to be delivered to webhook endpoints: claimed by whichever replica comes first, and noted
what became of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from asyncpg import Record

from longrun.store.database import Database
from longrun.store.webhooks import OF_SETTINGS, Document

ENDPOINTS_AT_ONCE: Final = 200
"""Endpoints with something to deliver that one claim looks at; the next goes on after them."""

LONGEST_EXACT: Final = 10.0
"""When something was last delivered to an endpoint is noted to within so many seconds at most."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event that is to be delivered to one endpoint, and claimed.

    Attributes:
        created_at: when what it tells of happened, in seconds since the epoch.
        attempt: which one this is, from 1; it is named when what became of it is noted.
        failures: how many attempts have failed.
        document: what its endpoint is, as it is stored; None: that is in the settings.
        overlaps: the endpoint's secret before signs, too.
        closed: the endpoint was deleted, or takes nothing.
        enabled_at: when its endpoint was last created, changed or enabled; None: it was deleted.
    """

    id: str
    endpoint_id: str
    event_id: str
    type: str
    response_id: str
    created_at: int
    attempt: int
    failures: int
    document: str | None
    overlaps: bool
    closed: bool
    enabled_at: datetime | None


@dataclass(frozen=True, slots=True)
class Claimed:
    """What one claim gave; `whole`: it came to the last endpoint, else there may be more."""

    deliveries: Sequence[Delivery]
    whole: bool


class Deliveries:
    """The outbox, as one replica empties it.

    Every method raises `Unavailable` when Postgres is away.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queries = database.queries
        self._sealing = database.sealing
        self._after = ""

    async def renew_settings(self, events: Sequence[str], *, started: bool) -> None:
        """Say that this replica's settings have an endpoint: for an hour, what ends is kept for it.

        Args:
            started: the replica has just started, so an endpoint that was disabled is enabled.
        """
        await self._database.execute(self._queries.renew_settings_endpoint, events, started)

    async def claim(
        self, limit: int, each: int, lease: float, busy: Mapping[str, int], *, of_settings: bool
    ) -> Claimed:
        """Claim what is due.

        Args:
            limit: how much at most.
            each: how much of one endpoint at most, with what is `busy`.
            lease: seconds after which it is due again, unless what became of it was noted.
            busy: by endpoint, how much is being delivered here; `each` or more: nothing else.
            of_settings: what is for the endpoint of the settings as well.
        """
        busy = busy if of_settings else {**busy, OF_SETTINGS: each}
        rows = await self._database.fetch_once(
            *self._queries.bind(
                "claim_deliveries",
                after=self._after,
                endpoints=ENDPOINTS_AT_ONCE,
                each=each,
                busy=list(busy),
                busy_counts=list(busy.values()),
                limit=limit,
                lease=lease,
            )
        )
        found = [_delivery(row) for row in rows if row["id"] is not None]
        to_the_last = rows[0]["looked_at"] < ENDPOINTS_AT_ONCE and len(found) < limit
        if to_the_last:
            self._after = ""
        elif len(found) < limit:
            self._after = rows[0]["last"]
        else:
            # Of this endpoint there may be more; so that others have their turn, it is after them.
            self._after = max(each.endpoint_id for each in found)
        return Claimed(found, to_the_last)

    def document(self, delivery: Delivery) -> Document:
        """What the endpoint of a delivery is, unless that is in the settings.

        Raises:
            Unreadable: it cannot be decrypted.
        """
        assert delivery.document is not None
        return Document.opened(delivery.endpoint_id, delivery.document, self._sealing)

    async def delivered(self, delivery: Delivery, status_code: int, retry_for: float) -> None:
        """An attempt was answered with a 2xx."""
        await self._database.execute(
            self._queries.note_delivered,
            delivery.id,
            delivery.attempt,
            status_code,
            min(LONGEST_EXACT, retry_for / 100),
        )

    async def not_delivered(
        self,
        delivery: Delivery,
        status_code: int | None,
        problem: str,
        pause: float,
        retry_for: float,
        *,
        gone: bool = False,
    ) -> tuple[bool, bool]:
        """An attempt has failed.

        Args:
            status_code: that of the answer; None: there was none.
            pause: seconds to the next attempt.
            retry_for: seconds after the first attempt beyond which there is none.
            gone: the endpoint wants nothing more, so that it is given up, and the endpoint is
                disabled unless it was changed since the delivery was claimed.

        Returns:
            Whether it was given up, and whether its endpoint was disabled for it.
        """
        rows = await self._database.fetch_once(
            *self._queries.bind(
                "note_not_delivered",
                id=delivery.id,
                attempt=delivery.attempt,
                status_code=status_code,
                problem=problem,
                pause=pause,
                most=retry_for,
                gone=gone,
                enabled_at=delivery.enabled_at,
            )
        )
        return (rows[0]["given_up"], rows[0]["disabled"]) if rows else (False, False)

    async def drop(self, delivery: Delivery) -> None:
        """Its endpoint was deleted, or takes nothing."""
        await self._database.execute(self._queries.drop_delivery, delivery.id, delivery.attempt)

    async def give_back(self, deliveries: Sequence[Delivery]) -> None:
        """These were claimed, and are not tried here."""
        await self._database.execute(
            self._queries.return_deliveries,
            [each.id for each in deliveries],
            [each.attempt for each in deliveries],
        )

    async def sample(self) -> Record:
        """How much is `pending`, for how long the `oldest` of it is tried, and how many endpoints
        are `disabled`."""
        row = await self._database.fetch_row(self._queries.sample_webhooks)
        assert row is not None
        return row

    async def forget(self, seconds: float, due_for: float) -> int:
        """Delete some of what was created so long ago and is over, or is due for so long though
        nobody delivers it; returns how many."""
        rows = await self._database.fetch_once(self._queries.forget_deliveries, seconds, due_for)
        return len(rows)

    # -- for operators ------------------------------------------------------------------------

    async def list_unscoped(self, limit: int, **filters: str | None) -> list[dict[str, Any]]:
        """Deliveries, the newest first (query `list_deliveries`).

        Args:
            filters: `id`, `endpoint_id`, `response_id`, and `state`: an outcome, or `pending`.
        """
        wanted = dict.fromkeys(("id", "endpoint_id", "response_id", "state")) | filters
        rows = await self._database.fetch(
            *self._queries.bind("list_deliveries", limit=limit, **wanted)
        )
        return [dict(row) for row in rows]

    async def endpoints_unscoped(self, endpoint_id: str | None, limit: int) -> list[dict[str, Any]]:
        """Endpoints, those that are disabled first, without name, URL and secrets."""
        rows = await self._database.fetch(self._queries.show_webhook_endpoint, endpoint_id, limit)
        return [dict(row) for row in rows]

    async def redeliver_unscoped(
        self,
        limit: int,
        *,
        id_: str | None = None,
        endpoint_id: str | None = None,
        outcomes: Sequence[str] | None = None,
    ) -> int:
        """Have some delivered again, from the beginning; returns how many. What is for an endpoint
        that is gone is not."""
        rows = await self._database.fetch_once(
            *self._queries.bind(
                "redeliver", limit=limit, id=id_, endpoint_id=endpoint_id, outcomes=outcomes
            )
        )
        return len(rows)


def _delivery(row: Record) -> Delivery:
    return Delivery(
        row["id"],
        row["endpoint_id"],
        row["event_id"],
        row["type"],
        row["response_id"],
        int(row["created_at"].timestamp()),
        row["attempts"],
        row["failures"],
        row["document"],
        row["overlaps"],
        row["closed"],
        row["enabled_at"],
    )
