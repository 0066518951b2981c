"""The log writer: group commit without a timer, fenced, with bounded memory for each run.

It takes everything that is pending from all runs of this replica and writes it in one
statement and one commit; while that commit runs, the next batch gathers. An idle server so
adds no wait, and a busy one makes larger batches.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from longrun import metrics
from longrun.backoff import Backoff
from longrun.errors import Fenced, LongrunError
from longrun.store.database import Database
from longrun.store.records import Chunk, Step
from longrun.store.run_log import Entry, RunLog
from longrun.store.sqlstates import FAILURES, is_gone
from longrun.supervision import also_on

log = logging.getLogger("longrun.store.log_writer")

BATCH_BYTES: Final = 8 * 1024 * 1024
LONGEST_BACKOFF: Final = 2.0


@dataclass(slots=True)
class _Share:
    """One run's share of a batch."""

    run: RunLog
    entries: list[Entry]
    chunks: list[Chunk] = field(default_factory=list)

    @property
    def size(self) -> int:
        return sum(entry.size for entry in self.entries)

    @property
    def first_step(self) -> Step | None:
        return next((step for entry in self.entries for step in entry.steps), None)


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


class LogWriter:
    """One per replica.

    Args:
        committed: called after each commit with a response id and its new chunks, for the
            readers of this replica and for the announcement to the others.
    """

    def __init__(self, database: Database, committed: Callable[[str, list[Chunk]], None]) -> None:
        self._settings = database.settings
        self._queries = database.queries
        self._lane = database.lane("log writer")
        self._committed = committed
        self._waiting: dict[RunLog, None] = {}
        self._work = asyncio.Event()
        self.failing_since: float | None = None

    def open(self, response_id: str, attempt: int, next_sequence: int) -> RunLog:
        """The log of an attempt that this replica holds."""
        return RunLog(
            response_id,
            attempt,
            next_sequence,
            wake=self.wake,
            buffer_bytes=self._settings.run_buffer_bytes,
            max_item_bytes=self._settings.max_item_bytes,
        )

    def wake(self, run: RunLog) -> None:
        if run.lost is not None:
            run.lose(run.lost)
            return
        self._waiting[run] = None
        self._work.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Write until `stop` is set and nothing is pending."""
        with also_on(stop, self._work.set):
            while not (stop.is_set() and not self._waiting):
                await self._work.wait()
                self._work.clear()
                while self._waiting:
                    await self._write(self._next_batch())

    def _next_batch(self) -> list[_Share]:
        """The next batch: every waiting run in turn, up to BATCH_BYTES.

        A run has one share of a batch: its events are numbered from what is committed. What is
        left of it waits for the next.
        """
        batch, left, size = [], [], 0
        while self._waiting and size < BATCH_BYTES:
            run = next(iter(self._waiting))
            del self._waiting[run]
            share = _Share(run, run.next_entries(BATCH_BYTES - size))
            if run.has_entries:
                left.append(run)
            if not share.entries:
                continue
            events = (event for entry in share.entries for event in entry.events)
            share.chunks = into_chunks(run.first_pending, events, self._settings.chunk_bytes)
            size += share.size
            batch.append(share)
        self._waiting.update(dict.fromkeys(left))
        return batch

    async def _write(self, batch: list[_Share]) -> None:
        """Commit a batch, however long it takes; no error of one run harms another."""
        backoff = Backoff(0.05, LONGEST_BACKOFF)
        while batch:
            try:
                batch = await self._try(batch)
                self.failing_since = None
            except Exception as error:
                metrics.append_failures.inc()
                if not is_gone(error):
                    batch = await self._isolate(batch, error)
                    continue
                self.failing_since = self.failing_since or time.monotonic()
                log.warning("append failed, trying again: %s: %s", type(error).__name__, error)
                await backoff.pause()
                batch = await self._not_yet_committed(batch)

    async def _try(self, batch: list[_Share]) -> list[_Share]:
        """One append. Returns what is left to do: nothing."""
        started = time.perf_counter()
        held = await self._append(batch)
        metrics.append_seconds.observe(time.perf_counter() - started)
        metrics.appends.inc()
        refused = []
        for share in batch:
            if share.run.response_id in held:
                self._settle(share)
            else:
                refused.append(share)
        for share in await self._not_yet_committed(refused):
            metrics.fenced.inc()
            share.run.lose(Fenced(f"attempt {share.run.attempt} does not hold the response"))
        return []

    def _settle(self, share: _Share) -> None:
        share.run.settle(share.entries)
        if share.chunks:
            metrics.events_appended.inc(share.chunks[-1].last - share.chunks[0].first + 1)
            self._committed(share.run.response_id, share.chunks)

    async def _append(self, batch: list[_Share]) -> set[str]:
        rows = await self._lane.fetch(*self._queries.bind("append_log", **_columns(batch)))
        return {row["id"] for row in rows}

    async def _not_yet_committed(self, batch: list[_Share]) -> list[_Share]:
        """Settle what is in the log already, from a commit whose answer was lost; give the rest.

        A batch commits whole or not at all, so the last chunk of a share, written by the same
        attempt, tells; for one that brought no events, its first step does.
        """
        if not batch:
            return []
        try:
            found = await self._find(batch)
        except FAILURES as error:
            if not is_gone(error):
                raise
            return batch
        for share in batch:
            if share.run.response_id in found:
                self._settle(share)
        return [share for share in batch if share.run.response_id not in found]

    async def _find(self, batch: list[_Share]) -> set[str]:
        """The responses of a batch whose share of it is committed."""
        chunks = [
            (share.run.response_id, share.chunks[-1].last, share.run.attempt)
            for share in batch
            if share.chunks
        ]
        steps = [
            (share.run.response_id, *share.first_step[:3], share.run.attempt)
            for share in batch
            if not share.chunks and share.first_step
        ]
        rows = await self._lane.fetch(self._queries.find_chunks, *_transposed(chunks, 3))
        rows += await self._lane.fetch(self._queries.find_steps, *_transposed(steps, 5))
        return {row["response_id"] for row in rows}

    async def _isolate(self, batch: list[_Share], error: Exception) -> list[_Share]:
        """A batch was refused for what one run wrote: find out which, and fail only that one."""
        left = await self._not_yet_committed(batch)
        if len(left) > 1:
            log.warning("append of %d runs was refused, writing them one by one", len(left))
            for share in left:
                await self._write([share])
        elif left:
            run = left[0].run
            log.error("append for %s was refused", run.response_id, exc_info=error)
            run.lose(LongrunError("The run's events could not be stored."))
        return []


def _columns(batch: list[_Share]) -> dict[str, list[Any]]:
    """The parameters of `append_log`, a list for each column."""
    chunks = [(share.run.response_id, *chunk) for share in batch for chunk in share.chunks]
    entries = [(share.run.response_id, entry) for share in batch for entry in share.entries]
    items = [(id_, *item) for id_, entry in entries for item in entry.items]
    steps = [(id_, *step) for id_, entry in entries for step in entry.steps]
    endings = [(id_, *entry.ending) for id_, entry in entries if entry.ending]
    return {
        "response_ids": [share.run.response_id for share in batch],
        "attempts": [share.run.attempt for share in batch],
        **_named(chunks, "chunk_response_ids", "chunk_firsts", "chunk_lasts", "chunk_data"),
        **_named(items, "item_response_ids", "item_indexes", "items"),
        **_named(steps, "step_response_ids", *(f"step_{name}s" for name in Step._fields)),
        **_named(endings, "ending_response_ids", "ending_statuses", "ending_documents"),
    }


def _named(rows: Sequence[Sequence[object]], *names: str) -> dict[str, list[Any]]:
    """Rows as columns, each under its name."""
    return dict(zip(names, _transposed(rows, len(names)), strict=True))


def _transposed(rows: Sequence[Sequence[object]], width: int) -> list[list[object]]:
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(width)]
