"""The signals of a process that another server runs, heard here too.

Servers tell an application that it stops only when its answers are over, and a stream is over when
its run is. So the application has to know by itself that it is time.
"""

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Final

NUMBERS: Final = (signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def heard(act: Callable[[], object]) -> Iterator[None]:
    """Within the block, the signals that ask a process to end also call this, in the event loop.
    Those who handle them already do as before; a signal that nobody handles is left alone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    chained = [link for number in NUMBERS if (link := _chained(number, act)) is not None]
    try:
        yield
    finally:
        for unchain in chained:
            unchain()


def _chained(number: signal.Signals, act: Callable[[], object]) -> Callable[[], None] | None:
    loop = asyncio.get_running_loop()
    before: Any = signal.getsignal(number)
    if not callable(before):
        return None

    def received(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(act)
        before(number, frame)

    def unchain() -> None:
        # Unless somebody has put another in its place.
        if signal.getsignal(number) is received:
            signal.signal(number, before)

    signal.signal(number, received)
    return unchain
