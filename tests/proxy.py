"""A proxy before Postgres that cuts connections at a chosen moment, lets none through, or swallows
everything."""

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs, urlsplit

Loss = Literal["request", "midway", "answer", "silence"]


class Proxy:
    """Passes everything on, until a client sends what contains `marker`.

    Attributes:
        marker: bytes of a request; the connection that sends them is cut, once.
        loss: `request`: before Postgres gets it; `midway`: as soon as Postgres has got it, which
            goes on with it and does not notice; `answer`: after Postgres has done it, and
            before the client hears of it; `silence`: nothing passes on that connection any
            more, and nobody hangs up.
        cuts: how often that was done.
        refusing: the SQLSTATE that every new connection is refused with.
        refused: how many were.
        silent: nothing passes, in no direction and on no connection, and nobody hangs up. What
            was sent meanwhile is lost.
        sent: bytes that were passed on to Postgres, over all connections.
    """

    def __init__(self, url: str, folder: Path) -> None:
        query = parse_qs(urlsplit(url).query)
        self._port = query.get("port", ["5432"])[0]
        self._server = f"{query['host'][0]}/.s.PGSQL.{self._port}"
        self.url = f"postgresql://postgres@/postgres?host={folder}&port={self._port}"
        self.socket = folder / f".s.PGSQL.{self._port}"
        self.marker: bytes | None = None
        self.loss: Loss = "answer"
        self.cuts = 0
        self.refusing: str | None = None
        self.refused = 0
        self.silent = False
        self.sent = 0
        self.tcp_url = ""
        self._connections = 0
        self._muted: set[int] = set()

    def mute(self) -> None:
        """Connections that are open now are dead from now on, and stay open; new ones work."""
        self._muted.update(range(self._connections + 1))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        if self.refusing is not None:
            self.refused += 1
            await reader.read(1 << 16)
            fields = f"SFATAL\0VFATAL\0C{self.refusing}\0Mrefused by the test\0\0".encode()
            writer.write(b"E" + (len(fields) + 4).to_bytes(4, "big") + fields)
            await writer.drain()
            writer.close()
            return
        self._connections += 1
        number = self._connections
        try:
            up_reader, up_writer = await asyncio.open_unix_connection(self._server)
        except BaseException:
            writer.transport.abort()
            raise
        losing = asyncio.Event()
        back = asyncio.ensure_future(self._answers(up_reader, writer, losing, number))
        forth = asyncio.ensure_future(self._requests(reader, up_writer, losing, back, number))
        try:
            await asyncio.wait((back, forth), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each_writer in (writer, up_writer):
                each_writer.transport.abort()
            for each in (back, forth):
                each.cancel()
            await asyncio.gather(back, forth, return_exceptions=True)

    async def _requests(
        self,
        reader: asyncio.StreamReader,
        up: asyncio.StreamWriter,
        losing: asyncio.Event,
        answers: asyncio.Future[None],
        number: int,
    ) -> None:
        while data := await reader.read(1 << 20):
            if self._swallows(number):
                continue
            if self.marker is not None and self.marker in data:
                self.marker = None
                self.cuts += 1
                if self.loss == "silence":
                    self._muted.add(number)
                    continue
                if self.loss == "request":
                    return
                if self.loss == "midway":
                    up.transport.set_write_buffer_limits(0)
                    up.write(data)
                    await up.drain()
                    return
                losing.set()
                up.write(data)
                await answers
                return
            self.sent += len(data)
            up.write(data)
            await up.drain()

    def _swallows(self, number: int) -> bool:
        return self.silent or number in self._muted

    async def _answers(
        self,
        up: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        losing: asyncio.Event,
        number: int,
    ) -> None:
        while data := await up.read(1 << 20):
            if self._swallows(number):
                continue
            if losing.is_set():
                return
            writer.write(data)
            await writer.drain()


@contextlib.asynccontextmanager
async def before(url: str) -> AsyncIterator[Proxy]:
    """A proxy before a Postgres that listens on a Unix socket."""
    folder = Path(tempfile.mkdtemp(prefix="longrun-proxy-"))
    proxy = Proxy(url, folder)
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await proxy.serve(reader, writer)
        finally:
            tasks.discard(task)

    server = await asyncio.start_unix_server(connected, proxy.socket)
    tcp = await asyncio.start_server(connected, "127.0.0.1", 0)
    port = tcp.sockets[0].getsockname()[1]
    proxy.tcp_url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
    try:
        yield proxy
    finally:
        server.close()
        tcp.close()
        for _ in range(5):  # one that was accepted just now gets to its first step
            await asyncio.sleep(0)
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for _ in range(5):  # an aborted transport closes in the next turn of the loop
            await asyncio.sleep(0)
        shutil.rmtree(folder, ignore_errors=True)
