"""Responses: the rows that polls read, and what starts and ends them."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from typing import Any, Final, NamedTuple

from asyncpg import Record

from longrun import ids
from longrun.errors import (
    Unreadable,
)
from longrun.history.cleaning import cleaned, kind_of
from longrun.history.context_compaction import Compacted, contents_of
from longrun.history.continuation import Stored, context_of, wanted
from longrun.history.conversation import Before, Exchanges, Said, parted
from longrun.jsontext import dumps, loads
from longrun.protocol import RunRequest, Status, is_terminal
from longrun.store.context_compactions import ContextCompactions
from longrun.store.creation import NewResponse as NewResponse
from longrun.store.creation_writer import CreationWriter
from longrun.store.database import Database
from longrun.store.records import Steer
from longrun.store.requests import unreadable_document
from longrun.store.sealing import (
    column_place,
    item_place,
    model_place,
    said_place,
    steer_place,
    step_place,
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


@dataclass(frozen=True)
class Exchange:
    """What a response was given (a JSON array of items) and gave (one JSON text an item, by its
    output index, and what is stored of its model's face).

    `steers`: the messages that were put into it while it was made, in order.
    `input_refused`: a guardrail refused what it was given, so nothing of it is continued.
    `inserts`: of a fork, pairs of a place in the input and of an output index, before which the
    input from there on was given. `conversation_id`: the one that it reads.
    """

    id: str
    previous_id: str | None
    conversation_id: str | None
    status: Status
    input: str
    output: list[str]
    models: list[str | None]
    input_refused: bool
    indexes: list[int] = field(default_factory=list)
    steers: list[Steer] = field(default_factory=list)
    inserts: list[tuple[int, int]] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        return is_terminal(self.status)

    @cached_property
    def given(self) -> list[dict[str, Any]]:
        """The items that its own request brought, as far as they are continued."""
        if self.input_refused:
            return []
        items: list[dict[str, Any]] = loads(self.input)
        return items

    @cached_property
    def stored(self) -> list[Stored]:
        """The items that it gave, as far as they are continued."""
        if self.input_refused:
            return []
        return [
            Stored(loads(item), model) for item, model in zip(self.output, self.models, strict=True)
        ]

    @property
    def parts(self) -> Exchanges:
        """What it was given and gave, in the order in which it was said."""
        if self.input_refused or not (self.steers or self.inserts):
            return [(self.given, self.stored)]
        given = self.given
        first = self.inserts[0][0] if self.inserts else len(given)
        ends = [*(begin for begin, _ in self.inserts[1:]), len(given)]
        said: list[tuple[int | None, dict[str, Any]]] = [
            (index, item)
            for (begin, index), end in zip(self.inserts, ends, strict=False)
            for item in given[begin:end]
        ]
        said += [(steer.output_index, loads(steer.item)) for steer in self.steers]
        said.sort(key=lambda each: (each[0] is None, each[0]))
        return parted(given[:first], list(zip(self.indexes, self.stored, strict=True)), said)


class Spoken(NamedTuple):
    """A model turn: the agent that the response asked for, and the fingerprint of the step."""

    asked_for: str
    fingerprint: str


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


class Responses:
    """The responses of all principals; each call names the one that it is for.

    Args:
        creations: creates those that come at the same time together.

    Attributes:
        compactions: reads what compaction items in their contexts carry.
    """

    def __init__(self, database: Database, creations: CreationWriter | None = None) -> None:
        self._database = database
        self._creations = creations or CreationWriter(database)
        self._queries = database.queries
        self._sealing = database.sealing
        self.compactions = ContextCompactions(database)
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

    async def chain_end(self, response_id: str, principal: str) -> tuple[str | None, Status]:
        """Of the chain that ends with a response: the id that is missing from it, because it is
        not there (any more) or not theirs; and the status of the response."""
        row = await self._database.fetch_row(self._queries.check_chain, response_id, principal)
        return (response_id, "completed") if row is None else (row["missing"], row["status"])

    async def chain(self, response_id: str, principal: str) -> list[Exchange]:
        """The exchanges of the chain that ends with a response, the oldest first.

        Empty: it is not there, or not theirs. Where the first one's `previous_id` is not None,
        that response was deleted or has expired.
        """
        rows = await self._database.fetch(
            *self._queries.bind("read_chain", id=response_id, principal=principal, alone=False)
        )
        return [self._exchange(row) for row in rows]

    async def exchange(self, response_id: str, principal: str) -> Exchange | None:
        """What a response was given and gave, also of one that is not kept; None if it is not
        there, or not theirs."""
        row = await self._database.fetch_row(
            *self._queries.bind("read_chain", id=response_id, principal=principal, alone=True)
        )
        return self._exchange(row) if row else None

    def _exchange(self, row: Record) -> Exchange:
        columns = dict(row)
        id_, indexes = columns["id"], columns["indexes"]
        numbers, places = columns.pop("steer_numbers"), columns.pop("steer_indexes")
        columns["steers"] = [
            Steer(number, self._sealing.open_text(steer_place(id_, number), text), place)
            for number, text, place in zip(numbers, columns["steers"], places, strict=True)
        ]
        columns["input"] = self._sealing.open_text(column_place(id_, "input"), columns["input"])
        columns["inserts"] = [
            (insert["input"], insert["output"])
            for insert in self._inserts(id_, columns["inserts"] or ())
        ]
        columns["output"] = [
            self._sealing.open_text(item_place(id_, index), item)
            for index, item in zip(indexes, columns["output"], strict=True)
        ]
        columns["models"] = [
            self._sealing.open_some(model_place(id_, index), model)
            for index, model in zip(indexes, columns["models"], strict=True)
        ]
        return Exchange(**columns)

    def _inserts(self, response_id: str, results: Iterable[str]) -> Iterator[dict[str, int]]:
        for number, result in enumerate(results, 1):
            place = step_place(response_id, "", "input", str(number), "result")
            yield loads(self._sealing.open_text(place, result))

    async def named_items(
        self, before: Before, own: Sequence[dict[str, Any]], principal: str
    ) -> dict[str, Stored]:
        """The stored items of a principal's that inputs name by ids of ours, in one query; without
        those that are not there.

        Args:
            before: what comes before, with inputs of its own.
            own: the input of the request itself.
        """
        names = wanted(own).union(*(wanted(given) for given, _ in before.exchanges))
        if not names:
            return {}
        found = {name: before.named[name] for name in names if name in before.named}
        led_to = {
            name: str(stored.item["id"])
            for name, stored in found.items()
            if kind_of(stored.item) == "item_reference"
        }
        targets = set(led_to.values())
        found.update((name, before.named[name]) for name in targets if name in before.named)
        if missing := (names | targets) - found.keys():
            found.update(await self._find_items(missing, principal))
        for name, target in led_to.items():
            del found[name]
            if target in found:
                found[name] = found[target]
        return found

    async def _find_items(self, names: Iterable[str], principal: str) -> dict[str, Stored]:
        places = {name: place for name in names if (place := ids.place_of_item(name)) is not None}
        rows = await self._database.fetch(
            self._queries.find_items,
            [response_id for response_id, _ in places.values()],
            [index for _, index in places.values()],
            principal,
        )
        inputs = {
            row["response_id"]: loads(self._input_in(row["response_id"], row["input"]))
            for row in rows
            if row["input"]
        }
        items = {
            (row["response_id"], row["output_index"]): self._item_in(row)
            for row in rows
            if row["item"]
        }
        found: dict[str, Stored] = {}
        for name, (response_id, index) in places.items():
            at, stored = ids.input_place(index), items.get((response_id, index))
            if at is None and stored is not None and stored.item["id"] == name:
                found[name] = stored
            elif at is not None and stored is not None:
                found[name] = Stored(cleaned(stored.item))
            elif at is not None and at < len(inputs.get(response_id, ())):
                found[name] = Stored(cleaned(inputs[response_id][at]))
        return {name: found[name] for name in places if name in found}

    def _input_in(self, response_id: str, text: str) -> str:
        return self._sealing.open_text(column_place(response_id, "input"), text)

    def _item_in(self, row: Record) -> Stored:
        id_, index = row["response_id"], row["output_index"]
        return Stored(
            loads(self._sealing.open_text(item_place(id_, index), row["item"])),
            self._sealing.open_some(model_place(id_, index), row["model"]),
        )

    async def with_context(self, request: RunRequest) -> RunRequest:
        """A request that was read from Postgres, with what it continues, and what its items refer
        to, as that stands now: what was deleted since its creation is not in it."""
        chain: list[Exchange] = []
        if request.previous_id is not None:
            chain = await self.chain(request.previous_id, request.principal)
        reads = request.conversation_id is not None or request.forked_from is not None
        on = request.response_id if reads else None
        before = await self.before(chain, request.principal, on)
        found = await self.named_items(before, request.input, request.principal)
        compacted = await self.compacted(before, request.input, found, request.principal)
        first, *rest = request.inputs
        return replace(
            request,
            context=context_of(before.exchanges, first, found, compacted),
            inserted=[context_of((), part, found, compacted) for part in rest],
        )

    async def compacted(
        self,
        before: Before,
        own: Iterable[dict[str, Any]],
        found: Mapping[str, Stored],
        principal: str,
    ) -> dict[str, Compacted]:
        """What the compaction items of a context carry, by their `encrypted_content`.

        Args:
            found: the stored items that inputs name.

        Raises:
            CompactionUnreadable: one of them is not as it was given to the principal.
        """
        contents = contents_of(own) | contents_of(stored.item for stored in found.values())
        for given, output in before.exchanges:
            contents |= contents_of(given) | contents_of(stored.item for stored in output)
        return await self.compactions.opened(contents, principal)

    async def last_spoken(self, response_ids: Sequence[str], principal: str) -> Spoken | None:
        """The last model turn of the first of these responses of a principal's that has any."""
        row = await self._database.fetch_row(
            self._queries.find_last_spoken, response_ids, principal
        )
        if row is None:
            return None
        place = step_place(row["id"], "", "model", row["key"], "fingerprint")
        return Spoken(row["agent"], self._sealing.open_text(place, row["fingerprint"]))

    async def before(
        self, chain: Sequence[Exchange], principal: str, on: str | None = None
    ) -> Before:
        """What comes before a response of a principal's.

        Args:
            chain: what it continues. It may begin with a response on a conversation, whose context
                is what that one read.
            on: a response on a conversation, instead: what it reads there.
        """
        if chain and chain[0].conversation_id is not None:
            on = chain[0].id
        rows = []
        if on is not None:
            rows = await self._database.fetch(self._queries.read_conversation, on, principal)
        said = [self._said(row) for row in rows]
        return Before.of(said, [part for each in chain for part in each.parts])

    async def before_on(self, conversation_id: str, principal: str) -> Before:
        """What a response would read of a principal's conversation now."""
        rows = await self._database.fetch(
            self._queries.read_whole_conversation, conversation_id, principal
        )
        return Before.of([self._said(row) for row in rows], [])

    def _said(self, row: Record) -> Said:
        of, id_ = row["conversation_id"], row["id"]
        return Said(
            id_,
            self._sealing.open_text(said_place(of, id_), row["item"]),
            self._sealing.open_some(said_place(of, id_, "model"), row["model"]),
        )

    async def input(self, response_id: str, principal: str) -> str | None:
        """The input items that a response's own request brought, a JSON array."""
        row = await self._database.fetch_row(self._queries.get_input, response_id, principal)
        return self._input_in(response_id, row["input"]) if row else None

    async def page(self, wanted: Page) -> list[StoredResponse]:
        """A page of a principal's responses; stable while new ones come in."""
        traits = {"principal": wanted.principal, **self._traits(wanted)}
        rows = await self._database.fetch(
            *(
                self._queries.bind("list_newest", **traits)
                if wanted.newest_first
                else self._queries.bind("list_oldest", **traits)
            )
        )
        listed = [row["id"] for row in rows]
        found = await self._database.fetch(
            *self._queries.bind(
                "get_responses", ids=listed, principal=wanted.principal, indexed=self._indexed
            )
        )
        return [self._listed(row) for row in found]

    async def page_unscoped(self, wanted: Page) -> list[tuple[str, StoredResponse]]:
        """A page of everybody's responses, each with whose it is; the page's principal counts for
        nothing. For callers who may see everybody's."""
        traits = self._traits(wanted)
        rows = await self._database.fetch(
            *(
                self._queries.bind("list_newest_unscoped", **traits)
                if wanted.newest_first
                else self._queries.bind("list_oldest_unscoped", **traits)
            )
        )
        listed = [row["id"] for row in rows]
        found = await self._database.fetch(
            *self._queries.bind("get_responses_unscoped", ids=listed, indexed=self._indexed)
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

    async def expire(self, retention_seconds: float) -> int:
        """Delete some responses that are past their retention and not being read, in one
        transaction; returns how many. 0: there are none, or another replica is at it."""
        async with self._database.transaction() as connection:
            rows = await connection.fetch(
                self._queries.lock_expired, retention_seconds, self._queries.schema, MOST_CHUNKS
            )
            before = accumulate([row["chunks"] for row in rows[:-1]], initial=0)
            fit = sum(chunks < MOST_CHUNKS for chunks in before)
            expired = [row["id"] for row in rows[:fit]]
            if expired:
                await connection.execute(self._queries.delete_expired, expired, timeout=DELETION)
        return len(expired)


def _unreadable(row: Record) -> str:
    """The document of a response that cannot be opened."""
    shown = unreadable_document(row["id"], row["agent"], background=row["background"])
    return dumps(shown).decode()
