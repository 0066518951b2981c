"""The announcer: tells the other replicas how far the logs reach, in as few NOTIFYs as it can.

One message at once when idle, then at most one an interval with all that came in between; the
interval grows with the number of replicas (`Announcer.adapt`). Never in the transaction of an
append: a notifying commit holds a lock that is one for the whole cluster, over its WAL flush. An
announcement is a hint; one that is lost costs time.
"""

import asyncio
import logging
import re
from collections.abc import Iterable, Iterator
from typing import Final

import asyncpg

from longrun import metrics
from longrun.backoff import jittered, sleep_unless
from longrun.store.database import Database, unavailable_if_gone
from longrun.supervision import also_on

log = logging.getLogger("longrun.store.announcer")

MESSAGE_BYTES: Final = 7_900
"""Postgres takes payloads under 8,000 bytes."""

DELIVERIES_PER_SECOND: Final = 20_000
"""How many notifications all replicas together may have Postgres deliver. Each is a signal, a
process that wakes and a packet: measured, about 50 us of processor time for Postgres and the
listener. Sixteen writers and sixteen listeners on two cores kept 0.52 of their speed with an
interval of 4 ms, 0.54 with 20 ms and 0.82 with 50 ms, which is what this comes to for 32
replicas."""

REFUSED_WAIT: Final = 1.0
"""Seconds between tries while the notification queue is full."""

_ANNOUNCEMENT: Final = re.compile(r"(.+):([0-9]{1,19})", re.DOTALL)


def events_channel(schema: str) -> str:
    """Carries announcements."""
    return f"{schema}_events"


def control_channel(schema: str) -> str:
    """Carries what replicas tell each other about runs (see `Announcer.tell`)."""
    return f"{schema}_control"


def encode(reached: Iterable[tuple[str, int]]) -> Iterator[str]:
    """`id:last,id:last,…`, split into messages that fit."""
    parts: list[str] = []
    size = 0
    for response_id, last in reached:
        part = f"{response_id}:{last}"
        if parts and size + len(part) > MESSAGE_BYTES:
            yield ",".join(parts)
            parts, size = [], 0
        parts.append(part)
        size += len(part) + 1
    if parts:
        yield ",".join(parts)


def decode(message: str) -> Iterator[tuple[str, int]]:
    """The announcements of a message; what does not parse is skipped, since it is only a hint."""
    for part in message.split(","):
        if found := _ANNOUNCEMENT.fullmatch(part):
            yield found[1], int(found[2])


class Announcer:
    """One per replica. `announce` never waits and never fails."""

    def __init__(self, database: Database) -> None:
        self._query = database.queries.announce
        self._usage = database.queries.notification_usage
        self._lane = database.lane("announcer")
        self._least_interval = database.settings.announce_interval
        self._channel = events_channel(database.settings.db_schema)
        self._control = control_channel(database.settings.db_schema)
        self._reached: dict[str, int] = {}
        self._told: dict[str, None] = {}
        self._work = asyncio.Event()
        self.interval = self._least_interval

    def adapt(self, replicas: int) -> None:
        """Fit the interval to the number of replicas that are alive. Each sends to every other, so
        with a fixed interval the load on Postgres would grow with the square of their number."""
        self.interval = max(self._least_interval, replicas**2 / DELIVERIES_PER_SECOND)

    def announce(self, response_id: str, last: int) -> None:
        self._reached[response_id] = last
        self._work.set()

    def tell(self, message: str) -> None:
        """Tell all replicas, this one included: `work` (something waits to be executed), `work
        REPLICA` (that one is to take it; older versions take it for `work`), or `taken RESPONSE
        ATTEMPT` (whoever holds an earlier attempt must stop). Hints too."""
        self._told[message] = None
        self._work.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Send until `stop` is set and everything is said. Fails when Postgres is away."""
        with also_on(stop, self._work.set):
            while not (stop.is_set() and not self._reached and not self._told):
                await self._work.wait()
                self._work.clear()
                if self._reached or self._told:
                    await self._send(stop)
                    if not stop.is_set():
                        await asyncio.sleep(self.interval)

    async def _send(self, stop: asyncio.Event) -> None:
        reached, self._reached = self._reached, {}
        told, self._told = self._told, {}
        events = list(encode(reached.items()))
        channels = [self._control] * len(told) + [self._channel] * len(events)
        messages = [*told, *events]
        try:
            with unavailable_if_gone():
                await self._lane.fetch(self._query, channels, messages)
        except asyncpg.ProgramLimitExceededError as error:
            # The queue is full: some LISTENer of the cluster does not read. Our readers poll
            # meanwhile, so this makes no replica unready.
            log.warning("NOTIFY was refused: %s", error)
            if not stop.is_set():
                self._keep(reached, told)
                await sleep_unless(stop, jittered(REFUSED_WAIT))
                # Postgres looks whether somebody has read only when it is asked how full it is.
                with unavailable_if_gone():
                    await self._lane.fetch(self._usage)
        except BaseException:
            self._keep(reached, told)
            raise
        else:
            metrics.announcements.inc(len(messages))

    def _keep(self, reached: dict[str, int], told: dict[str, None]) -> None:
        """For the next time: what could not be said, unless something newer can."""
        self._reached = reached | self._reached
        self._told = told | self._told
        self._work.set()
