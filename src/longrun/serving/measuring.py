"""The metrics of one command: the sums over its workers, and what the parent counts itself."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterable, Set
from typing import Any, Final

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from longrun.serving.totals import Totals
from longrun.serving.worker_process import WorkerProcess, any_of

MEASURE_WAIT: Final = 0.5
"""Seconds in which a worker has to send its metrics; else its last ones stand."""


class Measuring:
    """One per parent.

    Args:
        processes: the workers that there are, which come and go.

    Attributes:
        failing: the numbers of workers that do not start.
    """

    def __init__(self, processes: Set[WorkerProcess]) -> None:
        self._processes = processes
        self._totals = Totals()
        self._restarts: Counter[str] = Counter()
        self._failed_starts = 0
        self.failing: set[int] = set()
        self._asking: asyncio.Task[None] | None = None

    def died(self, process: WorkerProcess) -> None:
        self._restarts[process.kind] += 1

    def not_started(self, number: int) -> None:
        self._failed_starts += 1
        self.failing.add(number)

    def started(self, number: int) -> None:
        self.failing.discard(number)

    def take(self, process: WorkerProcess, metrics: Any) -> None:
        """A worker has sent its metrics."""
        self._totals.take(str(process.pid), str(process.number), metrics)
        process.measured.set()

    def end(self, process: WorkerProcess) -> None:
        """A worker has ended: what it counted stays."""
        self._totals.end(str(process.pid))

    async def answer(self, process: WorkerProcess, key: int, group: asyncio.TaskGroup) -> None:
        """All metrics, for the worker that was asked for them."""
        if self._asking is None or self._asking.done():
            self._asking = group.create_task(self._ask())
        await asyncio.wait({self._asking})
        process.tell("metrics", **{"for": key}, text=self._totals.exposition(self.own()).decode())

    async def _ask(self) -> None:
        asked = [each for each in self._processes if each.ready.is_set() and not each.frozen]
        for process in asked:
            process.measured.clear()
            process.tell("snapshot")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(MEASURE_WAIT):
                for process in asked:
                    await any_of(process.measured, process.ended)

    def own(self) -> Iterable[Metric]:
        """What is said of the workers, and not by them."""
        states = Counter(each.state for each in self._processes)
        workers = GaugeMetricFamily("longrun_workers", "Worker processes.", labels=["state"])
        for state in ("starting", "ready", "stopping", "frozen"):
            workers.add_metric([state], states[state])
        workers.add_metric(["failing"], len(self.failing))
        restarts = CounterMetricFamily(
            "longrun_worker_restarts", "Workers that died, by how.", labels=["reason"]
        )
        for reason in ("exit", "signal", "killed"):
            restarts.add_metric([reason], self._restarts[reason])
        failed = CounterMetricFamily(
            "longrun_worker_failed_starts", "Workers that ended before they were ready."
        )
        failed.add_metric([], self._failed_starts)
        return workers, restarts, failed
