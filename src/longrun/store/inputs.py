"""Inputs: what the requests of responses brought, of which a page is read without the rest."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from longrun.history.cleaning import kind_of
from longrun.jsontext import dumps, loads
from longrun.store.database import Database
from longrun.store.sealing import column_place

LONGEST_REFERENCE: Final = 4096
"""Bytes of a reference to an item; what is longer is shown as it is."""


@dataclass(frozen=True, slots=True)
class Input:
    """What a response's own request brought.

    Attributes:
        count: how many items.
        references: by their places, those of them that are references.
        held: all of them, where Postgres cannot tell them apart, as they are encrypted.
    """

    response_id: str
    count: int
    references: Mapping[int, dict[str, Any]]
    held: Sequence[dict[str, Any]] | None = None


class Inputs:
    """The inputs of principals' responses; each call names the principal."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queries = database.queries
        self._sealing = database.sealing

    async def of(self, response_id: str, principal: str) -> Input | None:
        """What there is to be read of an input; None: the response is not there, or not theirs."""
        row = await self._database.fetch_row(
            self._queries.outline_input, response_id, principal, LONGEST_REFERENCE
        )
        if row is None:
            return None
        if row["sealed"] is None:
            found = zip(row["places"] or (), row["candidates"] or (), strict=True)
            references = _references((place, loads(item)) for place, item in found)
            return Input(response_id, row["count"], references)
        place = column_place(response_id, "input")
        held = loads(self._sealing.open_text(place, row["sealed"]))
        return Input(response_id, len(held), _references(enumerate(held)), held)

    async def read(self, given: Input, places: Sequence[int], most: int) -> list[tuple[Any, int]]:
        """The items at some places, in this order, each with its size in bytes: while all of them
        have no more than `most`, and one at least."""
        if given.held is not None:
            return _fitting((given.held[place] for place in places), most)
        rows = await self._database.fetch(
            self._queries.read_input_items, given.response_id, places, most
        )
        return [(loads(row["item"]), row["bytes"]) for row in rows]


def _references(items: Iterable[tuple[int, dict[str, Any]]]) -> dict[int, dict[str, Any]]:
    return {place: item for place, item in items if kind_of(item) == "item_reference"}


def _fitting(items: Iterable[dict[str, Any]], most: int) -> list[tuple[dict[str, Any], int]]:
    found: list[tuple[dict[str, Any], int]] = []
    total = 0
    for item in items:
        size = len(dumps(item))
        total += size
        if found and total > most:
            break
        found.append((item, size))
    return found
