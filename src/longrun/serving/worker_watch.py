"""Watches over the workers of one command: one that says nothing is frozen, and is killed if it
does not wake."""

import asyncio
import logging
import time
from collections.abc import Set
from typing import Final

from longrun.backoff import sleep_unless
from longrun.serving.measuring import Measuring
from longrun.serving.shares import NONE, Shares
from longrun.serving.worker import BEAT
from longrun.serving.worker_process import WorkerProcess

log = logging.getLogger("longrun.workers")

LOOK: Final = 0.5
"""Seconds between two looks at them."""

STOOD_STILL: Final = 1.0
"""Seconds by which the parent has to be late to know that it was frozen itself."""

LONGEST_SILENCE: Final = 3 * BEAT
"""Seconds without a word after which a worker is frozen, if its lease is not longer."""

START_SILENCE: Final = 60.0
"""The same before it is ready: on a busy machine it takes long until Python says a first word."""


class WorkerWatch:
    """One per parent.

    Args:
        processes: the workers that there are, which come and go.
        shares: in which a frozen worker gets no connections.
        measuring: knows which workers do not start.
    """

    def __init__(
        self,
        processes: Set[WorkerProcess],
        shares: Shares,
        measuring: Measuring,
        lease_seconds: float,
    ) -> None:
        self._processes = processes
        self._shares = shares
        self._measuring = measuring
        self._silence = max(lease_seconds, LONGEST_SILENCE)

    async def run(self, over: asyncio.Event) -> None:
        """Watch until `over` is set."""
        looked = time.monotonic()
        while not await sleep_unless(over, LOOK):
            now = time.monotonic()
            late, looked = now - looked - LOOK, now
            for process in list(self._processes):
                if late > STOOD_STILL:
                    process.heard += late
                self._look_at(process, now - process.heard)
            self._tell_what_is_amiss()

    def _look_at(self, process: WorkerProcess, silent: float) -> None:
        silence = self._silence if process.ready.is_set() else max(self._silence, START_SILENCE)
        frozen = silent > silence
        if frozen and not process.frozen:
            self._shares[process.place] = NONE
            log.warning(
                "worker %d (pid %d) is frozen: it is killed unless it wakes within %.0f s",
                process.number,
                process.pid,
                silence,
            )
        elif process.frozen and not frozen:
            log.warning("worker %d (pid %d) is awake again", process.number, process.pid)
        process.frozen = frozen
        if silent > 2 * silence:
            process.kill("frozen")

    def _tell_what_is_amiss(self) -> None:
        """To those that serve, for `/readyz`: how it is with the others."""
        frozen = sorted({each.number for each in self._processes if each.frozen})
        said = [
            f"worker {number} {how}"
            for how, numbers in (
                ("does not start", sorted(self._measuring.failing)),
                ("is frozen", frozen),
            )
            for number in numbers
        ]
        for process in self._processes:
            if process.ready.is_set() and process.amiss != said:
                process.amiss = said
                process.tell("amiss", said=said)
