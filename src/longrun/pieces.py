"""Long work in pieces: between them the event loop turns, for all other runs and readers.

A piece is what a generator does up to its next `yield`. Work that is short is done at once.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator
from typing import Final, TypeVar

T = TypeVar("T")

Pieces = Generator[None, None, T]
"""Work that is cut into pieces, each of which takes about a millisecond at most; it returns what
comes of it."""

LONGEST: Final = 0.008
"""Seconds that are worked in one go, about."""


async def with_turns(work: Pieces[T], between: Callable[[], Awaitable[object]] | None = None) -> T:
    """Do such work, and let the event loop turn each time that enough was done in one go.

    Args:
        between: awaited each time before the loop turns.
    """
    started = time.perf_counter()
    while True:
        try:
            next(work)
        except StopIteration as end:
            done: T = end.value
            return done
        if time.perf_counter() - started >= LONGEST:
            if between is not None:
                await between()
            await asyncio.sleep(0)
            started = time.perf_counter()


def at_once(work: Pieces[T]) -> T:
    """Do such work in one go."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            done: T = end.value
            return done
