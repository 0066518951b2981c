"""A text that comes in many small pieces, held as little more than its characters."""

from typing import Final

_PIECES: Final = 256
"""Pieces that are kept as they came: each is an object of 50 bytes besides its characters. Up to
Python 3.11 `io.StringIO` keeps 100,000 of them."""


def ends_in_half(text: str) -> bool:
    """Whether the last character goes on in the next piece: servers whose strings are UTF-16 cut
    an emoji into two surrogates."""
    return not text.isascii() and "\ud800" <= text[-1] <= "\udbff"


class Gathered:
    """Written piece by piece, and read seldom.

    Attributes:
        half: the first half of a surrogate pair that waits for the second.
    """

    __slots__ = ("_blocks", "_pieces", "half")

    def __init__(self) -> None:
        self.half = ""
        self._blocks: list[str] = []
        self._pieces: list[str] = []

    def write(self, text: str) -> None:
        pieces = self._pieces
        pieces.append(text)
        if len(pieces) >= _PIECES:
            self._blocks.append("".join(pieces))
            pieces.clear()

    def take(self, delta: str) -> str:
        """Write a delta. Returns what clients are shown for it: one that was cut within a character
        would be no Unicode text, which Python prints as little as it encodes it."""
        if self.half:
            delta, self.half = self.half + delta, ""
        if ends_in_half(delta):
            delta, self.half = delta[:-1], delta[-1]
        self.write(delta)
        return delta

    def getvalue(self) -> str:
        """All of it."""
        return "".join([*self._blocks, *self._pieces])

    def __bool__(self) -> bool:
        """Whether anything was written."""
        return bool(self._pieces or self._blocks)
