"""A run's log: what one attempt appends to the event log, and how far it is committed."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from longrun.errors import LongrunError
from longrun.store.records import Ending, Step

ENTRY_BYTES: Final = 64 * 1024
"""What an entry has at least before events that bring nothing else begin another one."""


@dataclass(slots=True)
class Entry:
    """What calls of `append` hand over; it is committed whole or not at all."""

    events: list[bytes]
    items: Sequence[tuple[int, str]] = ()
    steps: Sequence[Step] = ()
    ending: Ending | None = None
    size: int = 0


class RunLog:
    """The end of the event log that one attempt writes to.

    `append` never waits and never fails; `ready` waits while too much is pending; `flush` waits
    for the commit. Both raise when this attempt no longer holds the response.

    Args:
        next_sequence: where the log ends, and this attempt goes on.
        wake: called when there is something to be written (`LogWriter.wake`).
        buffer_bytes: what may be pending before `ready` waits.
    """

    def __init__(
        self,
        response_id: str,
        attempt: int,
        next_sequence: int,
        *,
        wake: Callable[["RunLog"], None],
        buffer_bytes: int,
    ) -> None:
        self.response_id = response_id
        self.attempt = attempt
        self.next_sequence = next_sequence
        self.lost: LongrunError | None = None
        self._wake = wake
        self._buffer_bytes = buffer_bytes
        self._entries: deque[Entry] = deque()
        self._first = next_sequence
        self._pending_bytes = 0
        self._appended = 0
        self._committed = 0
        self._changed = asyncio.Event()

    def append(
        self,
        events: Sequence[bytes],
        *,
        items: Sequence[tuple[int, str]] = (),
        steps: Sequence[Step] = (),
        ending: Ending | None = None,
    ) -> None:
        """Hand over encoded events, numbered from `next_sequence` on, and what belongs to them.

        They are committed together. After an ending nothing more may come.
        """
        size = sum(map(len, events))
        last = self._entries[-1] if self._entries else None
        if items or steps or ending or last is None or last.ending or last.size >= ENTRY_BYTES:
            size += sum([len(step.result) for step in steps])
            self._entries.append(Entry([*events], items, steps, ending, size))
            self._appended += 1
        else:
            # Deltas come one by one and by the thousand: an entry for each would be most of the
            # work here, and of the garbage collector's.
            last.events += events
            last.size += size
        self.next_sequence += len(events)
        self._pending_bytes += size
        self._wake(self)

    @property
    def must_wait(self) -> bool:
        """Whether `ready` would wait, or raise."""
        return self._pending_bytes >= self._buffer_bytes or self.lost is not None

    async def ready(self) -> None:
        """Wait until less is pending than `buffer_bytes`: the run is slowed, never cut.

        Raises:
            Fenced: another attempt holds the response.
        """
        while self._pending_bytes >= self._buffer_bytes:
            await self._next_change()
        self._check()

    async def flush(self) -> None:
        """Wait until everything that was appended is committed.

        Raises:
            Fenced: another attempt holds the response; what was pending is not in the log.
        """
        target = self._appended
        while self._committed < target:
            await self._next_change()
        self._check()

    def _check(self) -> None:
        if self.lost is not None:
            raise self.lost

    async def _next_change(self) -> None:
        self._check()
        self._changed.clear()
        await self._changed.wait()

    def next_entries(self, limit: int) -> list[Entry]:
        """Remove the oldest entries that are pending: about `limit` bytes of them, at least one."""
        found: list[Entry] = []
        size = 0
        while self._entries and (not found or size + self._entries[0].size <= limit):
            entry = self._entries.popleft()
            found.append(entry)
            size += entry.size
        return found

    @property
    def has_entries(self) -> bool:
        return bool(self._entries)

    def settle(self, entries: Sequence[Entry]) -> None:
        """These entries are committed."""
        self._pending_bytes -= sum(entry.size for entry in entries)
        self._first += sum(len(entry.events) for entry in entries)
        self._committed += len(entries)
        self._changed.set()

    def lose(self, error: LongrunError) -> None:
        """This attempt must not write any more; what is pending is dropped."""
        self.lost = error
        self._entries.clear()
        self._pending_bytes = 0
        self._changed.set()

    @property
    def first_pending(self) -> int:
        """The number of the first event that is not committed."""
        return self._first
