"""A worker as its parent sees it: a process, and a line to it."""

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any, Final

from longrun.serving.worker import AT_ONCE, DRAIN, LEAVE, VARIABLE

log = logging.getLogger("longrun.workers")

LONGEST_LINE: Final = 64 * 1024 * 1024

LAST_WORDS: Final = 2.0
"""Seconds to read what an ended process has said."""


class WorkerProcess:
    """One process.

    Attributes:
        number: of the worker.
        place: among the shares.
        ready, leaving, ended: has said that it answers requests; is not to stay; has exited.
        models: what it serves, once it is ready.
        failure: why it did not start, in its words.
        measured: its metrics have come.
        heard: when it last said anything, by the monotonic clock.
        frozen: it has said nothing for longer than its lease.
        killed: why the parent has killed it.
        amiss: what it was last told of the others.
    """

    def __init__(
        self,
        number: int,
        place: int,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.number = number
        self.place = place
        self.ready = asyncio.Event()
        self.leaving = asyncio.Event()
        self.ended = asyncio.Event()
        self.models: list[str] = []
        self.failure: str | None = None
        self.heard = self.started = time.monotonic()
        self.frozen = False
        self.killed: str | None = None
        self.measured = asyncio.Event()
        self.amiss: list[str] = []
        self._process = process
        self._reader = reader
        self._writer = writer

    @classmethod
    async def spawn(
        cls, number: int, place: int, places: int, listening: socket.socket, shares: int
    ) -> "WorkerProcess":
        """Start one: the command of this process again, with the environment that says which.

        Raises:
            OSError: the system starts no more.
        """
        mine, its = socket.socketpair()
        with its:
            handed = (listening.fileno(), its.fileno(), shares)
            told = " ".join(map(str, (number, place, places, *handed)))
            try:
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    *sys.orig_argv[1:],
                    stdin=asyncio.subprocess.DEVNULL,
                    pass_fds=handed,
                    env={**os.environ, VARIABLE: told},
                )
            except BaseException:
                mine.close()
                raise
        return cls(
            number,
            place,
            process,
            *await asyncio.open_connection(sock=mine, limit=LONGEST_LINE),
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def status(self) -> int:
        """Of the process that has ended, as a shell has it."""
        code = self._process.returncode or 0
        return code if code >= 0 else 128 - code

    @property
    def reason(self) -> str:
        """How the process ended."""
        code = self._process.returncode or 0
        if self.killed is not None:
            return self.killed
        if code >= 0:
            return f"exit status {code}"
        if code == -signal.SIGKILL:
            return "SIGKILL, which the kernel sends where memory runs out"
        with contextlib.suppress(ValueError):
            return signal.Signals(-code).name
        return f"signal {-code}"

    @property
    def kind(self) -> str:
        """Which kind of end it was, for the metrics."""
        if self.killed is not None:
            return "killed"
        return "signal" if (self._process.returncode or 0) < 0 else "exit"

    @property
    def state(self) -> str:
        """For the metrics."""
        if self.frozen:
            return "frozen"
        if self.leaving.is_set():
            return "stopping"
        return "ready" if self.ready.is_set() else "starting"

    async def run(self, heard: Callable[["WorkerProcess", dict[str, Any]], None]) -> None:
        """Hear it until it has ended.

        Args:
            heard: is given all that is more than a sign of life.
        """
        async with asyncio.TaskGroup() as group:
            hearing = group.create_task(self._hear(heard))
            await self._process.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_WORDS):
                    await asyncio.shield(hearing)
            hearing.cancel()
        self._writer.close()
        self.ended.set()

    async def _hear(self, heard: Callable[["WorkerProcess", dict[str, Any]], None]) -> None:
        with contextlib.suppress(OSError, ValueError):
            while line := await self._reader.readline():
                self.heard = time.monotonic()
                said = json.loads(line)
                match said["said"]:
                    case "ready":
                        self.models = said["models"]
                        self.ready.set()
                    case "failed":
                        self.failure = said["message"]
                    case "stopping":
                        self.leaving.set()
                    case _:
                        heard(self, said)

    def tell(self, told: str, **more: Any) -> None:
        """An order, or an answer."""
        if not self._writer.is_closing():
            self._writer.write(json.dumps({"told": told, **more}).encode() + b"\n")

    def drain(self) -> None:
        self.tell(DRAIN)

    def leave(self) -> None:
        self.leaving.set()
        self.tell(LEAVE)

    def exit_at_once(self) -> None:
        self.tell(AT_ONCE)

    def kill(self, why: str) -> None:
        """End it by SIGKILL, frozen or not."""
        if self._process.returncode is None:
            self.killed = why
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()


async def any_of(*events: asyncio.Event) -> None:
    """Wait until one of them is set."""
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waiting:
            each.cancel()
