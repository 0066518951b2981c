"""Conversations and their items, as their endpoints read and change them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from asyncpg import Record

from longrun.store.database import Database
from longrun.store.sealing import metadata_place, said_place


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation; `metadata` is a JSON object, `created_at` in seconds since the epoch."""

    id: str
    metadata: str
    created_at: int


@dataclass(frozen=True, slots=True)
class ConversationItem:
    """An item under its id in the conversation; `item` is JSON, and may have another id or none."""

    id: str
    item: str


SHORT: Final = 4096
"""Bytes of an item that comes with the list, at most, as nearly all references are."""


class ListedItem(NamedTuple):
    """An item that a list has: how many bytes it has, and itself if that is `SHORT`."""

    id: str
    bytes: int
    item: str | None


class Conversations:
    """The conversations of all principals; each call names the one that it is for.

    Every method raises `Unavailable` when Postgres is away, and those that give something
    `Unreadable` when it cannot be opened. None, False or an empty list where a
    conversation is not there or is another principal's, which cannot be told apart.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queries = database.queries
        self._sealing = database.sealing

    async def create(
        self, conversation_id: str, principal: str, metadata: str, items: Sequence[ConversationItem]
    ) -> Conversation:
        """A new conversation, with these items."""
        [row] = await self._database.fetch_once(
            self._queries.create_conversation,
            conversation_id,
            principal,
            self._sealing.seal_text(metadata_place(conversation_id), metadata),
            [item.id for item in items],
            self._sealed(conversation_id, items),
        )
        return self._opened(row)

    async def get(self, conversation_id: str, principal: str) -> Conversation | None:
        row = await self._database.fetch_row(
            self._queries.get_conversation, conversation_id, principal
        )
        return self._opened(row) if row else None

    async def owner_unscoped(self, conversation_id: str) -> str | None:
        """Whose a conversation is: for callers who may see everybody's."""
        query = self._queries.get_conversation_owner_unscoped
        row = await self._database.fetch_row(query, conversation_id)
        return row["principal"] if row else None

    async def update(
        self, conversation_id: str, principal: str, metadata: str
    ) -> Conversation | None:
        """Replace the metadata."""
        rows = await self._database.fetch_once(
            self._queries.update_conversation,
            conversation_id,
            principal,
            self._sealing.seal_text(metadata_place(conversation_id), metadata),
        )
        return self._opened(rows[0]) if rows else None

    async def delete(self, conversation_id: str, principal: str) -> bool:
        """Delete a conversation with its items. Responses stay, live ones too."""
        rows = await self._database.fetch_once(
            self._queries.delete_conversation, conversation_id, principal
        )
        return bool(rows)

    async def add(
        self, conversation_id: str, principal: str, items: Sequence[ConversationItem]
    ) -> bool:
        """Add items at its end."""
        rows = await self._database.fetch_once(
            self._queries.add_conversation_items,
            conversation_id,
            principal,
            [item.id for item in items],
            self._sealed(conversation_id, items),
        )
        return bool(rows)

    async def item(
        self, conversation_id: str, principal: str, item_id: str
    ) -> ConversationItem | None:
        found = await self._find(conversation_id, principal, item_id)
        return found[0] if found else None

    async def listed(
        self,
        conversation_id: str,
        principal: str,
        *,
        limit: int,
        newest_first: bool,
        after: str | None = None,
    ) -> list[ListedItem] | None:
        """Which items of a conversation a page has; None: there is no item `after`."""
        position = None
        if after is not None:
            found = await self._find(conversation_id, principal, after)
            if found is None:
                return None
            position = found[1]
        wanted = {
            "conversation_id": conversation_id,
            "principal": principal,
            "after": position,
            "limit": limit,
            "short": SHORT,
        }
        query = (
            self._queries.bind("list_conversation_items_newest", **wanted)
            if newest_first
            else self._queries.bind("list_conversation_items_oldest", **wanted)
        )
        rows = await self._database.fetch(*query)
        return [
            ListedItem(
                row["id"],
                row["bytes"],
                None if row["item"] is None else self._item(conversation_id, row).item,
            )
            for row in rows
        ]

    async def items(
        self, conversation_id: str, principal: str, item_ids: Sequence[str]
    ) -> dict[str, ConversationItem]:
        """Some items of a conversation, by id; without those that are not there."""
        if not item_ids:
            return {}
        rows = await self._database.fetch(
            self._queries.get_conversation_items, conversation_id, principal, item_ids
        )
        return {row["id"]: self._item(conversation_id, row) for row in rows}

    async def measured(
        self, conversation_id: str, principal: str, item_ids: Sequence[str]
    ) -> dict[str, int]:
        """How many bytes some items of a conversation have, by id; without those that are not
        there."""
        if not item_ids:
            return {}
        rows = await self._database.fetch(
            self._queries.measure_conversation_items, conversation_id, principal, item_ids
        )
        return {row["id"]: row["bytes"] for row in rows}

    async def delete_item(self, conversation_id: str, principal: str, item_id: str) -> bool:
        rows = await self._database.fetch_once(
            self._queries.delete_conversation_item, conversation_id, principal, item_id
        )
        return bool(rows)

    async def expire(self, unused_seconds: float) -> int:
        """Delete some that were not used for so long; returns how many."""
        rows = await self._database.fetch_once(self._queries.expire_conversations, unused_seconds)
        return len(rows)

    async def _find(
        self, conversation_id: str, principal: str, item_id: str
    ) -> tuple[ConversationItem, int] | None:
        row = await self._database.fetch_row(
            self._queries.find_conversation_item, conversation_id, principal, item_id
        )
        return (self._item(conversation_id, row), row["position"]) if row else None

    def _sealed(self, conversation_id: str, items: Sequence[ConversationItem]) -> list[str]:
        seal_text = self._sealing.seal_text
        return [seal_text(said_place(conversation_id, item.id), item.item) for item in items]

    def _item(self, conversation_id: str, row: Record) -> ConversationItem:
        place = said_place(conversation_id, row["id"])
        return ConversationItem(row["id"], self._sealing.open_text(place, row["item"]))

    def _opened(self, row: Record) -> Conversation:
        place = metadata_place(row["id"])
        metadata = self._sealing.open_text(place, row["metadata"])
        return Conversation(row["id"], metadata, row["created_at"])
