"""How a worker takes connections from the socket that it shares with the others."""

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from ssl import SSLContext
from typing import Final

from longrun.serving.shares import NONE, Shares

log = logging.getLogger("longrun.serving.taking")

Connected = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

LEAD_PART: Final = 16
"""A worker waits for one that has fewer connections and runs; but not if it leads by no more than
this part of them, so that thousands at once are not held up."""

WAIT: Final = 0.001
"""Seconds that it waits then: long for a worker that is idle, short for a client."""

OUT_OF_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

PAUSE: Final = 1.0
"""Seconds without another try when there are no more descriptors."""


HANDED_OVER_WITHIN: Final = 0.5
"""Seconds in which those that were taken are handed over, at the end: their clients know nothing of
it, and may have sent a request."""


def kept_by(listening: socket.socket) -> list[socket.socket]:
    """Take all connections that the kernel keeps: with a socket that is closed they are reset."""
    listening.setblocking(False)
    found = []
    with contextlib.suppress(OSError):
        while True:
            found.append(listening.accept()[0])
    return found


async def handed_over(
    connections: list[socket.socket],
    connected: Connected,
    ssl: SSLContext | None,
    ssl_handshake_timeout: float | None,
) -> None:
    """Serve these."""
    loop = asyncio.get_running_loop()

    async def handed(connection: socket.socket) -> None:
        connection.setblocking(False)
        with contextlib.suppress(OSError):
            await loop.connect_accepted_socket(
                lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader(), connected),
                connection,
                ssl=ssl,
                ssl_handshake_timeout=ssl_handshake_timeout,
            )

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(HANDED_OVER_WITHIN), asyncio.TaskGroup() as group:
            for connection in connections:
                group.create_task(handed(connection))


class Taking:
    """Takes connections one at a time, and leaves them to workers that have fewer.

    Args:
        place: of this worker, among the shares.
        connected: serves one.
        work: what this worker does besides, in connections: its runs, which go on without one.
        ssl, ssl_handshake_timeout: as for `asyncio.start_server`.
    """

    def __init__(
        self,
        listening: socket.socket,
        shares: Shares,
        place: int,
        connected: Connected,
        work: Callable[[], int],
        ssl: SSLContext | None,
        ssl_handshake_timeout: float | None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._listening = listening
        self._shares = shares
        self._place = place
        self._connected = connected
        self._work = work
        self._tls = ssl
        self._handshake = ssl_handshake_timeout
        self._open = 0
        self._group: asyncio.TaskGroup
        self._shaking: set[asyncio.Task[None]] = set()
        self._taking = False

    @contextlib.asynccontextmanager
    async def taken(self, backlog: int) -> AsyncIterator[None]:
        """Within the block, connections are taken, until `end`."""
        self._listening.setblocking(False)
        self._listening.listen(backlog)
        async with asyncio.TaskGroup() as self._group:
            self._taking = True
            self._count(0)
            self._watch()
            try:
                yield
            finally:
                self.end()
                if self._shaking:
                    await asyncio.wait(self._shaking, timeout=HANDED_OVER_WITHIN)
                for task in self._shaking:
                    task.cancel()

    def end(self) -> None:
        """Take no more. What waits in the socket is for the others."""
        if self._taking:
            self._taking = False
            self._loop.remove_reader(self._listening)
            self._shares[self._place] = NONE

    def _watch(self) -> None:
        if self._taking:
            self._loop.add_reader(self._listening, self._ready)

    def _ready(self) -> None:
        # The kernel wakes all that watch, so the others' numbers are of this moment too.
        mine = self._shares[self._place] = self._open + self._work()
        least = self._shares.least()
        if mine > least + least // LEAD_PART:
            self._loop.remove_reader(self._listening)
            self._loop.call_later(WAIT, self._take_then_watch)
        else:
            self._take()

    def _take_then_watch(self) -> None:
        """Whoever has fewer may be busy: it was given a moment."""
        if self._taking:
            self._watch()
            self._take()

    def _take(self) -> None:
        try:
            connection, _ = self._listening.accept()
        except OSError as error:
            # Otherwise another one was faster, or the client has left.
            if error.errno in OUT_OF_DESCRIPTORS:
                log.error("cannot take a connection: %s", error.strerror)
                self._loop.remove_reader(self._listening)
                self._loop.call_later(PAUSE, self._watch)
            return
        self._count(1)
        task = self._group.create_task(self._hand_over(connection))
        self._shaking.add(task)
        task.add_done_callback(self._shaking.discard)

    async def _hand_over(self, connection: socket.socket) -> None:
        connection.setblocking(False)

        async def counted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await self._connected(reader, writer)
            finally:
                self._count(-1)

        def protocol() -> asyncio.StreamReaderProtocol:
            return asyncio.StreamReaderProtocol(asyncio.StreamReader(), counted)

        try:
            await self._loop.connect_accepted_socket(
                protocol,
                connection,
                ssl=self._tls,
                ssl_handshake_timeout=self._handshake,
            )
        except BaseException as error:
            self._count(-1)
            if not isinstance(error, OSError):
                raise
            # A handshake that failed: there is nobody to tell.
            log.debug("a connection broke off: %s", error)

    def _count(self, more: int) -> None:
        self._open += more
        if self._taking:
            self._shares[self._place] = self._open + self._work()
