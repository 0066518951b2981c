"""Frames: read back by a parser written from the WHATWG specification, and by openai's."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai._streaming import SSEDecoder

from longrun.http import sse
from longrun.jsontext import dumps, loads
from longrun.store.batch import into_chunks
from longrun.store.records import Chunk

thorough = settings(max_examples=150, deadline=None, print_blob=True)


def framed(chunks: Iterable[Chunk], *, with_ids: bool) -> bytes:
    """What is sent for some chunks, in all."""
    return b"".join(sse.sends(chunks, with_ids=with_ids))


@dataclass(frozen=True)
class Message:
    """What an EventSource dispatches."""

    type: str
    data: str
    last_event_id: str


def event_source(body: bytes) -> list[Message]:
    """HTML Living Standard, 9.2.6 "Interpreting an event stream", to the letter."""
    text = body.decode("utf-8", "replace").removeprefix("\ufeff")
    dispatched: list[Message] = []
    data, event_type, last_event_id = "", "", ""
    id_buffer = ""
    for line in _lines(text):
        if line == "":
            last_event_id = id_buffer
            if data == "":
                event_type = ""
                continue
            dispatched.append(
                Message(event_type or "message", data.removesuffix("\n"), last_event_id)
            )
            data, event_type = "", ""
            continue
        if line.startswith(":"):
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            event_type = value
        elif field == "data":
            data += value + "\n"
        elif field == "id" and "\0" not in value:
            id_buffer = value
    return dispatched


def _lines(text: str) -> Iterator[str]:
    """Lines that are ended by CR LF, LF or CR; what is not ended at the stream's end is lost."""
    line = ""
    characters = iter(range(len(text)))
    for at in characters:
        if text[at] == "\r":
            yield line
            line = ""
            if text[at + 1 : at + 2] == "\n":
                next(characters)
        elif text[at] == "\n":
            yield line
            line = ""
        else:
            line += text[at]


def openai_decoded(parts: list[bytes]) -> list[tuple[str | None, str, str | None]]:
    return [(found.event, found.data, found.id) for found in SSEDecoder().iter_bytes(iter(parts))]


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=()), max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@st.composite
def logs(draw: Any) -> tuple[int, list[bytes]]:
    """Encoded events as the assembler makes them, from some sequence number on."""
    first = draw(st.integers(0, 10**9))
    contents = draw(st.lists(anything, min_size=1, max_size=12))
    kinds = st.sampled_from(["response.output_text.delta", "response.completed", "error"])
    events = [
        dumps({"type": draw(kinds), "sequence_number": first + n, "delta": content})
        for n, content in enumerate(contents)
    ]
    return first, events


def split(body: bytes, cuts: list[int]) -> list[bytes]:
    """A body as a network may deliver it."""
    places = sorted({cut % (len(body) + 1) for cut in cuts})
    return [body[start:end] for start, end in zip([0, *places], [*places, len(body)], strict=True)]


