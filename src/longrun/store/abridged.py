"""Abridged logs: what the events of a finished response become when its deltas go.

An abridged log is a log: it begins with event 0, has no gap, and what is streamed of a part comes
in one delta (or one for each `WHOLE_BYTES`). So it has other numbers than the log that was there
before, and a cursor does not tell which of the two it is of. Hence the rule: what comes after a
cursor is the terminal event alone, which has all items, under the number that it had before. That
is higher than any of the new ones, so numbers grow for every reader, and a cursor from there on is
past the end, as ever.

In `event_chunks` each number of an abridged log has the length of the log before above it, in the
bits from NUMBER_BITS on. No chunk of another log is there, so any of its chunks tells what log it
is, and how long that was; a reader that is in its midst when the log is abridged finds this as its
next page.
"""

from collections.abc import Iterator
from typing import Final

from longrun.assembly.kinds import DELTAS
from longrun.jsontext import loads
from longrun.pending import Delta, numbered
from longrun.store.records import Chunk

NUMBER_BITS: Final = 31

NUMBERED_FROM: Final = 1 << NUMBER_BITS
"""The least number of an event in an abridged log, as it is stored; no log is so long."""

WHOLE_BYTES: Final = 256 * 1024
"""About how large a delta becomes, and how much is held in memory."""

_DELTAS: Final = tuple(b'{"type":"%b"' % kind.encode() for kind in sorted(DELTAS))

_PART: Final = ("type", "item_id", "output_index", "content_index", "summary_index")


def moved_by(chunk: Chunk) -> int:
    """How much higher the numbers of a chunk are stored than they are; 0 unless it is abridged."""
    return chunk.first >> NUMBER_BITS << NUMBER_BITS


def length_before(chunk: Chunk) -> int | None:
    """How many events the log of a chunk had before it was abridged; None: it was not."""
    return chunk.first >> NUMBER_BITS or None


def end_before(end: Chunk) -> int:
    """The number of the terminal event, as the log had it before it was abridged, if it was.

    Args:
        end: the last chunk; of an abridged log, any.
    """
    length = length_before(end)
    return end.last if length is None else length - 1


def terminal_event(end: Chunk) -> Chunk:
    """The terminal event of an abridged log, as it was numbered before.

    Args:
        end: the last chunk.
    """
    number = end_before(end)
    event = end.data[end.data.rfind(b"\n") + 1 :]
    return Chunk(number, number, numbered(event, number))


class Abridger:
    """Takes the events of a log one by one, and gives those of the abridged one, numbered.

    Deltas wait until something else comes than deltas, of whatever parts.
    """

    def __init__(self) -> None:
        self.count = 0
        """How many events it has given."""
        self._waiting: dict[tuple[object, ...], Delta] = {}
        self._size = 0

    def take(self, event: bytes) -> list[bytes]:
        """What follows now that this event is there: often nothing yet."""
        fields = loads(event) if event.startswith(_DELTAS) else {}
        text = fields.get("delta")
        if not isinstance(text, str):
            return [*self._flushed(), self._numbered(event)]
        # It hides the lengths of deltas on the wire, which are gone.
        fields.pop("obfuscation", None)
        part = tuple(fields.get(name) for name in _PART)
        delta, given = Delta(fields, text), []
        if part not in self._waiting or (grown := self._waiting[part].join(delta)) is None:
            given = list(self._flushed()) if part in self._waiting else []
            self._waiting[part] = delta
            grown = delta.size
        self._size += grown
        return given if self._size < WHOLE_BYTES else [*given, *self._flushed()]

    def _flushed(self) -> Iterator[bytes]:
        waiting, self._waiting, self._size = self._waiting, {}, 0
        for delta in waiting.values():
            yield delta.encode(self._next())

    def _numbered(self, event: bytes) -> bytes:
        return numbered(event, self._next())

    def _next(self) -> int:
        self.count += 1
        return self.count - 1
