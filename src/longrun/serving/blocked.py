"""Code that blocks the event loop, a `time.sleep` in a tool say, is named in the log meanwhile.

Nothing is lost by it: the lease is kept by a thread of its own. But all runs and readers of the
replica wait, and nothing else would say for whom.
"""

import asyncio
import contextlib
import logging
import sys
import sysconfig
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Final

from longrun import metrics

log = logging.getLogger("longrun.serving.blocked")

LONG: Final = 2.0
"""Seconds without a turn of the loop after which what blocks it is named."""

LOOK: Final = 0.25

STILL: Final = 0.01
"""The part of the time that a process which was stopped or frozen may have been running."""

SHOWN_FRAMES: Final = 3

_NOT_OURS: Final = tuple({sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})


@contextlib.contextmanager
def named(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Within the block, this thread runs the loop, and what blocks it is named."""
    watched = _Watched(loop)
    thread = threading.Thread(target=watched.watch, name="longrun-blocked", daemon=True)
    thread.start()
    try:
        yield
    finally:
        watched.over.set()
        thread.join()


class _Watched:
    """A loop, which turns as long as its timer moves `turned` on."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.over = threading.Event()
        self._loop = loop
        self._thread = threading.get_ident()
        self._turned = time.monotonic()
        self._told = False
        self._loop.call_later(LOOK, self._tick)

    def _tick(self) -> None:
        now = time.monotonic()
        metrics.loop_lag_seconds.observe(max(0.0, now - self._turned - LOOK))
        self._turned = now
        self._loop.call_later(LOOK, self._tick)

    def watch(self) -> None:
        """In a thread of its own, until it is over."""
        looked, used = time.monotonic(), time.process_time()
        while not self.over.wait(LOOK):
            now, uses = time.monotonic(), time.process_time()
            if now - looked > LONG and uses - used < STILL * (now - looked):
                # The whole process stood still.
                self._turned = now
            looked, used = now, uses
            self._look(now - self._turned)

    def _look(self, seconds: float) -> None:
        if seconds < LONG:
            self._told = False
        elif not self._told and self._loop.is_running():
            self._told = True
            metrics.loop_blocks.inc()
            log.warning(
                "the event loop has been blocked for %.1f s, and all runs here with it, in %s",
                seconds,
                self._where(),
            )

    def _where(self) -> str:
        """The innermost functions, and before them that of the user which called them."""
        frames = traceback.extract_stack(sys._current_frames()[self._thread])
        shown = frames[-SHOWN_FRAMES:]
        users = [frame for frame in frames if not frame.filename.startswith(_NOT_OURS)]
        if users and users[-1] not in shown:
            shown.insert(0, users[-1])
        return ", ".join(f"{f.name} ({f.filename}:{f.lineno})" for f in reversed(shown))
