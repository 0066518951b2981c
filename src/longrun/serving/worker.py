"""A worker's end of the line to its parent: it says how it is, and does what it is told.

Two threads of their own, as the lease has one: a tool that blocks the event loop must not make its
worker look dead, and a parent that stands still must not block the worker.
"""

import asyncio
import contextlib
import itertools
import json
import logging
import os
import queue
import signal
import socket
import threading
from collections.abc import Callable
from typing import Any, Final, Self

from longrun import metrics
from longrun.errors import Unavailable
from longrun.serving import totals
from longrun.serving.shares import Shares

log = logging.getLogger("longrun.worker")

VARIABLE: Final = "_LONGRUN_WORKER"
"""Tells a process that it is a worker: its number, its place, how many places there are, and the
descriptors of the listening socket, the line and the shares."""

BEAT: Final = 1.0
"""Seconds between two signs of life."""

BEATS_PER_SNAPSHOT: Final = 5
"""Signs of life from one that brings the metrics to the next; a worker that is killed takes along
what it has counted since."""

ANSWER_WAIT: Final = 3.0
"""Seconds that a request for all metrics waits for the parent."""

DRAIN: Final = "drain"
"""Order: all workers stop."""

LEAVE: Final = "leave"
"""Order: this worker stops, and the others go on."""

AT_ONCE: Final = "at_once"
"""Order: as a second signal."""


class Worker:
    """This process, if it is one of several.

    Attributes:
        number: 1, 2, …; that of the worker which it replaces, if it does.
        place: among the shares.
        listening: the socket, bound by the parent.
        amiss: what the parent says is amiss with other workers.
    """

    def __init__(
        self, number: int, place: int, listening: socket.socket, line: socket.socket, shares: Shares
    ) -> None:
        self.number = number
        self.place = place
        self.listening = listening
        self.shares = shares
        self._line = line
        self._said: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._asked: dict[int, asyncio.Future[str]] = {}
        self._keys = itertools.count()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._act: Callable[[str], None]
        self._orphaned: Callable[[], None]
        self._lock = threading.Lock()
        self.has_parent = True
        self.amiss: list[str] = []

    @classmethod
    def of_environment(cls) -> Self | None:
        """The worker that this process is, with its line open; None: it is none."""
        given = os.environ.pop(VARIABLE, None)
        if given is None:
            return None
        number, place, places, listening, line, shares = map(int, given.split())
        for descriptor in (listening, line, shares):
            # Not for what is started from here.
            os.set_inheritable(descriptor, False)
        worker = cls(
            number,
            place,
            socket.socket(fileno=listening),
            socket.socket(fileno=line),
            Shares(shares, places),
        )
        os.close(shares)
        # What comes from a terminal is its parent's matter, SIGINT as long as nothing has begun.
        # Not ignored, which children would inherit.
        for number in (signal.SIGHUP, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        for act in (worker._hear, worker._speak):
            threading.Thread(target=act, name="longrun-worker", daemon=True).start()
        return worker

    # -- what it says ---------------------------------------------------------------------

    def ready(self, models: list[str]) -> None:
        """Requests are answered."""
        self._said.put({"said": "ready", "models": models})

    def stopping(self) -> None:
        """It was told to stop by somebody else than its parent."""
        self._said.put({"said": "stopping"})

    def failed(self, message: str) -> None:
        """It cannot start."""
        self._say_last({"said": "failed", "message": message})

    def ended(self) -> None:
        """It has stopped in order: the last of its metrics."""
        self._say_last({"said": "snapshot", "metrics": self._snapshot()})

    def _say_last(self, said: dict[str, Any]) -> None:
        """Waits until the parent has been told, if it is there."""
        told = threading.Event()
        self._said.put({**said, "told": told})
        if self.has_parent:
            told.wait(ANSWER_WAIT)

    async def exposition(self) -> bytes:
        """The metrics of all workers; its own once its parent is gone.

        Raises:
            Unavailable: the parent does not answer.
        """
        if not self.has_parent:
            return metrics.exposition()
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        key = next(self._keys)
        self._asked[key] = future
        self._said.put({"said": "metrics", "for": key})
        try:
            async with asyncio.timeout(ANSWER_WAIT):
                return (await future).encode()
        except TimeoutError:
            raise Unavailable("The metrics could not be added up.", retry_after=1) from None
        finally:
            del self._asked[key]

    # -- what it is told ------------------------------------------------------------------

    def heed(
        self,
        loop: asyncio.AbstractEventLoop,
        act: Callable[[str], None],
        orphaned: Callable[[], None],
    ) -> None:
        """From now on, do what the parent says, in the loop.

        Args:
            act: is given an order.
            orphaned: called once in another thread when the parent is gone; besides, that is an
                order to drain.
        """
        with self._lock:
            self._loop, self._act, self._orphaned = loop, act, orphaned

    def _hear(self) -> None:
        """A thread: the parent's words, until it is gone."""
        try:
            with self._line.makefile("rb") as lines:
                for line in lines:
                    self._heard(json.loads(line))
        except (OSError, ValueError):
            pass  # gone in the middle of a word
        self.has_parent = False
        with self._lock:
            if self._loop is None:
                # Nothing has begun yet.
                os._exit(1)
            log.error("the parent is gone: stopping")
            self._orphaned()
        self._order(DRAIN)

    def _heard(self, told: dict[str, Any]) -> None:
        match told["told"]:
            case "snapshot":
                self._said.put({"said": "snapshot", "metrics": self._snapshot()})
            case "amiss":
                self.amiss = told["said"]
            case "metrics":
                self._in_loop(self._answered, told["for"], told["text"])
            case order:
                self._order(order)

    def _order(self, order: str) -> None:
        with self._lock:
            if self._loop is None:
                # Every order ends in an exit, and nothing has begun yet.
                os._exit(0)
        self._in_loop(self._act, order)

    def _in_loop(self, act: Callable[..., None], *given: Any) -> None:
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # it is closed: the process ends
            self._loop.call_soon_threadsafe(act, *given)

    def _answered(self, key: int, text: str) -> None:
        future = self._asked.get(key)
        if future is not None and not future.done():
            future.set_result(text)

    def _speak(self) -> None:
        """A thread: what is to be said, and signs of life."""
        beats = 0
        while self.has_parent:
            try:
                said = self._said.get(timeout=BEAT)
            except queue.Empty:
                beats += 1
                said = {"said": "beat"}
                if beats % BEATS_PER_SNAPSHOT == 0:
                    said = {"said": "snapshot", "metrics": self._snapshot()}
            told = said.pop("told", None)
            try:
                self._line.sendall(json.dumps(said).encode() + b"\n")
            except OSError:
                return
            finally:
                if told is not None:
                    told.set()

    @staticmethod
    def _snapshot() -> totals.Snapshot:
        return totals.snapshot(metrics.registry.collect())
