"""Deltas that carry the clock of their emission, at a human pace, and when they reach a reader."""

import statistics
from collections.abc import Sequence
from typing import Final

from tests.bench import reader
from tests.bench.agents import Pace
from tests.bench.figure import Ground
from tests.bench.gate import Gate
from tests.bench.reader import Stream

RATE: Final = 50.0
"""Deltas a second of one run."""


def paces(shut: Gate, runs: int, seconds: float) -> list[Pace]:
    """Of so many runs, no two of which emit at the same moment."""
    deltas = round(RATE * seconds)
    phases = [place / runs / RATE for place in range(runs)]
    return [Pace(deltas, str(shut.path), RATE, phase, clock=True) for phase in phases]


def latencies(ground: Ground, shut: Gate, streams: Sequence[Stream], pace: Pace) -> list[float]:
    """Milliseconds from emission to reader, of all deltas of all streams; and look that nothing is
    missing."""
    with reader.reading(streams) as begun:
        begun.wait_open()
        shut.open()
        readings = begun.read()
    ground.note(readings)
    for stream in readings.streams:
        if len(stream.latencies) != pace.deltas:
            ground.problems.append(f"{len(stream.latencies)} of {pace.deltas} deltas came")
    return [1000 * each for stream in readings.streams for each in stream.latencies]


def percentile(values: Sequence[float], percent: int) -> float:
    return statistics.quantiles(values, n=100)[percent - 1]
