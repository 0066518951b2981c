"""One client's connection: reading, writing in bounded time, and an end that leaves nothing."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

from hypercorn.asyncio.task_group import TaskGroup
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.typing import ConnectionState
from hypercorn.utils import parse_socket_addr

from longrun import metrics
from longrun.serving.bounds import LINGER, SLICE, Bounds, Context
from longrun.serving.exchange import Within
from longrun.serving.http1 import HTTP1
from longrun.serving.http2 import HTTP2
from longrun.serving.sockets import slim, untaken

log = logging.getLogger("longrun.serving")

READ: Final = 16 * 1024
"""Bytes read at once: what can be made of them must not keep others waiting."""

FIRST_REQUEST: Final = 0.5
"""Seconds in which what a new connection was made for comes: until then it is not ended, even by a
process that takes no more."""

TAKEN_WITHIN: Final = 0.05
"""Seconds from when the kernel gives a connection to when it is served."""

FULL_WARNING: Final = 10.0
"""Seconds between two warnings that there are too many connections."""


class Connections:
    """The open connections of this replica, and how many there may be.

    Attributes:
        stopping: none is let in.
    """

    def __init__(self, most: int, context: Context) -> None:
        self._most = most
        self._context = context
        self._open: set[Connection] = set()
        self.stopping = False
        self._warned = float("-inf")

    def admit(self, connection: "Connection") -> bool:
        """Count a new connection. False: there are too many, and it is not counted."""
        if len(self._open) < self._most and not self.stopping:
            self._open.add(connection)
            return True
        now = asyncio.get_running_loop().time()
        if not self.stopping and now > self._warned + FULL_WARNING:
            self._warned = now
            log.warning("%d connections are open: new ones are closed", len(self._open))
        return False

    def discard(self, connection: "Connection") -> None:
        self._open.discard(connection)

    def leave(self) -> None:
        """Others take what comes: from now on each answer is the last of its connection. Over
        HTTP/2, which tells for certain what is not answered any more, the idle ones end."""
        self._context.leaving = True
        for connection in list(self._open):
            connection.leave()

    def retire(self) -> None:
        """Others take what comes: end those on which nothing is asked, and each other one once it
        is answered. A new one has a moment to say what it was made for."""
        self._context.leaving = True
        for connection in list(self._open):
            connection.retire()

    async def end(self, within: float) -> None:
        """End those on which nothing is asked at once, the others with their answers, and what
        is left after so many seconds by force."""
        self.retire()
        # Of those that were taken last, not all have begun.
        await asyncio.sleep(TAKEN_WITHIN)
        self.stopping = True
        self.retire()
        tasks = [connection.task for connection in self._open]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=within)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def abort_all(self) -> None:
        """Drop what is still open, whatever waits for it."""
        for connection in list(self._open):
            connection.writer.transport.abort()


class Connection(TCPServer):
    """Hypercorn's TCPServer (hypercorn/asyncio/tcp_server.py), mended:

    - The task that waits for an idle connection's timeout outlives the connection, and `run` waits
      for it: a client that closes leaves its descriptor open for `keep_alive_timeout`. Here there
      is no such task, but a deadline on reading. A release whose `_read_data` stops `idle_task`
      has mended it.
    - `protocol_send` waits for a client that takes nothing for as long as it likes, and so does
      `_close`. Here a client has to take something, however little, within `send_timeout` seconds;
      then its connection is dropped.
    - `_close` closes while a client still sends, which resets the connection before the last
      answer is read. Here the client has a moment to take it.
    """

    config: Bounds
    context: Context
    protocol: HTTP1 | HTTP2  # type: ignore[assignment]

    def __init__(self, connections: Connections, *args: Any) -> None:
        super().__init__(*args)
        self.task: asyncio.Task[None] = asyncio.current_task(self.loop)  # type: ignore[assignment]
        self._connections = connections
        self._deadline: asyncio.Timeout | None = None
        self._since = self.loop.time()
        self._fresh = True
        self._idle = True
        self._ending = False

    async def run(self) -> None:
        if not self._connections.admit(self):
            self.writer.transport.abort()
            return
        try:
            await self._serve()
        except OSError:
            pass
        except Exception as error:
            log.error("a connection broke off", exc_info=error)
        finally:
            self._connections.discard(self)
            await self._close()
            # It holds this one, too: without that, both are freed at once and by nobody's search.
            self.__dict__.pop("protocol", None)

    async def _serve(self) -> None:
        self.writer.transport.set_write_buffer_limits(SLICE)
        slim(self.writer.transport)
        # Its transport has the addresses; the socket would be asked, and looked at each time.
        told = self.writer.get_extra_info
        family = told("socket").family
        client = parse_socket_addr(family, told("peername"))
        server = parse_socket_addr(family, told("sockname"))
        tls = self.writer.get_extra_info("ssl_object")
        chosen = HTTP2 if tls is not None and tls.selected_alpn_protocol() == "h2" else HTTP1
        async with TaskGroup(self.loop) as group:
            self.protocol = chosen(
                self.app,
                self.config,
                self.context,
                group,
                ConnectionState(self.state),
                tls is not None,
                client,
                server,
                self.protocol_send,
            )
            self.protocol.direct = self
            try:
                async with asyncio.timeout(self.config.keep_alive_timeout) as self._deadline:
                    await self.protocol.initiate()
                    await self._read_data()
            except TimeoutError:
                if not self._ending:
                    await self.protocol.time_out()
            self._deadline = None
            # The applications hear of it, and end.
            await self.protocol.handle(Closed())

    async def _read_data(self) -> None:
        while True:
            try:
                data = await self.reader.read(READ)
            except OSError:  # of TLS too
                return
            if not data:
                return
            if self.writer.transport.is_closing():
                return  # what the client said before it left is of no use to it
            if not self._ending:
                await self.protocol.handle(RawData(data))

    # -- what the protocol says -----------------------------------------------------------

    async def protocol_send(self, event: Event) -> None:
        if isinstance(event, RawData):
            await self._write(event.data)
        elif isinstance(event, Closed):
            self._end()
        elif isinstance(event, Within):
            self._end_within(event.seconds)
        elif isinstance(event, Updated):
            self._idle = event.idle
            self._fresh = False
            if self._idle and self.context.leaving:
                await self.protocol.say_goodbye()
                self._end()
            else:
                self._end_within(self.config.keep_alive_timeout if self._idle else None)

    def _end_within(self, seconds: float | None) -> None:
        if self._deadline is not None and not (self._ending or self._deadline.expired()):
            at = None if seconds is None else self.loop.time() + seconds
            self._deadline.reschedule(at)

    def _end(self) -> None:
        """Nothing more is said or heard; the client may take what is on its way."""
        if self._ending:
            return
        self._end_within(LINGER)
        self._ending = True
        try:
            self.writer.write_eof()
        except (NotImplementedError, OSError, RuntimeError):  # TLS has no half of an end
            self.writer.close()

    def leave(self) -> None:
        if isinstance(getattr(self, "protocol", None), HTTP2):
            self.retire()

    def retire(self) -> None:
        """End, if nothing is asked."""
        if self._idle and not (self._ending or self._is_asking):
            age = self.loop.time() - self._since
            self._end_within(max(0, FIRST_REQUEST - age) if self._fresh else 0)

    @property
    def _is_asking(self) -> bool:
        """Whether a request is on its way, which is bounded in time."""
        protocol = getattr(self, "protocol", None)
        return protocol is not None and protocol.is_asking

    # -- writing --------------------------------------------------------------------------

    def has_room(self, size: int) -> bool:
        """Whether so many bytes can be written without waiting for anything, nor after them."""
        transport = self.writer.transport
        if self._ending or self.send_lock.locked() or transport.is_closing():
            return False
        return transport.get_write_buffer_size() + size <= SLICE

    def put(self, data: bytes) -> None:
        """Write bytes for which there is room."""
        self.writer.transport.write(data)

    async def _write(self, data: bytes) -> None:
        async with self.send_lock:
            transport = self.writer.transport
            if self._ending or transport.is_closing():
                return
            self.writer.write(data)
            if transport.get_write_buffer_size() > SLICE:
                await self._while_taking(self.writer.drain)

    async def _while_taking(self, wait: Callable[[], Awaitable[None]]) -> None:
        """Wait, as long as the client takes something; one that does not is dropped."""
        transport, silence = self.writer.transport, self.config.send_timeout
        least, at = untaken(transport), self.loop.time()
        while True:
            try:
                async with asyncio.timeout(silence / 4):
                    await wait()
                return
            except OSError as error:
                if not isinstance(error, TimeoutError):
                    return
            left, now = untaken(transport), self.loop.time()
            if left < least:
                least, at = left, now
            elif now - at >= silence:
                metrics.reader_timeouts.inc()
                log.info("a client took nothing for %.0f s: cut", silence)
                transport.abort()
                return

    async def _close(self) -> None:
        self.writer.close()
        closing = asyncio.ensure_future(self.writer.wait_closed())
        try:
            await self._while_taking(lambda: asyncio.shield(closing))
        finally:
            self.writer.transport.abort()
            closing.cancel()
