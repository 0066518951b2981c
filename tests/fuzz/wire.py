"""Bytes on sockets that are nearly HTTP: odd framing, odd headers, requests within requests."""

import contextlib
import re
import socket
import time
from typing import Any, Final

from hypothesis import given, seed
from hypothesis import strategies as st

from tests.fuzz.api import usual
from tests.fuzz.ground import Found, Ground

PATIENCE: Final = 8.0
"""Seconds within which a connection is answered or closed: the server waits two for a body."""

SMUGGLED: Final = b"GET /smuggled HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
"""A request that nobody sent: it is in a body."""

methods = st.sampled_from(
    [b"GET", b"POST", b"HEAD", b"DELETE", b"PUT", b"get", b"G\x00T", b"P" * 300]
)
targets = st.sampled_from(
    [
        *(b"/responses", b"/v1/responses", b"/responses/a%0d%0aFORGED%20line", b"*", b"//", b"/%"),
        *(b"/responses/%00", b"/models/%ff%fe", b"http://other/responses", b"/a?b=%0aFORGED"),
        *(b"/" + b"a" * 70_000, b"/responses?limit=\xff", b"/..%2f..%2f", b"/conversations?"),
    ]
)
names = st.sampled_from(
    [
        *(b"content-length", b"transfer-encoding", b"Transfer-Encoding ", b"content-type", b"host"),
        *(b"expect", b"connection", b"upgrade", b"authorization", b"last-event-id", b"x\x00y"),
        *(b"x-request-id", b"longrun-principal", b"content-encoding", b"origin", b"te", b"cookie"),
    ]
)
values = st.sampled_from(
    [
        *(b"0", b"5", b"-1", b"+5", b"5, 5", b"5,6", b"0x5", b"99999999999999999999", b"", b" "),
        *(b"chunked", b"Chunked", b"xchunked", b"chunked, chunked", b"gzip, chunked", b"identity"),
        *(b"application/json", b"100-continue", b"close", b"keep-alive", b"websocket", b"h2c"),
        *(
            b"Bearer lr_\xff",
            b"Bearer " + b"a" * 9000,
            b"\xc3\xa9",
            b"a\tb",
            b"1\x0b2",
            b"http://[",
        ),
        *(b"a\r\n FORGED", b"127.0.0.1", b"null", b"x" * 20_000),
    ]
)
chunks = st.sampled_from(
    [
        *(b"5\r\nhello\r\n", b"0\r\n\r\n", b"5;a=b\r\nhello\r\n", b"5\nhello\n", b"-1\r\n\r\n"),
        *(b"ffffffffffffffff\r\n", b"5\r\nhel", b"\r\n", b"0\r\nx: y\r\n\r\n", b" 5\r\nhello\r\n"),
        *(b"{}", b'{"input":"a"}', b"[" * 3000, b"\xff\xfe", SMUGGLED, b"0\r\n\r\n" + SMUGGLED),
    ]
)
headers = st.lists(st.tuples(names, values), max_size=6)
requests = st.tuples(methods, targets, headers, st.lists(chunks, max_size=4))
edits = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255), st.booleans()), max_size=3)


def made(parts: list[tuple[Any, ...]], changes: list[tuple[int, int, bool]]) -> bytes:
    """The bytes of some requests one after the other, some of them changed."""
    whole = bytearray()
    for method, target, fields, body in parts:
        whole += method + b" " + target + b" HTTP/1.1\r\nhost: 127.0.0.1\r\n"
        whole += b"".join(name + b": " + value + b"\r\n" for name, value in fields)
        whole += b"\r\n" + b"".join(body)
    for at, byte, inserted in changes:
        place = at % (len(whole) + 1)
        whole[place : place if inserted else place + 1] = bytes([byte])
    return bytes(whole)


def wire(ground: Ground, number: int, examples: int) -> None:
    """Nearly HTTP/1.1."""

    @seed(number)
    @usual(examples)
    @given(st.lists(requests, min_size=1, max_size=2), edits)
    def test(parts: list[tuple[Any, ...]], changes: list[tuple[int, int, bool]]) -> None:
        ground.said.clear()
        check(ground, exchange(ground, made(parts, changes), number))

    test()


def exchange(ground: Ground, data: bytes, replica: int = 0) -> bytes:
    """Send bytes, say that no more come, and read all that is said to them.

    Raises:
        Found: the connection is neither answered nor closed.
    """
    url = ground.replicas[replica % len(ground.replicas)].url
    host, port = url.removeprefix("http://").split(":")
    said, began = bytearray(), time.monotonic()
    ground.answers += 1
    ground.said.append(repr(data))
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as connection:
        with contextlib.suppress(ConnectionError, BrokenPipeError):
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        while True:
            try:
                part = connection.recv(65536)
            except ConnectionError:
                break
            except TimeoutError:
                raise Found(f"neither answered nor closed: {data[:1000]!r}") from None
            if not part:
                break
            said += part
            if time.monotonic() - began > PATIENCE * 2:
                raise Found(f"it goes on and on: {data[:1000]!r}")
    return bytes(said)


_STATUS: Final = re.compile(rb"^HTTP/1\.1 (\d{3})", re.MULTILINE)


def check(ground: Ground, said: bytes) -> None:
    """What the server said to bytes that were nearly HTTP."""
    if said and not said.startswith(b"HTTP/1.1 "):
        raise Found(f"no answer of HTTP/1.1: {said[:300]!r}")
    for status in _STATUS.findall(said):
        # RFC 9112, section 6.1: of a transfer encoding that nobody knows.
        if status.startswith(b"5") and status != b"501":
            raise Found(f"a server error: {said[:600]!r}")
    ground.check_hidden(said)
