"""Responses: the rows that polls read, and what starts and ends them."""

import asyncio
import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Final, NamedTuple

from asyncpg import Record

from longrun.errors import (
    Unreadable,
)
from longrun.jsontext import dumps
from longrun.protocol import Status, is_terminal
from longrun.store.creation import NewResponse as NewResponse
from longrun.store.creation_writer import CreationWriter, Told
from longrun.store.database import Database
from longrun.store.histories import Histories
from longrun.store.inputs import Inputs
from longrun.store.requests import unreadable_document
from longrun.store.sealing import (
    column_place,
    item_place,
)
from longrun.store.standby import SETTLED

MOST_CHUNKS: Final = 2000
"""Chunks of expired responses that one transaction deletes, or those of one that has more."""

DELETION: Final = 600.0
"""Seconds that this may take: one that always failed would keep all that expire later."""


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response as it stands. `document` lacks the output, whose items come beside it."""

    id: str
    agent: str
    status: Status
    background: bool
    document: str
    output: list[str]

    @property
    def finished(self) -> bool:
        return is_terminal(self.status)


class Failure(NamedTuple):
    """How a response ended. `reason` is why it failed, as JSON text (`failures.reason_of`)."""

    status: Status
    attempts: int
    deaths: int
    reason: str | None


@dataclass(frozen=True, slots=True)
class Page:
    """Which responses of a principal are wanted: those after an id, in order, with these traits."""

    principal: str
    limit: int
    newest_first: bool = True
    after: str | None = None
    status: str | None = None
    agent: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


class Listed(NamedTuple):
    """What a list has, and how many bytes are read for it."""

    id: str
    bytes: int


class Responses:
    """The responses of all principals; each call names the one that it is for.

    Args:
        creations: creates those that come at the same time together.

    Attributes:
        histories: what they were given and gave, for those that continue them.
        inputs: what they were given, page by page.
    """

    def __init__(self, database: Database, creations: CreationWriter | None = None) -> None:
        self._database = database
        self._creations = creations or CreationWriter(database)
        self._queries = database.queries
        self._sealing = database.sealing
        self.histories = Histories(database)
        self.inputs = Inputs(database)
        self._standby = database.standby
        # Sealed items are opened by their indexes, which nothing else asks for.
        self._indexed = True if database.sealing.knows_keys else None

    async def create(self, new: NewResponse) -> None:
        """Insert a response and its first events, in one commit.

        Raises:
            Unavailable: Postgres is away; whether it was created is not known.
            TooManyRequests: it would have to wait, and too many wait already; or its principal has
                as many as they may have.
            TokensSpent: its principal has spent the tokens of the day.
            ConversationNotFound: the principal has no such conversation.
            ConversationLocked: another response is on the conversation; one that is queued may
                wait for it where the settings say so.
            AlreadyAnswered: it goes on from a response whose approvals were answered, or that was
                deleted, since that was looked at.
        """
        await self._creations.create(new)

    def joined(self, new: NewResponse, told: Told) -> asyncio.Future[None] | None:
        """The creation of a response together with others, under way; see `CreationWriter.joined`.
        None: `create` it."""
        return self._creations.joined(new, told)

    async def get(self, response_id: str, principal: str) -> StoredResponse | None:
        """The response if it is there and theirs, else None (which does not say which). What has
        ended comes from a standby, if there is one that has it."""
        whose = {"id": response_id, "principal": principal, "indexed": self._indexed}
        if self._standby.is_fit:
            live = self._queries.bind("get_live_response", settled=SETTLED, **whose)
            row = await self._database.fetch_row(*live)
            if row is None or row["ended"] is None:
                return self._stored(row) if row else None
            query = self._queries.bind("get_response", ended=row["ended"], **whose)
            if found := await self._standby.fetch(row["ended"], *query):
                # Else it still has what was encrypted with a key that is no longer in use.
                with contextlib.suppress(Unreadable):
                    return self._stored(found[0])
        row = await self._database.fetch_row(
            *self._queries.bind("get_response", ended=None, **whose)
        )
        return self._stored(row) if row else None

    async def get_unscoped(self, response_id: str) -> StoredResponse | None:
        """The response whoever's it is, kept or not: for the very request that created it."""
        row = await self._database.fetch_row(
            *self._queries.bind("get_response_unscoped", id=response_id, indexed=self._indexed)
        )
        return self._stored(row) if row else None

    def _stored(self, row: Record) -> StoredResponse:
        columns = dict(row)
        columns.pop("principal", None)
        columns.pop("ended", None)
        id_, open_text = columns["id"], self._sealing.open_text
        columns["document"] = open_text(column_place(id_, "document"), columns["document"])
        indexes = columns.pop("indexes", None) or range(len(columns["output"]))
        columns["output"] = [
            open_text(item_place(id_, index), item)
            for index, item in zip(indexes, columns["output"], strict=True)
        ]
        return StoredResponse(**columns)

    async def owner_unscoped(self, response_id: str) -> str | None:
        """Whose a response is: for callers who may see everybody's."""
        row = await self._database.fetch_row(self._queries.get_owner_unscoped, response_id)
        return row["principal"] if row else None

    async def inspect_unscoped(self, response_id: str) -> dict[str, Any] | None:
        """All that an operator may want to know of a response, by column; None if there is none."""
        row = await self._database.fetch_row(self._queries.show_response, response_id)
        if row is None:
            return None
        columns = dict(row)
        try:
            for name in ("document", "reason"):
                place = column_place(response_id, name)
                columns[name] = self._sealing.open_some(place, columns[name])
        except Unreadable:
            columns["document"] = _unreadable(row)
            columns["reason"] = None
        return columns

    async def failure(self, response_id: str, principal: str) -> Failure | None:
        """Why a response failed, if it did; None if it is not there or not theirs."""
        row = await self._database.fetch_row(self._queries.get_failure, response_id, principal)
        if row is None:
            return None
        try:
            place = column_place(response_id, "reason")
            reason = self._sealing.open_some(place, row["reason"])
        except Unreadable:
            reason = None
        return Failure(row["status"], row["attempt"], row["deaths"], reason)

    async def listed(self, wanted: Page) -> list[Listed]:
        """Which responses of a principal's a page has; stable while new ones come in."""
        traits = {"principal": wanted.principal, **self._traits(wanted)}
        rows = await self._database.fetch(
            *(
                self._queries.bind("list_newest", **traits)
                if wanted.newest_first
                else self._queries.bind("list_oldest", **traits)
            )
        )
        return [Listed(row["id"], row["bytes"]) for row in rows]

    async def listed_unscoped(self, wanted: Page) -> list[Listed]:
        """Which of everybody's responses a page has; its principal counts for nothing. For callers
        who may see everybody's."""
        traits = self._traits(wanted)
        rows = await self._database.fetch(
            *(
                self._queries.bind("list_newest_unscoped", **traits)
                if wanted.newest_first
                else self._queries.bind("list_oldest_unscoped", **traits)
            )
        )
        return [Listed(row["id"], row["bytes"]) for row in rows]

    async def all_of(self, response_ids: Sequence[str], principal: str) -> list[StoredResponse]:
        """These responses of a principal's, in this order, as long as they are there."""
        found = await self._database.fetch(
            *self._queries.bind(
                "get_responses", ids=response_ids, principal=principal, indexed=self._indexed
            )
        )
        return [self._listed(row) for row in found]

    async def all_of_unscoped(
        self, response_ids: Sequence[str]
    ) -> list[tuple[str, StoredResponse]]:
        """These responses, each with whose it is."""
        found = await self._database.fetch(
            *self._queries.bind("get_responses_unscoped", ids=response_ids, indexed=self._indexed)
        )
        return [(row["principal"], self._listed(row)) for row in found]

    def _traits(self, wanted: Page) -> dict[str, Any]:
        """The parameters of the queries that list, but for the principal."""
        by_key = self._sealing.sought_hashes(wanted.metadata.items()) if wanted.metadata else []
        several = len(by_key) > 1
        return {
            "after": wanted.after,
            "status": wanted.status,
            "agent": wanted.agent,
            "metadata_hashes": by_key[0] if by_key and not several else None,
            "sought_hashes": [str(set(each)) for each in by_key] if several else None,
            "any_hashes": [hash_ for each in by_key for hash_ in each] if several else None,
            "limit": wanted.limit,
        }

    def _listed(self, row: Record) -> StoredResponse:
        """As `_stored`; one that cannot be opened does not hide the others of its page."""
        try:
            return self._stored(row)
        except Unreadable:
            return StoredResponse(
                row["id"], row["agent"], row["status"], row["background"], _unreadable(row), []
            )

    async def delete(self, response_id: str, principal: str) -> bool:
        """Delete a response and all of its data, also what it left in a conversation. A run that
        is live finds itself fenced."""
        async with self._database.transaction() as connection:
            locked = await connection.fetchrow(
                self._queries.lock_response_of, response_id, principal
            )
            if locked is not None:
                await connection.execute(self._queries.unsay_response, response_id)
                await connection.execute(self._queries.delete_response, response_id)
        return locked is not None

    async def delete_unscoped(self, response_id: str) -> None:
        """Delete a response whoever's it is: one that expired, or was not to be stored. What it
        left in a conversation stays."""
        async with self._database.transaction() as connection:
            await connection.fetchrow(self._queries.lock_response_unscoped, response_id)
            await connection.execute(self._queries.delete_response, response_id)

    async def note_readers(self, response_ids: Iterable[str], retention_seconds: float) -> None:
        """Keep responses whose logs are being read for another minute, if they would go sooner."""
        if ids := list(response_ids):
            await self._database.execute(self._queries.note_readers, ids, retention_seconds)

    async def expire(self, retention_seconds: float, goes_before: str = "") -> int:
        """Delete some responses that are past their retention and not being read, in one
        transaction; returns how many. 0: there are none, or another replica is at it.

        Args:
            goes_before: what lies in partitions that end before this id is left there, to go with
                them; but for what was not to be stored.
        """
        async with self._database.transaction() as connection:
            rows = await connection.fetch(
                self._queries.lock_expired,
                retention_seconds,
                self._queries.schema,
                MOST_CHUNKS,
                goes_before,
            )
            before = accumulate([row["chunks"] for row in rows[:-1]], initial=0)
            fit = sum(chunks < MOST_CHUNKS for chunks in before)
            expired = [row["id"] for row in rows[:fit]]
            left = [row["id"] for row in rows[:fit] if row["stored"] and goes_before]
            if expired:
                await connection.execute(
                    self._queries.delete_expired, expired, left, goes_before, timeout=DELETION
                )
        return len(expired)


def _unreadable(row: Record) -> str:
    """The document of a response that cannot be opened."""
    shown = unreadable_document(row["id"], row["agent"], background=row["background"])
    return dumps(shown).decode()
