"""Histories: what responses were given and gave, from which the contexts of later ones are made."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

from asyncpg import Record

from longrun import ids
from longrun.history.cleaning import cleaned, kind_of
from longrun.history.context_compaction import Compacted, contents_of
from longrun.history.continuation import Stored, context_of, in_context, wanted
from longrun.history.conversation import Before, Exchanges, Said, parted
from longrun.jsontext import loads
from longrun.pieces import Pieces, at_once, with_turns
from longrun.protocol import RunRequest, Status, is_terminal
from longrun.store.context_compactions import ContextCompactions
from longrun.store.creation import NewResponse as NewResponse
from longrun.store.database import Database
from longrun.store.records import Steer
from longrun.store.sealing import (
    column_place,
    item_place,
    model_place,
    said_place,
    steer_place,
    step_place,
)


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
        return at_once(self._reading())

    def _reading(self) -> Pieces[list[Stored]]:
        stored: list[Stored] = []
        if not self.input_refused:
            for item, model in zip(self.output, self.models, strict=True):
                stored.append(Stored(loads(item), model))
                yield
        return stored

    async def read(self) -> None:
        """Read what `stored` has, if that was not done yet, while the event loop turns."""
        if "stored" not in self.__dict__:
            self.__dict__["stored"] = await with_turns(self._reading())

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


class Histories:
    """The exchanges and items that principals' requests continue; each call names the principal.

    Attributes:
        compactions: reads what compaction items in their contexts carry.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queries = database.queries
        self._sealing = database.sealing
        self.compactions = ContextCompactions(database)

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
        chain = [self._exchange(row) for row in rows]
        for each in chain:
            await each.read()
        return chain

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

    async def measured(self, own: Sequence[dict[str, Any]], principal: str) -> dict[str, int]:
        """How many bytes are read for each of a principal's items that inputs name by ids of ours;
        without those that are not there."""
        places = {name: place for name in wanted(own) if (place := ids.place_of_item(name))}
        if not places:
            return {}
        rows = await self._database.fetch(
            self._queries.measure_items,
            [response_id for response_id, _ in places.values()],
            [index for _, index in places.values()],
            principal,
        )
        sizes = {(row["response_id"], row["output_index"]): row["bytes"] for row in rows}
        return {name: sizes[place] for name, place in places.items() if place in sizes}

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
            context=await with_turns(in_context(before.exchanges, first, found, compacted)),
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
