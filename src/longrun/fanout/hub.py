"""The hub: wakes the readers of this replica, and keeps the newest events for all of them.

For each response with local readers there is a topic: a bounded ring of its newest chunks and
one thing to wait on. Readers hold a cursor and nothing else. What is announced is fetched once,
for all woken topics in one query, however many readers there are.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

from longrun import metrics
from longrun.backoff import jittered
from longrun.errors import Unavailable
from longrun.protocol import ends_log
from longrun.store.events import EventLog, News
from longrun.store.records import Chunk
from longrun.supervision import also_on

log = logging.getLogger("longrun.fanout.hub")

DEAF_POLL: Final = 0.2
"""Seconds between polls while the LISTEN connection is down."""

LEAVING_PER_SECOND: Final = 50.0
"""Readers that a stopping replica sends away each second."""


class Topic:
    """One response that has readers here.

    `position` is how far the ring reaches; None until a first reader has caught up with the
    log. Events after it are fetched by the hub, events before the ring by their reader.
    """

    def __init__(self, response_id: str, ring_bytes: int) -> None:
        self.response_id = response_id
        self.readers = 0
        self.position: int | None = None
        self.announced = -1
        self.last: int | None = None
        self.gone = False
        self._ring: deque[Chunk] = deque()
        self._ring_bytes = ring_bytes
        self._bytes = 0
        self._start = 0
        self._changed = asyncio.Event()

    def start_after(self, end: Chunk) -> None:
        """A reader has found the log's end: what comes after it goes into the ring."""
        if self.position is None:
            self.position = end.last
            self._start = end.last + 1
            if ends_log(end.data):
                self.last = end.last

    def covers(self, cursor: int) -> bool:
        """Whether the ring has, or will get, everything after this cursor."""
        return self.position is not None and cursor + 1 >= self._start

    def after(self, cursor: int, limit: int) -> list[Chunk]:
        """The chunks of the ring that end after a cursor, oldest first: at least one if there is
        any, then as many as fit into `limit` bytes. A slow reader holds no more than that."""
        found: list[Chunk] = []
        for chunk in reversed(self._ring):
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
        """Take a committed chunk that continues the ring. False: it does not (yet)."""
        if self.position is None or chunk.first > self.position + 1:
            return False
        if chunk.last <= self.position:
            return True
        self._ring.append(chunk)
        self._bytes += len(chunk.data)
        self.position = chunk.last
        while self._bytes > self._ring_bytes and len(self._ring) > 1:
            dropped = self._ring.popleft()
            self._bytes -= len(dropped.data)
            self._start = dropped.last + 1
        if ends_log(chunk.data):
            self.last = chunk.last
        self._changed.set()
        return True

    def wake(self) -> None:
        """Let every reader look again."""
        self._changed.set()

    def leave(self) -> None:
        """The response was deleted: every reader ends."""
        self.gone = True
        self._changed.set()

    def has_news(self, cursor: int) -> bool:
        """Whether a reader at this cursor has a reason to look."""
        if self.gone or self.last is not None:
            return True
        reached = self.announced if self.position is None else self.position
        return reached > cursor or not (self.position is None or self.covers(cursor))

    async def changed(self) -> None:
        """Wait for the next change. What was so before has to be looked at first."""
        self._changed.clear()
        await self._changed.wait()


class Reader:
    """One reader of a topic. `leaving`: its stream is to end after what it has.

    A patient reader is one that waits for a response's end, and leaves only with the replica.
    """

    __slots__ = ("leaving", "patient", "topic")

    def __init__(self, topic: Topic, patient: bool) -> None:
        self.topic = topic
        self.patient = patient
        self.leaving = False

    def leave(self) -> None:
        self.leaving = True
        self.topic.wake()


