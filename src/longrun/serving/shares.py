"""How many connections and runs each worker has: a page of memory that all of them share.

The kernel gives a connection to whichever worker is awake first. Among four idle ones that was
measured to be 2 to 89 of 200 connections, which may then be open for hours. So a worker that has
more than the others waits for a moment before it takes one (`taking`).
"""

import mmap
import os
import sys
import tempfile
from typing import Final, Self

NONE: Final = -1
"""In a place: its worker takes no connections, or there is none."""

_SIZE: Final = 8


class Shares:
    """A number for each place. Workers are given one each; the others' they only read."""

    def __init__(self, descriptor: int, places: int) -> None:
        self._memory = mmap.mmap(descriptor, places * _SIZE)
        self._numbers = memoryview(self._memory).cast("q")

    @classmethod
    def made(cls, places: int) -> tuple[Self, int]:
        """New ones, and the descriptor to hand on."""
        with tempfile.TemporaryFile(buffering=0) as file:
            file.write(NONE.to_bytes(_SIZE, sys.byteorder, signed=True) * places)
            descriptor = os.dup(file.fileno())
        return cls(descriptor, places), descriptor

    def __setitem__(self, place: int, number: int) -> None:
        self._numbers[place] = number

    def __getitem__(self, place: int) -> int:
        return self._numbers[place]

    def least(self) -> int:
        """What the worker has that has least, of those that take connections."""
        return min((number for number in self._numbers if number != NONE), default=0)
