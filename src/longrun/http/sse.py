"""Server-sent events: chunks of the log as frames.

A frame is `event: TYPE`, `data: JSON`, blank line; on GET streams `id: SEQUENCE_NUMBER` too, for
EventSource. Events are not parsed again: the writer put `type` first in each of them.
"""

from collections.abc import Iterable
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


def sends(chunks: Iterable[Chunk], *, with_ids: bool) -> list[bytes]:
    """All events of some chunks, whole frames each, as bodies to be sent one after the other."""
    found: list[bytes] = []
    gathered: list[bytes] = []
    size = 0
    for chunk in chunks:
        frames = _frames(chunk, with_ids)
        if size + len(chunk.data) < SEND:
            gathered += frames
            size += len(chunk.data)
            continue
        for frame in frames:
            if size + len(frame) > SEND and gathered:
                found.append(b"".join(gathered))
                gathered, size = [], 0
            gathered.append(frame)
            size += len(frame)
    if gathered:
        found.append(b"".join(gathered))
    return found


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
