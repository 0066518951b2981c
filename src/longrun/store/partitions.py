"""Partitions: events, items and steps lie in ranges of their responses' ids, which are made ahead
of time; a range is dropped when all of its responses have expired.

What lies in the partition for the rest becomes a range where it stands: what was there before there
were ranges, and what came while nobody made any. From then on it takes no id past a bound some way
ahead, it is read once to see that it has none, and it changes its place. Whoever dies in between,
another replica goes on from there.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncIterator
from typing import Final

import asyncpg

from longrun import ids, metrics
from longrun.backoff import Backoff, jittered, sleep_unless
from longrun.store.database import Connection, Database
from longrun.supervision import finished_before

log = logging.getLogger("longrun.store.partitions")

INTERVAL: Final = 60.0

AHEAD: Final = 0.5
"""For how much of a period there are ranges ahead, at least."""

NEAR: Final = 0.25
"""How near, in periods, the end of a range that is being made may come before a later one is taken:
past it nothing could be written."""

STATEMENT: Final = 3.0
"""Seconds that a change of a table may take. What keeps appends out waits for 100 ms at most."""

VALIDATION: Final = 86_400.0

PASSING: Final = 3600.0
"""Seconds for which a range may wait for its last responses, which ended a while after it did."""

TRIES: Final = 8
FIRST_BACKOFF: Final = 0.2
LONGEST_BACKOFF: Final = 5.0
"""How often one look tries what others' locks were in the way of, and the pauses in between."""

PAUSE: Final = 0.1
REST: Final = 3.0
"""As in `Retention`."""

_IN_THE_WAY: Final = (
    asyncpg.LockNotAvailableError,
    asyncpg.DeadlockDetectedError,
    asyncpg.QueryCanceledError,
    asyncpg.CheckViolationError,  # a row came in between: the next look finds it
)


class InTheWay(Exception):
    """Something that others do kept a change from being made; it may be tried again."""


class NotOurTurn(Exception):
    """Another replica changes partitions just now."""


