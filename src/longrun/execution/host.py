"""The host of live runs: the attempts that are executed on this replica, and how a drain ends
them."""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final, TypeVar

from longrun.errors import LongrunError, Unavailable
from longrun.execution.current import Current
from longrun.protocol import RunRequest
from longrun.supervision import let_go

log = logging.getLogger("longrun.execution.host")

T = TypeVar("T")

ANSWER_WAIT: Final = 0.1
"""Seconds that a run waits at most until its client has its first event."""

LAST_MOMENT: Final = 0.5
"""Seconds before the end of a drain at which runs are handed over wherever they are."""

LAST_WAIT: Final = 5.0
"""Seconds that stopped runs have to be given away after that."""


class Handle:
    """A hold on one attempt that is executed here, from before it is prepared.

    Args:
        execute: does all of the attempt, in a task of `group`.

    Attributes:
        answered: set when its client has got what it gets first.
        alone: nothing else begins here while it lives. It leaves once it has got on.
        creating: the creation of its response, where that is under way before its task begins.
        current: what `longrun.current()` gives within it.
        prepared: done when Postgres knows of the attempt, and it is about to run; or what went
            wrong before.
        leaving: it is to be handed over at its next step boundary.
        left: it was stopped in order to be handed over.
        abandoned: it was stopped, for whatever reason.
    """

    def __init__(
        self,
        request: RunRequest,
        attempt: int,
        execute: Callable[["Handle"], Coroutine[Any, Any, None]],
        group: asyncio.TaskGroup,
        *,
        alone: bool = False,
    ) -> None:
        self.response_id = request.response_id
        self.agent = request.agent
        self.alone = alone
        self.attempt = attempt
        self.answered = asyncio.Event()
        self.leaving = False
        self.left = False
        self.abandoned = False
        self._stopped = threading.Event()
        self.current = Current.of(request, attempt, self._stopped)
        self.prepared: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        let_go(self.prepared)
        self.creating: asyncio.Future[None] | None = None
        self._waiters: list[asyncio.Future[None]] = []
        self.task = group.create_task(logged(lambda: execute(self)))
        self.task.add_done_callback(self._over)

    def settle(self, error: BaseException | None = None) -> None:
        """Postgres knows of the attempt; or what went wrong before."""
        for each in (self.prepared, *self._waiters):
            if each.done():
                continue
            if error is None:
                each.set_result(None)
            else:
                each.set_exception(error)

    async def until_prepared(self) -> None:
        """Wait for `prepared`, and raise what went wrong. As `asyncio.shield` has it, nothing
        happens to the attempt when its waiter is cancelled; but it goes on at once, where it would
        have to wait for another pass of the event loop."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        let_go(waiter)
        self._waiters.append(waiter)
        if self.prepared.done():
            waiter = self.prepared
        await waiter

    async def until_answered(self) -> None:
        """Wait until its client has got what it gets first; a moment, as it may be gone."""
        if not self.answered.is_set():
            late = asyncio.get_running_loop().call_later(ANSWER_WAIT, self.answered.set)
            try:
                await self.answered.wait()
            finally:
                late.cancel()

    def abandon(self) -> None:
        """Stop the agent, its tools and its model request, and write nothing more."""
        # Once: what follows from it (a handover, say) is not to be broken off by another.
        if not self.abandoned:
            self.abandoned = True
            self._stopped.set()
            self.task.cancel()

    def got_on(self) -> None:
        """A step was recorded. What is alone was suspected of ending its replicas, and is no
        longer: it need not be alone any more, and the next one may."""
        self.leaving = self.leaving or self.alone

    def leave(self) -> None:
        """Stop where it is, to be handed over."""
        self.left = self.left or not self.abandoned
        self.abandon()

    def _over(self, task: asyncio.Task[None]) -> None:
        self._stopped.set()
        if self.creating is not None:
            # Of a task that was stopped before it began.
            self.creating.cancel()
        if not self.prepared.done():
            self.settle(stopping())


class Host:
    """One per replica. Runs live in its TaskGroup, so that none outlives it.

    Args:
        max_runs: how many it executes at once.
        drain_seconds: what runs have at a drain to end, or else to be handed over.

    Attributes:
        slot_freed: set whenever a run has ended.
    """

    def __init__(self, max_runs: int, drain_seconds: float) -> None:
        self.slot_freed = asyncio.Event()
        self._max_runs = max_runs
        self._drain_seconds = drain_seconds
        self._live: dict[str, Handle] = {}
        self._alone = 0
        """How many are alone, and will be: counted, as each creation asks for room."""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._group: asyncio.TaskGroup | None = None
        self._errands: asyncio.TaskGroup | None = None
        self._reserved = False

    async def run(self, stop: asyncio.Event) -> None:
        """Host runs until `stop`; then let them end, and hand over those that do not."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                await stop.wait()
                self._group = None
                await self._drain()
                await self._drop()
            except asyncio.CancelledError:
                self._abandon_all()
                raise
            finally:
                self._group = None

    async def run_errands(self, stop: asyncio.Event) -> None:
        """Do what is not a run until `stop`, in a drain too and after it: whoever still gets here
        may cancel."""
        async with asyncio.TaskGroup() as self._errands:
            try:
                await stop.wait()
            finally:
                self._errands = None

    # -- what is live -----------------------------------------------------------------------

    @property
    def hosting(self) -> bool:
        """Whether anything may still begin here."""
        return self._group is not None

    def check_open(self) -> None:
        """Whether anything may still begin here.

        Raises:
            Unavailable: this replica is stopping.
        """
        if not self.hosting:
            raise stopping()

    @property
    def room(self) -> int:
        """How many more runs may begin."""
        if not self.hosting or self._reserved or self._alone:
            return 0
        return self._max_runs - len(self._live)

    @property
    def live(self) -> int:
        """How many runs are executed here."""
        return len(self._live)

    @property
    def idle(self) -> bool:
        """Whether nothing is executed here."""
        return not self._live

    def make_room(self) -> None:
        """What is executed here is to be handed over at its next step boundary, but for what is
        alone."""
        for handle in self._live.values():
            handle.leaving = handle.leaving or not handle.alone

    @contextlib.contextmanager
    def reserved(self) -> Iterator[None]:
        """Within the block there is no room, but for a run that is to be alone."""
        self._reserved = True
        try:
            yield
        finally:
            self._reserved = False

    @property
    def attempts(self) -> dict[str, int]:
        """The attempt of each response that is executed here."""
        return {id_: handle.attempt for id_, handle in self._live.items()}

    def running(self, agent: str) -> int:
        """How many runs of an agent are executed here."""
        return sum(handle.agent == agent for handle in self._live.values())

    def find(self, response_id: str) -> Handle | None:
        """The attempt of a response that is executed here."""
        return self._live.get(response_id)

    def abandon_earlier(self, response_id: str, attempt: int) -> None:
        """Somebody holds the response as this attempt: an earlier one of ours must stop."""
        handle = self._live.get(response_id)
        if handle is not None and handle.attempt < attempt:
            handle.abandon()

    # -- what begins ------------------------------------------------------------------------

    def begin(
        self,
        request: RunRequest,
        attempt: int,
        execute: Callable[[Handle], Coroutine[Any, Any, None]],
        *,
        alone: bool = False,
    ) -> Handle:
        """Execute an attempt; its place is taken at once.

        Args:
            alone: nothing else may begin as long as it lives.

        Raises:
            Unavailable: this replica is stopping.
        """
        handle = Handle(request, attempt, execute, self._open_group(), alone=alone)
        self._live[handle.response_id] = handle
        self._alone += alone
        handle.task.add_done_callback(lambda _: self._ended(handle))
        self._track(handle.task)
        return handle

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Do work for a response that is not run here. A drain waits for it.

        Args:
            work: must not raise.

        Raises:
            Unavailable: this replica has stopped.
        """
        group = self._group or self._errands
        if group is None:
            work.close()
            raise stopping()
        return self._track(group.create_task(work))

    def _open_group(self) -> asyncio.TaskGroup:
        if self._group is None:
            raise stopping()
        return self._group

    def _track(self, task: asyncio.Task[T]) -> asyncio.Task[T]:
        """The drain waits for it, and drops it if it takes too long."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _ended(self, handle: Handle) -> None:
        self._alone -= handle.alone
        if self._live.get(handle.response_id) is handle:
            del self._live[handle.response_id]
        self.slot_freed.set()

    # -- the drain --------------------------------------------------------------------------

    async def _drain(self) -> None:
        """Runs may end; then they leave at a step boundary; in the end wherever they are."""
        seconds = self._drain_seconds
        if self._live:
            log.info("%d runs have %g s to end or to be handed over", len(self._live), seconds)
        await self._until_idle(seconds / 2)
        for handle in self._live.values():
            handle.leaving = True
        await self._until_idle(seconds / 2 - LAST_MOMENT)
        for handle in list(self._live.values()):
            handle.leave()
        await self._until_idle(LAST_WAIT)

    async def _drop(self) -> None:
        """What is not done by now waits for Postgres, for a lock. This process ends all the same:
        the others take its runs by the lease that it gives up, or that runs out."""
        while self._tasks:
            log.warning("giving up %d runs that could not be handed over", len(self._tasks))
            self._abandon_all()
            for task in self._tasks:
                task.cancel()
            await self._until_idle(1.0)

    def _abandon_all(self) -> None:
        for handle in list(self._live.values()):
            handle.abandon()

    async def _until_idle(self, seconds: float) -> None:
        if self._tasks and seconds > 0:
            await asyncio.wait(self._tasks, timeout=seconds)


def stopping() -> Unavailable:
    """What is said of work that comes when a replica takes no more."""
    return Unavailable("This server is stopping; try again.", retry_after=1)


async def logged(do: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Nothing that one response does may end the host."""
    try:
        await do()
    except LongrunError as error:
        log.warning("work on a response was given up: %s", error)
    except Exception:
        log.exception("work on a response failed")
