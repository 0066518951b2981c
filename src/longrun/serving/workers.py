"""The workers of one command: started, watched, restarted, replaced in turn, stopped together."""

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable
from typing import Any, Final

from longrun.backoff import Backoff, sleep_unless
from longrun.errors import ConfigurationError
from longrun.loglines import tell
from longrun.serving.measuring import Measuring
from longrun.serving.shares import NONE, Shares
from longrun.serving.stubborn import LAST_RESORT
from longrun.serving.worker_process import WorkerProcess, any_of
from longrun.serving.worker_watch import WorkerWatch

log = logging.getLogger("longrun.workers")

FIRST_BACKOFF: Final = 0.1
LONGEST_BACKOFF: Final = 15.0

STEADY: Final = 10.0
"""Seconds after which a worker that dies has nothing to do with the one before it."""

TRIES: Final = 3
"""Starts in a row that fail while no other worker serves, before the command fails."""

SECOND_THOUGHT: Final = 0.25
"""Seconds between a worker's word that somebody stops it and its replacement: whoever does may
mean all of them."""

GRACE: Final = 2.0
"""Seconds that a worker has to exit after it should have."""

AT_ONCE_WAIT: Final = 8.0
"""Seconds that workers have to exit at once: an embedded Postgres has to stop."""


class NotStarted(ConfigurationError):
    """A worker has ended before it was ready.

    Args:
        exit_status: for the command.
    """

    def __init__(self, message: str, exit_status: int) -> None:
        super().__init__(message)
        self.exit_status = exit_status