class Partitions:
    """One per replica; one at a time changes something.

    Args:
        period: seconds between the bounds of ranges.
        left_for: seconds for which rows may wait for their partition to be dropped.
    """

    def __init__(self, database: Database, period: float, left_for: float) -> None:
        self._database = database
        self._queries = database.queries
        self._period = period
        self._left_for = left_for
        self.problem: str | None = None
        """What an operator should know; None: nothing."""

    async def begin(self) -> None:
        """Make what is to be there before this replica writes, as far as nobody is in the way.

        Raises:
            Unavailable: Postgres is away.
        """
        with contextlib.suppress(NotOurTurn, InTheWay):
            for state in await self._look():
                await self._make_way(state)

    async def run(self, stop: asyncio.Event) -> None:
        """Look again and again until `stop` is set."""
        while not stop.is_set():
            # Reading what a large table has takes long, and can be done by whoever comes next.
            await finished_before(stop, self.tend(stop))
            await sleep_unless(stop, jittered(INTERVAL))

    async def tend(self, stop: asyncio.Event) -> None:
        """Do all that is to be done now, as far as nobody is in the way.

        Raises:
            Unavailable: Postgres is away.
        """
        backoff = Backoff(FIRST_BACKOFF, LONGEST_BACKOFF)
        for _ in range(TRIES):
            try:
                for state in await self._look():
                    await self._make_way(state)
                    await self._make_range(state["of_table"])
                await self._drop_empty()
                await self._sweep_late(stop)
                await self._renew_statistics()
                break
            except NotOurTurn:
                break
            except InTheWay as error:
                log.debug("partitions are changed later: %s", error)
            await backoff.pause(stop)
            if stop.is_set():
                break
        await self._tell()

    # -- making ----------------------------------------------------------------------------

    async def _make_way(self, state: asyncpg.Record) -> None:
        """See that everything can be written for some time to come: make ranges ahead where nothing
        is in their place, and let no range that is begun come to its end."""
        now, table = state["seen_at"].timestamp(), state["of_table"]
        if state["rest_until"] is not None:
            if state["rest_until"] < ids.response_ids_from(now + NEAR * self._period):
                log.warning("%s: a range was not finished in time, and is begun again", table)
                await self._change(self._queries.give_up_range, table)
            return
        if state["rest_last"] is not None and state["rest_last"] >= state["ranges_until"]:
            return
        until = state["ranges_until"]
        while until < ids.response_ids_from(now + AHEAD * self._period):
            until = ids.response_ids_from(self._bound_after(until, now))
            if await self._change(self._queries.add_partition, table, until):
                log.info("%s: made a partition up to %s", table, until)

    def _bound_after(self, id_: str, now: float) -> float:
        """The first bound after an id where ranges end, or after now if that is later."""
        after = max(now, ids.made_at(id_) if id_ else 0.0)
        return self._period * (math.floor(after / self._period + 1e-9) + 1)

    async def _make_range(self, table: str) -> None:
        """Make a range of what lies in the partition for the rest, if that can be one."""
        state = await self._look_at(table)
        if state["rest_until"] is None:
            first, until = state["rest_first"], state["ranges_until"]
            if first is None or first < until:
                return
            now = state["seen_at"].timestamp()
            bound = ids.response_ids_from(self._bound_after("", now + self._period))
            if state["rest_last"] >= bound:
                return
            await self._change(self._queries.begin_range, table, bound)
            log.info("%s: what lies outside of ranges becomes one, up to %s", table, bound)
            state = await self._look_at(table)
        if not state["fits"]:
            await self._change(self._queries.validate_range, table, seconds=VALIDATION)
        if await self._change(self._queries.finish_range, table):
            log.info("%s: what lay outside of ranges is one", table)
            await self._make_way(await self._look_at(table))

    # -- dropping --------------------------------------------------------------------------

    async def _drop_empty(self) -> None:
        before = ids.response_ids_from(time.time() - PASSING)
        for table, first, until in await self._database.fetch(
            self._queries.find_empty_partitions, before
        ):
            if await self._change(self._queries.drop_partition, table, first):
                log.info("%s: dropped the partition up to %s", table, until)

    async def _sweep_late(self, stop: asyncio.Event) -> None:
        """Where something keeps a partition that was to be gone, delete what it should not keep."""
        late = await self._database.fetch(
            self._queries.find_late_partitions, self._left_for + PASSING
        )
        for part in late:
            query = {
                "event_chunks": self._queries.sweep_chunks,
                "items": self._queries.sweep_items,
                "steps": self._queries.sweep_steps,
            }[part["of_table"]]
            at: str | None = part["first"]
            while at is not None and not stop.is_set():
                began = time.monotonic()
                async with self._turn(STATEMENT * 10) as connection:
                    at = await connection.fetchval(query, at, part["until"])
                await sleep_unless(stop, max(PAUSE, REST * (time.monotonic() - began)))
            if at is None:
                await self._database.execute(
                    self._queries.note_swept, part["of_table"], part["first"], part["left_at"]
                )

    # -- planning --------------------------------------------------------------------------

    async def _renew_statistics(self) -> None:
        """Let Postgres look at what it misjudges: autovacuum does, but may be late, or off."""
        for (table,) in await self._database.fetch(self._queries.find_misjudged):
            with contextlib.suppress(InTheWay):  # the next look finds it again
                await self._change(self._queries.renew_statistics, table, seconds=STATEMENT * 10)
                log.debug("%s: what Postgres knew of its size was out of date", table)

    # -- looking ---------------------------------------------------------------------------

    async def _look(self) -> list[asyncpg.Record]:
        return await self._database.fetch(self._queries.look_at_partitions)

    async def _look_at(self, table: str) -> asyncpg.Record:
        return next(state for state in await self._look() if state["of_table"] == table)

    async def _tell(self) -> None:
        states = await self._look()
        metrics.partitions_ahead.set(min(map(seconds_ahead, states)))
        self.problem = next(filter(None, map(problem_of, states)), None)

    # -- changing --------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _turn(self, seconds: float) -> AsyncIterator[Connection]:
        """A transaction whose statements may take so long.

        Raises:
            NotOurTurn: another replica is at it.
            InTheWay: nothing was changed, and it may be tried again.
        """
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(
                self._queries.take_partitions, self._queries.schema, int(seconds * 1000)
            )
            assert row is not None
            if not row["taken"]:
                raise NotOurTurn
            try:
                yield connection
            except _IN_THE_WAY as error:
                raise InTheWay(str(error)) from error

    async def _change(self, query: str, *args: str, seconds: float = STATEMENT) -> object:
        async with self._turn(seconds) as connection:
            return await connection.fetchval(query, *args, timeout=seconds + 10)


def seconds_ahead(state: asyncpg.Record) -> float:
    """For how long from now on there is a range for what comes, or one is being made."""
    until = max(state["ranges_until"], state["rest_until"] or "")
    now: float = state["seen_at"].timestamp()
    return (ids.made_at(until) if until else 0.0) - now


def problem_of(state: asyncpg.Record) -> str | None:
    """What is amiss with the partitions of a table, as the row of `look_at_partitions` says."""
    table, first, until = state["of_table"], state["rest_first"], state["ranges_until"]
    if seconds_ahead(state) <= 0:
        return f"no partition of {table} for what comes now: it goes to {table}_rest"
    if first is not None and first < until:
        return f"rows in {table}_rest that no range takes, the first of {first}"
    return None
