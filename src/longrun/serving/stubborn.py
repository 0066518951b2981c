"""What does not stop when it is told to: a process that was to end does end, and says what it left.

Code of an agent may swallow its cancellation (a bare `except:` in a loop) and never end. Its run
has been handed over or ended by then; there is nothing to wait for.
"""

import asyncio
import contextlib
import itertools
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

log = logging.getLogger("longrun.serving.stubborn")

TASKS_WAIT: Final = 1.0
"""Seconds that tasks have to end at the very end."""

LAST_RESORT: Final = 9.5
"""Seconds after the drain at which the process ends wherever it is."""


@contextlib.contextmanager
def left_behind(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """After the block, the tasks that are left are cancelled; the process ends without those that
    do not heed it, for which the loop would wait for ever."""
    status = 1
    try:
        yield
        status = 0
    finally:
        left = _still_there(loop)
        if left:
            log.warning(
                "exiting without tasks that do not end: %s", _named(left), exc_info=bool(status)
            )
            logging.shutdown()
            os._exit(status)


def _still_there(loop: asyncio.AbstractEventLoop) -> set[asyncio.Task[Any]]:
    tasks = asyncio.all_tasks(loop)
    if not tasks:
        return set()
    for task in tasks:
        task.cancel()
    return loop.run_until_complete(asyncio.wait(tasks, timeout=TASKS_WAIT))[1]


def exit_after(
    seconds: float, loop: asyncio.AbstractEventLoop, at_once: Sequence[Callable[[], None]]
) -> None:
    """End the process in so many seconds, if it still lives.

    Args:
        at_once: what is to be done before.
    """

    def give_up() -> None:
        log.error("stopping took too long: exiting without %s", _named(asyncio.all_tasks(loop)))
        for act in at_once:
            act()
        logging.shutdown()
        os._exit(1)

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()


def _named(tasks: Iterable[asyncio.Task[Any]]) -> str:
    """Where the first few of them are."""
    return ", ".join(map(_where, itertools.islice(tasks, 5))) or "anything that could be named"


def _where(task: asyncio.Task[Any]) -> str:
    """The innermost function in which a task waits, but for asyncio's."""
    found = task.get_name()
    waiting: Any = task.get_coro()
    while waiting is not None:
        frame = getattr(waiting, "cr_frame", None)
        if frame is not None and "asyncio" not in Path(frame.f_code.co_filename).parts:
            found = f"{frame.f_code.co_qualname} ({frame.f_code.co_filename}:{frame.f_lineno})"
        waiting = getattr(waiting, "cr_await", None)
    return found
