"""Rewriting what is stored as it would be stored now: encrypted with the first key of the ring, or
plain again. Online, in short transactions that wait for nobody."""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from asyncpg import Record

from longrun.errors import Unreadable
from longrun.jsontext import loads
from longrun.store import sealing as places
from longrun.store.database import Database
from longrun.store.queries import Queries
from longrun.store.sealing import Place, Sealing

BATCH_BYTES: Final = 4 * 1024 * 1024
"""About what a transaction rewrites."""

MOST_ROWS: Final = 500
FIRST_ROWS: Final = 20
"""Rows that a transaction takes at most, and the first one of a table."""

MOST_PASSES: Final = 10
QUIET_PASSES: Final = 2
PAUSE: Final = 0.2
"""Passes over all tables, and seconds between them. Rows that others hold just now are left for the
next, so that one pass with nothing to do says little."""


_OF_BYTES: Final = ("event_chunks", "digests")
"""The tables whose sealed column is no text."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table with sealed columns.

    Attributes:
        after: the parameters that name the row after which a batch begins, at first the least
            values. They are the row's key, and come first in both queries.
        rewrite: the values that take the place of a row's.
        find: binds the query of the rows that are not as they should be.
        write: the query that rewrites one.
    """

    name: str
    after: Mapping[str, Any]
    rewrite: Callable[[Record, Sealing], list[Any]]
    find: Callable[[Queries, Mapping[str, Any]], tuple[Any, ...]]
    write: Callable[[Queries], str]


@dataclass(slots=True)
class Rewritten:
    """What was done, by table: rows rewritten, and rows that no key of the ring opens. `forgotten`:
    keys that nothing is encrypted with any more. `done`: nothing else is left."""

    rows: dict[str, int] = field(default_factory=dict)
    unreadable: dict[str, int] = field(default_factory=dict)
    forgotten: list[str] = field(default_factory=list)
    done: bool = False


async def rewrite_all(
    database: Database, progress: Callable[[str, int], None] = lambda *_: None
) -> Rewritten:
    """Rewrite whatever is not as it would be stored now.

    Args:
        progress: called after each transaction with a table's name and its rows so far.

    Raises:
        Unavailable: Postgres is away; what was rewritten stays so.
    """
    found = Rewritten()
    quiet = 0
    for _ in range(MOST_PASSES):
        before = sum(found.rows.values())
        found.unreadable = {}
        for table in TABLES:
            await _rewrite_table(database, table, found, progress)
        quiet = quiet + 1 if sum(found.rows.values()) == before else 0
        if quiet == QUIET_PASSES:
            found.done = not found.unreadable
            break
        await asyncio.sleep(PAUSE)
    if found.done:
        key = database.sealing.ring.writes
        rows = await database.fetch_once(
            database.queries.forget_unused_keys, key.id if key else None
        )
        found.forgotten = [row["id"] for row in rows]
    return found


async def _rewrite_table(
    database: Database, table: Table, found: Rewritten, progress: Callable[[str, int], None]
) -> None:
    queries, sealing = database.queries, database.sealing
    after, limit = dict(table.after), FIRST_ROWS
    while True:
        wanted = {**after, **_as_wanted(table, sealing), "limit": limit}
        async with database.transaction() as connection:
            rows = await connection.fetch(*table.find(queries, wanted))
            rewritten = list(_rewritten(table, rows, sealing, found))
            if rewritten:
                await connection.executemany(table.write(queries), rewritten)
        if not rows:
            return
        after = dict(zip(after, rows[-1].values(), strict=False))
        limit = _next_limit(rows)
        found.rows[table.name] = found.rows.get(table.name, 0) + len(rewritten)
        progress(table.name, found.rows[table.name])


def _rewritten(
    table: Table, rows: Sequence[Record], sealing: Sealing, found: Rewritten
) -> Iterator[list[Any]]:
    """The parameters that rewrite these rows, but for those that cannot be opened."""
    for row in rows:
        try:
            values = table.rewrite(row, sealing)
        except Unreadable:
            found.unreadable[table.name] = found.unreadable.get(table.name, 0) + 1
        else:
            yield [*list(row.values())[: len(table.after)], *values]


def _as_wanted(table: Table, sealing: Sealing) -> dict[str, Any]:
    """How the values of a table begin that are as they should be, or that are not."""
    key = sealing.ring.writes
    if table.name in _OF_BYTES:
        return {"key_id": places.id_in_envelope(key), "wanted": key is not None}
    return {"prefix": places.text_prefix(key), "wanted": key is not None}


