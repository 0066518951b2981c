"""The tail: one code path for every reader. Replay from a cursor, then live, then the end.

Register with the hub first, then read the log, so that nothing falls between the two.
"""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from longrun.backoff import jittered
from longrun.errors import Unavailable, Unreadable
from longrun.fanout.hub import Hub, Reader
from longrun.fanout.topic import Topic
from longrun.protocol import ends_log, is_terminal
from longrun.store.abridged import end_before, length_before, moved_by, terminal_event
from longrun.store.events import Begun, EventLog
from longrun.store.records import Chunk, Ended
from longrun.supervision import let_go

RETRY: Final = 0.5
"""Seconds, on average, between looks at a Postgres that is away."""

MOMENT: Final = 0.001
"""Seconds by which a timer may be early."""

Take = Callable[[list[Chunk]], bool]
"""Given what comes while a tail waits, at once: whether it took that. It may not wait."""


def dropped(_: list[Chunk]) -> bool:
    """Takes what comes for who waits for the end alone."""
    return True


class Tail:
    """Reads one response's log from a cursor to its terminal event. A context manager.

    Args:
        cursor: the sequence number of the last event that the reader has; -1 for none.
        finished: the response was finished before the tail began, so its log is complete.
        ended: when it ended, and whose it is, where a standby may be asked for its log.
        begun: what comes after the cursor, as far as it was read already.
        coming: the response is not created yet: entered before, the tail has all of its log.
        page_bytes: about how much is taken at once, from the log or from the ring.
        patient: stay until the replica itself goes.
    """

    def __init__(
        self,
        hub: Hub,
        event_log: EventLog,
        response_id: str,
        *,
        cursor: int = -1,
        finished: bool = False,
        ended: Ended | None = None,
        begun: list[Chunk] | None = None,
        page_bytes: int,
        patient: bool = False,
        coming: bool = False,
    ) -> None:
        self.cursor = cursor
        self.ended = False
        self._over = False
        self._moved = 0
        """How much higher the numbers of the log are stored than they are (store/abridged.py)."""
        self._came_with = cursor
        self._hub = hub
        self._log = event_log
        self._response_id = response_id
        self._finished = finished
        self._finished_at = ended
        self._begun = begun or []
        self._page_bytes = page_bytes
        self._subscription = hub.subscribe(
            response_id, patient=patient, coming=coming, finished=finished
        )
        self._reader: Reader
        self._topic: Topic
        self._entered = self._left = False
        self._resting: asyncio.Future[bool] | None = None
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._take: Take | None = None
        self._silence = 0.0
        self._refused: list[Chunk] = []

    def __enter__(self) -> Self:
        """May be entered again, as by whoever it is handed to; it is over with the first exit."""
        if not self._entered:
            self._entered = True
            self._reader = self._subscription.__enter__()
            self._topic = self._reader.topic
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._left:
            return
        self._left = True
        if self._reader.looking is not None:
            self._reader.looking.cancel()
            let_go(self._reader.looking)
        if self._timer is not None:
            self._timer.cancel()
        self._subscription.__exit__(kind, error, traceback)

    def skip_to(self, end: Chunk, count: int) -> None:
        """Before it begins: of the log as it is, which ends with this chunk, only the last `count`
        events are wanted."""
        self._moved = moved_by(end)
        self.cursor = self._came_with = max(-1, end.last - self._moved - count)

    @property
    def stored_cursor(self) -> int:
        """The cursor, as numbers of the log are stored (store/abridged.py)."""
        return self.cursor + self._moved if self.cursor >= 0 else self.cursor

    @property
    def has_begun(self) -> bool:
        """Whether something comes next that was read already, or that the ring has, as it has what
        a response begins with that was just created: `next` gives it without waiting."""
        if self._begun:
            return not self._is_other(self._begun)
        return self.is_covered and self._topic.has_news(self.cursor)

    @property
    def is_covered(self) -> bool:
        """Whether the ring has all that comes after the cursor, and the log goes on, as far as is
        known here: of Postgres only needs to be asked whether the response is still there."""
        topic = self._topic
        return topic.covers(self.cursor) and not topic.is_settled and not self._moved

    @property
    def sent_away(self) -> bool:
        """Whether its reader is to go on elsewhere: this replica stops, or has lost Postgres."""
        return self._reader.leaving or self._reader.sated

    def begin(self, begun: Begun) -> None:
        """What was read after this was entered: it goes on from there. At the end of the log of a
        response that is live the ring takes over, without another look."""
        self._finished = is_terminal(begun.status)
        self._finished_at = begun.ended
        self._begun = begun.chunks
        if begun.reached is not None and not self._finished:
            self._hub.start_ring(self._topic, Chunk(begun.reached, begun.reached, b""))

    async def next(self, timeout: float, take: Take | None = None) -> list[Chunk] | None:
        """What has piled up since the last call: in order, no gap, no repeat. Not to be changed,
        as others get the same list.

        Empty: nothing came within `timeout` seconds; while Postgres is away too. None: it is over,
        after the terminal event (`ended` is then true), because the response was deleted or what
        is stored of it cannot be read here, or because this replica stops.

        Args:
            take: gets what comes while this waits, without a switch to the task that waits. What
                it takes, this does not return, and waits on.
        """
        deadline = asyncio.get_running_loop().time() + timeout
        while not (self.ended or self._leaves):
            try:
                block = await self._look_until(deadline)
            except Unreadable:
                return None
            except Unavailable:
                await asyncio.sleep(jittered(RETRY))
                if asyncio.get_running_loop().time() > deadline:
                    return []
                continue
            if block is None:
                return None if self._leaves else []
            if block:
                return self._advance(block)
            if self._topic.terminal is not None:
                self._end_at(self._topic.terminal)
            if self._over or self._topic.deleted or self._reader.sated:
                return None
            if not await self._rest_until(deadline, timeout, take):
                return []
            if self._refused:
                refused, self._refused = self._refused, []
                return refused
            deadline = self._deadline
        return None

    async def _look_until(self, deadline: float) -> list[Chunk] | None:
        """What comes after the cursor: from the ring if it reaches back so far, else the log.
        None: Postgres takes longer to answer, and the next call waits for the same answer; or it
        need not answer, as the reader leaves."""
        begun, self._begun = self._begun, []
        if begun and not self._is_other(begun):
            return begun
        if self._reader.looking is None:
            ring = self._topic.ring
            if ring is not None and ring.covers(self.cursor) and not self._moved:
                return ring.after(self.cursor, self._page_bytes)
            # Asked now: by the time the task begins, another reader may have started the ring.
            ring_was_ahead = ring is not None
            self._reader.looking = asyncio.create_task(self._look_into_log(ring_was_ahead))
        left = deadline - asyncio.get_running_loop().time()
        if not (await asyncio.wait((self._reader.looking,), timeout=max(0, left)))[0]:
            return None
        looked, self._reader.looking = self._reader.looking, None
        return None if looked.cancelled() else looked.result()

    async def _look_into_log(self, ring_was_ahead: bool) -> list[Chunk]:
        block = await self._page()
        if self._is_other(block):
            return await self._rest(block)
        if block:
            return block
        if ring_was_ahead:
            # The ring had events after the cursor and the log has none: it was deleted.
            self._topic.delete()
        elif self._finished or self._topic.ring is None:
            await self._find_end()
        # Else another reader has started the ring meanwhile, perhaps after newer events.
        return []

    async def _page(self) -> list[Chunk]:
        where = (self.stored_cursor, self._page_bytes)
        if self._finished_at is not None and not self._moved:
            return await self._log.ended_page(self._response_id, self._finished_at, *where)
        return await self._log.page_unscoped(self._response_id, *where)

    def _is_other(self, page: list[Chunk]) -> bool:
        """Whether this is a page of an abridged log, and the cursor is one of the log that was
        there before, or may be. Without a cursor, it is the log that is read."""
        is_abridged = bool(page) and length_before(page[0]) is not None
        return is_abridged and self.cursor >= 0 and not self._moved

    async def _rest(self, page: list[Chunk]) -> list[Chunk]:
        """What comes after a cursor of the log that was there before it was abridged."""
        if self.cursor >= end_before(page[0]):
            self._over = self.ended = True
            return []
        end = await self._log.end_unscoped(self._response_id)
        if end is None:
            self._topic.delete()
            return []
        return [terminal_event(end)]

    async def _find_end(self) -> None:
        """There was nothing after the cursor. Either it is past the terminal event; or the log
        goes on, and from its end on the ring takes over; or it is gone, and nothing has ended."""
        end = await self._log.end_unscoped(self._response_id)
        if end is None:
            self._topic.delete()
        elif self._finished:
            self._end_at(end_before(end))
        else:
            self._hub.start_ring(self._topic, end)

    def _end_at(self, terminal: int) -> None:
        """The response has ended with this event: nothing comes after it. A reader that came with
        a cursor past it has ended. One that has read on to there has not: a failover lost what it
        read, and its stream is not complete."""
        if self.cursor >= terminal:
            self._over = True
            self.ended = self.cursor in (terminal, self._came_with)

    def _advance(self, block: list[Chunk]) -> list[Chunk]:
        if length_before(block[0]) is not None:
            self._moved = moved = moved_by(block[0])
            block = [Chunk(first - moved, last - moved, data) for first, last, data in block]
        first, last, data = block[0]
        skip = self.cursor + 1 - first
        if skip > 0:
            begins = Chunk(self.cursor + 1, last, data.split(b"\n", skip)[skip])
            block = [begins, *block[1:]]
        self.cursor = block[-1].last
        self.ended = ends_log(block[-1].data)
        return block

    # -- waiting ----------------------------------------------------------------------------

    async def _rest_until(self, deadline: float, silence: float, take: Take | None) -> bool:
        """Wait for a reason to look. False: the deadline came first, which is `silence` seconds
        after the last that was taken meanwhile."""
        if self._has_reason():
            return True
        loop = asyncio.get_running_loop()
        self._deadline, self._silence, self._take = deadline, silence, take
        self._resting = loop.create_future()
        # One timer for as long as that may be: most often it finds that there was no silence.
        if self._timer is None or self._timer_at > deadline:
            self._set_timer()
        self._reader.rest(self.look)
        try:
            return await self._resting
        finally:
            self._resting = self._take = None
            self._reader.rouse()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = self._deadline
        self._timer = asyncio.get_running_loop().call_at(self._deadline, self._time_is_up)

    def _time_is_up(self) -> None:
        self._timer = None
        if self._resting is None or self._resting.done():
            return
        if asyncio.get_running_loop().time() < self._deadline - MOMENT:
            self._set_timer()
        else:
            self._resting.set_result(self._has_reason())

    def look(self) -> None:
        """While it rests: something has changed. What can be taken at once is; for everything else
        its task goes on."""
        resting = self._resting
        if resting is None or resting.done():
            return
        try:
            if self._take is not None:
                self._take_at_once(self._take)
            if self._refused or self.ended or self._has_reason():
                resting.set_result(True)
        except Exception as error:
            resting.set_exception(error)

    def _take_at_once(self, take: Take) -> None:
        ring = self._topic.ring
        if self._leaves or self._moved or ring is None or not ring.covers(self.cursor):
            return
        if found := ring.after(self.cursor, self._page_bytes):
            block = self._advance(found)
            if take(block):
                self._deadline = asyncio.get_running_loop().time() + self._silence
            else:
                self._refused = block

    def _has_reason(self) -> bool:
        return self._leaves or self._reader.sated or self._topic.has_news(self.cursor)

    @property
    def _leaves(self) -> bool:
        """Whether its stream ends here. Not before a new response's first event, which has its id:
        nobody could resume it."""
        return self._reader.leaving and not (self._reader.coming and self.cursor < 0)
