"""Clients that do not behave: raw bytes over HTTP/1.1, single frames over HTTP/2.

And what they are looked at by: a replica's open connections, and its memory.
"""

import asyncio
import contextlib
import datetime
import ipaddress
import json
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import psutil
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
)

from tests import servers
from tests.reading import Wire
from tests.servers import Replica

MEGABYTE = 1024 * 1024


def address(replica: Replica) -> tuple[str, int]:
    where = urlsplit(replica.url)
    assert where.hostname
    assert where.port
    return where.hostname, where.port


async def connect(replica: Replica, receive_buffer: int | None = None) -> socket.socket:
    """A connection on which nothing has been said."""
    connection = socket.socket()
    connection.setblocking(False)
    if receive_buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    with closed_if_not(connection):
        await asyncio.get_running_loop().sock_connect(connection, address(replica))
    return connection


@contextlib.contextmanager
def closed_if_not(connection: socket.socket) -> Iterator[None]:
    """Close a connection if the block fails: nobody has it then."""
    try:
        yield
    except BaseException:
        connection.close()
        raise


async def say(connection: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(connection, data)


async def raw(replica: Replica, data: bytes) -> Wire:
    """Say something on a connection of its own, and read the head of the answer, if one comes."""
    connection = await connect(replica)
    with closed_if_not(connection):
        await say(connection, data)
        return await answer(connection)


async def answer(connection: socket.socket, timeout: float = 20) -> Wire:
    """The head of the next answer on a connection; status 0 if it is closed instead."""
    wire = Wire(connection)
    async with asyncio.timeout(timeout):
        while not wire.status and await wire.more(1024):
            pass
    return wire


async def whole(wire: Wire) -> dict[str, Any]:
    """The rest of a JSON answer."""
    while not wire.complete and await wire.more():
        pass
    assert wire.complete
    return dict(json.loads(wire.body))


async def ends(wire: Wire, timeout: float = 10) -> None:
    """The server closes the connection; what comes before that does not count."""
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(timeout):
            while await asyncio.get_running_loop().sock_recv(wire.connection, 65536):
                pass


def check_error(body: dict[str, Any]) -> None:
    """The shape of all errors (contract, "Errors")."""
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    assert body["error"]["code"]


def open_connections(replica: Replica) -> int:
    """How many connections of clients a replica has, as the kernel sees them."""
    _, port = address(replica)
    found = psutil.Process(replica.process.pid).net_connections("tcp")
    return sum(1 for each in found if each.laddr.port == port and each.raddr)


def memory(replica: Replica) -> int:
    """Bytes of memory that a replica's process has."""
    return int(psutil.Process(replica.process.pid).memory_info().rss)


class MemoryWatch:
    """The largest growth of a replica's memory while it was looked at."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._before = memory(replica)
        self.growth = 0

    def look(self) -> bool:
        self.growth = max(self.growth, memory(self._replica) - self._before)
        return True


async def answers_others(replica: Replica, within: float) -> None:
    """A replica answers a client of its own connection in time."""
    began = time.monotonic()
    if replica.url.startswith("https"):
        async with await Peer.open(replica) as peer:
            assert await peer.get("/healthz") == 200
    else:
        await Wire.fetch(f"{replica.url}/healthz")
    assert time.monotonic() - began < within


# -- HTTP/2 ---------------------------------------------------------------------------------


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1, signed by itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    chain, private = folder / "chain.pem", folder / "key.pem"
    chain.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return chain, private


@contextlib.contextmanager
def over_tls(database_url: str, folder: Path, **options: Any) -> Iterator[Replica]:
    """A replica that serves TLS, and with it HTTP/2."""
    chain, private = certificate(folder)
    tls = {"LONGRUN_TLS_CERTFILE": str(chain), "LONGRUN_TLS_KEYFILE": str(private)}
    environment = {**options.pop("environment", {}), **tls}
    replica = servers.start(database_url, environment=environment, wait=False, **options)
    replica.url = replica.url.replace("http://", "https://")
    try:
        _wait_ready(replica)
        yield replica
    finally:
        replica.end()
        replica.log.unlink(missing_ok=True)


def trusting(*protocols: str) -> ssl.SSLContext:
    """Takes any certificate, and offers these protocols."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(list(protocols))
    return context


def _wait_ready(replica: Replica, timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        assert replica.process.poll() is None, replica.output()
        with (
            contextlib.suppress(OSError),
            socket.create_connection(address(replica), 5) as connection,
            trusting("http/1.1").wrap_socket(connection) as encrypted,
        ):
            encrypted.sendall(
                b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
            )
            if encrypted.recv(100).startswith(b"HTTP/1.1 200"):
                return
        time.sleep(0.05)
    raise AssertionError(f"not ready: {replica.output()}")


class Peer:
    """A client of HTTP/2 that does what a test says, frame by frame.

    Attributes:
        h2: its side of the connection.
        statuses, bodies: of the answers, by stream.
        ended, resets: the streams that were ended, or reset (with which code).
        closed: the server closed the connection.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.h2 = H2Connection(H2Configuration(client_side=True))
        # What a server must bear is not what a good client may say.
        self.h2.config.validate_outbound_headers = False
        self.h2.config.normalize_outbound_headers = False
        self.reader = reader
        self.writer = writer
        self.reading = True
        self.statuses: dict[int, int] = {}
        self.bodies: dict[int, bytearray] = {}
        self.ended: set[int] = set()
        self.resets: dict[int, int] = {}
        self.closed = False

    @classmethod
    async def open(cls, replica: Replica, *, window: int | None = None) -> Self:
        """Args:
        window: what the server may send on each stream before it is read; `reading` then has
            to be False, or windows are opened as the bytes come.
        """
        host, port = address(replica)
        reader, writer = await asyncio.open_connection(host, port, ssl=trusting("h2"))
        peer = cls(reader, writer)
        if writer.get_extra_info("ssl_object").selected_alpn_protocol() != "h2":
            writer.transport.abort()
            raise AssertionError("no HTTP/2")
        if window is not None:
            peer.h2.local_settings.initial_window_size = window
            peer.h2.local_settings.acknowledge()
        peer.h2.initiate_connection()
        await peer.flush()
        return peer

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.transport.abort()

    def request(
        self, path: str, method: str = "GET", *, end: bool = True, headers: Any = ()
    ) -> int:
        """Begin a request; its stream."""
        stream = self.h2.get_next_available_stream_id()
        pseudo = [(":method", method), (":authority", "localhost")]
        if method != "CONNECT":
            pseudo += [(":scheme", "https"), (":path", path)]
        self.h2.send_headers(stream, [*pseudo, *headers], end_stream=end)
        self.bodies[stream] = bytearray()
        return stream

    async def flush(self) -> None:
        self.writer.write(self.h2.data_to_send())
        with contextlib.suppress(ConnectionError):
            await self.writer.drain()

    async def send(self, frames: bytes) -> None:
        """Frames of a test's own making."""
        await self.flush()
        self.writer.write(frames)
        with contextlib.suppress(ConnectionError):
            await self.writer.drain()

    async def until(self, enough: Callable[[], bool], timeout: float = 20) -> None:
        """Receive until something is so; fails when the connection ends before."""
        async with asyncio.timeout(timeout):
            while not enough():
                assert not self.closed, "the connection was closed"
                await self.more()

    async def get(self, path: str, timeout: float = 20) -> int:
        """The status of the answer to a GET."""
        stream = self.request(path)
        await self.flush()
        await self.until(lambda: stream in self.ended, timeout)
        return self.statuses[stream]

    async def more(self) -> None:
        try:
            data = await self.reader.read(64 * 1024)
        except OSError:
            data = b""
        if not data:
            self.closed = True
            return
        for event in self.h2.receive_data(data):
            self._take(event)
        await self.flush()

    def _take(self, event: Any) -> None:
        if isinstance(event, ResponseReceived):
            self.statuses[event.stream_id] = int(dict(event.headers)[b":status"])
        elif isinstance(event, DataReceived):
            self.bodies[event.stream_id] += event.data
            if self.reading and event.flow_controlled_length:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, StreamEnded):
            self.ended.add(event.stream_id)
        elif isinstance(event, StreamReset):
            self.resets[event.stream_id] = int(event.error_code)
        elif isinstance(event, ConnectionTerminated):
            self.closed = True


def frame(kind: int, stream: int, payload: bytes = b"", flags: int = 0) -> bytes:
    """One frame, as it is on the wire."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE, CONTINUATION = (
    *(0, 1, 2, 3, 4),
    *(6, 8, 9),
)
