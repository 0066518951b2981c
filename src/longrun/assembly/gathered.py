"""A text that comes in many small pieces, held as little more than its characters."""

from typing import Final

_PIECES: Final = 256
"""Pieces that are kept as they came: each is an object of 50 bytes besides its characters. Up to
Python 3.11 `io.StringIO` keeps 100,000 of them."""


class Gathered:
    """Written piece by piece, and read seldom."""

    __slots__ = ("_blocks", "_pieces")

    def __init__(self) -> None:
        self._blocks: list[str] = []
        self._pieces: list[str] = []

    def write(self, text: str) -> None:
        pieces = self._pieces
        pieces.append(text)
        if len(pieces) >= _PIECES:
            self._blocks.append("".join(pieces))
            pieces.clear()

    def getvalue(self) -> str:
        """All of it."""
        return "".join([*self._blocks, *self._pieces])

    def __bool__(self) -> bool:
        """Whether anything was written."""
        return bool(self._pieces or self._blocks)
