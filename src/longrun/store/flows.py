"""Flows: logs that are written again and again while many replicas are busy. Their announcements
say so, and the replicas that read them look by themselves, every 20 ms (`FLOW_POLL` in
fanout/hub.py): that costs as much as there are replicas with readers, and each NOTIFY as much as
there are replicas. So a log that flows is announced now and then only, for who missed it.
"""

import time
from collections.abc import Iterable
from typing import Final

FLOWS_FROM: Final = 0.010
"""Seconds that a replica rests between two NOTIFYs from which on its logs begin to flow: who looks
every 20 ms knows as soon."""

FLOWS_UNTIL: Final = 0.0025
"""Seconds of rest under which that ends: announcing costs little again."""

SAID_EVERY: Final = 0.25
"""Seconds between two announcements of a log that flows. Less than the time after which a reader
that hears nothing asks for announcements (`UNHEARD_AFTER` in fanout/hub.py)."""

SILENCE: Final = 0.1
"""Seconds between two commits of a log that flows. After a longer pause it flows no more, well
before its readers stop looking (`FLOW_LOOKS` in fanout/hub.py): what comes then is announced."""


class _Flow:
    __slots__ = ("last", "said", "written_at")

    def __init__(self, said: int, now: float) -> None:
        self.last = self.said = said
        self.written_at = now


class Flows:
    """Those of one replica. Times are those of the monotonic clock."""

    def __init__(self) -> None:
        self._flows: dict[str, _Flow] = {}
        self._said_at = 0.0

    def __contains__(self, response_id: str) -> bool:
        return response_id in self._flows

    @property
    def due(self) -> float | None:
        """When `tend` is to be called; None: nothing flows."""
        return self._said_at + SAID_EVERY if self._flows else None

    def written(self, response_id: str, last: int) -> bool:
        """A log reaches this number. Whether its readers look for that by themselves."""
        flow = self._flows.get(response_id)
        if flow is None:
            return False
        now = time.monotonic()
        if now - flow.written_at > SILENCE:
            del self._flows[response_id]
            return False
        flow.last, flow.written_at = last, now
        return True

    def told(self, reached: Iterable[tuple[str, int]]) -> None:
        """The replicas that read these were told how far they reach, and that they flow."""
        now = time.monotonic()
        if not self._flows:
            self._said_at = now
        for response_id, last in reached:
            flow = self._flows.setdefault(response_id, _Flow(last, now))
            flow.said = max(flow.said, last)

    def tend(self, interval: float) -> dict[str, int]:
        """What is to be announced: of those that are written still how far they reach. They go on
        flowing while a replica's NOTIFYs are far between.

        Args:
            interval: seconds between two of them.
        """
        now = self._said_at = time.monotonic()
        found = self._unsaid()
        goes_on = interval >= FLOWS_UNTIL
        for response_id, flow in list(self._flows.items()):
            if not goes_on or now - flow.written_at > SILENCE:
                del self._flows[response_id]
        return found

    def end(self) -> dict[str, int]:
        """Nothing flows any more. What is to be announced of it."""
        found = self._unsaid()
        self._flows.clear()
        return found

    def _unsaid(self) -> dict[str, int]:
        return {id_: flow.last for id_, flow in self._flows.items() if flow.last > flow.said}
