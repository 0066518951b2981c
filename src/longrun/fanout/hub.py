"""The hub: wakes the readers of this replica, and keeps the newest events for all of them.

For each response with local readers there is a topic: a bounded ring of its newest chunks and
one thing to wait on. Readers hold a cursor and nothing else. What is announced is fetched once,
for all woken topics in one query, however many readers there are.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Final

from longrun import metrics
from longrun.backoff import jittered
from longrun.errors import Unavailable, Unreadable
from longrun.fanout.topic import Ring, Topic
from longrun.store.events import EventLog, News
from longrun.store.records import Chunk
from longrun.supervision import also_on

log = logging.getLogger("longrun.fanout.hub")

_CARRIED: Final = metrics.chunks_from_elsewhere.labels("carried")
_FETCHED: Final = metrics.chunks_from_elsewhere.labels("fetched")

DEAF_POLL: Final = 0.2
"""Seconds between polls while the LISTEN connection is down."""

MOMENT: Final = 0.001
"""Seconds by which a timer may be early."""

UNHEARD_LOOKS: Final = 5
"""How often a topic is looked at every DEAF_POLL if it has heard nothing from whoever writes its
log: they may not know that it has readers here. As long as that finds events, it is looked at
again."""

UNHEARD_AFTER: Final = 0.5
"""Seconds without an announcement in which what is found makes a topic one that has heard nothing:
longer than any announcer rests."""

FLOW_POLL: Final = 0.02
"""Seconds between looks at topics that flow: another replica has said so, or several commits came
at once, as they are written faster than they are announced. To look costs as much as there are
replicas with readers; an announcement wakes every replica, for each that writes."""

FLOW_LOOKS: Final = 10
"""Looks without anything new after which a topic flows no more, and waits to be announced."""

LEAVING_PER_SECOND: Final = 50.0
"""Readers that a stopping replica sends away per second."""

SHORT_STAY: Final = 1.0
"""Seconds, on average, that who comes to a stopping replica to resume is told what happens; then it
has at least all that there is. Less, and it would come back again and again."""


class Reader:
    """One reader of a topic.

    Attributes:
        patient: it waits for a response's end, and leaves only with the replica.
        coming: it was there before its response. Its client knows of no other place for it, so it
            leaves with the replica, and never without an event.
        leaving: its stream is to end after what it has.
        sated: its stream is to end once it has all that there is.
        looking: what it asks of the log just now.
        look: called when something has changed, while it rests. It neither waits nor raises.
    """

    __slots__ = ("coming", "leaving", "look", "looking", "patient", "sated", "topic")

    def __init__(self, topic: Topic, *, patient: bool = False, coming: bool = False) -> None:
        self.topic = topic
        self.patient = patient
        self.coming = coming
        self.leaving = False
        self.sated = False
        self.looking: asyncio.Task[list[Chunk]] | None = None
        self.look: Callable[[], None] = _nothing

    def rest(self, look: Callable[[], None]) -> None:
        """It waits: from now on it is told of each change. What was so before, it has looked at."""
        self.look = look
        self.topic.resting[self] = None

    def rouse(self) -> None:
        """It waits no more."""
        self.look = _nothing
        self.topic.resting.pop(self, None)

    @property
    def stays(self) -> bool:
        """Whether it leaves only with the replica."""
        return self.patient or self.coming

    def leave_sated(self) -> None:
        """Let its stream end as soon as it would have to wait."""
        self.sated = True
        self.look()

    def leave(self) -> None:
        """Let its stream end now, and not when Postgres answers."""
        self.leaving = True
        if self.looking is not None:
            self.looking.cancel()
        self.look()


def _nothing() -> None:
    pass


class Hub:
    """One per replica.

    Args:
        deaf: whether announcements cannot arrive at the moment; the hub then polls more often.
        join: called with a response that has readers here now, or has heard nothing since it was
            last called, so that it is announced; whether an announcement is to be expected.
        leave: called with a response that has none any more.
    """

    def __init__(
        self,
        event_log: EventLog,
        *,
        ring_bytes: int,
        poll_interval: float,
        deaf: Callable[[], bool] = lambda: False,
        join: Callable[[str], bool] = lambda _: False,
        leave: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._log = event_log
        self._ring_bytes = ring_bytes
        self._poll_interval = poll_interval
        self._deaf = deaf
        self._join = join
        self._leave = leave
        self._unheard: dict[Topic, int] = {}
        self._flowing: dict[Topic, int] = {}
        self._topics: dict[str, Topic] = {}
        self._woken: set[Topic] = set()
        self._unsure = False
        self._work = asyncio.Event()
        self._readers: set[Reader] = set()
        self._reader_left = asyncio.Event()
        self._closes_at: float | None = None

    @contextlib.contextmanager
    def subscribe(
        self,
        response_id: str,
        *,
        patient: bool = False,
        coming: bool = False,
        finished: bool = False,
    ) -> Iterator[Reader]:
        """Register a reader. To be done before it reads the log, so that nothing falls between.

        Args:
            coming: the response is created here after this, so that all of its log comes by.
            finished: the log is complete: nothing need be announced of it.
        """
        topic = self._topics.get(response_id)
        if topic is None:
            topic = self._topics[response_id] = Topic(response_id, self._ring_bytes)
            if coming:
                # Where it will be executed is not known yet, and most often it is here.
                topic.expect()
                self._expect(topic)
            elif not finished and self._join(response_id):
                self._expect(topic)
        reader = Reader(topic, patient=patient, coming=coming)
        if self._closes_at is not None:
            self._receive_late(reader, self._closes_at)
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
                self._unheard.pop(topic, None)
                self._flowing.pop(topic, None)
                self._leave(response_id)

    def reading(self) -> list[str]:
        """The responses that have readers here."""
        return list(self._topics)

    def moved(self, response_id: str) -> None:
        """A response is executed by another replica from now on, which may not know that it has
        readers here."""
        topic = self._topics.get(response_id)
        if topic is not None and not topic.is_settled and self._join(response_id):
            self._expect(topic)

    def _expect(self, topic: Topic) -> None:
        if not self._unheard:
            self._work.set()
        self._unheard[topic] = 0

    def announced(self, response_id: str, last: int) -> None:
        """Another replica (or this one) says that a log reaches `last`. A hint; sets flags only."""
        topic = self._topics.get(response_id)
        if topic is None:
            return
        self._unheard.pop(topic, None)
        topic.heard_at = asyncio.get_running_loop().time()
        if last > topic.announced:
            topic.announced = last
            self._tell(topic)

    def flows(self, response_id: str) -> None:
        """Another replica says that a log is written faster than it is announced. A hint; sets
        flags only."""
        topic = self._topics.get(response_id)
        if topic is not None and not topic.is_settled:
            if not self._flowing:
                self._work.set()
            self._flowing[topic] = 0

    def reads(self, response_id: str) -> bool:
        """Whether a response has readers here."""
        return response_id in self._topics

    def carried(self, response_id: str, chunk: Chunk) -> None:
        """An announcement brings a committed chunk, as it is stored. A hint still: it is taken only
        where it continues a ring exactly, and what is not taken is fetched."""
        topic = self._topics.get(response_id)
        if topic is None or topic.ring is None or topic.is_coming or topic.is_settled:
            return
        if chunk.first != topic.ring.end + 1:
            return
        try:
            opened = self._log.opened(response_id, chunk)
        except Unreadable:
            return
        if opened.data.count(b"\n") != chunk.last - chunk.first:
            return
        topic.push(opened, now=True)
        self._flowing.pop(topic, None)
        _CARRIED.inc()

    def committed(self, response_id: str, chunks: list[Chunk]) -> None:
        """This replica has committed chunks: its own readers get them without asking Postgres."""
        topic = self._topics.get(response_id)
        if topic is not None:
            self._unheard.pop(topic, None)
            self._flowing.pop(topic, None)
            topic.announced = max(topic.announced, chunks[-1].last)
            for chunk in chunks:
                topic.push(chunk)
            self._tell(topic)

    def start_ring(self, topic: Topic, end: Chunk) -> None:
        """A reader has found the end of the log there. What was announced while it looked is
        fetched now, and what a ring that was there before lacks: nothing else would tell of it
        before the next poll."""
        topic.start_ring(end)
        topic.announced = max(topic.announced, end.last)
        self._tell(topic)

    def _tell(self, topic: Topic) -> None:
        """Have what was announced fetched, by the hub or, before there is a ring, by readers."""
        if topic.ring is None:
            topic.wake()
        elif topic.is_behind:
            self._wake(topic)

    def look_again(self) -> None:
        """Announcements may have been missed: look at every topic. Its server may be another now,
        which a failover has made the primary without everything that was committed: what readers
        here have is looked for, too."""
        self._unsure = True
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
        now, many over up to `within` seconds. Streams that are the answer to a creation leave as
        late, a few at its end, many over the time before it; patient readers at its end.
        """
        loop = asyncio.get_running_loop()
        self._closes_at = loop.time() + within
        coming = sum(reader.coming for reader in self._readers)
        early = min(within, (len(self._readers) - coming) / LEAVING_PER_SECOND)
        late = min(within, coming / LEAVING_PER_SECOND)
        for reader in self._readers:
            wait = within
            if not reader.patient:
                wait = within - _some_of(late) if reader.coming else _some_of(early)
            self._send_away(reader, loop.time() + wait)

    def _receive_late(self, reader: Reader, closes_at: float) -> None:
        """Who comes while this replica stops is served, too, but must not hold it up."""
        self._send_away(reader, closes_at)
        if not reader.stays:
            loop = asyncio.get_running_loop()
            loop.call_later(jittered(SHORT_STAY), reader.leave_sated)

    def _send_away(self, reader: Reader, at: float) -> None:
        loop = asyncio.get_running_loop()
        if at > loop.time():
            loop.call_at(at, reader.leave)
        else:
            reader.leave()

    def send_elsewhere(self) -> None:
        """This replica has lost Postgres and the others may not have: its streams end after what
        they have, and resume there. Patient readers stay: their answer comes here or not at all."""
        for reader in list(self._readers):
            if not reader.patient:
                reader.leave()

    def _wake(self, topic: Topic) -> None:
        self._woken.add(topic)
        self._work.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Fetch what is new for woken topics, and for all of them at every poll."""
        loop = asyncio.get_running_loop()
        polled = looked = flowed = loop.time()
        with also_on(stop, self._work.set):
            while not stop.is_set():
                due = polled + self._interval()
                if self._unheard:
                    due = min(due, looked + DEAF_POLL)
                if self._flowing:
                    due = min(due, flowed + FLOW_POLL)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(due):
                        await self._work.wait()
                self._work.clear()
                now = loop.time() + MOMENT
                if now >= looked + DEAF_POLL:
                    looked = now
                    self._look_unheard()
                if now >= flowed + FLOW_POLL:
                    flowed = now
                    self._look_flowing()
                if now >= polled + self._interval():
                    polled = now
                    self._woken.update(self._topics.values())
                woken, self._woken = self._woken, set()
                try:
                    if self._unsure:
                        await self._find_lost()
                    await self._fetch([topic for topic in woken if not topic.is_settled])
                except Unavailable:
                    for topic in woken:
                        if topic.readers:
                            self._wake(topic)
                    raise

    def _look_unheard(self) -> None:
        """Topics that have heard nothing yet are looked at, and those who write are told again."""
        for topic, looks in list(self._unheard.items()):
            if looks >= UNHEARD_LOOKS or topic.is_settled:
                del self._unheard[topic]
                continue
            if looks and not self._join(topic.response_id):
                del self._unheard[topic]
                continue
            self._unheard[topic] = looks + 1
            self._woken.add(topic)

    def _look_flowing(self) -> None:
        """Topics that are written faster than they are announced are looked at meanwhile."""
        for topic, looks in list(self._flowing.items()):
            if looks >= FLOW_LOOKS or topic.is_settled:
                del self._flowing[topic]
            else:
                self._flowing[topic] = looks + 1
                self._woken.add(topic)

    async def _find_lost(self) -> None:
        """End the streams of responses whose logs no longer reach what is in their rings. Their
        readers come back with what they have, and are told what there is."""
        self._unsure = False
        positions = {
            topic.response_id: topic.ring.end
            for topic in self._topics.values()
            if topic.ring is not None and not topic.is_coming
        }
        if not positions:
            return
        try:
            lost = await self._log.lost_unscoped(positions)
        except Unavailable:
            self._unsure = True
            raise
        for response_id in lost:
            topic = self._topics.get(response_id)
            if topic is not None:
                topic.delete()

    def _interval(self) -> float:
        return min(DEAF_POLL, self._poll_interval) if self._deaf() else self._poll_interval

    async def _fetch(self, topics: list[Topic]) -> None:
        positions: dict[str, int] = {}
        for topic in topics:
            if topic.ring is None:
                topic.wake()
            elif not topic.is_coming:
                positions[topic.response_id] = topic.ring.end
        if not positions:
            return
        found = await self._log.news_unscoped(positions, self._ring_bytes)
        for topic in topics:
            news = found.get(topic.response_id)
            if news is not None and topic.ring is not None:
                self._take(topic, topic.ring, news)

    def _take(self, topic: Topic, ring: Ring, news: News) -> None:
        if news.deleted:
            topic.delete()
        before = ring.end
        for chunk in news.chunks:
            topic.push(chunk)
        _FETCHED.inc(len(news.chunks))
        if len(news.chunks) > 1 or (news.chunks and topic in self._flowing):
            self._flowing[topic] = 0
        unheard = asyncio.get_running_loop().time() - topic.heard_at > UNHEARD_AFTER
        if ring.end > max(before, topic.announced) and unheard and not topic.is_settled:
            # Nobody has announced it: perhaps nobody knows that it has readers here.
            self._unheard[topic] = 0
        # A full page probably has more behind it, whether that was announced or not. Only what
        # moved is fetched on: a log that does not fit the ring must not spin.
        full = 2 * sum(len(chunk.data) for chunk in news.chunks) > self._ring_bytes
        if ring.end > before and not topic.is_settled and (full or topic.is_behind):
            self._wake(topic)


def _some_of(seconds: float) -> float:
    """Anything from none to all of it."""
    return jittered(seconds / 2, spread=1)
