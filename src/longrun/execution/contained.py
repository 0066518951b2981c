"""User code cannot end the replica, nor its own run in silence.

asyncio lets SystemExit and KeyboardInterrupt out of any task straight through the event loop, and
another BaseException ends the TaskGroup above it: one tool that calls `sys.exit` would end all
runs of a replica, and then those of its successors. A CancelledError that nobody asked for looks
like a cancel, and would end a run as if it were complete. Both become `Escaped`, an Exception that
fails the one run.
"""

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Final

from longrun.execution.current import current_or_none

log = logging.getLogger("longrun.execution.contained")


class Escaped(Exception):
    """Code of an agent raised what is no Exception: SystemExit, say, or a CancelledError though
    nobody had cancelled it."""


class Parks(BaseException):
    """A handler waits for an approval: its run ends here. No Exception, since code that catches
    those goes on."""


_STEP: Final = "_longrun_step"


def _mark(error: Exception, step: str) -> None:
    """Note on an exception what it came out of: the innermost, which is the first."""
    if not hasattr(error, _STEP):
        # Some have no room for it.
        with contextlib.suppress(AttributeError, TypeError):
            setattr(error, _STEP, step)


def step_of(error: BaseException) -> str | None:
    """What an exception came out of, or the one that caused it: "tool 'look'". None if of nothing
    that is contained."""
    found = None
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        found = getattr(cause, _STEP, found)
        cause = cause.__cause__ or cause.__context__
    return found


def being_cancelled() -> bool:
    """Whether somebody has asked this task to stop. If not, a CancelledError is user code's own."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class contained:  # noqa: N801
    """`with contained("tool 'look'"):` what is no Exception leaves the block as `Escaped`.

    Args:
        what: whose code is called, for the log.
        cancels: a CancelledError that nobody asked for becomes `Escaped` too.
    """

    __slots__ = ("_cancels", "_task", "_what")

    def __init__(self, what: str, *, cancels: bool = True) -> None:
        self._what = what
        self._cancels = cancels
        self._task: asyncio.Task[Any] | None = None

    def __enter__(self) -> None:
        self._task = asyncio.current_task()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            instead = self.replaced(error)
            if instead is not error:
                raise instead from error

    def replaced(self, error: BaseException) -> BaseException:
        """What to raise for an error: itself, if it may pass."""
        if isinstance(error, Exception):
            _mark(error, self._what)
            return error
        if isinstance(error, Parks):
            return error
        if isinstance(error, asyncio.CancelledError):
            if not self._cancels or being_cancelled():
                return error
        elif isinstance(error, GeneratorExit) and not self._is_running():
            return error
        found = current_or_none()
        whose = "" if found is None else f" of {found.response_id}"
        log.error("%s%s raised %s", self._what, whose, type(error).__name__, exc_info=error)
        escaped = Escaped(f"{self._what} raised {type(error).__name__}")
        _mark(escaped, self._what)
        return escaped

    def _is_running(self) -> bool:
        """Whether the task runs that the block was entered in. Else a coroutine that nobody will
        run on is being closed."""
        try:
            return asyncio.current_task() is self._task
        except RuntimeError:
            return False


async def _contained(work: Coroutine[Any, Any, Any]) -> Any:
    with contained("a task", cancels=False):
        return await work


class _TaskFactory:
    """Makes the tasks of a loop; those that are made within a run are contained.

    The SDK makes tasks for its loop, tools, hooks and guardrails, and user code makes its own: at
    the top of each is the only place to catch what none of our calls is around.
    """

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __call__(
        self, loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], **more: Any
    ) -> Any:
        if current_or_none() is None:
            return self._make(loop, work, more)
        task = self._make(loop, _contained(work), more)
        # A task that is cancelled before its first step never awaits it.
        task.add_done_callback(lambda _: work.close())
        return task

    def _make(self, loop: asyncio.AbstractEventLoop, work: Any, more: dict[str, Any]) -> Any:
        if self._inner is not None:
            return self._inner(loop, work, **more)
        return asyncio.Task(work, loop=loop, **more)


def contain_tasks() -> None:
    """From now on, tasks that are made within a run in this event loop are contained."""
    loop = asyncio.get_running_loop()
    factory = loop.get_task_factory()
    if not isinstance(factory, _TaskFactory):
        contained_factory: Any = _TaskFactory(factory)
        loop.set_task_factory(contained_factory)
