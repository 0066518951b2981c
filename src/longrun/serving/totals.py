"""The metrics of several workers as one: what is counted is summed, and never goes back."""

import math
from collections.abc import Iterable, Iterator
from typing import Any, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from longrun.metrics import OF_CLUSTER

Labels = tuple[tuple[str, str], ...]

Snapshot = list[list[Any]]
"""JSON of all metrics of one process: `[name, documentation, type, [[sample, labels, value], …]]`
of each, with labels as an object."""

OF_EACH_WORKER: Final = frozenset({"longrun_listening"})
"""Gauges whose sum says nothing: they have the label `worker`. Of what each says of all replicas
the greatest is taken; all others are summed."""


def snapshot(metrics: Iterable[Metric]) -> Snapshot:
    """All metrics of a registry, as they are now."""
    return [
        [m.name, m.documentation, m.type, [[s.name, s.labels, s.value] for s in m.samples]]
        for m in metrics
    ]


class Totals:
    """Adds up the last snapshots of all workers, and what those counted that are gone.

    What was counted by a worker that was killed, after its last snapshot, is missing; nothing that
    was shown once is.
    """

    def __init__(self) -> None:
        self._last: dict[str, tuple[str, Snapshot]] = {}
        self._gone = _Sum()

    def take(self, process: str, worker: str, taken: Snapshot) -> None:
        """The newest snapshot of a process.

        Args:
            process: names it; another one after a restart.
            worker: the value of the label `worker`.
        """
        self._last[process] = (worker, taken)

    def end(self, process: str) -> None:
        """A process has ended: what it counted stays, its gauges do not."""
        if process in self._last:
            worker, taken = self._last.pop(process)
            self._gone.add(worker, taken, gauges=False)

    def exposition(self, beside: Iterable[Metric] = ()) -> bytes:
        """All of it, in Prometheus's text format.

        Args:
            beside: metrics that no worker has.
        """
        total = _Sum()
        total.add_all(self._gone)
        for worker, taken in self._last.values():
            total.add(worker, taken)
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Collected([*total.metrics(), *beside]))
        return generate_latest(registry)


class _Collected(Collector):
    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        yield from self._metrics


class _Sum:
    """Values by metric and by sample, in the order in which they came."""

    def __init__(self) -> None:
        self._kinds: dict[str, tuple[str, str]] = {}
        self._values: dict[str, dict[tuple[str, Labels], float]] = {}

    def add(self, worker: str, taken: Snapshot, *, gauges: bool = True) -> None:
        for name, documentation, kind, samples in taken:
            if kind in ("gauge", "info") and not gauges:
                continue
            self._kinds.setdefault(name, (documentation, kind))
            for sample, labels, value in samples:
                if name in OF_EACH_WORKER:
                    labels = {**labels, "worker": worker}
                self._count(name, sample, tuple(labels.items()), value)

    def add_all(self, other: "_Sum") -> None:
        for name, values in other._values.items():
            self._kinds.setdefault(name, other._kinds[name])
            for (sample, labels), value in values.items():
                self._count(name, sample, labels, value)

    def _count(self, name: str, sample: str, labels: Labels, value: float) -> None:
        values = self._values.setdefault(name, {})
        if sample.endswith("_created"):
            # When counting began.
            values[sample, labels] = min(values.get((sample, labels), math.inf), value)
        elif name.startswith(OF_CLUSTER) or sample.endswith("_info"):
            values[sample, labels] = max(values.get((sample, labels), -math.inf), value)
        else:
            values[sample, labels] = values.get((sample, labels), 0.0) + value

    def metrics(self) -> Iterator[Metric]:
        for name, (documentation, kind) in self._kinds.items():
            metric = Metric(name, documentation, kind)
            for (sample, labels), value in self._values.get(name, {}).items():
                metric.add_sample(sample, dict(labels), value)
            yield metric
