"""Cuts: where items stand in the chunks that go to Postgres with them, so that it takes their rows
out of these, and no item is sent twice."""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from longrun.store.records import Chunk
from longrun.store.run_log import Entry

SHORTEST: Final = 512
"""Bytes of an item from which on it is cut out; for less it is not worth saying where."""

_DONE: Final = b'{"type":"response.output_item.done"'
_BEFORE: Final = b',"item":'
_AFTER: Final = b"}"


class Cut(NamedTuple):
    """Where an item stands: the number of the chunk, from 1, and of its first byte there, from 1;
    and how many bytes it has. All zeros: it is sent itself."""

    chunk: int = 0
    start: int = 0
    length: int = 0


WHOLE: Final = Cut()


def cut(entries: Iterable[Entry], chunks: Sequence[Chunk]) -> list[Cut]:
    """Where each item of these entries is, one after the other.

    An item is the last of its `done` event, which is why its bytes can be taken from there; one
    that is not found so, byte for byte, is sent itself.

    Args:
        chunks: made of the events of these entries.
    """
    found: list[Cut] = []
    number, start = 0, 0
    for entry in entries:
        items = (text.encode("utf-8", "surrogatepass") for _, text in entry.items)
        cuts: list[Cut] = []
        item = next(items, None)
        for sequence, event in enumerate(entry.events, entry.first):
            if sequence > chunks[number].last:
                number, start = number + 1, 0
            if item is not None and event.startswith(_DONE) and _is_of(event, item):
                cuts.append(_cut(number, start + len(event), item))
                item = next(items, None)
            start += len(event) + 1
        found += cuts
        found += [WHOLE] * (len(entry.items) - len(cuts))
    return found


def _is_of(event: bytes, item: bytes) -> bool:
    """Whether this `done` event ends with this item."""
    before = len(event) - len(_AFTER) - len(item) - len(_BEFORE)
    return event.startswith(_BEFORE, max(0, before)) and event.endswith(item, 0, -len(_AFTER))


def _cut(number: int, end: int, item: bytes) -> Cut:
    """Of an item whose event ends there in a chunk."""
    if len(item) < SHORTEST:
        return WHOLE
    return Cut(number + 1, end - len(_AFTER) - len(item) + 1, len(item))
