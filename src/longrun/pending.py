"""Pending events: what the assembler has made and the log has not numbered yet.

Deltas of one part that wait for the same commit become one event (contract, "Streams"), which is
encoded once, when it is taken for the commit. All other events are encoded when they are made.
"""

import re
from collections.abc import Iterable
from typing import Any, Final

from longrun.jsontext import dumps

LONGEST: Final = 32 * 1024
"""Characters of a delta beyond which it is an event by itself."""

ENVELOPE: Final = 200
"""About how many bytes a delta has around its text."""

PIECE: Final = 8
"""Bytes of memory for a piece of a merged text, besides the piece."""

_NUMBER: Final = re.compile(rb'"sequence_number":(\d+)')

_OWN: Final = frozenset({"delta", "sequence_number", "logprobs", "obfuscation"})
"""What deltas of one part say differently: it is joined, and all else must be the same."""


class Delta:
    """A delta of a part, and the later ones that were merged with it.

    Args:
        fields: its event's, `type` first; not changed any more. Deltas that have the same object
            here are of one part, and say nothing of their own but their text.
        text: the delta itself.

    Attributes:
        size: about how many bytes it holds.
    """

    __slots__ = ("_also", "fields", "size", "texts")

    def __init__(self, fields: dict[str, Any], text: str) -> None:
        self.fields = fields
        self.texts = [text]
        self.size = ENVELOPE + size_of(text)
        self._also: list[dict[str, Any]] | None = None

    def join(self, later: "Delta") -> int | None:
        """Merge with the delta that follows. None: it is of another part, or of another kind.

        Returns:
            By how many bytes this one has grown.
        """
        grown = 0
        if later.fields is not self.fields:
            if not _same_part(self.fields, later.fields):
                return None
            if _says_more(later.fields) or _says_more(self.fields):
                self._also = self._also or [self.fields]
                self._also.append(later.fields)
                grown = ENVELOPE
        self.texts += later.texts
        grown += later.size - ENVELOPE
        self.size += grown
        return grown

    def encode(self, number: int) -> bytes:
        """The event with this number, on one line."""
        # A dict keeps the order in which its keys came first.
        fields = self.fields.copy()
        fields["sequence_number"], fields["delta"] = number, "".join(self.texts)
        if self._also is not None:
            logprobs = [each for one in self._also for each in one.get("logprobs") or ()]
            obfuscation = [str(one.get("obfuscation") or "") for one in self._also]
            if logprobs:
                fields["logprobs"] = logprobs
            if any(obfuscation):
                fields["obfuscation"] = "".join(obfuscation)
        return dumps(fields)


Pending = bytes | Delta
"""An event without its number: encoded with any number in its place, or a delta."""


def pending(fields: dict[str, Any], *, is_delta: bool) -> Pending:
    """An event of these fields, `type` and `sequence_number` first.

    Args:
        is_delta: it is of a kind whose deltas add up to a text.
    """
    if is_delta:
        text, logprobs = fields.get("delta"), fields.get("logprobs")
        if (
            isinstance(text, str)
            and len(text) <= LONGEST
            and (logprobs is None or isinstance(logprobs, list))
        ):
            return Delta(fields, text)
    return dumps(fields)


def numbered(event: Pending, number: int) -> bytes:
    """An event with its number."""
    if isinstance(event, Delta):
        return event.encode(number)
    found = _NUMBER.search(event)
    assert found is not None, "every event has a place for its number"
    if int(found[1]) == number:
        return event
    # Joined, not formatted: an event may have the whole response in it.
    return b"".join((event[: found.start(1)], b"%d" % number, memoryview(event)[found.end() :]))


def lines(events: Iterable[Pending], first: int = 0) -> list[bytes]:
    """All of these events with their numbers, from `first` on, none merged."""
    return [numbered(event, number) for number, event in enumerate(events, first)]


def size_of(text: str) -> int:
    """About how many bytes a text has, once encoded, and in memory until then."""
    return PIECE + (len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass")))


def _same_part(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return _common(one) == _common(other)


def _common(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if key not in _OWN}


def _says_more(fields: dict[str, Any]) -> bool:
    return bool(fields.get("logprobs") or fields.get("obfuscation"))
