"""Runs that start at the same time: after the first events of what is created with them, and one
after the other.

The Agents SDK begins a run in a millisecond or two of the event loop. Fifty that are created at
once would hold it for as long as all of them together, and every stream would wait for that, their
own first.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Final

PATIENCE: Final = 0.05
"""Seconds that a run waits at most for the first events of others: where responses are created all
the time, some always are on their way."""

LONGEST: Final = 0.005
"""Seconds after which the next run may start though the one before it has not asked its model: it
waits for something that the application does."""


class Starts:
    """One per replica."""

    def __init__(self) -> None:
        self._free = asyncio.Lock()
        self._coming = 0
        self._none_comes = asyncio.Event()
        self._none_comes.set()

    @contextlib.contextmanager
    def coming(self) -> Iterator[None]:
        """Within the block, the first event of a response is on its way to its client."""
        self._coming += 1
        self._none_comes.clear()
        try:
            yield
        finally:
            self._coming -= 1
            if not self._coming:
                self._none_comes.set()

    @contextlib.contextmanager
    def one(self) -> Iterator["Turn"]:
        """The turn of a run, which is over at the end of the block at the latest."""
        turn = Turn(self._free, self._none_comes)
        try:
            yield turn
        finally:
            turn.over()


class Turn:
    """One run's turn to start.

    Args:
        free: what the runs of a replica take turns by.
        none_comes: set while no first event is on its way.
    """

    def __init__(self, free: asyncio.Lock, none_comes: asyncio.Event) -> None:
        self._free = free
        self._none_comes = none_comes
        self._holds = False
        self._timer: asyncio.TimerHandle | None = None

    async def begin(self) -> None:
        """Wait for the turn: those that waited first are first."""
        loop = asyncio.get_running_loop()
        until = loop.time() + PATIENCE
        await self._free.acquire()
        self._holds = True
        if not self._none_comes.is_set() and loop.time() < until:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(until):
                    await self._none_comes.wait()
        # What came on sockets meanwhile is served.
        await asyncio.sleep(0)
        self._timer = loop.call_later(LONGEST, self.over)

    def over(self) -> None:
        """The next one may start. Idempotent, and legal before `begin`."""
        if self._timer is not None:
            self._timer.cancel()
        if self._holds:
            self._holds = False
            self._free.release()