class TestFrames:
    @given(logs(), st.integers(1, 400), st.lists(st.integers(0, 10**6), max_size=6))
    @thorough
    def test_every_reader_gets_the_same_events(
        self, log: tuple[int, list[bytes]], chunk_bytes: int, cuts: list[int]
    ) -> None:
        first, events = log
        chunks = into_chunks(first, events, chunk_bytes)
        body = framed(chunks, with_ids=True)
        expected = [
            Message(loads(event)["type"], event.decode(), str(first + n))
            for n, event in enumerate(events)
        ]
        assert event_source(body + sse.DONE)[:-1] == expected
        assert openai_decoded(split(body, cuts)) == [
            (message.type, message.data, message.last_event_id) for message in expected
        ]

    @given(logs(), st.lists(st.integers(1, 400), min_size=2, max_size=2))
    @thorough
    def test_any_chunking_gives_the_same_bytes(
        self, log: tuple[int, list[bytes]], sizes: list[int]
    ) -> None:
        one, other = (
            b"".join(framed([chunk], with_ids=True) for chunk in into_chunks(*log, size))
            for size in sizes
        )
        assert one == other == framed(into_chunks(*log, 10**9), with_ids=True)

    @given(logs())
    @thorough
    def test_an_event_is_one_frame_of_whole_lines(self, log: tuple[int, list[bytes]]) -> None:
        """Data never holds a line end of its own, so that no client joins or loses anything."""
        first, events = log
        for number, event in enumerate(events, first):
            frame = framed([Chunk(number, number, event)], with_ids=True)
            kind = loads(event)["type"].encode()
            assert frame.split(b"\n") == [
                b"event: " + kind,
                b"id: %d" % number,
                b"data: " + event,
                b"",
                b"",
            ]
            assert b"\r" not in frame
            assert b"\0" not in frame

    def test_posts_have_no_ids(self) -> None:
        event = b'{"type":"response.created","sequence_number":7}'
        assert framed([Chunk(7, 7, event)], with_ids=False) == (
            b"event: response.created\ndata: " + event + b"\n\n"
        )

    def test_no_chunks_are_nothing(self) -> None:
        assert framed([], with_ids=True) == b""


class TestBetweenFrames:
    @given(logs(), st.booleans(), st.data())
    @thorough
    def test_heartbeats_are_not_seen(
        self, log: tuple[int, list[bytes]], with_ids: bool, data: Any
    ) -> None:
        frames = [framed([chunk], with_ids=with_ids) for chunk in into_chunks(*log, chunk_bytes=1)]
        quiet = b"".join(frames)
        beats = data.draw(st.lists(st.integers(0, 3), min_size=len(frames), max_size=len(frames)))
        body = b"".join(
            sse.KEEPALIVE * count + frame for count, frame in zip(beats, frames, strict=True)
        )
        assert event_source(body) == event_source(quiet)
        assert openai_decoded([body]) == openai_decoded([quiet])

    def test_a_heartbeat_after_an_id_is_no_event(self) -> None:
        """With two newlines openai's client would decode an empty event and fail on its JSON."""
        event = b'{"type":"response.created","sequence_number":0}'
        body = framed([Chunk(0, 0, event)], with_ids=True) + sse.KEEPALIVE
        assert len(openai_decoded([body])) == 1
        assert len(openai_decoded([body + b"\n"])) == 2, "the trap is real"

    def test_done(self) -> None:
        assert event_source(sse.DONE) == [Message("message", "[DONE]", "")]
        assert openai_decoded([sse.DONE]) == [(None, "[DONE]", None)]

    def test_a_stream_that_is_cut_loses_no_event_that_was_whole(self) -> None:
        events = [
            dumps({"type": "response.output_text.delta", "sequence_number": n, "delta": "é\n"})
            for n in range(5)
        ]
        body = framed([Chunk(0, 4, b"\n".join(events))], with_ids=True)
        whole = event_source(body)
        for cut in range(len(body)):
            seen = event_source(body[:cut])
            assert seen == whole[: len(seen)]


@pytest.mark.parametrize(
    "text", ["\r", "\n", "\r\n", "\u2028\u2029\x85", "\0", "\ufeff", "data: x"]
)
def test_characters_that_break_streams(text: str) -> None:
    event = dumps({"type": "response.output_text.delta", "sequence_number": 0, "delta": text})
    [message] = event_source(framed([Chunk(0, 0, event)], with_ids=True))
    assert json.loads(message.data)["delta"] == text


@thorough
@given(logs(), st.integers(1, 400), st.integers(100, 2000))
def test_a_send_is_whole_frames_and_no_more_than_is_asked(
    log: tuple[int, list[bytes]], chunk_bytes: int, send: int
) -> None:
    first, lines = log
    chunks = into_chunks(first, lines, chunk_bytes)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sse, "SEND", send)
        sends = sse.sends(chunks, with_ids=True)
    for body in sends:
        assert body.endswith(b"\n\n")
        assert len(body) <= 2 * send or body.count(b"\n\n") == 1
    assert b"".join(sends) == framed(chunks, with_ids=True)