class Hub:
    """One per replica.

    Args:
        deaf: whether announcements cannot come in just now; the hub then polls more often.
    """

    def __init__(
        self,
        event_log: EventLog,
        *,
        ring_bytes: int,
        poll_interval: float,
        deaf: Callable[[], bool] = lambda: False,
    ) -> None:
        self._log = event_log
        self._ring_bytes = ring_bytes
        self._poll_interval = poll_interval
        self._deaf = deaf
        self._topics: dict[str, Topic] = {}
        self._woken: set[Topic] = set()
        self._work = asyncio.Event()
        self._readers: set[Reader] = set()
        self._reader_left = asyncio.Event()
        self._closing = False

    @contextlib.contextmanager
    def subscribe(self, response_id: str, *, patient: bool = False) -> Iterator[Reader]:
        """Register a reader. To be done before it reads the log, so that nothing falls between."""
        topic = self._topics.get(response_id)
        if topic is None:
            topic = self._topics[response_id] = Topic(response_id, self._ring_bytes)
        reader = Reader(topic, patient)
        reader.leaving = self._closing and not patient
        self._readers.add(reader)
        topic.readers += 1
        metrics.readers.inc()
        try:
            yield reader
        finally:
            metrics.readers.dec()
            self._readers.discard(reader)
            self._reader_left.set()
            topic.readers -= 1
            if topic.readers == 0:
                self._topics.pop(response_id, None)
                self._woken.discard(topic)

    def announced(self, response_id: str, last: int) -> None:
        """Another replica (or this one) says that a log reaches `last`. A hint; sets flags only."""
        topic = self._topics.get(response_id)
        if topic is not None and last > topic.announced:
            topic.announced = last
            if topic.position is None:
                topic.wake()
            elif last > topic.position:
                self._wake(topic)

    def committed(self, response_id: str, chunks: list[Chunk]) -> None:
        """This replica has committed chunks: its own readers get them without asking Postgres."""
        topic = self._topics.get(response_id)
        if topic is None:
            return
        topic.announced = max(topic.announced, chunks[-1].last)
        if topic.position is None:
            topic.wake()
        elif not all(topic.push(chunk) for chunk in chunks):
            self._wake(topic)

    def look_again(self) -> None:
        """Announcements may have been missed: look at every topic."""
        for topic in self._topics.values():
            self._wake(topic)

    async def deserted(self) -> None:
        """Wait until there is no reader."""
        while self._readers:
            self._reader_left.clear()
            await self._reader_left.wait()

    def send_away(self, within: float) -> None:
        """This replica stops: readers' streams end after what they have, and resume elsewhere.

        Spread over time, so that the other replicas are not asked by all at once: a few leave
        now, many over up to `within` seconds; patient ones at its end.
        """
        self._closing = True
        loop = asyncio.get_running_loop()
        spread = min(within, len(self._readers) / LEAVING_PER_SECOND)
        for reader in self._readers:
            wait = within if reader.patient else jittered(spread / 2, spread=1)
            loop.call_later(wait, reader.leave)

    def _wake(self, topic: Topic) -> None:
        self._woken.add(topic)
        self._work.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Fetch what is new for woken topics, and for all of them at every poll."""
        with also_on(stop, self._work.set):
            while not stop.is_set():
                try:
                    async with asyncio.timeout(self._interval()):
                        await self._work.wait()
                except TimeoutError:
                    self._woken.update(self._topics.values())
                self._work.clear()
                woken, self._woken = self._woken, set()
                try:
                    await self._fetch([topic for topic in woken if topic.last is None])
                except Unavailable:
                    for topic in woken:
                        if topic.readers:
                            self._wake(topic)
                    raise

    def _interval(self) -> float:
        return min(DEAF_POLL, self._poll_interval) if self._deaf() else self._poll_interval

    async def _fetch(self, topics: list[Topic]) -> None:
        for topic in topics:
            if topic.position is None:
                topic.wake()
        positions = {t.response_id: t.position for t in topics if t.position is not None}
        if not positions:
            return
        found = await self._log.news(positions, self._ring_bytes)
        for topic in topics:
            news = found.get(topic.response_id)
            if news is None or topic.position is None:
                continue
            if news.gone:
                topic.leave()
            before = topic.position
            for chunk in news.chunks:
                topic.push(chunk)
            # Only what moved is fetched on: a log that does not fit the ring must not spin.
            if topic.last is None and topic.position > before and self._has_more(topic, news):
                self._wake(topic)

    def _has_more(self, topic: Topic, news: News) -> bool:
        """Whether there is probably more behind this page, whether it was announced or not."""
        assert topic.position is not None
        full = 2 * sum(len(chunk.data) for chunk in news.chunks) > self._ring_bytes
        return full or topic.position < topic.announced
