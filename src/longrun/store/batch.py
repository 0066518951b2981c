"""A batch of the log writer: each run's share of it, and the columns that are sent of it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from longrun.jsontext import dumps
from longrun.store.cuts import Cut, cut
from longrun.store.records import Chunk, Step
from longrun.store.run_log import Entry, RunLog
from longrun.store.sealing import Sealing, chunk_place

_SAID: Final = ("said_runs", "said_places", "said_ids", "said_unkept")
_ENDINGS: Final = ("ending_statuses", "ending_documents", "ending_reasons", "ending_steered")
_TAKEN: Final = ("taken_runs", "taken_firsts", "taken_counts", "taken_indexes", "taken_turns")
_SPENT: Final = ("spent_runs", "spent_tokens")
_REFUSED: Final = ("refused_runs", "refused_indexes")
_UNKEPT: Final = ("unkept_runs", "unkept_indexes")
_PARKED: Final = (
    "parked_runs",
    "parked_requests",
    "parked_formats",
    "parked_written_by",
    "parked_states",
)
_STEPS: Final = tuple(f"step_{name}s" for name in Step._fields)
_CUTS: Final = tuple(f"item_{name}s" for name in Cut._fields)
SMALL_BYTES: Final = 64 * 1024

NOTHING_TOLD: Final = dict.fromkeys(("told_runs", "told_lasts", "events_channel", "parcel"))
"""Of an append that announces nothing itself."""

_ITEMS: Final = ("item_runs", "item_indexes", "items", "item_models", *_CUTS)
_NO_RECORDS: Final = dict.fromkeys((*_ITEMS, "step_runs", *_STEPS, "ending_runs", *_ENDINGS))


@dataclass(slots=True)
class Piece:
    """Entries that are never torn apart, with the chunks that their events make, and where in these
    each of their items is.

    Where one chunk ends and the next begins is settled when entries are first sent, and stays as
    it is however a share is cut later: should an append that was given up still be under way, it
    and the one that is sent in its place have their first chunk's key in common, so that only one
    of the two can commit.
    """

    entries: list[Entry]
    chunks: list[Chunk]
    cuts: list[Cut]
    size: int


@dataclass(slots=True)
class Share:
    """What one run has in a batch. `done`: it is committed, or the run has lost its log."""

    run: RunLog
    pieces: list[Piece]
    done: bool = False
    entries: list[Entry] = field(init=False)
    chunks: list[Chunk] = field(init=False)
    size: int = field(init=False)

    def __post_init__(self) -> None:
        if len(self.pieces) == 1:
            [piece] = self.pieces
            self.entries, self.chunks, self.size = piece.entries, piece.chunks, piece.size
        else:
            self.size = sum([piece.size for piece in self.pieces])
            self.entries = [entry for piece in self.pieces for entry in piece.entries]
            self.chunks = [chunk for piece in self.pieces for chunk in piece.chunks]

    @property
    def key(self) -> tuple[str, int]:
        return self.run.response_id, self.run.attempt

    @property
    def first(self) -> int:
        """The number of its first event; the end of the log where it has none."""
        return self.entries[0].first

    @property
    def end(self) -> int:
        """The number after its last event; the end of the log where it has none."""
        return self.chunks[-1].last + 1 if self.chunks else self.first

    @property
    def first_step(self) -> Step | None:
        return next((step for entry in self.entries for step in entry.steps), None)


def share_of(run: RunLog, limit: int, chunk_bytes: int) -> Share | None:
    """Take about `limit` bytes of what is pending of a run, at least one entry if there is any."""
    entries = run.next_entries(limit)
    if not entries:
        return None
    if len(entries) == 1:
        [entry] = entries
        events = entry.events
        if events and not entry.items and entry.size + len(events) <= chunk_bytes:
            # Most shares: a few events, of one chunk.
            data = events[0] if len(events) == 1 else b"\n".join(events)
            chunk = Chunk(entry.first, entry.first + len(events) - 1, data)
            return Share(run, [Piece(entries, [chunk], [], entry.size)])
        return Share(run, [_piece(entries, chunk_bytes)])
    return Share(run, list(_pieces(entries, chunk_bytes)))


def _pieces(entries: Iterable[Entry], chunk_bytes: int) -> Iterator[Piece]:
    """Small entries share a piece, as far as their events fit into one chunk."""
    gathered: list[Entry] = []
    size = 0
    for entry in entries:
        joined = entry.size + len(entry.events)
        if gathered and size + joined > chunk_bytes:
            yield _piece(gathered, chunk_bytes)
            gathered, size = [], 0
        gathered.append(entry)
        size += joined
    if gathered:
        yield _piece(gathered, chunk_bytes)


def _piece(entries: list[Entry], chunk_bytes: int) -> Piece:
    [first, *others] = entries
    events = first.events if not others else [e for entry in entries for e in entry.events]
    chunks = into_chunks(first.first, events, chunk_bytes)
    cuts = cut(entries, chunks) if any(entry.items for entry in entries) else []
    return Piece(entries, chunks, cuts, sum([entry.size for entry in entries]))


def into_chunks(first: int, events: Iterable[bytes], chunk_bytes: int) -> list[Chunk]:
    """Join events into chunks of at most `chunk_bytes`, unless one event alone is larger."""
    chunks: list[Chunk] = []
    lines: list[bytes] = []
    size = 0
    for event in events:
        if lines and size + len(event) + 1 > chunk_bytes:
            chunks.append(Chunk(first, first + len(lines) - 1, b"\n".join(lines)))
            first += len(lines)
            lines, size = [], 0
        lines.append(event)
        size += len(event) + 1
    if lines:
        chunks.append(Chunk(first, first + len(lines) - 1, b"\n".join(lines)))
    return chunks


def append_columns(batch: Sequence[Share]) -> dict[str, list[Any] | None]:
    """The parameters of `append_log`. Rows name their run by its number in the batch, from 1."""
    chunk_runs: list[int] = []
    chunks: list[Chunk] = []
    items: list[Sequence[object]] = []
    steps: list[Sequence[object]] = []
    endings: list[Sequence[object]] = []
    said: list[Sequence[object]] = []
    refused: list[Sequence[object]] = []
    unkept: list[Sequence[object]] = []
    spent: list[Sequence[object]] = []
    parked: list[Sequence[object]] = []
    taken: list[Sequence[object]] = []
    input_refused: list[int] = []
    for n, share in enumerate(batch, 1):
        for piece in share.pieces:
            if piece.cuts:
                items += [(n, *item) for item in _items(piece, len(chunks))]
            chunk_runs += [n] * len(piece.chunks)
            chunks += piece.chunks
        for entry in share.entries:
            # Most entries bring events alone.
            if entry.steps:
                steps += [(n, *step) for step in entry.steps]
            if entry.taken:
                taken.append((n, *entry.taken))
            if entry.ending:
                end = entry.ending
                endings.append((n, end.status, end.document, end.reason, end.steered))
                said += [(n, part.place, part.id, part.unkept) for part in end.said]
                refused += [(n, index) for index in end.refused]
                unkept += [(n, index) for index in end.unkept]
                if end.tokens:
                    spent.append((n, end.tokens))
                if end.input_refused:
                    input_refused.append(n)
                if end.parked is not None:
                    requests = dumps(list(end.parked.requests)).decode()
                    parked.append((n, requests, *end.parked[1:]))
    return {
        "response_ids": [share.run.response_id for share in batch],
        "attempts": [share.run.attempt for share in batch],
        "firsts": [share.entries[0].first for share in batch],
        "chunk_runs": chunk_runs,
        **_named(chunks, "chunk_firsts", "chunk_lasts", "chunk_data"),
        **_named(items, *_ITEMS),
        **_named(steps, "step_runs", *_STEPS),
        **_named(endings, "ending_runs", *_ENDINGS),
        **(_named(said, *_SAID) if said else dict.fromkeys(_SAID)),
        "said_items": None,  # Postgres has them, unless they are sealed (sealed_batch)
        **(_named(spent, *_SPENT) if spent else dict.fromkeys(_SPENT)),
        **(_named(refused, *_REFUSED) if refused else dict.fromkeys(_REFUSED)),
        **(_named(unkept, *_UNKEPT) if unkept else dict.fromkeys(_UNKEPT)),
        **(_named(parked, *_PARKED) if parked else dict.fromkeys(_PARKED)),
        **(_named(taken, *_TAKEN) if taken else dict.fromkeys(_TAKEN)),
        "input_refused_runs": input_refused or None,
        **NOTHING_TOLD,
    }


def is_small(batch: Iterable[Share]) -> bool:
    """Whether a batch is one chunk of each run, without items, steps or ends, and not large: for
    `append_events`, which keeps its chunks in memory."""
    size = 0
    for share in batch:
        size += share.size
        if size > SMALL_BYTES or len(share.chunks) != 1:
            return False
        for entry in share.entries:
            if entry.items or entry.steps or entry.ending or entry.taken:
                return False
    return True


def event_columns(batch: Sequence[Share], sealing: Sealing) -> dict[str, Any]:
    """The parameters of `append_events`, sealed."""
    ids = [share.run.response_id for share in batch]
    chunks = [share.chunks[0] for share in batch]
    data = [chunk.data for chunk in chunks]
    if sealing.writes:
        data = [
            sealing.seal(chunk_place(id_, *chunk[:2]), chunk.data)
            for id_, chunk in zip(ids, chunks, strict=True)
        ]
    return {
        "response_ids": ids,
        "attempts": [share.run.attempt for share in batch],
        "firsts": [chunk.first for chunk in chunks],
        "lasts": [chunk.last for chunk in chunks],
        "data": data,
        "told_runs": None,
        "events_channel": None,
        "parcel": None,
    }


def stored_chunks(
    columns: dict[str, Any], runs: Iterable[tuple[int, str]]
) -> Iterator[tuple[str, Chunk]]:
    """The chunks of some runs of a batch as they are stored, of its columns for either query.

    Args:
        runs: by their numbers in the batch, and their responses.
    """
    if "data" in columns:
        firsts, lasts, data = columns["firsts"], columns["lasts"], columns["data"]
        for n, id_ in runs:
            yield id_, Chunk(firsts[n - 1], lasts[n - 1], data[n - 1])
        return
    ids = dict(runs)
    names = ("chunk_runs", "chunk_firsts", "chunk_lasts", "chunk_data")
    for n, first, last, data in zip(*(columns[name] for name in names), strict=True):
        if n in ids:
            yield ids[n], Chunk(first, last, data)


def end_columns(server: datetime | None) -> dict[str, Any]:
    """The parameters of both that say that this server has confirmed all that a batch follows;
    None: where the logs end is looked at."""
    return {"server": server, "looked": True if server is None else None}


def of_events_alone(columns: dict[str, list[Any] | None]) -> None:
    """Leave out the columns of items, steps and ends where a batch brings none, as most do: what
    writes them costs more than what writes a few events, though it finds nothing to write."""
    if not (columns["item_runs"] or columns["step_runs"] or columns["ending_runs"]):
        columns.update(_NO_RECORDS)


def _items(piece: Piece, before: int) -> Iterator[tuple[object, ...]]:
    """The items of a piece whose chunks come after so many others in the batch: index, text unless
    it is cut out of a chunk, the model's face, and the cut."""
    cuts = iter(piece.cuts)
    for entry in piece.entries:
        for index, text in entry.items:
            chunk, start, length = next(cuts)
            if chunk:
                yield index, None, entry.models.get(index), before + chunk, start, length
            else:
                yield index, text, entry.models.get(index), chunk, start, length


def last_chunks(batch: Sequence[Share]) -> list[list[Any]]:
    """The parameters of `find_chunks`: of each share its last chunk, which tells of all of it."""
    return _transposed(
        [
            (share.run.response_id, share.chunks[-1].last, share.run.attempt)
            for share in batch
            if share.chunks
        ],
        3,
    )


def first_steps(batch: Sequence[Share]) -> list[list[Any]]:
    """The parameters of `find_steps`: the first step of each share that brings no events."""
    return _transposed(
        [
            (share.run.response_id, *share.first_step[:3], share.run.attempt)
            for share in batch
            if not share.chunks and share.first_step
        ],
        5,
    )


def _named(rows: Sequence[Sequence[object]], *names: str) -> dict[str, list[Any]]:
    """Rows as columns, each under its name."""
    if not rows:
        return {name: [] for name in names}
    return dict(zip(names, _transposed(rows, len(names)), strict=True))


def _transposed(rows: Sequence[Sequence[object]], width: int) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(width)]
