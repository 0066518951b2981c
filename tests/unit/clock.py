"""An event loop whose time is not the world's: it jumps to the next thing that is due.

Sleeps and timeouts cost nothing and come in the same order every time. When nothing is ready and
nothing is due, all tasks wait for each other: that is an error at once, not a hang.
"""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Deadlock(Exception):
    """Every task waits, and nothing will ever happen."""


class _Selector(selectors.SelectSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready and timeout is None:
            raise Deadlock
        if not ready and timeout is not None and timeout > 0:
            self.now += timeout
        return ready


class Loop(asyncio.SelectorEventLoop):
    """The loop; `time()` starts at 0."""

    def __init__(self) -> None:
        self._instant = _Selector()
        super().__init__(self._instant)

    def time(self) -> float:
        return self._instant.now


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run to the end on a loop of its own.

    Raises:
        Deadlock: nothing will ever happen.
    """
    with asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(coroutine)
