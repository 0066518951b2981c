"""Compaction: the log of a finished response, many small chunks, becomes a few large ones.

A row for a few events costs more than what they say, and Postgres compresses large values. Nothing
changes for readers: each of their pages is one statement, and asks for the chunks that end after
its cursor, whatever chunks these are. Every replica compacts, at a bounded pace; a lock on the
response keeps others, and its deletion, out of a transaction.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from longrun import metrics
from longrun.backoff import jittered, sleep_unless
from longrun.errors import Unreadable
from longrun.store.database import Connection, Database
from longrun.store.sealing import chunk_place
from longrun.supervision import finished_before

log = logging.getLogger("longrun.store.compaction")

INTERVAL: Final = 15.0
"""Seconds between looks for logs to be compacted."""

MOST_LOGS: Final = 100
"""Logs that a look finds. They are taken in any order: so replicas rarely want the same one."""

PART_BYTES: Final = 2 * 1024 * 1024
"""About how much of a log is read and written in one transaction, and held in memory."""

READ_BYTES: Final = 128 * 1024
"""About how much of it is read at once."""

REST: Final = 3.0
"""Pauses, as a multiple of what the transaction before took: compaction has a quarter of one
connection's time at most, and does less where Postgres is busy."""


@dataclass(slots=True)
class Group:
    """Chunks of one attempt that follow each other, to become one.

    `lasts` are where they end, and `data` what they hold, opened; `size` is how large they become.
    """

    first: int
    attempt: int
    lasts: list[int] = field(default_factory=list)
    data: list[bytes] = field(default_factory=list)
    size: int = -1

    @property
    def last(self) -> int:
        return self.lasts[-1]

    def add(self, last: int, data: bytes) -> None:
        self.lasts.append(last)
        self.data.append(data)
        self.size += len(data) + 1

    def takes(self, first: int, attempt: int, size: int, limit: int) -> bool:
        """Whether another chunk can be added."""
        follows = first == self.last + 1 and attempt == self.attempt
        return follows and self.size + 1 + size <= limit


class Compaction:
    """One per replica.

    Args:
        fit: whether this replica can decrypt what is stored; else it leaves logs to others.
        rest: how long it pauses after each transaction, as a multiple of what that took.
    """

    def __init__(
        self, database: Database, fit: Callable[[], bool] = lambda: True, *, rest: float = REST
    ) -> None:
        self._database = database
        self._queries = database.queries
        self._sealing = database.sealing
        self._after = database.settings.compact_after
        self._chunk_bytes = database.settings.chunk_bytes
        self._fit = fit
        self._rest = rest
        self._done = (0, 0, 0)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="longrun-compaction")

    async def run(self, stop: asyncio.Event) -> None:
        """Look for finished logs and compact them until `stop` is set."""
        if not self._after:
            await stop.wait()
            return
        while not await sleep_unless(stop, jittered(INTERVAL)):
            if self._fit():
                await finished_before(stop, self._compact_due(stop))

    async def _compact_due(self, stop: asyncio.Event) -> None:
        before = self._done
        try:
            while due := await self.due():
                random.shuffle(due)
                for response_id in due:
                    await self.compact(response_id, stop)
                    if stop.is_set() or not self._fit():
                        return
                if len(due) < MOST_LOGS:
                    return
        finally:
            logs, read, written = (now - was for now, was in zip(self._done, before, strict=True))
            if logs:
                log.info(
                    "compacted the logs of %d finished responses, %d bytes in %d chunks",
                    logs,
                    read,
                    written,
                )

    async def due(self) -> list[str]:
        """Some of the responses whose logs are to be compacted.

        Raises:
            Unavailable: Postgres is away.
        """
        query = self._queries.find_uncompacted
        rows = await self._database.fetch(query, self._after, MOST_LOGS)
        return [row["id"] for row in rows]

    async def compact(self, response_id: str, stop: asyncio.Event | None = None) -> None:
        """Compact the log of a finished response, unless that is done, or somebody else does it.

        Several transactions, if it is long; a log of which only the beginning is compacted can be
        read as well. `stop`: cuts the pauses between them short.

        Raises:
            Unavailable: Postgres is away; what was compacted stays so.
        """
        reached: int | None = -1
        while reached is not None:
            began = time.monotonic()
            try:
                reached = await self._part(response_id, reached)
            except Unreadable:
                # Which value it was, and why, is in the log. It would be so again.
                metrics.compaction_refusals.inc()
                await self._database.execute(self._queries.note_compacted, response_id)
                return
            pause = self._rest * (time.monotonic() - began)
            await sleep_unless(stop or asyncio.Event(), pause)

    async def _part(self, response_id: str, after: int) -> int | None:
        """Compact what comes after a sequence number, in one transaction.

        Returns:
            How far it came; None: nothing is left to do.
        """
        async with self._database.transaction() as connection:
            if not await connection.fetch(self._queries.lock_uncompacted, response_id):
                return None
            groups, reached, size = [], None, 0
            async with contextlib.aclosing(self._groups(connection, response_id, after)) as found:
                async for group in found:
                    groups += [group] if len(group.lasts) > 1 else []
                    size += group.size
                    if size >= PART_BYTES:
                        reached = group.last
                        break
            if groups:
                await self._merge(connection, response_id, groups)
            if reached is None:
                await connection.execute(self._queries.note_compacted, response_id)
                # Those that it has still, since the replica that executed it is gone.
                await connection.execute(self._queries.drop_digests, [response_id])
        read = sum(group.size for group in groups)
        metrics.compacted_bytes.inc(read)
        if reached is None:
            metrics.compacted_logs.inc()
        logs, before, chunks = self._done
        self._done = (logs + (reached is None), before + read, chunks + len(groups))
        return reached

    async def _groups(
        self, connection: Connection, response_id: str, after: int
    ) -> AsyncGenerator[Group]:
        """What is in the log after a sequence number, grouped as it is to be."""
        group: Group | None = None
        query = self._queries.read_chunks
        while rows := await connection.fetch(query, response_id, after, READ_BYTES):
            for first, last, attempt, data in rows:
                opened = self._sealing.open(chunk_place(response_id, first, last), data)
                if group and not group.takes(first, attempt, len(opened), self._chunk_bytes):
                    yield group
                    group = None
                group = group or Group(first, attempt)
                group.add(last, opened)
                after = last
        if group:
            yield group

    async def _merge(self, connection: Connection, response_id: str, groups: list[Group]) -> None:
        """Put one chunk each in the place of the chunks of these groups."""
        if self._sealing.writes:
            # Compresses: not on the event loop, and not in a thread that tools may have taken.
            loop = asyncio.get_running_loop()
            data = await loop.run_in_executor(self._thread, self._joined, response_id, groups)
        else:
            data = self._joined(response_id, groups)
        query = self._queries.bind(
            "merge_chunks",
            response_id=response_id,
            firsts=[group.first for group in groups],
            lasts=[group.last for group in groups],
            attempts=[group.attempt for group in groups],
            counts=[len(group.lasts) for group in groups],
            data=data,
        )
        merged = await connection.fetch(*query)
        if len(merged) != len(groups):
            raise RuntimeError(f"the log of {response_id} changed while it was compacted")

    def _joined(self, response_id: str, groups: list[Group]) -> list[bytes]:
        return [
            self._sealing.seal(
                chunk_place(response_id, group.first, group.last), b"\n".join(group.data)
            )
            for group in groups
        ]
