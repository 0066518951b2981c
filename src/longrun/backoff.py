"""Waiting before another try, never for exactly as long as the other replicas do."""

import asyncio
import contextlib
import random
from dataclasses import dataclass, field


def jittered(seconds: float, spread: float = 0.5) -> float:
    """Seconds, more or less: between `1 - spread` and `1 + spread` times as many."""
    return seconds * random.uniform(1 - spread, 1 + spread)  # noqa: S311


async def sleep_unless(stop: asyncio.Event, seconds: float) -> bool:
    """Sleep until the time is over or `stop` is set; returns whether it is set."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)
    return stop.is_set()


@dataclass(slots=True)
class Backoff:
    """Pauses that double each time, from `first` seconds up to `longest`, jittered."""

    first: float
    longest: float
    coming: float = field(init=False)
    """Seconds that the next pause takes on average."""

    def __post_init__(self) -> None:
        self.coming = self.first

    def reset(self) -> None:
        """It worked: the next pause is the first one again."""
        self.coming = self.first

    def next(self) -> float:
        """Seconds of the next pause, for those who wait by themselves."""
        seconds, self.coming = jittered(self.coming), min(2 * self.coming, self.longest)
        return seconds

    async def pause(self, stop: asyncio.Event | None = None) -> None:
        """The next pause; cut short when `stop` is set."""
        seconds = self.next()
        if stop is None:
            await asyncio.sleep(seconds)
        else:
            await sleep_unless(stop, seconds)
