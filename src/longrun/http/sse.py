"""Server-sent events: chunks of the log as frames.

A frame is `event: TYPE`, `data: JSON`, blank line; on GET streams `id: SEQUENCE_NUMBER` too, for
EventSource. Events are not parsed again: the writer put `type` first in each of them.
"""

from bisect import bisect_right
from collections.abc import Iterable
from itertools import accumulate
from typing import Final

from longrun.store.records import Chunk

KEEPALIVE: Final = b": keepalive\n"
"""A comment with ONE newline: with two it would be a block, which crashes openai-python when it
comes after an `id:` line."""

DONE: Final = b"data: [DONE]\n\n"

RETRY: Final = b"retry: 1000\n"
"""Has EventSource come back after a second, where browsers would wait 3 to 5. The first line of a
frame, as it crashes openai-python where it stands alone."""

_TYPE_AT: Final = len(b'{"type":"')


SEND: Final = 64 * 1024
"""About how much is sent at once; a single event may be more."""


class Framed:
    """Frames once what many readers get one after the other: the newest of a log, of which all that
    are at the same place get the same list of chunks.

    Args:
        with_ids: give each frame its `id:`, on GET streams.
    """

    def __init__(self, *, with_ids: bool) -> None:
        self.with_ids = with_ids
        self._chunks: list[Chunk] = []
        self._body = b""

    def body(self, chunks: list[Chunk]) -> bytes | None:
        """All events of some chunks, as one body. None: they are too many for one."""
        if chunks is not self._chunks:
            if sum([len(chunk.data) for chunk in chunks]) > SEND:
                return None
            self._body = b"".join(
                [frame for chunk in chunks for frame in _frames(chunk, self.with_ids)]
            )
            self._chunks = chunks
        return self._body

    def bodies(self, chunks: list[Chunk]) -> list[bytes]:
        """All events of some chunks, whole frames each, as bodies to be sent one by one."""
        body = self.body(chunks)
        return sends(chunks, with_ids=self.with_ids) if body is None else [body]


def sends(chunks: Iterable[Chunk], *, with_ids: bool) -> list[bytes]:
    """All events of some chunks, whole frames each, as bodies to be sent one after the other."""
    found: list[bytes] = []
    gathered: list[bytes] = []
    size = 0
    for chunk in chunks:
        gathered += _frames(chunk, with_ids)
        size += len(chunk.data)
        if size >= SEND:
            *full, gathered = _cut(gathered)
            found += [b"".join(frames) for frames in full]
            size = sum(map(len, gathered))
    if gathered:
        found.append(b"".join(gathered))
    return found


def _cut(frames: list[bytes]) -> list[list[bytes]]:
    """Frames in parts of at most SEND bytes, at least one frame each."""
    ends = list(accumulate(map(len, frames)))
    parts: list[list[bytes]] = []
    start = before = 0
    while start < len(frames):
        end = max(bisect_right(ends, before + SEND, start), start + 1)
        parts.append(frames[start:end])
        start, before = end, ends[end - 1]
    return parts


def _frames(chunk: Chunk, with_ids: bool) -> list[bytes]:
    lines = chunk.data.split(b"\n")
    if with_ids:
        return [
            b"event: %b\nid: %d\ndata: %b\n\n"
            % (line[_TYPE_AT : line.index(b'"', _TYPE_AT)], sequence, line)
            for sequence, line in enumerate(lines, chunk.first)
        ]
    return [
        b"event: %b\ndata: %b\n\n" % (line[_TYPE_AT : line.index(b'"', _TYPE_AT)], line)
        for line in lines
    ]
