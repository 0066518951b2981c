"""Runs that start at the same time: one after the other, with a turn of the event loop in between.

The Agents SDK begins a run in a millisecond or two of the event loop. Fifty that are created at
once would hold it for as long as all of them together, and every stream would wait for that.
"""

import asyncio


class Starts:
    """One per replica."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def turn(self) -> None:
        """Wait until a run may start: the one before it has been through its first part, and what
        came on sockets meanwhile was served."""
        async with self._turn:
            await asyncio.sleep(0)
