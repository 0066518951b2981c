"""What a request may hold, and the counting that tells before anything is parsed."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self

from longrun.settings import Settings

MOST_PARAMETERS: Final = 1000
"""Names in an object whose names are looked at: the body itself, a tool, `reasoning`, `text`."""

MOST_ESCAPES: Final = 2_000_000
"""Escape sequences in a body: 16 million, in 32 MB, take six times as long to write as plain text.
Text of 32 MB with a line end in each 30 characters has one million."""


MOST_DIGITS: Final = 100
"""Of an integer in a body. Reading and writing one takes time by the square of its length."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one request, and of all that are being read (`bodies_bytes`).

    They keep every step of reading a request short: parsers, validators and encoders hold the
    interpreter while they work, in a thread too.

    Attributes:
        forbidden: the parameters that are not allowed.
        bounds: the greatest values of those that are bounded.
    """

    body_bytes: int
    bodies_bytes: int
    values: int
    input_items: int
    tools: int
    unknown_bytes: int
    echoed_bytes: int
    depth: int
    forbidden: frozenset[str] = frozenset()
    bounds: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: Settings) -> Self:
        return cls(
            body_bytes=settings.max_body_bytes,
            bodies_bytes=settings.max_bodies_bytes,
            values=settings.max_json_values,
            input_items=settings.max_input_items,
            tools=settings.max_tools,
            unknown_bytes=settings.max_unknown_bytes,
            echoed_bytes=settings.max_echoed_bytes,
            depth=settings.max_json_depth,
            forbidden=frozenset(settings.forbidden_parameters),
            bounds=settings.bounds,
        )

    def narrowed(self, forbidden: Collection[str], bounds: Mapping[str, float]) -> Self:
        """These, and more that is forbidden, or bounded closer."""
        both = {**self.bounds, **bounds}
        closest = {name: min(most, self.bounds.get(name, most)) for name, most in both.items()}
        return replace(self, forbidden=self.forbidden | frozenset(forbidden), bounds=closest)


DEFAULT_LIMITS: Final = Limits.of(Settings.model_construct())

_MARKS: Final = b'",[{'
_OTHER_BYTES: Final = bytes(byte for byte in range(256) if byte not in _MARKS)


class Tally:
    """Counts what JSON text holds while it arrives, in any parts, without parsing it.

    Attributes:
        values: list elements and object members, at all depths; an empty list or object counts
            as one more.
        escapes: backslash sequences within strings.
    """

    __slots__ = ("_escaped", "_in_string", "_strings", "_structure", "escapes")

    def __init__(self) -> None:
        self.escapes = 0
        self._structure = 0
        self._strings = 0
        self._in_string = 0
        self._escaped = False

    @property
    def values(self) -> int:
        # Text that is not JSON can have strings with nothing between them.
        return max(self._structure, self._strings // 2)

    def add(self, part: bytes) -> None:
        """Count the next part."""
        if self._escaped and part:
            part, self._escaped = part[1:], False
        if b"\\" in part:
            part = self._without_escapes(part)
        pieces = part.translate(None, _OTHER_BYTES).split(b'"')
        self._structure += sum(map(len, pieces[self._in_string :: 2]))
        quotes = len(pieces) - 1
        self._strings += (quotes + self._in_string) // 2
        self._in_string = (self._in_string + quotes) % 2

    def _without_escapes(self, part: bytes) -> bytes:
        """Leave no quote in it that does not begin or end a string."""
        single = part.replace(b"\\\\", b"")
        self.escapes += (len(part) - len(single)) // 2 + single.count(b"\\")
        # The backslash and what it escapes may come in different parts.
        self._escaped = single.endswith(b"\\")
        return single.replace(b'\\"', b"")


def is_too_deep(value: Any, most: int) -> bool:
    """Whether a value has more levels of objects and lists."""
    level = [value]
    for _ in range(most):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return True