class Workers:
    """Keeps so many workers going on a socket, from `run` to `stop`.

    Args:
        listening: bound, and listened at by the workers.
        started: called when all are ready, with the agents that they serve.
    """

    def __init__(
        self,
        count: int,
        listening: socket.socket,
        *,
        lease_seconds: float,
        drain_seconds: float,
        started: Callable[[list[str]], None],
    ) -> None:
        self._numbers = range(1, count + 1)
        self._listening = listening
        self._drain_seconds = drain_seconds
        self._started = started
        # Those that leave have places too.
        self._free = list(range(4 * count + 8))
        self._places = len(self._free)
        self._shares, self._shares_descriptor = Shares.made(self._places)
        self._processes: set[WorkerProcess] = set()
        self._serving: dict[int, WorkerProcess] = {}
        self._replacements: dict[int, WorkerProcess] = {}
        self._measuring = Measuring(self._processes)
        self._watch = WorkerWatch(self._processes, self._shares, self._measuring, lease_seconds)
        self._stop = asyncio.Event()
        self._at_once = asyncio.Event()
        self._over = asyncio.Event()
        self._roll = asyncio.Event()
        self._failure: NotStarted | None = None
        self._status = 0
        self._group: asyncio.TaskGroup

    # -- what the command says ------------------------------------------------------------

    def stop(self) -> None:
        """Drain all."""
        self._stop.set()

    def exit_at_once(self) -> None:
        """Do not wait for runs and answers either."""
        self._stop.set()
        self._at_once.set()

    def kill(self) -> None:
        """Do not wait for anything."""
        for process in list(self._processes):
            process.kill("killed")

    def roll(self) -> None:
        """Replace the workers one by one, each once its replacement is ready."""
        self._roll.set()

    async def run(self) -> int:
        """Serve until stopped; returns the exit status of the command.

        Raises:
            NotStarted: the workers do not start; says why.
        """
        async with asyncio.TaskGroup() as self._group:
            self._group.create_task(self._watch.run(self._over))
            try:
                await self._start_all()
                await self._stop.wait()
            finally:
                await self._end_all()
                self._over.set()
        if self._failure is not None:
            raise self._failure
        return self._status

    # -- starting -------------------------------------------------------------------------

    async def _start_all(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in self._numbers:
                group.create_task(self._start_first(number))
        if self._stop.is_set():
            return
        for number, process in self._serving.items():
            self._group.create_task(self._keep(number, process))
        self._group.create_task(self._replace_when_told())
        self._started(self._serving[1].models)

    async def _start_first(self, number: int) -> None:
        try:
            process = await self._start(number)
        except NotStarted as error:
            self._fail(error)
        else:
            if process is not None:
                self._serving[number] = process

    def _fail(self, error: NotStarted) -> None:
        """The command fails; with the first reason that there was."""
        self._failure = self._failure or error
        self._stop.set()

    async def _start(self, number: int) -> WorkerProcess | None:
        """Start one, until it is ready; None: the command stops.

        Raises:
            NotStarted: it has ended before.
        """
        if self._stop.is_set():
            return None
        process = await self._spawn(number)
        await any_of(process.ready, process.ended, self._stop)
        if process.ready.is_set():
            tell(log, "worker ready", worker=number, pid=process.pid)
            return process
        if self._stop.is_set():
            return None
        said = f"worker {number} ended before it was ready: {process.reason}"
        raise NotStarted(process.failure or said, process.status or 1)

    async def _spawn(self, number: int) -> WorkerProcess:
        place = self._free.pop()
        try:
            process = await WorkerProcess.spawn(
                number, place, self._places, self._listening, self._shares_descriptor
            )
        except OSError as error:
            self._free.append(place)
            said = f"worker {number} could not be started: {error.strerror}"
            raise NotStarted(said, 1) from error
        self._processes.add(process)
        self._group.create_task(self._hear(process))
        if self._stop.is_set():
            process.kill("not needed any more")
        return process

    async def _hear(self, process: WorkerProcess) -> None:
        try:
            await process.run(self._heard)
        finally:
            self._processes.discard(process)
            self._shares[process.place] = NONE
            self._free.append(process.place)
            self._measuring.end(process)

    # -- keeping them going ---------------------------------------------------------------

    async def _keep(self, number: int, process: WorkerProcess | None) -> None:
        """See to it that there is a worker of this number."""
        backoff = Backoff(FIRST_BACKOFF, LONGEST_BACKOFF)
        while process is not None:
            self._serving[number] = process
            await any_of(process.ended, process.leaving, self._stop)
            if process.leaving.is_set():
                process = await self._replaced(process)
            elif not self._stop.is_set():
                self._tell_of_death(process)
                if time.monotonic() - process.started > STEADY:
                    backoff.reset()
                await backoff.pause(self._stop)
                process = None
            if self._stop.is_set():
                return
            process = process or await self._start_again(number, backoff)

    async def _replaced(self, process: WorkerProcess) -> WorkerProcess | None:
        """The one that was started for it, if it is known that one leaves."""
        replacement = self._replacements.pop(process.number, None)
        if replacement is None and await sleep_unless(self._stop, SECOND_THOUGHT):
            return None
        process.leave()
        self._group.create_task(self._see_off(process))
        return replacement

    async def _see_off(self, process: WorkerProcess) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._drain_seconds + LAST_RESORT + GRACE):
                await process.ended.wait()
        process.kill("did not stop in time")
        await process.ended.wait()
        tell(log, "worker left", worker=process.number, pid=process.pid, reason=process.reason)

    def _tell_of_death(self, process: WorkerProcess) -> None:
        self._measuring.died(process)
        tell(
            log,
            "worker died",
            logging.WARNING,
            worker=process.number,
            pid=process.pid,
            reason=process.reason,
            duration=time.monotonic() - process.started,
        )

    async def _start_again(self, number: int, backoff: Backoff) -> WorkerProcess | None:
        """Try until it is ready; None: the command stops. As long as others serve, one that does
        not start is no reason to end them."""
        failures = 0
        while not self._stop.is_set():
            try:
                process = await self._start(number)
                self._measuring.started(number)
                return process
            except NotStarted as error:
                failures += 1
                self._measuring.not_started(number)
                log.error(
                    "worker %d does not start (%d times in a row): %s",
                    number,
                    failures,
                    error.message,
                )
                if failures >= TRIES and not self._is_served():
                    self._fail(error)
            await backoff.pause(self._stop)
        return None

    def _is_served(self) -> bool:
        return any(each.ready.is_set() and not each.frozen for each in self._processes)

    async def _replace_when_told(self) -> None:
        while not self._stop.is_set():
            await any_of(self._roll, self._stop)
            self._roll.clear()
            if not self._stop.is_set():
                log.info("replacing the workers one by one")
                await self._replace_all()

    async def _replace_all(self) -> None:
        for number in self._numbers:
            old = self._serving[number]
            if old.ended.is_set():
                continue  # it is being started again
            try:
                fresh = await self._start(number)
            except NotStarted as error:
                log.error("not replaced, since worker %d does not start: %s", number, error.message)
                return
            if fresh is None:
                return
            if self._serving[number] is not old or old.ended.is_set() or old.leaving.is_set():
                # It was restarted meanwhile, or will be.
                fresh.leave()
                self._group.create_task(self._see_off(fresh))
                continue
            self._replacements[number] = fresh
            old.leaving.set()
            await any_of(old.ended, self._stop)
        log.info("all workers are replaced")

    # -- stopping -------------------------------------------------------------------------

    async def _end_all(self) -> None:
        self._stop.set()
        # Nobody takes anything from it once the workers have closed theirs.
        self._listening.close()
        for process in list(self._processes):
            if self._failure is not None and not process.ready.is_set():
                process.kill("not needed any more")
            else:
                process.drain()
        within = self._drain_seconds + LAST_RESORT + GRACE
        ends = asyncio.ensure_future(self._all_ended())
        try:
            await asyncio.wait(
                {ends, at_once := asyncio.ensure_future(self._at_once.wait())},
                timeout=within,
                return_when=asyncio.FIRST_COMPLETED,
            )
            at_once.cancel()
            if self._at_once.is_set():
                for process in list(self._processes):
                    process.exit_at_once()
                await asyncio.wait({ends}, timeout=AT_ONCE_WAIT)
            for process in list(self._processes):
                log.error("worker %d (pid %d) does not stop: killed", process.number, process.pid)
                process.kill("did not stop in time")
            await ends
        finally:
            ends.cancel()

    async def _all_ended(self) -> None:
        """Those too that are started while others end."""
        while self._processes:
            process = next(iter(self._processes))
            await process.ended.wait()
            self._status = self._status or (1 if process.status else 0)

    # -- metrics --------------------------------------------------------------------------

    def _heard(self, process: WorkerProcess, said: dict[str, Any]) -> None:
        match said["said"]:
            case "snapshot":
                self._measuring.take(process, said["metrics"])
            case "metrics":
                self._group.create_task(self._measuring.answer(process, said["for"], self._group))
