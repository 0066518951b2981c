"""What operators look at: responses with how they were run, page by page."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from asyncpg import Record

from longrun.errors import Unreadable
from longrun.jsontext import NotJSON, dumps, loads
from longrun.store.database import Database
from longrun.store.requests import unreadable_document
from longrun.store.sealing import column_place

SCANNED: Final = 1000
"""Responses in whose inputs one request looks for a text; the next request goes on after them."""

COMMITS: Final = 20_000
"""Commits of a log whose times are told at once."""

NEAR: Final = 10
"""Milliseconds: the times of commits that are nearer to each other are not told apart."""

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


class Attempt(NamedTuple):
    """One run of a response.

    Attributes:
        first_event: the number of its first event, where it is among those that were read.
        until: when its replica let go of it, in seconds since the epoch; None: it has not, or an
            older version did not say.
        how: `died`, `left`, or the status of the response.
    """

    attempt: int
    first_event: int | None
    replica_id: str | None
    until: float | None
    how: str | None


@dataclass(frozen=True, slots=True)
class Course:
    """When events were committed: by the number of the last event of a commit, milliseconds after
    the creation (None: not known). And the attempts, in order."""

    times: list[tuple[int, int | None]]
    attempts: list[Attempt]


@dataclass(frozen=True, slots=True)
class System:
    """All that runs and waits, who executes it, and what it takes to store it; rows by column."""

    figures: dict[str, Any]
    replicas: list[dict[str, Any]]
    queue: list[dict[str, Any]]
    tables: list[dict[str, Any]]


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

    async def course(self, response_id: str, principal: str) -> Course:
        """When the events of a response were committed, and by which attempts; empty where it is
        not there, or not theirs."""
        row = await self._database.fetch_row(
            self._queries.get_course, response_id, principal, COMMITS
        )
        assert row is not None
        over = {attempt: rest for attempt, *rest in map(attempt_in, row["ran_on"] or ())}
        firsts = dict(zip(row["attempts"], row["firsts"], strict=True))
        return Course(
            times=_thinned(zip(row["lasts"], row["times"], strict=True)),
            attempts=[
                Attempt(number, firsts.get(number), *over.get(number, (None, None, None)))
                for number in sorted(firsts.keys() | over.keys())
            ],
        )

    async def system_unscoped(self) -> System:
        """What there is of all principals: for those who run it."""
        queries = self._queries
        [figures] = await self._database.fetch(queries.measure_unscoped)
        rates = await self._database.fetch(queries.measure_rates_unscoped)
        by_replica = {row["replica_id"]: row["rate"] for row in rates}
        replicas = await self._dicts(queries.list_replicas_unscoped)
        return System(
            figures={**figures, "events_per_second": sum(by_replica.values())},
            replicas=[
                {**each, "events_per_second": by_replica.get(each["id"], 0.0)} for each in replicas
            ],
            queue=await self._dicts(queries.count_queue_unscoped),
            tables=await self._dicts(queries.size_tables),
        )

    async def _dicts(self, query: str) -> list[dict[str, Any]]:
        return [dict(row) for row in await self._database.fetch(query)]

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


def attempt_in(text: str) -> tuple[int, str, float, str]:
    """An entry of `responses.ran_on`."""
    attempt, replica_id, seconds, how = text.split(" ")
    return int(attempt), replica_id, float(seconds), how


def _thinned(commits: Iterable[tuple[int, int | None]]) -> list[tuple[int, int | None]]:
    """Commits without those that the next one is near to."""
    found: list[tuple[int, int | None]] = []
    began: int | None = None
    for last, ms in commits:
        if found and ms is not None and began is not None and ms - began < NEAR:
            found[-1] = (last, found[-1][1])
        else:
            found.append((last, ms))
            began = ms
    return found


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
