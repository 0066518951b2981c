"""Model turns that end at the same time: behind their last deltas, and one after the other.

What ends a turn comes in the same moment as its last delta, and is a millisecond of the event
loop: items, steps, what the SDK makes of it. The delta is to be on its way to its readers by then;
and where many turns end, the deltas of all runs wait for one of them in a turn of the loop, and
not for all.
"""

import asyncio
from collections import deque


class Closings:
    """One per replica."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._turning = False

    async def turn(self) -> None:
        """Wait until the event loop has turned, and once more for each that waits already."""
        loop = asyncio.get_running_loop()
        waiting: asyncio.Future[None] = loop.create_future()
        self._waiting.append(waiting)
        if not self._turning:
            self._turning = True
            loop.call_soon(self._next)
        await waiting

    def _next(self) -> None:
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():  # not cancelled
                waiting.set_result(None)
                break
        self._turning = bool(self._waiting)
        if self._turning:
            asyncio.get_running_loop().call_soon(self._next)
