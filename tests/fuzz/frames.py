"""Frames on sockets that are nearly HTTP/2: of any type, in any order, for any stream."""

from typing import Any, Final

from hpack import Encoder
from hypothesis import given, seed
from hypothesis import strategies as st

from tests.fuzz.api import usual
from tests.fuzz.ground import Ground
from tests.fuzz.wire import exchange

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def block(*headers: tuple[str, str]) -> bytes:
    """A header block as one that begins a connection has it."""
    return bytes(Encoder().encode(list(headers)))


_GET: Final = ((":method", "GET"), (":scheme", "http"), (":path", "/responses"))
_POST: Final = ((":method", "POST"), (":scheme", "http"), (":path", "/responses"))
_JSON: Final = ("content-type", "application/json")

blocks = st.sampled_from(
    [
        block(*_GET, (":authority", "a")),
        block(*_POST, (":authority", "a"), _JSON),
        block(*_POST, (":authority", "a"), _JSON, ("content-length", "5")),
        block(*_POST, ("transfer-encoding", "chunked"), _JSON),
        block(*_GET, (":path", "/models")),
        block((":method", "GET"), (":path", "/a\nFORGED line")),
        block(*_GET, ("connection", "close")),
        block(*_GET, ("X-Upper", "a")),
        block(*_GET, ("x", "a\r\nFORGED: b")),
        block(("x", "y"), *_GET),
        block((":method", "CONNECT"), (":authority", "a:1")),
        block((":method", "CONNECT"), (":protocol", "websocket"), *_GET[1:]),
        block(*_GET, *((f"x-{n}", "a" * 900) for n in range(30))),
    ]
)
payloads = (
    blocks
    | st.binary(max_size=20)
    | st.sampled_from([b"", b"\0" * 4, b"\0" * 5, b"\0" * 8, b'{"input":"a"}', b"\x7f\xff\xff\xff"])
    | st.sampled_from([b"\0\3\0\0\0\0", b"\0\4\xff\xff\xff\xff", b"\0\5\0\0\0\1", b"\xff" * 6 * 40])
)
frames = st.tuples(
    st.sampled_from([0, 1, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 16, 255]),
    st.sampled_from([0, 1, 4, 5, 5, 5, 8, 0x20, 0x25, 255]),
    st.sampled_from([0, 1, 1, 3, 5, 2, 2**31 - 1]),
    payloads,
)


def made(given_frames: list[tuple[int, int, int, bytes]], greeting: bool) -> bytes:
    """The bytes of a connection."""
    whole = bytearray(PREFACE + (frame(4, 0, 0, b"") if greeting else b""))
    for each in given_frames:
        whole += frame(*each)
    return bytes(whole)


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    head = len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big")
    return head + payload


def frames_of_http2(ground: Ground, number: int, examples: int) -> None:
    """Nearly HTTP/2."""

    @seed(number)
    @usual(examples)
    @given(st.lists(frames, min_size=1, max_size=6), st.sampled_from([True, True, False]))
    def test(given_frames: list[Any], greeting: bool) -> None:
        ground.said.clear()
        ground.check_hidden(exchange(ground, made(given_frames, greeting), number))

    test()
