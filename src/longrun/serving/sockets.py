"""Sockets and descriptors: how many there may be, and what the kernel is told of ours."""

import array
import asyncio
import contextlib
import fcntl
import resource
import socket
import sys
import termios
from collections.abc import Iterator
from typing import Any, Final

from longrun.errors import ConfigurationError
from longrun.settings import Settings

MOST_DESCRIPTORS: Final = 1 << 20

SPARE_DESCRIPTORS: Final = 0.2
"""The part of all descriptors that is left to all else: Postgres, models, files."""

UNSENT: Final = 128 * 1024
"""Bytes that the kernel takes for a client beyond what is on its way to it."""

TLS_BUFFER: Final = 16 * 1024
"""Bytes that come by TLS and are decrypted at once: a record has at most as many."""


def raise_limit() -> int:
    """Allow this process as many descriptors as it may have; how many client connections may be
    open at once."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = most
    return int(min(soft if soft > 0 else most, MOST_DESCRIPTORS) * (1 - SPARE_DESCRIPTORS))


@contextlib.contextmanager
def bound(settings: Settings) -> Iterator[socket.socket]:
    """The listening socket, bound here so that a port in use is a clear error, and 0 is known."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tune(listening)
        try:
            listening.bind((settings.host, settings.port))
        except OSError as error:
            raise ConfigurationError(
                f"cannot listen on LONGRUN_HOST={settings.host} LONGRUN_PORT={settings.port}: "
                f"{error.strerror}"
            ) from error
        yield listening


def url(listening: socket.socket, settings: Settings) -> str:
    """Of the server that listens there."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    scheme = "https" if settings.tls_certfile else "http"
    return f"{scheme}://{host}:{listening.getsockname()[1]}"


def tune(listening: socket.socket) -> None:
    """Options that accepted sockets inherit.

    By itself Linux takes up to 4 MB for a client that reads nothing, times its clients.
    """
    if sys.platform == "linux":
        # The number has a name from Python 3.12 on.
        listening.setsockopt(socket.IPPROTO_TCP, getattr(socket, "TCP_NOTSENT_LOWAT", 25), UNSENT)


def untaken(transport: asyncio.WriteTransport) -> int:
    """Bytes that wait for a client: in the process, and in the kernel where that can be asked."""
    waiting = transport.get_write_buffer_size()
    connection = transport.get_extra_info("socket")
    if sys.platform == "linux" and connection is not None:
        unacknowledged = array.array("i", [0])
        try:
            fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, unacknowledged)
        except (OSError, ValueError):  # closed meanwhile
            return waiting
        waiting += unacknowledged[0]
    return waiting


def slim(transport: asyncio.WriteTransport) -> None:
    """Have a TLS connection read into `TLS_BUFFER` bytes. asyncio holds 256 KiB for each one,
    however little comes (`SSLProtocol.max_size` in asyncio/sslproto.py): of an idle one that is
    most of its memory."""
    protocol: Any = getattr(transport, "_ssl_protocol", None)
    if hasattr(protocol, "_ssl_buffer_view"):
        protocol.max_size = TLS_BUFFER
        protocol._ssl_buffer = bytearray(TLS_BUFFER)
        protocol._ssl_buffer_view = memoryview(protocol._ssl_buffer)
