"""A topic: one response that has readers here, the newest of its log, and what is known of it."""

import asyncio
import math
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Final, Protocol

from longrun.protocol import ends_log
from longrun.store.records import Chunk

TURN: Final = 50
"""Resting readers that look in one turn of the event loop: what the first of them write leaves at
its end, and others have their turn."""


class Rests(Protocol):
    """A reader that waits.

    Attributes:
        look: is called in no task, and neither waits nor raises.
    """

    look: Callable[[], None]


class Ring:
    """The newest chunks of a log, in bounded memory: the events from `start` to `end`.

    Args:
        after: the sequence number after which it starts.
        limit: bytes that it holds at most, unless its newest chunk alone is larger.
    """

    def __init__(self, after: int, limit: int) -> None:
        self.start = after + 1
        self.end = after
        self._limit = limit
        self._chunks: deque[Chunk] = deque()
        self._bytes = 0
        self._asked = (-1, -1)
        self._found: list[Chunk] = []

    def covers(self, cursor: int) -> bool:
        """Whether it has, or will get, everything after this cursor."""
        return cursor + 1 >= self.start

    def after(self, cursor: int, limit: int) -> list[Chunk]:
        """The chunks that end after a cursor, oldest first: at least one if there is any, then
        as many as fit into `limit` bytes. A slow reader holds no more than that. All readers at
        the same place get the same list, which is not to be changed."""
        if not self._found or self._asked != (cursor, limit):
            self._asked, self._found = (cursor, limit), self._after(cursor, limit)
        return self._found

    def _after(self, cursor: int, limit: int) -> list[Chunk]:
        found: list[Chunk] = []
        for chunk in reversed(self._chunks):
            if chunk.last <= cursor:
                break
            found.append(chunk)
        found.reverse()
        size = 0
        for place, chunk in enumerate(found):
            size += len(chunk.data)
            if size > limit and place:
                return found[:place]
        return found

    def push(self, chunk: Chunk) -> bool:
        """Take a committed chunk. False: it does not continue the ring, events are missing."""
        if chunk.first > self.end + 1:
            return False
        if chunk.last <= self.end:
            return True
        self._found = []
        self._chunks.append(chunk)
        self._bytes += len(chunk.data)
        self.end = chunk.last
        while self._bytes > self._limit and len(self._chunks) > 1:
            dropped = self._chunks.popleft()
            self._bytes -= len(dropped.data)
            self.start = dropped.last + 1
        return True


class Topic:
    """One response that has readers here.

    Attributes:
        ring: None until a first reader has caught up with the log. From then on the hub fetches
            what comes; what lies before the ring, each reader fetches itself.
        announced: how far the log reaches, as far as somebody said so.
        heard_at: when somebody last said so, by the clock of the event loop.
        terminal: the sequence number of the terminal event, once that is in the ring or before it.
        deleted: the response no longer exists.
        resting: the readers that wait for a change.
    """

    def __init__(self, response_id: str, ring_bytes: int) -> None:
        self.response_id = response_id
        self.readers = 0
        self.ring: Ring | None = None
        self.announced = -1
        self.heard_at = -math.inf
        self.terminal: int | None = None
        self.deleted = False
        self._ring_bytes = ring_bytes
        self.resting: dict[Rests, None] = {}
        self._looking = self._again = False

    # -- what is known ----------------------------------------------------------------------

    @property
    def is_settled(self) -> bool:
        """Whether nothing more can come: the hub need not ask again."""
        return self.deleted or self.terminal is not None

    @property
    def is_behind(self) -> bool:
        """Whether more was announced than the ring has: the hub must fetch it."""
        return self.ring is not None and self.announced > self.ring.end and not self.is_settled

    def covers(self, cursor: int) -> bool:
        """Whether a reader at this cursor is served from the ring."""
        return self.ring is not None and self.ring.covers(cursor)

    def has_news(self, cursor: int) -> bool:
        """Whether a reader at this cursor has a reason to look: more events, or the end."""
        reached = self.announced if self.ring is None else self.ring.end
        return self.is_settled or reached > cursor

    @property
    def is_coming(self) -> bool:
        """Whether the response is not known to be created yet: nobody is to look for it."""
        return self.ring is not None and self.ring.end < 0

    # -- what happens -----------------------------------------------------------------------

    def expect(self) -> None:
        """The response is about to be created here: all of its log goes into the ring."""
        if self.ring is None:
            self.ring = Ring(-1, self._ring_bytes)

    def start_ring(self, end: Chunk) -> None:
        """A reader has found this chunk at the end of the log: what comes after it goes into the
        ring. Another reader may have started it already."""
        if self.ring is None:
            self.ring = Ring(end.last, self._ring_bytes)
            self._note_terminal(end)

    def push(self, chunk: Chunk, *, now: bool = False) -> bool:
        """Take a committed chunk. False: there is no ring, or events before it are missing.

        Args:
            now: have readers look before this returns, where it is called in a turn of the event
                loop of its own: another one, after an idle time, costs as much as the look.
        """
        if self.ring is None or not self.ring.push(chunk):
            return False
        self._note_terminal(chunk)
        if now and self.resting and not self._looking:
            self._looking = True
            self._look()
        else:
            self.wake()
        return True

    def _note_terminal(self, chunk: Chunk) -> None:
        if ends_log(chunk.data):
            self.terminal = chunk.last

    def delete(self) -> None:
        """The response was deleted: every reader ends."""
        self.deleted = True
        self.wake()

    # -- who waits --------------------------------------------------------------------------

    def wake(self) -> None:
        """Let every resting reader look, soon. Several changes at once are one."""
        if self._looking:
            self._again = True
        elif self.resting:
            self._looking = True
            asyncio.get_running_loop().call_soon(self._look)

    def _look(self) -> None:
        self._again = False
        self._look_on(list(self.resting), 0)

    def _look_on(self, readers: list[Rests], begin: int) -> None:
        # All have looked once before the first looks again, however often there is a reason to.
        end = begin + TURN
        for reader in islice(readers, begin, end):
            reader.look()
        if end < len(readers):
            asyncio.get_running_loop().call_soon(self._look_on, readers, end)
        else:
            self._looking = False
            if self._again:
                self.wake()
