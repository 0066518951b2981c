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


def frames(chunks: Iterable[Chunk], *, with_ids: bool) -> bytes:
    """All events of some chunks, whole frames each."""
    return b"".join([_frames(chunk, with_ids) for chunk in chunks])


def _frames(chunk: Chunk, with_ids: bool) -> bytes:
    lines = chunk.data.split(b"\n")
    if with_ids:
        return b"".join(
            [
                b"event: %b\nid: %d\ndata: %b\n\n"
                % (line[_TYPE_AT : line.index(b'"', _TYPE_AT)], sequence, line)
                for sequence, line in enumerate(lines, chunk.first)
            ]
        )
    return b"".join(
        [
            b"event: %b\ndata: %b\n\n" % (line[_TYPE_AT : line.index(b'"', _TYPE_AT)], line)
            for line in lines
        ]
    )
