"""How a server is told to stop: by signals, and a worker by its parent too."""

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from typing import Final

from longrun.serving import stubborn
from longrun.serving import worker as lines
from longrun.serving.worker import Worker

log = logging.getLogger("longrun.server")

NUMBERS: Final = (signal.SIGTERM, signal.SIGINT)

PARENT_WAIT: Final = 1.0
"""Seconds that a worker which got a signal waits for its parent's word."""

LAST_REQUESTS: Final = 0.5
"""Seconds for the requests on connections that a worker has taken just before it leaves."""


class Stopping:
    """The first signal stops in order; the second at once, but for what `at_once` has to do; the
    third does not wait for that either. An order that comes to no end is cut short.

    Attributes:
        asked: set when it is time to stop.
        at_once: what is to be done before a process that exits in the middle of anything.
        leave: take nothing new any more, since others do.
    """

    def __init__(self, drain_seconds: float, worker: Worker | None = None) -> None:
        self.asked = asyncio.Event()
        self.at_once: list[Callable[[], None]] = []
        self.leave: Callable[[], None] = lambda: None
        self._within = drain_seconds + stubborn.LAST_RESORT
        self._loop = asyncio.get_running_loop()
        self._worker = worker
        self._signalled = False
        for number in NUMBERS:
            self._loop.add_signal_handler(number, self._on_signal)
        if worker is not None:
            worker.heed(self._loop, self._on_order, self._exit_in_time)

    def _on_signal(self) -> None:
        if self._signalled or self.asked.is_set():
            log.warning("second signal: exiting at once")
            self._exit()
        self._signalled = True
        if self._worker is None:
            self._ask()
        else:
            # Its parent says whether it leaves alone.
            self._worker.stopping()
            self._loop.call_later(PARENT_WAIT, self._ask)

    def _on_order(self, order: str) -> None:
        match order:
            case lines.AT_ONCE:
                self._exit()
            case lines.LEAVE:
                self.leave()
                self._loop.call_later(LAST_REQUESTS, self._ask)
            case _:
                self._ask()

    def _ask(self) -> None:
        if not self.asked.is_set():
            self._exit_in_time()
            self.asked.set()

    def _exit_in_time(self) -> None:
        stubborn.exit_after(self._within, self._loop, self.at_once)

    def _exit(self) -> None:
        for number in NUMBERS:
            signal.signal(number, signal.SIG_DFL)
        for act in self.at_once:
            act()
        os._exit(1)
