"""Replays: runs that are taken over together are read together, and resumed a few at a time.

What is replayed needs the event loop and waits for little. So if all began at once, all would be
done at the end, and what is live here would wait for each of them at every turn of the loop.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Final

from longrun.store.records import Left

AT_ONCE: Final = 4
"""Runs of a replica that are replayed at the same time."""

LONGEST: Final = 1.0
"""Seconds after which a replay makes way for the next, though it is not done: it waits for
something that the application does."""

READ_TOGETHER: Final = 8
"""Responses whose journals are read in one query, and may be in memory before their turn."""

Read = Callable[[Sequence[str]], Awaitable[Mapping[str, Left]]]


class Replay:
    """One run's turn to be replayed.

    Args:
        free: what the runs of a replica take turns by.
    """

    def __init__(self, free: asyncio.Semaphore) -> None:
        self._free = free
        self._timer: asyncio.TimerHandle | None = None

    async def begin(self) -> None:
        """Wait for the turn: those that waited first are first."""
        await self._free.acquire()
        self._timer = asyncio.get_running_loop().call_later(LONGEST, self.over)

    def over(self) -> None:
        """The next one may begin. Idempotent, and legal before `begin`."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._free.release()


class Replays:
    """Those of one replica."""

    def __init__(self, at_once: int = AT_ONCE) -> None:
        self._free = asyncio.Semaphore(at_once)

    @contextlib.contextmanager
    def one(self) -> Iterator[Replay]:
        """That of a run, which is over at the end of the block at the latest."""
        replay = Replay(self._free)
        try:
            yield replay
        finally:
            replay.over()


class Journals:
    """What earlier attempts left of responses that were claimed together.

    Args:
        response_ids: in the order in which they will be asked for.
        read: `Claims.left`.
    """

    def __init__(self, response_ids: Sequence[str], read: Read) -> None:
        self._unread = list(response_ids)
        self._read = read
        self._found: dict[str, Left] = {}
        self._reading = asyncio.Lock()

    async def take(self, response_id: str) -> Left | None:
        """What is left of a response, with which the next ones are read. None: it is too much to be
        read with others, or was asked for before.

        Raises:
            Unavailable: Postgres is away.
        """
        async with self._reading:
            if response_id in self._unread:
                at = self._unread.index(response_id)
                together = self._unread[at : at + READ_TOGETHER]
                del self._unread[at : at + READ_TOGETHER]
                self._found.update(await self._read(together))
            return self._found.pop(response_id, None)
