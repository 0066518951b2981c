"""The announcer: tells the other replicas how far the logs reach, in as few NOTIFYs as it can.

One message at once when idle, then at most one an interval with all that came in between; the
interval grows with what a NOTIFY takes and with the number of replicas. Nothing is said of a log
that nobody reads elsewhere (`interests.py`). A commit that notifies holds a lock that is one for
the whole cluster, over its WAL flush, so an append takes its announcement along only where hardly
anybody would have to wait for it: that spares a round trip and a commit. An announcement is a hint;
one that is lost costs time.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Final

import asyncpg

from longrun import metrics
from longrun.backoff import jittered, sleep_unless
from longrun.store.announcements import control_channel, decode, encode, events_channel, own_channel
from longrun.store.database import Database, unavailable_if_gone
from longrun.store.flows import FLOWS_FROM, SILENCE, Flows
from longrun.store.interests import LOOK_HOLDS, MESSAGE_BYTES, Interests
from longrun.store.parcels import Parcels, Stored, Waiting, stored
from longrun.store.records import Chunk
from longrun.supervision import also_on

log = logging.getLogger("longrun.store.announcer")

REST: Final = 1 / 3
"""For how long a busy announcer rests after a NOTIFY, for each replica beyond FEW that is alive, in
units of what the NOTIFY took. It wakes a session of each, under a lock that is one for the whole
cluster: what it takes tells how busy Postgres and this replica are. Who reads what is written
meanwhile looks by itself (`FLOW_POLL` in fanout/hub.py)."""

FEW: Final = 4

LONGEST_REST: Final = 0.1

BUSY: Final = 8
"""How many commits a whole rest has to spare a NOTIFY. Where it would be fewer, it is shorter."""

SMOOTHING: Final = 0.2
"""How much the last NOTIFY counts in what one takes, and in how many commits it spoke of; and the
last append in what that takes."""

LOCKED: Final = 1 / 2
"""For how much of an append that takes its announcement along it holds the lock, about."""

FIRST_TAKES: Final = 0.0003
"""Seconds that a NOTIFY is taken to need before there was one."""

TICK: Final = 0.0005
"""Seconds to which a rest is kept: timers are no more exact either."""

MOST_ALONG: Final = 100
"""Logs of which an append announces how far they reach: as many as fit into a message."""

REMEMBERED: Final = 10_000
"""Of how many logs it is remembered how far they reach, those last written to."""

REFUSED_WAIT: Final = 1.0
"""Seconds between tries while the notification queue is full."""


class Announcer:
    """One per replica. `announce` never waits and never fails.

    Args:
        interests: what the other replicas read; without it everything is announced.
        parcels: what announcements may carry along.
    """

    def __init__(
        self,
        database: Database,
        interests: Interests | None = None,
        parcels: Parcels | None = None,
    ) -> None:
        self._interests = interests
        self._parcels = parcels
        self._query = database.queries.announce
        self._usage = database.queries.notification_usage
        self._lane = database.lane("announcer")
        self._least_interval = database.settings.announce_interval
        self._schema = database.settings.db_schema
        self._channel = events_channel(self._schema)
        self._control = control_channel(database.settings.db_schema)
        self._reached: dict[str, int] = {}
        self._again: set[str] = set()
        self._waiting = Waiting()
        self._flows = Flows()
        self._told: dict[str, None] = {}
        self._committed: dict[str, tuple[int, float]] = {}
        self._work = asyncio.Event()
        self._takes = 0.0
        self._commits = 0
        self._commits_since = time.monotonic()
        self._rate = 0.0
        self._rests_until = self._none_along_until = -math.inf
        self._append_takes = self._appending = 0.0
        self._appended_at = time.monotonic()
        self.replicas = 1

    @property
    def interval(self) -> float:
        """Seconds between a NOTIFY and the next."""
        rest = min(LONGEST_REST, self._takes * max(0, self.replicas - FEW) * REST)
        return max(self._least_interval, rest * min(1.0, rest * self._rate / BUSY))

    def sent(self, commits: int, seconds: float, took: float) -> None:
        """A NOTIFY of so many commits, of this time, took so long to Postgres and back."""
        self._takes += SMOOTHING * (took - self._takes)
        self._rate += SMOOTHING * (commits / max(seconds, 1e-6) - self._rate)

    # -- announcements that an append takes along ----------------------------------------------

    def along(self, logs: Mapping[int, str]) -> tuple[list[int], str]:
        """Of which logs an append that is about to be made announces itself how far they reach.

        Args:
            logs: the response of each, by any number.

        Returns:
            The numbers, and the channel; none: what is to be announced goes by itself, after the
            commit.
        """
        if not self._may_go_along():
            return [], self._channel
        of_interest = self._interests.elsewhere if self._interests is not None else None
        found = [
            n
            for n, id_ in logs.items()
            if (of_interest is None or of_interest(id_)) and id_ not in self._flows
        ]
        if not 0 < len(found) <= MOST_ALONG:
            return [], self._channel
        channel, *others = {channel for n in found for channel in self._channels(logs[n])}
        return found, self._channel if others else channel

    def parcel(self, reached: Mapping[str, int], chunks: Iterable[tuple[str, Chunk]]) -> str:
        """What the announcement of an append carries besides, for who reads these logs elsewhere.

        Args:
            chunks: those of the append, as they are stored.
        """
        if self._parcels is None or not self._parcels.may_go:
            return ""
        hints = sum([len(id_) + len(str(last)) + 2 for id_, last in reached.items()])
        room = self._parcels.room(MESSAGE_BYTES - hints)
        return self._parcels.pack(
            [stored(id_, chunk) for id_, chunk in chunks if self._is_read(id_)], room
        )

    def along_with(
        self, response_id: str, first: int, last: int, data: bytes
    ) -> tuple[str, str] | None:
        """As `along`, with its parcel, for an append of one chunk, as it is stored: the channel and
        the message. None: what is to be announced goes by itself."""
        interests = self._interests
        if not self._may_go_along() or response_id in self._flows:
            return None
        if interests is not None and not interests.elsewhere(response_id):
            return None
        channels = self._channels(response_id)
        message = f"{response_id}:{last}"
        if self._parcels is not None and self._parcels.may_go and self._is_read(response_id):
            room = self._parcels.room(MESSAGE_BYTES - len(message))
            chunk = stored(response_id, Chunk(first, last, data))
            message += self._parcels.pack([chunk], room)
        return channels[0] if len(channels) == 1 else self._channel, message

    def _is_read(self, response_id: str) -> bool:
        return self._interests is None or self._interests.is_read(response_id)

    def _may_go_along(self) -> bool:
        """Whether an append that notifies would keep those of the others, if they have as much to
        write as this one, waiting for less time than a NOTIFY takes that goes by itself."""
        now = time.monotonic()
        if now + TICK < max(self._rests_until, self._none_along_until):
            return False
        held = self._append_takes * LOCKED
        waiting = (self.replicas - 1) * self._appending * held / 2
        return waiting < (self._takes or FIRST_TAKES)

    def appended(self, took: float, *, told: bool) -> None:
        """An append is committed, which took so many seconds.

        Args:
            told: it has announced something.
        """
        now = time.monotonic()
        share = took / max(now - self._appended_at, took)
        self._appended_at = now
        self._append_takes += SMOOTHING * (took - self._append_takes)
        self._appending += SMOOTHING * (share - self._appending)
        if told:
            metrics.announcements.inc()
            self._rests_until = now - took + self.interval

    def refused(self) -> None:
        """An append that announces was refused: perhaps the notification queue is full."""
        self._none_along_until = time.monotonic() + REFUSED_WAIT
        if self._parcels is not None:
            self._parcels.refused()

    # -- those that go by themselves -----------------------------------------------------------

    def announce(
        self, response_id: str, last: int, *, told: bool = False, chunks: Sequence[Chunk] = ()
    ) -> None:
        """A log that is written here reaches this number. The other replicas are told if they have
        readers for it, or once they have.

        Args:
            told: the append has told them.
            chunks: what was committed, which may go along.
        """
        now = time.monotonic()
        # Put at the end: the first ones are those that have been silent for longest.
        before = self._committed.pop(response_id, None)
        self._committed[response_id] = last, now
        if len(self._committed) > REMEMBERED:
            del self._committed[next(iter(self._committed))]
        if told or not (self._interests is None or self._interests.elsewhere(response_id)):
            return
        self._commits += 1
        if self._flows.written(response_id, last):
            return
        if before is not None and now - before[1] < SILENCE:
            self._again.add(response_id)
        if self._parcels is not None:
            goes = self._parcels.may_go and self._is_read(response_id)
            self._waiting.add(response_id, chunks if goes else ())
        self._reached[response_id] = last
        self._work.set()

    def announce_again(self, response_id: str) -> None:
        """Another replica has readers now for a response, whose log may be written here."""
        if found := self._committed.get(response_id):
            self._reached[response_id] = found[0]
            self._work.set()

    def announce_recent(self) -> None:
        """There may be readers for anything; what they lack is what was written since they were
        looked for."""
        since = time.monotonic() - LOOK_HOLDS
        for response_id, (last, at) in reversed(self._committed.items()):
            if at < since:
                break
            self._reached.setdefault(response_id, last)
        self.wake()

    def wake(self) -> None:
        """Send what is to be sent, that of `interests` too."""
        self._work.set()

    def tell(self, message: str) -> None:
        """Tell all replicas, this one included: `work` (something waits to be executed), `work
        REPLICA` (that one is to take it; older versions take it for `work`), or `taken RESPONSE
        ATTEMPT` (whoever holds an earlier attempt must stop). Hints too."""
        self._told[message] = None
        self._work.set()

    def tell_taken(self, response_id: str, attempt: int) -> None:
        """Tell that this replica holds a response now, as this attempt."""
        if self._interests is not None:
            self._interests.took(response_id)
        self.tell(f"taken {response_id} {attempt}")

    async def run(self, stop: asyncio.Event) -> None:
        """Send until `stop` is set and everything is said. Fails when Postgres is away."""
        with also_on(stop, self._work.set):
            while not (stop.is_set() and not self._reached and not self._told):
                await self._wait()
                rest = self._rests_until - time.monotonic()
                if rest > 0 and not stop.is_set():
                    await asyncio.sleep(rest)
                self._work.clear()
                if stop.is_set():
                    self._reached |= self._flows.end()
                if await self._send(stop):
                    self._rests_until = time.monotonic() + self.interval

    async def _wait(self) -> None:
        """Wait until there is something to send; what flows is said now and then."""
        if (due := self._flows.due) is None:
            await self._work.wait()
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(due - time.monotonic()):
                await self._work.wait()
        if time.monotonic() >= due:
            self._reached |= self._flows.tend(self.interval)

    def _flowing(self, reached: Iterable[str]) -> set[str]:
        """Those of these logs, about to be announced, that flow from now on or still."""
        busy = self.replicas > FEW and self.interval >= FLOWS_FROM
        again, self._again = self._again, set()
        return {id_ for id_ in reached if id_ in self._flows or (busy and id_ in again)}

    async def _send(self, stop: asyncio.Event) -> bool:
        """Send what there is. False: there was nothing."""
        reached, self._reached = self._reached, {}
        told, self._told = self._told, {}
        flowing = self._flowing(reached)
        waiting = self._waiting.take()
        events = list(self._addressed(reached, flowing, waiting))
        also = [] if self._interests is None else self._interests.messages()
        messages = [*told, *also, *(message for _, message in events)]
        channels = [self._control] * (len(told) + len(also)) + [channel for channel, _ in events]
        if not messages:
            return False
        try:
            began = time.monotonic()
            with unavailable_if_gone():
                await self._lane.fetch(self._query, channels, messages)
            now, commits, self._commits = time.monotonic(), self._commits, 0
            self.sent(commits, now - self._commits_since, now - began)
            self._commits_since = now
        except asyncpg.ProgramLimitExceededError as error:
            # The queue is full: some LISTENer of the cluster does not read. Our readers poll
            # meanwhile, so this makes no replica unready.
            log.warning("NOTIFY was refused: %s", error)
            if self._parcels is not None:
                self._parcels.refused()
            if not stop.is_set():
                self._keep(reached, told, bool(also))
                await sleep_unless(stop, jittered(REFUSED_WAIT))
                # Postgres looks whether somebody has read only when it is asked how full it is.
                with unavailable_if_gone():
                    await self._lane.fetch(self._usage)
        except BaseException:
            self._keep(reached, told, bool(also))
            raise
        else:
            metrics.announcements.inc(len(messages))
            self._flows.told((id_, reached[id_]) for id_ in flowing)
        return True

    def _channels(self, response_id: str) -> list[str]:
        """Where it is announced how far a log reaches."""
        hearing = () if self._interests is None else self._interests.who_hears(response_id)
        return [own_channel(self._schema, replica) for replica in hearing] or [self._channel]

    def _addressed(
        self,
        reached: Mapping[str, int],
        flowing: Set[str],
        waiting: Mapping[str, Iterable[Chunk]],
    ) -> Iterator[tuple[str, str]]:
        """Announcements, as channels and messages; what waits goes along where it fits."""
        packed: dict[str, list[Stored]] = {}
        if self._parcels is not None:
            for id_ in waiting.keys() - flowing:
                packed[id_] = [self._parcels.sealed(id_, chunk) for chunk in waiting[id_]]
        by_channel: dict[tuple[str, bool], list[tuple[str, int]]] = {}
        for each in reached.items():
            for channel in self._channels(each[0]):
                by_channel.setdefault((channel, each[0] in flowing), []).append(each)
        for (channel, flows), found in by_channel.items():
            for message in encode(found, flowing=flows):
                chunks = [each for id_, _ in decode(message) for each in packed.get(id_, ())]
                if self._parcels is not None and chunks:
                    room = self._parcels.room(MESSAGE_BYTES - len(message))
                    message += self._parcels.pack(chunks, room)
                yield channel, message

    def _keep(self, reached: dict[str, int], told: dict[str, None], interests: bool) -> None:
        """For the next time: what could not be said, unless something newer can."""
        if interests and self._interests is not None:
            self._interests.say_all()
        self._reached = reached | self._reached
        self._told = told | self._told
        self._work.set()
