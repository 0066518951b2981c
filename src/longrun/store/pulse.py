"""The pulse: whether Postgres answers. One that is cut off without a word is noticed in seconds.

Nothing is asked while statements are answered in time. When one takes long, Postgres is asked on
another connection which of them it is at work on: a connection whose statement never arrived, or
whose answer was lost, is ended, and the statement fails at once instead of after its timeout. If
there is no answer to that either, Postgres is silent, and all connections are made anew.
"""

import asyncio
import errno
import logging
import time
from collections.abc import Callable
from typing import Final

import asyncpg

from longrun.backoff import sleep_unless
from longrun.store.connections import Asked
from longrun.store.database import Database
from longrun.store.sqlstates import FAILURES

log = logging.getLogger("longrun.store.pulse")

INTERVAL: Final = 1.0

ANSWER_WITHIN: Final = 4.0
"""Seconds after which a statement is looked after, and after which no answer is silence."""

DEAD_AFTER: Final = 10.0
"""Seconds after which a statement that Postgres is not at work on is never answered: a slow line
may still be busy with some of it before."""

LANE_IDLE: Final = 15.0

REFUSED: Final = (errno.ECONNREFUSED, errno.ENOENT)
"""Somebody is there and says that Postgres is not: it is down, and not out of reach."""


class Pulse:
    """One per replica.

    Args:
        lost: called again and again once Postgres has been silent for longer than the lease. Its
            runs may be somebody else's by then, and what it does not hear, others may.
    """

    def __init__(self, database: Database, *, lost: Callable[[], None]) -> None:
        self._database = database
        self._lane = database.lane("pulse")
        self._lost = lost

    @property
    def silent_since(self) -> float | None:
        """By the monotonic clock; None while Postgres answers, or refuses."""
        return self._database.silent_since

    async def run(self, stop: asyncio.Event) -> None:
        """Look after the connections until `stop` is set."""
        async with asyncio.TaskGroup() as group:
            beats: set[asyncio.Task[None]] = set()
            while not await sleep_unless(stop, INTERVAL):
                await self._look()
                if not beats and self.silent_since is None:
                    for beat in self._database.beats(LANE_IDLE):
                        task = group.create_task(beat)
                        beats.add(task)
                        task.add_done_callback(beats.discard)
            for task in beats:
                task.cancel()

    async def _look(self) -> None:
        waiting = self._database.waiting_since(time.monotonic() - ANSWER_WITHIN)
        if waiting or self.silent_since is not None:
            await self._ask(waiting)
        silent = 0.0 if self.silent_since is None else time.monotonic() - self.silent_since
        if silent > self._database.settings.lease_seconds:
            self._lost()

    async def _ask(self, waiting: list[Asked]) -> None:
        pids = {pid: asked for asked in waiting if (pid := asked.pid) is not None}
        try:
            async with asyncio.timeout(ANSWER_WITHIN):
                rows = await self._lane.fetch(self._database.queries.find_working, list(pids))
        except FAILURES as error:
            if _is_refusal(error):
                self._database.silent_since = None
            else:
                await self._fall_silent(waiting)
            return
        if self.silent_since is not None:
            self._database.silent_since = None
            log.info("Postgres answers again")
        for row in rows:
            pids.pop(row["pid"], None)
        long_ago = time.monotonic() - DEAD_AFTER
        if dead := [asked for asked in pids.values() if asked.since < long_ago]:
            log.warning("%d connections to Postgres were dead and are made anew", len(dead))
            await self._database.drop(dead)

    async def _fall_silent(self, waiting: list[Asked]) -> None:
        if self.silent_since is None:
            since = min((asked.since for asked in waiting), default=time.monotonic())
            self._database.silent_since = since
            log.warning("Postgres does not answer: all connections are made anew")
        await self._database.drop(waiting)


def _is_refusal(error: BaseException) -> bool:
    """Whether it is an answer of sorts. Where a name has several addresses, only the text of
    their errors is left."""
    cause = error.__cause__ or error
    if isinstance(cause, OSError):
        said = str(cause)
        return cause.errno in REFUSED or any(f"Errno {number}]" in said for number in REFUSED)
    return isinstance(cause, asyncpg.PostgresError)
