"""The gate that streams wait at, so that all of them, and their readers, are there at the start.

A file, since the streams are in other processes: it appears with the moment of the start.
"""

import asyncio
import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

LOOK_EVERY: Final = 0.02
NOTICE: Final = 0.3
"""Seconds between the opening and the start: time enough for everybody to have seen it."""


class Gate:
    """Shut until `open` is called."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self) -> float:
        """Let all streams begin. Returns when they will, as `time.monotonic()`."""
        start = time.monotonic() + NOTICE
        draft = self.path.with_suffix(".draft")
        draft.write_text(repr(start))
        draft.rename(self.path)
        return start


@contextlib.contextmanager
def shut() -> Iterator[Gate]:
    """A gate, removed with the block."""
    with tempfile.TemporaryDirectory(prefix="longrun-bench-") as folder:
        yield Gate(Path(folder) / "gate")


async def opened(path: Path) -> float:
    """Wait until the gate opens. Returns the moment of the start."""
    while not path.exists():
        await asyncio.sleep(LOOK_EVERY)
    return float(path.read_text())