def _next_limit(rows: Sequence[Record]) -> int:
    """As many rows as will have about BATCH_BYTES, if they are like these."""
    size = sum(
        len(value) for row in rows for value in row.values() if isinstance(value, str | bytes)
    )
    return max(1, min(MOST_ROWS, BATCH_BYTES * len(rows) // max(1, size)))


def _again(sealing: Sealing, place: Place, value: str | None) -> str | None:
    return sealing.seal_some(place, sealing.open_some(place, value))


def _response(row: Record, sealing: Sealing) -> list[Any]:
    names = ("document", "input", "request", "reason")
    opened = {
        name: sealing.open_some(places.column_place(row["id"], name), row[name]) for name in names
    }
    metadata = loads(opened["document"] or "{}").get("metadata") or {}
    return [
        *(
            sealing.seal_some(places.column_place(row["id"], name), text)
            for name, text in opened.items()
        ),
        sealing.metadata_hashes(metadata.items()) or None,
    ]


def _chunk(row: Record, sealing: Sealing) -> list[Any]:
    place = places.chunk_place(row["response_id"], row["first"], row["last"])
    return [sealing.seal(place, sealing.open(place, row["data"]))]


def _digest(row: Record, sealing: Sealing) -> list[Any]:
    place = places.digest_place(row["response_id"], row["first"], row["last"])
    return [sealing.seal(place, sealing.open(place, row["data"]))]


def _item(row: Record, sealing: Sealing) -> list[Any]:
    at = (row["response_id"], row["output_index"])
    return [
        _again(sealing, places.item_place(*at), row["item"]),
        _again(sealing, places.model_place(*at), row["model"]),
    ]


def _step(row: Record, sealing: Sealing) -> list[Any]:
    at = (row["response_id"], row["scope"], row["kind"], row["key"])
    return [
        _again(sealing, places.step_place(*at, name), row[name])
        for name in ("fingerprint", "result")
    ]


def _parked(row: Record, sealing: Sealing) -> list[Any]:
    return [_again(sealing, places.parked_place(row["response_id"]), row["state"])]


def _steer(row: Record, sealing: Sealing) -> list[Any]:
    return [_again(sealing, places.steer_place(row["response_id"], row["number"]), row["item"])]


def _conversation(row: Record, sealing: Sealing) -> list[Any]:
    return [_again(sealing, places.metadata_place(row["id"]), row["metadata"])]


def _conversation_item(row: Record, sealing: Sealing) -> list[Any]:
    at = (row["conversation_id"], row["id"])
    return [_again(sealing, places.said_place(*at, what), row[what]) for what in ("item", "model")]


def _webhook_endpoint(row: Record, sealing: Sealing) -> list[Any]:
    return [_again(sealing, places.webhook_place(row["id"]), row["document"])]


TABLES: Final = (
    Table(
        "responses",
        {"after_id": ""},
        _response,
        find=lambda queries, values: queries.bind("find_other_responses", **values),
        write=lambda queries: queries.rewrite_response,
    ),
    Table(
        "digests",
        {"after_id": "", "after_last": -1},
        _digest,
        find=lambda queries, values: queries.bind("find_other_digests", **values),
        write=lambda queries: queries.rewrite_digest,
    ),
    Table(
        "event_chunks",
        {"after_id": "", "after_last": -1},
        _chunk,
        find=lambda queries, values: queries.bind("find_other_chunks", **values),
        write=lambda queries: queries.rewrite_chunk,
    ),
    Table(
        "items",
        {"after_id": "", "after_index": -1},
        _item,
        find=lambda queries, values: queries.bind("find_other_items", **values),
        write=lambda queries: queries.rewrite_item,
    ),
    Table(
        "steps",
        {"after_id": "", "after_scope": "", "after_kind": "", "after_key": ""},
        _step,
        find=lambda queries, values: queries.bind("find_other_steps", **values),
        write=lambda queries: queries.rewrite_step,
    ),
    Table(
        "parked",
        {"after_id": ""},
        _parked,
        find=lambda queries, values: queries.bind("find_other_parked", **values),
        write=lambda queries: queries.rewrite_parked,
    ),
    Table(
        "steers",
        {"after_id": "", "after_number": -1},
        _steer,
        find=lambda queries, values: queries.bind("find_other_steers", **values),
        write=lambda queries: queries.rewrite_steer,
    ),
    Table(
        "conversations",
        {"after_id": ""},
        _conversation,
        find=lambda queries, values: queries.bind("find_other_conversations", **values),
        write=lambda queries: queries.rewrite_conversation,
    ),
    Table(
        "conversation_items",
        {"after_id": "", "after_position": -1},
        _conversation_item,
        find=lambda queries, values: queries.bind("find_other_conversation_items", **values),
        write=lambda queries: queries.rewrite_conversation_item,
    ),
    Table(
        "webhook_endpoints",
        {"after_id": ""},
        _webhook_endpoint,
        find=lambda queries, values: queries.bind("find_other_webhook_endpoints", **values),
        write=lambda queries: queries.rewrite_webhook_endpoint,
    ),
)
