"""What operators look at: responses with how they were run, page by page."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from asyncpg import Record

from longrun.errors import Unreadable
from longrun.jsontext import NotJSON, dumps, loads
from longrun.store.database import Database
from longrun.store.requests import unreadable_document
from longrun.store.sealing import column_place

SCANNED: Final = 1000
"""Responses in whose inputs one request looks for a text; the next request goes on after them."""

FIRST_WORDS: Final = 200
"""Characters of an input that are shown in a list."""

_TEXT: Final = re.compile(r'"(?:text|content)": ?"((?:[^"\\]|\\u[0-9a-fA-F]{4}|\\[^u])+)')
"""A text in the JSON of an input, which may break off in its midst."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which responses of a principal's are wanted, the newest first.

    Attributes:
        after: older than the one with this id.
        ids: between these two, both included.
        text: what their inputs contain, whatever the case.
    """

    principal: str
    limit: int
    after: str | None = None
    statuses: Sequence[str] | None = None
    agent: str | None = None
    ids: tuple[str, str] | None = None
    text: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ran:
    """A response with how it was run. `document` is the Response object without its output; of an
    input its first words, None where they cannot be read."""

    columns: Mapping[str, Any]
    document: Mapping[str, Any]
    words: str | None


class Overview:
    """Reads what has no place in the API of responses."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queries = database.queries
        self._sealing = database.sealing

    async def runs(self, wanted: Wanted) -> tuple[list[Ran], str | None]:
        """Responses of a principal's, and after which id there may be more; None: there are none.

        Where a text is looked for, there may be fewer than wanted, or none, and yet more after.
        """
        query = self._queries.bind("find_runs", **self._traits(wanted), principal=wanted.principal)
        [found] = await self._database.fetch(*query)
        shown, after = _page(found, wanted)
        rows = await self._database.fetch(self._queries.get_runs, shown, wanted.principal)
        return [self._ran(row) for row in rows], after

    async def runs_unscoped(self, wanted: Wanted) -> tuple[list[Ran], str | None]:
        """As `runs`, of everybody, whoever asks: for callers who may see that."""
        query = self._queries.bind("find_runs_unscoped", **self._traits(wanted))
        [found] = await self._database.fetch(*query)
        shown, after = _page(found, wanted)
        rows = await self._database.fetch(self._queries.get_runs_unscoped, shown)
        return [self._ran(row) for row in rows], after

    async def run(self, response_id: str, principal: str) -> Ran | None:
        """How a response was run; None: it is not there, or not theirs."""
        rows = await self._database.fetch(self._queries.get_runs, [response_id], principal)
        return self._ran(rows[0]) if rows else None

    def _traits(self, wanted: Wanted) -> dict[str, Any]:
        first, last = wanted.ids or (None, None)
        by_key = self._sealing.sought_hashes(wanted.metadata.items()) if wanted.metadata else []
        return {
            "after": wanted.after,
            "statuses": wanted.statuses,
            "agent": wanted.agent,
            "from_id": first,
            "to_id": last,
            # As it stands in JSON.
            "text": dumps(wanted.text).decode()[1:-1] if wanted.text else None,
            "any_hashes": [hash_ for each in by_key for hash_ in each] or None,
            "sought_hashes": [str(set(each)) for each in by_key] or None,
            "limit": wanted.limit + 1,
            "scan": SCANNED if wanted.text else wanted.limit + 1,
        }

    def _ran(self, row: Record) -> Ran:
        columns = dict(row)
        id_, document, given = columns["id"], columns.pop("document"), columns.pop("input")
        try:
            opened = loads(self._sealing.open_text(column_place(id_, "document"), document))
            text = self._sealing.open_some(column_place(id_, "input"), given)
        except Unreadable:
            return Ran(columns, unreadable_document(id_, columns["agent"]), None)
        return Ran(columns, opened, None if text is None else first_words(text))


def _page(found: Record, wanted: Wanted) -> tuple[list[str], str | None]:
    """The ids that are shown, and after which there may be more."""
    ids: list[str] = found["ids"]
    if len(ids) > wanted.limit:
        return ids[: wanted.limit], ids[wanted.limit - 1]
    return ids, found["scanned"] if wanted.text else None


def first_words(text: str) -> str:
    """The beginning of what a user said last, in an input: a JSON array of items, or the beginning
    of one, whose first text it is then."""
    try:
        items = loads(text)
    except NotJSON:
        first = _TEXT.search(text)
        return _shortened(loads(f'"{first[1]}"')) if first else ""
    said = (_said(item) for item in reversed(items) if item.get("role") == "user")
    return _shortened(next(said, "") or next(filter(None, map(_said, items)), ""))


def _said(item: Mapping[str, Any]) -> str:
    content = item.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = (part.get("text") for part in parts if isinstance(part, dict))
    return " ".join(text for text in texts if isinstance(text, str))


def _shortened(text: str) -> str:
    words = " ".join(text[: 4 * FIRST_WORDS].split())
    return words if len(words) <= FIRST_WORDS else words[: FIRST_WORDS - 1] + "…"
