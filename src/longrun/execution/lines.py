"""The lines in which runs wait for this replica: one for each agent with a limit of its own, one
for all others."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf

from longrun.execution.served import Served


@dataclass(slots=True)
class Line:
    """Agents whose runs wait for the same room.

    Attributes:
        agents: their names; None for all that are served.
        limit: the most runs of them at once.
        held_back: some may wait only because of that limit.
    """

    agents: list[str] | None = None
    limit: float = inf
    held_back: bool = False


class Lines:
    """Those of a replica.

    Args:
        running: how many runs of an agent are executed here.
    """

    def __init__(self, served: Sequence[Served], running: Callable[[str], int]) -> None:
        self._running = running
        self._own = {
            each.name: Line([each.name], each.concurrency)
            for each in served
            if each.concurrency is not None
        }
        others = [each.name for each in served if each.name not in self._own]
        self._lines = list(self._own.values())
        if others or not self._own:
            self._lines.append(Line(others if self._own else None))

    @property
    def held_back(self) -> bool:
        """Whether runs may wait for others of their agent to end here."""
        return any(line.held_back for line in self._own.values())

    def in_any_order(self) -> list[Line]:
        """All of them; none is always the first to get what room there is."""
        return random.sample(self._lines, len(self._lines))

    def room(self, line: Line) -> float:
        """How many more runs of a line may begin."""
        if line.limit == inf or line.agents is None:
            return inf
        return line.limit - sum(map(self._running, line.agents))

    def may_start(self, agent: str) -> bool:
        """Whether a new run of an agent may begin at once, and passes none that waits."""
        line = self._own.get(agent)
        return line is None or (not line.held_back and self.room(line) > 0)

    def hold_back(self, agent: str) -> bool:
        """A run of it has to wait. Whether it waits for others of its agent."""
        line = self._own.get(agent)
        if line is None or self.may_start(agent):
            return False
        line.held_back = True
        return True
