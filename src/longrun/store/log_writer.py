"""The log writer: group commit without a timer, fenced, with bounded memory for each run.

It takes everything that is pending from all runs of this replica and writes it in one
statement and one commit; while that commit runs, the next batch gathers. An idle server so
adds no wait, and a busy one makes larger batches. A run that brings very much, or whose batch
Postgres could not write in time, is written alone, on a connection beside the others'.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import asyncpg

from longrun import metrics
from longrun.backoff import Backoff
from longrun.errors import Fenced, LongrunError, NotStored, Overtaken
from longrun.store.announcements import events_channel
from longrun.store.announcer import Announcer
from longrun.store.batch import (
    NOTHING_TOLD,
    Share,
    append_columns,
    end_columns,
    event_columns,
    first_steps,
    is_small,
    last_chunks,
    of_events_alone,
    share_of,
    stored_chunks,
)
from longrun.store.connections import Lane
from longrun.store.database import Database
from longrun.store.one_chunk import OneChunk
from longrun.store.records import Chunk
from longrun.store.run_log import RunLog
from longrun.store.sealed_batch import seal_columns
from longrun.store.sqlstates import FAILURES, Meaning, meaning
from longrun.supervision import also_on

log = logging.getLogger("longrun.store.log_writer")

BATCH_BYTES: Final = 8 * 1024 * 1024
"""About what a batch brings at most. A run that brings more by itself is written alone."""

TRIES_ALONE: Final = 4
"""How often what cannot be cut any further is tried while other appends come through."""

FIRST_BACKOFF: Final = 0.05
LONGEST_BACKOFF: Final = 2.0

NOT_STORED: Final = "The run's events could not be stored."


class LogWriter:
    """One per replica.

    Args:
        committed: called after each commit with a response id and its new chunks, for the
            readers of this replica.
        announcer: tells the other replicas.
    """

    def __init__(
        self,
        database: Database,
        committed: Callable[[str, list[Chunk]], None],
        announcer: Announcer | None = None,
    ) -> None:
        self._settings = database.settings
        self._queries = database.queries
        self._sealing = database.sealing
        self._lane = database.lane("log writer", plans_once=True)
        self._lane_of_one = database.lane("log writer, one run", plans_once=True)
        self._committed = committed
        self._announcer = announcer
        self._channel = events_channel(database.settings.db_schema)
        self._one_chunk = OneChunk(database, self._lane, announcer)
        self._waiting: dict[RunLog, None] = {}
        self._alone: set[RunLog] = set()
        self._group: asyncio.TaskGroup
        self._work = asyncio.Event()
        self._appends = 0
        self._ended = False
        self.failing_since: float | None = None

    async def prepare(self) -> None:
        """Have a connection, and plans for most appends, before there is something to write: to
        make a plan takes longer than an append, and the ends of runs would wait for it."""
        if not self._settings.statement_cache_size:
            return
        nothing = append_columns([])
        events = dict(nothing)
        of_events_alone(events)
        with_tokens = {**nothing, "spent_runs": [], "spent_tokens": []}
        told = {"told_runs": [], "told_lasts": [], "events_channel": self._channel, "parcel": ""}
        small = event_columns([], self._sealing)
        with contextlib.suppress(*FAILURES):
            for columns in (small, events, nothing, with_tokens):
                for also in ({}, {each: told[each] for each in told if each in columns}):
                    for known in (None, datetime.now(UTC)):
                        values = {**columns, **also, **end_columns(known)}
                        await self._lane.fetch(*self._bound(values))
            for statement in self._one_chunk.of_nobody():
                await self._lane.fetch(*statement)

    def open(self, response_id: str, attempt: int, next_sequence: int) -> RunLog:
        """The log of an attempt that this replica holds."""
        return RunLog(
            response_id,
            attempt,
            next_sequence,
            wake=self.wake,
            buffer_bytes=self._settings.run_buffer_bytes,
            max_item_bytes=self._settings.max_item_bytes,
            merge_deltas=self._settings.merge_deltas,
        )

    def wake(self, run: RunLog) -> None:
        """Something of this run is to be written."""
        if run.lost is not None or self._ended:
            run.lose(LongrunError("The log writer has stopped."))
        elif run not in self._alone:
            self._waiting[run] = None
            self._work.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Write until `stop` is set and nothing is pending.

        However this ends, nobody waits for a commit that will not come: runs of which something
        was under way have lost their logs. What waits is written once it is started again.
        """
        self._ended, ends = False, True
        try:
            with also_on(stop, self._work.set):
                async with asyncio.TaskGroup() as self._group:
                    await self._write_all(stop)
        except Exception:
            ends = stop.is_set()
            raise
        finally:
            if ends:
                self._ended = True
                for run in list(self._waiting):
                    self.wake(run)
                self._waiting.clear()

    async def _write_all(self, stop: asyncio.Event) -> None:
        self._work.set()
        while not (stop.is_set() and not self._waiting and not self._alone):
            await self._work.wait()
            self._work.clear()
            while self._waiting:
                await self._write(self._next_batch())

    def _next_batch(self) -> list[Share]:
        """The next batch: every waiting run in turn, up to BATCH_BYTES.

        A run has one share of a batch: that it follows the log is looked at for a share. What is
        left of it waits for the next.
        """
        batch, left, size = [], [], 0
        while self._waiting and size < BATCH_BYTES:
            run = next(iter(self._waiting))
            del self._waiting[run]
            share = share_of(run, BATCH_BYTES - size, self._settings.chunk_bytes)
            if share is None:
                continue
            if share.size > BATCH_BYTES:
                self._write_apart([share])
                continue
            if run.has_entries:
                left.append(run)
            size += share.size
            batch.append(share)
        self._waiting.update(dict.fromkeys(left))
        # In one order everywhere, so that no two appends wait for each other.
        batch.sort(key=lambda share: share.run.response_id)
        return batch

    async def _write(self, batch: list[Share]) -> None:
        """Commit a batch, however long it takes; no error of one run harms another."""
        todo, failed = [batch], None
        try:
            if len(batch) == 1:
                try:
                    if await self._write_chunk(batch[0]):
                        return
                except Exception as error:
                    failed = error
            backoff = Backoff(FIRST_BACKOFF, LONGEST_BACKOFF)
            while todo:
                shares = [share for share in todo.pop() if not share.done]
                if not shares:
                    continue
                failure, failed = await self._try(self._lane, shares, failed), None
                match failure:
                    case None:
                        backoff.reset()
                    case Meaning.OWN:
                        half = len(shares) // 2
                        todo += [shares[half:], shares[:half]]
                    case Meaning.BUSY:
                        self._write_apart(shares)
                    case _:
                        todo.append(shares)
                        await backoff.pause()
        except BaseException:
            _lose(share for share in batch if share.run not in self._alone)
            raise

    async def _write_chunk(self, share: Share) -> bool:
        """Commit a share if it is but one chunk. False: it is not, or nothing was written: why, and
        what is to be done, is for the longer way to find out."""
        statement = self._one_chunk.of(share)
        if statement is None:
            return False
        values, told = statement
        started = time.perf_counter()
        try:
            rows = await self._lane.fetch(*values)
        except asyncpg.ProgramLimitExceededError:
            if not told or self._announcer is None:
                raise
            self._announcer.refused()
            return False
        if not rows:
            return False
        run = share.run
        run.steered = rows[0]["steered"]
        assert run.end is not None
        run.end = (run.end[0], share.chunks[0].last + 1)
        self._settle(share, told=told)
        self._appended(time.perf_counter() - started, [share], told=told)
        return True

    # -- runs that are written alone -------------------------------------------------------

    def _write_apart(self, shares: Sequence[Share]) -> None:
        """Write each of these by itself, the smallest first, while the others go on."""
        for share in sorted(shares, key=lambda share: share.size):
            self._alone.add(share.run)
            self._waiting.pop(share.run, None)
            self._group.create_task(self._write_alone(share))

    async def _write_alone(self, share: Share) -> None:
        """Commit a share, in ever smaller parts if Postgres cannot write it in time.

        A part that cannot be cut any further, and fails again and again while what others bring
        is written, is given up, and its run with it.
        """
        run, most = share.run, len(share.pieces)
        tries, seen = 0, self._appends
        backoff = Backoff(FIRST_BACKOFF, LONGEST_BACKOFF)
        try:
            while share.pieces and run.lost is None:
                part = Share(run, share.pieces[:most])
                failure = await self._try(self._lane_of_one, [part])
                if failure is None:
                    share.pieces = share.pieces[most:]
                    tries, seen = 0, self._appends
                    backoff.reset()
                    continue
                if failure is Meaning.BUSY and most > 1:
                    most //= 2
                elif failure is Meaning.BUSY and self._appends > seen:
                    tries, seen = tries + 1, self._appends
                    if tries == TRIES_ALONE:
                        log.error("append for %s was given up: it takes too long", run.response_id)
                        _lose([part])
                await backoff.pause()
        except Exception:
            log.exception("the log of %s could not be written alone", run.response_id)
        finally:
            if share.pieces:
                _lose([share])
            self._alone.discard(run)
            if run.has_entries:
                self._waiting[run] = None
            self._work.set()

    # -- one append ------------------------------------------------------------------------

    async def _try(
        self, lane: Lane, shares: list[Share], failed: Exception | None = None
    ) -> Meaning | None:
        """One append, or one that has failed already. None: all of these are done, a single one
        whose own fault it was too; else what the error means."""
        try:
            try:
                if failed is not None:
                    raise failed
                await self._append(lane, shares)
            except Exception as error:
                if len(shares) > 1 or meaning(error) is not Meaning.OWN:
                    raise
                _forget_ends(shares)
                await self._settle_committed(lane, shares)
                if not shares[0].done:
                    metrics.append_failures.inc()
                    response_id = shares[0].run.response_id
                    log.error("append for %s was refused", response_id, exc_info=error)
                    _lose(shares)
        except Exception as error:
            metrics.append_failures.inc()
            _forget_ends(shares)
            return self._failure(shares, error)
        return None

    def _failure(self, shares: list[Share], error: Exception) -> Meaning:
        what, name = meaning(error), type(error).__name__
        log.warning("append of %d runs failed (%s): %s: %s", len(shares), what.name, name, error)
        if what not in (Meaning.OWN, Meaning.BUSY):
            self.failing_since = self.failing_since or time.monotonic()
        return what

    async def _append(self, lane: Lane, shares: list[Share]) -> None:
        """Settle what was committed. What was refused has lost its log, unless it is there
        already, from an append whose answer was lost."""
        started = time.perf_counter()
        known = _server_of(shares)
        rows, told = await self._commit(lane, shares, known)
        self._appended(time.perf_counter() - started, shares, told=bool(told))
        held = {row["n"]: row for row in rows}
        refused = {}
        for n, share in enumerate(shares, 1):
            row = held.get(n)
            if row is not None and row["follows"]:
                share.run.steered = row["steered"]
                self._settle(share, told=n in told)
                share.run.end = (known or row["server"], share.end)
            elif row is not None and row["early"]:
                share.done = True
                share.run.lose(Overtaken())
            else:
                refused[n] = share
        if known is not None and (unsure := [refused.pop(n) for n in held if n in refused]):
            # Another server, which may not have all that the one before had confirmed.
            _forget_ends(unsure)
            await self._append(lane, unsure)
        if refused:
            await self._settle_committed(lane, list(refused.values()))
            for n, share in refused.items():
                if not share.done:
                    self._refuse(share, held=n in held)

    def _appended(self, took: float, shares: Sequence[Share], *, told: bool) -> None:
        """Postgres has answered an append of these, some seconds after it was asked."""
        if self._announcer is not None:
            self._announcer.appended(took, told=told)
        metrics.append_seconds.observe(took)
        metrics.appends.inc()
        metrics.append_events.observe(sum(map(_events_of, shares)))
        self._appends += 1
        self.failing_since = None

    async def _commit(
        self, lane: Lane, shares: list[Share], known: datetime | None
    ) -> tuple[list[asyncpg.Record], list[int]]:
        """Write a batch, of which this server has confirmed all that it follows; None: that is
        looked at. Returns what became of the shares, by their numbers in it, and of which
        the others are told thereby how far their logs reach."""
        if is_small(shares):
            columns = event_columns(shares, self._sealing)
        else:
            columns = append_columns(shares)
            if self._sealing.knows_keys:
                seal_columns(columns, shares, self._sealing)
            of_events_alone(columns)
        columns |= end_columns(known)
        told = self._take_along(columns, shares) if lane is self._lane else []
        try:
            return await lane.fetch(*self._bound(columns)), told
        except asyncpg.ProgramLimitExceededError:
            if self._announcer is None or not told:
                raise
            # The notification queue is full, which is no reason not to write.
            self._announcer.refused()
            columns.update({each: None for each in NOTHING_TOLD if each in columns})
            return await lane.fetch(*self._bound(columns)), []

    def _bound(self, columns: dict[str, Any]) -> tuple[Any, ...]:
        if "chunk_data" in columns:
            return self._queries.bind("append_log", **columns)
        return self._queries.bind("append_events", **columns)

    def _refuse(self, share: Share, *, held: bool) -> None:
        share.done = True
        run = share.run
        if not held:
            metrics.fenced.inc()
            run.lose(Fenced(f"attempt {run.attempt} does not hold the response"))
            return
        # Commits that Postgres had acknowledged are gone, in a failover for one: or we are wrong.
        # Either way nothing may be written behind a gap.
        log.error("the log of %s does not end where it did, at %d", run.response_id, share.first)
        run.lose(NotStored("The database has lost events of this run that it had confirmed."))

    def _take_along(self, columns: dict[str, Any], shares: list[Share]) -> list[int]:
        """Let an append announce how far logs reach, where it may. Returns of which shares, by
        their numbers in the batch."""
        if self._announcer is None:
            return []
        reached = {n: share for n, share in enumerate(shares, 1) if share.chunks}
        ids = {n: share.run.response_id for n, share in reached.items()}
        told, channel = self._announcer.along(ids)
        if told:
            columns["told_runs"] = told
            if "told_lasts" in columns:
                columns["told_lasts"] = [reached[n].chunks[-1].last for n in told]
            columns["events_channel"] = channel
            columns["parcel"] = self._announcer.parcel(
                {ids[n]: reached[n].chunks[-1].last for n in told},
                stored_chunks(columns, [(n, ids[n]) for n in told]),
            )
        return told

    def _settle(self, share: Share, *, told: bool = False) -> None:
        share.done = True
        share.run.settle(share.entries)
        chunks = share.chunks
        if chunks:
            metrics.events_appended.inc(_events_of(share))
            self._committed(share.run.response_id, chunks)
            if self._announcer is not None:
                self._announcer.announce(
                    share.run.response_id, chunks[-1].last, told=told, chunks=chunks
                )

    async def _settle_committed(self, lane: Lane, shares: list[Share]) -> None:
        """Settle what is in the log already.

        An append commits whole or not at all, so the last chunk of a share, written by the same
        attempt, tells; for one that brought no events, its first step does.
        """
        try:
            rows = await lane.fetch(self._queries.find_chunks, *last_chunks(shares))
            rows += await lane.fetch(self._queries.find_steps, *first_steps(shares))
        except Exception as error:
            if meaning(error) is not Meaning.OWN:
                raise
            # What Postgres does not take for a question, it has not taken for a row.
            rows = []
        found = {(row["response_id"], row["attempt"]) for row in rows}
        for share in shares:
            if share.key in found:
                self._settle(share)


def _server_of(shares: Sequence[Share]) -> datetime | None:
    """The server that has confirmed all that these follow, by when it was started; None: where
    their logs end has to be looked at."""
    end = shares[0].run.end
    if end is None:
        return None
    server = end[0]
    return server if all(share.run.end == (server, share.first) for share in shares) else None


def _forget_ends(shares: Iterable[Share]) -> None:
    for share in shares:
        share.run.end = None


def _lose(shares: Iterable[Share]) -> None:
    """The runs of these shares have lost their logs, unless they are done."""
    for share in shares:
        if not share.done:
            share.done = True
            share.run.lose(NotStored(NOT_STORED))


def _events_of(share: Share) -> int:
    return share.chunks[-1].last - share.chunks[0].first + 1 if share.chunks else 0
