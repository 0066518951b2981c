"""What waits for an agent that no replica serves, which it would else do in silence.

As when a version without that agent was rolled out, or the replicas that serve it are all gone.
"""

import time
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from asyncpg import Record

from longrun import metrics
from longrun.backoff import Backoff
from longrun.store.replica_lines import agent_served_again, agent_unserved

FIRST_REMINDER: Final = 60.0
LAST_REMINDER: Final = 3600.0
"""Seconds until it is said again of an agent, on average: twice as long each time."""


class Waiting(NamedTuple):
    """An agent that no replica serves, how many responses wait for it, and for how many seconds the
    first of them has."""

    agent: str
    responses: int
    oldest: float


def unserved_in(row: Record) -> list[Waiting]:
    """What a row of `sample_cluster` says, the longest wait first."""
    return [
        Waiting(*each) for each in zip(row["unserved"], row["counts"], row["ages"], strict=True)
    ]


class _Said:
    """What was said of an agent, and when it may be said again."""

    def __init__(self) -> None:
        self.backoff = Backoff(FIRST_REMINDER, LAST_REMINDER)
        self.again_at = 0.0
        self.over_since: float | None = None


class Unserved:
    """What this replica last saw of it, for `/metrics`, `/readyz` and the log.

    Args:
        clock: seconds, as of `time.monotonic`.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._said: dict[str, _Said] = {}
        self.waiting = 0
        """How many responses wait for such agents."""

    def looked(self, found: Iterable[Waiting], *, tells: bool) -> None:
        """Take note of what there is now.

        Args:
            tells: whether this is the replica that logs it, so that not all of them do.
        """
        by_agent = {each.agent: each for each in found}
        self.waiting = sum(each.responses for each in by_agent.values())
        metrics.unserved.clear()
        for each in by_agent.values():
            metrics.unserved.labels(each.agent).set(each.responses)
        if not tells:
            self._said.clear()
            return
        for each in by_agent.values():
            self._tell(each)
        for agent, said in [*self._said.items()]:
            if agent not in by_agent:
                self._over(agent, said)

    def _tell(self, waiting: Waiting) -> None:
        said = self._said.setdefault(waiting.agent, _Said())
        if self._clock() >= said.again_at:
            said.again_at = self._clock() + said.backoff.next()
            said.over_since = None
            agent_unserved(*waiting)

    def _over(self, agent: str, said: _Said) -> None:
        """One that comes and goes is not told each time: what was said of it is remembered for as
        long as the longest of the pauses."""
        if said.over_since is None:
            said.over_since = self._clock()
            agent_served_again(agent)
        if self._clock() >= said.over_since + LAST_REMINDER:
            del self._said[agent]
