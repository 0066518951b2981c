"""The threads in which tools run that are plain functions.

Such a tool cannot be stopped. When its run has ended, or the tool has timed out, nobody waits for
it any more; the thread that it holds does not count then, and another takes its place. Else a few
hundred calls that hang would keep all later ones from starting, and nothing would say so.
"""

import contextlib
import functools
import logging
import threading
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from longrun import metrics

log = logging.getLogger("longrun.serving.threads")

T = TypeVar("T")

NAME: Final = "longrun-thread"
"""What the names of the threads begin with."""

ABANDONED: Final = 7
"""Times `size`: threads that may hang in calls that nobody waits for."""


class _Call(Future[Any]):
    """A call. asyncio cancels it when what waits for it is cancelled, also if it runs by then."""

    def __init__(self, work: Callable[[], Any], threads: "ToolThreads") -> None:
        super().__init__()
        self.work = work
        self.abandoned = False
        self._threads = threads

    def cancel(self) -> bool:
        cancelled = super().cancel()
        if cancelled:
            self._threads.forget(self)
        else:
            self._threads.abandon(self)
        return cancelled

    @property
    def name(self) -> str:
        """Of the function. `asyncio.to_thread` calls it by way of a context."""
        function: Any = self.work
        while isinstance(function, functools.partial):
            named = [f for f in (*function.args[:1], function.func) if hasattr(f, "__qualname__")]
            function = next((f for f in named if f.__qualname__ != "Context.run"), None)
        return getattr(function, "__qualname__", "a function")


@dataclass(slots=True)
class _Counts:
    threads: int = 0
    idle: int = 0
    abandoned: int = 0


class ToolThreads(ThreadPoolExecutor):
    """An event loop's default executor (which has to be of that class; nothing of it is used).

    Args:
        size: calls that run at once, besides those that nobody waits for.
    """

    def __init__(self, size: int) -> None:
        super().__init__(size, NAME)
        self.size = size
        self._most = size * (1 + ABANDONED)
        self._changed = threading.Condition()
        self._calls: deque[_Call] = deque()
        self._hanging: set[_Call] = set()
        self._counts = _Counts()
        self._closed = False
        self._told = False

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        work = functools.partial(fn, *args, **kwargs) if args or kwargs else fn
        call = _Call(work, self)
        with self._changed:
            if self._closed:
                raise RuntimeError("cannot call anything in a thread after shutdown")
            self._calls.append(call)
            self._start_next()
        return call

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Start nothing more. Waits for no call: those that are still running cannot be stopped."""
        with self._changed:
            self._closed = True
            calls = list(self._calls) if cancel_futures else []
            self._changed.notify_all()
        for call in calls:
            call.cancel()

    # -- with the lock held ---------------------------------------------------------------

    def _start_next(self) -> None:
        """See to it that somebody takes what waits."""
        counts = self._counts
        if counts.idle >= len(self._calls):
            self._changed.notify()
        elif counts.threads - counts.abandoned < self.size and counts.threads < self._most:
            self._start_thread()
        else:
            self._tell()
        self._measure()

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._work, name=NAME, daemon=True)
        self._counts.threads += 1
        try:
            thread.start()
        except RuntimeError as error:
            # The system gives no more.
            self._counts.threads -= 1
            self._tell(f" ({error})")

    def _tell(self, why: str = "") -> None:
        """Once, until nothing waits any more."""
        if not self._told:
            self._told = True
            counts = self._counts
            hanging = Counter(call.name for call in self._hanging).most_common(3)
            log.warning(
                "calls of functions wait for a thread%s: %d threads are busy, and %d hang in calls "
                "that nobody waits for%s",
                why,
                counts.threads - counts.idle - counts.abandoned,
                counts.abandoned,
                "".join(f", {name} in {number}" for name, number in hanging),
            )

    def _measure(self) -> None:
        counts = self._counts
        busy = counts.threads - counts.idle - counts.abandoned
        metrics.tool_threads.labels("busy").set(busy)
        metrics.tool_threads.labels("abandoned").set(counts.abandoned)
        metrics.tool_calls_waiting.set(len(self._calls))

    # -- from anywhere --------------------------------------------------------------------

    def forget(self, call: _Call) -> None:
        """A call is not to be made."""
        with self._changed, contextlib.suppress(ValueError):
            self._calls.remove(call)
            self._measure()

    def abandon(self, call: _Call) -> None:
        """Nobody waits any more for a call that is being made."""
        with self._changed:
            if call.abandoned or call.done():
                return
            call.abandoned = True
            self._hanging.add(call)
            self._counts.abandoned += 1
            self._measure()
            if self._calls:
                self._start_next()

    # -- in the threads -------------------------------------------------------------------

    def _work(self) -> None:
        while (call := self._next()) is not None:
            _run(call)
            if not self._is_wanted(call):
                return

    def _next(self) -> _Call | None:
        with self._changed:
            while not self._calls:
                self._told = False
                if self._closed:
                    self._counts.threads -= 1
                    return None
                self._counts.idle += 1
                self._measure()
                self._changed.wait()
                self._counts.idle -= 1
            call = self._calls.popleft()
            self._measure()
            return call

    def _is_wanted(self, call: _Call) -> bool:
        """Whether the thread that ran this is to take more, or had been replaced."""
        with self._changed:
            if call.abandoned:
                self._hanging.discard(call)
                self._counts.abandoned -= 1
            surplus = self._counts.threads - self._counts.abandoned > self.size
            if surplus:
                self._counts.threads -= 1
                self._measure()
            return not surplus


def _run(call: _Call) -> None:
    if not call.set_running_or_notify_cancel():
        return
    try:
        result = call.work()
    except StopIteration as error:
        # asyncio cannot hand it to a coroutine, which would wait for ever.
        stopped = RuntimeError("a function in a thread raised StopIteration")
        stopped.__cause__ = error
        call.set_exception(stopped)
    except BaseException as error:
        call.set_exception(error)
    else:
        call.set_result(result)
