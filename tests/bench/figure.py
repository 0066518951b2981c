"""A figure: what we measure beside its floor, in turn, in rounds of one run.

A machine is faster now and slower a minute later, so a figure by itself says little. What counts
is the ratio of ours to the floor, measured directly after each other; of several rounds, the
median.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from tests.bench.reader import Readings
from tests.postgres import Server

Unit = Literal[
    "us",
    "ms",
    "s",
    "deltas/s",
    "characters/s",
    "events/s",
    "statements/s",
    "claims/s",
    "events",
    "bytes",
    "KiB",
    "MiB",
    "bytes/s",
]

T = TypeVar("T")
Floor = TypeVar("Floor")
Ours = TypeVar("Ours")


@dataclass(frozen=True, slots=True)
class Target:
    """What a ratio of ours to the floor is to be."""

    sense: Literal["<=", ">="]
    ratio: float

    def met_by(self, ratio: float) -> bool:
        return ratio <= self.ratio if self.sense == "<=" else ratio >= self.ratio


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table: a figure and its floor, a value for each round.

    Attributes:
        pairs: (floor, ours), measured one directly after the other.
    """

    what: str
    unit: Unit
    pairs: Sequence[tuple[float, float]]
    target: Target | None = None

    @property
    def floor(self) -> float:
        return statistics.median(floor for floor, _ in self.pairs)

    @property
    def ours(self) -> float:
        return statistics.median(ours for _, ours in self.pairs)

    @property
    def ratios(self) -> list[float]:
        return sorted(ours / floor for floor, ours in self.pairs)

    @property
    def ratio(self) -> float:
        """The median of the rounds' ratios: the two of a round met the same machine."""
        return statistics.median(self.ratios)

    @property
    def met(self) -> bool | None:
        return self.target.met_by(self.ratio) if self.target else None


@dataclass(slots=True)
class Ground:
    """What figures are measured on, and where they tell how they fare.

    Attributes:
        postgres: shared by all figures of a run; each uses schemas of its own.
        quick: fewer and shorter rounds.
        said: called when a step begins: what it is.
        planned: called with the number of steps to come.
        problems: what was lost or out of order.
        clients: what the reading client used of a core, in each reading.
    """

    postgres: Server
    quick: bool
    said: Callable[[str], None]
    planned: Callable[[int], None]
    problems: list[str] = field(default_factory=list)
    clients: list[float] = field(default_factory=list)

    def note(self, readings: Readings) -> None:
        """Keep what was wrong with some readings, and what reading them took."""
        self.problems += readings.problems
        self.clients.append(readings.cpu)

    def pick(self, full: T, quick: T) -> T:
        return quick if self.quick else full

    def in_turn(
        self, rounds: int, floor: Callable[[], Floor], ours: Callable[[], Ours]
    ) -> list[tuple[Floor, Ours]]:
        """Floor, ours, floor, ours, …"""
        self.planned(2 * rounds)
        pairs = []
        for number in range(1, rounds + 1):
            self.said(f"round {number} of {rounds}: floor")
            one = floor()
            self.said(f"round {number} of {rounds}: ours")
            pairs.append((one, ours()))
        return pairs


@dataclass(frozen=True, slots=True)
class Figure:
    """One benchmark.

    Attributes:
        name: for `--only`.
        title: what is measured.
        floor: what it is measured against.
    """

    name: str
    title: str
    floor: str
    measure: Callable[[Ground], list[Line]]
