"""Background parts: each an `async run(stop)` under one TaskGroup, restarted when it fails."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any

from longrun import metrics
from longrun.backoff import Backoff
from longrun.errors import LongrunError

log = logging.getLogger("longrun.parts")

Run = Callable[[asyncio.Event], Awaitable[None]]

FIRST_BACKOFF = 0.1
LONGEST_BACKOFF = 1.0
"""Seconds. Short, since the usual failure is that Postgres is away, and everything waits for it."""


@dataclass(slots=True)
class Part:
    """One background part and its state.

    `failing` is set from a failure until the part has run for as long as its backoff again.
    """

    name: str
    run: Run
    failing: bool = False


@dataclass(slots=True)
class Supervisor:
    """Runs parts until `stop` is set. A part that fails is logged, counted and restarted.

    A part ends by itself only after `stop`; one that returns before counts as failed.
    """

    parts: list[Part] = field(default_factory=list)

    def add(self, name: str, run: Run) -> None:
        self.parts.append(Part(name, run))

    def failing(self) -> list[str]:
        """The names of the parts that do not run as they should, for `/readyz`."""
        return [part.name for part in self.parts if part.failing]

    async def run(self, stop: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as group:
            for part in self.parts:
                group.create_task(_keep_running(part, stop), name=part.name)


async def _keep_running(part: Part, stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    backoff = Backoff(FIRST_BACKOFF, LONGEST_BACKOFF)
    while not stop.is_set():
        started = loop.time()
        healed = loop.call_later(2 * backoff.coming, setattr, part, "failing", False)
        try:
            await part.run(stop)
            if stop.is_set():
                return
            log.error("part %s ended by itself, starting it again", part.name)
        except LongrunError as error:
            log.warning("part %s failed, starting it again: %s", part.name, error)
        except ExceptionGroup as errors:
            # Of a part with tasks of its own. What is expected of one is expected of several.
            expected, others = errors.split(LongrunError)
            if others is not None or expected is None:
                log.exception("part %s failed, starting it again", part.name)
            else:
                log.warning("part %s failed, starting it again: %s", part.name, _first(expected))
        except Exception:
            log.exception("part %s failed, starting it again", part.name)
        finally:
            healed.cancel()
        part.failing = True
        metrics.part_restarts.labels(part.name).inc()
        if loop.time() - started > LONGEST_BACKOFF:
            backoff.reset()
        await backoff.pause(stop)


def _first(errors: ExceptionGroup[Exception]) -> Exception:
    first = errors.exceptions[0]
    return _first(first) if isinstance(first, ExceptionGroup) else first


@contextlib.contextmanager
def also_on(stop: asyncio.Event, call: Callable[[], None]) -> Iterator[None]:
    """Within the block, `call` once when `stop` is set: for loops that wait on another event."""
    waiting = asyncio.ensure_future(stop.wait())
    waiting.add_done_callback(lambda _: call())
    try:
        yield
    finally:
        waiting.cancel()


async def finished_before(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Do some work that may be left as it is when `stop` is set: then it is cancelled, and nobody
    waits until it has ended, which takes time while Postgres hangs.

    Returns:
        Whether it was finished.

    Raises:
        Exception: what the work raised.
    """
    task, stopping = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            return False
        task.result()
        return True
    finally:
        stopping.cancel()
        if not task.done():
            task.cancel()
            let_go(task)


def let_go(task: asyncio.Future[Any]) -> None:
    """Let go of a task whose outcome nobody will ask for: asyncio does not report its exception."""
    task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
