"""How many requests a minute somebody may send, to all replicas together.

A bucket for each subject (a principal, a key) holds as many requests as it may send in a minute,
and that many wear off in a minute, evenly. A replica decides by its own idea of the bucket, so no
request waits for Postgres. What it has taken it tells there, and hears what all have: after a
second, or sooner, when that is a twentieth of the limit. At a tenth it waits to hear. So replicas
together take at most a tenth of the limit each (two requests, where that is more) beyond it, and
nothing in the long run: what was too much has to wear off first.

Three replicas that were flooded from the first moment on allowed 20 in 100 more than 600 a minute,
and 12 more than 6,000; two of them 10 and 6. Telling takes Postgres 0.1 ms for one subject, 0.5 ms
for a hundred. A request took 10 µs longer (20,000 calls in one process, two busy cores).
"""

import asyncio
import contextlib
import math
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

from longrun.store.limits import Told
from longrun.supervision import also_on

MINUTE: Final = 60.0

TELL_AFTER: Final = 1.0
"""Seconds after which the others hear of what was taken, however little it is."""

PORTION: Final = 20
"""The part of a limit that is told at once: a twentieth."""

PATIENCE: Final = 1.0
"""Seconds that a request waits to hear of the others; then this replica decides by itself."""

SWEEP: Final = 60.0
"""Seconds between two looks at which buckets are empty."""


class Shared(Protocol):
    """Where replicas tell each other; `store/limits.py`."""

    async def share(self, told: Sequence[Told]) -> dict[str, float]: ...


class Wanted(NamedTuple):
    """A request that counts for a subject, which may send `limit` of them in a minute."""

    subject: str
    limit: int


class Standing(NamedTuple):
    """How a subject stands: `remaining` requests may come at once, in `reset` seconds all of them.
    `wait`: a request that was not counted may come in so many seconds; 0: it was."""

    limit: int
    remaining: int
    reset: float
    wait: float


class _Bucket:
    """What a subject has sent, as far as this replica knows.

    Attributes:
        level: requests that have not worn off at `at`.
        untold: those of them that the other replicas have not been told of.
        telling: those that they are just being told of.
    """

    __slots__ = ("at", "level", "limit", "telling", "untold")

    def __init__(self, limit: int, at: float) -> None:
        self.limit = limit
        self.at = at
        self.level = 0.0
        self.untold = 0
        self.telling = 0

    @property
    def rate(self) -> float:
        return self.limit / MINUTE

    @property
    def portion(self) -> int:
        return max(1, self.limit // PORTION)

    @property
    def must_hear(self) -> bool:
        """Whether too much was taken without hearing of the others."""
        return self.untold + self.telling >= 2 * self.portion

    def standing(self, now: float) -> Standing:
        self.level = max(0.0, self.level - (now - self.at) * self.rate)
        self.at = now
        room = self.limit - self.level
        wait = 0.0 if room >= 1 else (1 - room) / self.rate
        return Standing(self.limit, max(0, math.floor(room)), self.level / self.rate, wait)

    def take(self) -> None:
        self.level += 1
        self.untold += 1

    def give_back(self) -> None:
        self.level = max(0.0, self.level - 1)
        self.untold -= 1

    def heard(self, level: float, now: float) -> None:
        """All replicas together have taken so much, this one's of just now not included."""
        self.level, self.at, self.telling = level + self.untold, now, 0


class Rates:
    """The rates of this replica's callers."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._buckets: dict[str, _Bucket] = {}
        self._untold: dict[str, _Bucket] = {}
        self._wake = asyncio.Event()
        self._heard = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._swept_at = 0.0
        self._deaf = False

    async def take(self, wanted: Sequence[Wanted]) -> list[Standing]:
        """Count one request for each of these subjects, or for none where one of them has no room.

        Returns:
            How each stands; after the request, if it was counted, which is if none has to wait.
        """
        buckets = [self._bucket(each) for each in wanted]
        for bucket in buckets:
            if bucket.must_hear and not self._deaf:
                await self._hear(bucket)
        now = asyncio.get_running_loop().time()
        standings = [bucket.standing(now) for bucket in buckets]
        if any(standing.wait for standing in standings):
            return standings
        for bucket, each in zip(buckets, wanted, strict=True):
            bucket.take()
            self._note(each.subject, bucket)
        return [bucket.standing(now)._replace(wait=0.0) for bucket in buckets]

    def give_back(self, wanted: Sequence[Wanted]) -> None:
        """A request that was counted for these subjects was none of that kind."""
        for each in wanted:
            bucket = self._bucket(each)
            bucket.give_back()
            self._note(each.subject, bucket)

    def _bucket(self, wanted: Wanted) -> _Bucket:
        bucket = self._buckets.get(wanted.subject)
        if bucket is None:
            now = asyncio.get_running_loop().time()
            bucket = self._buckets[wanted.subject] = _Bucket(wanted.limit, now)
        # A key may have got another limit, or a new one its name.
        bucket.limit = wanted.limit
        return bucket

    def _note(self, subject: str, bucket: _Bucket) -> None:
        """The others have to hear of what a bucket took: at once, or soon."""
        self._untold[subject] = bucket
        if bucket.untold >= bucket.portion:
            self._wake.set()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TELL_AFTER, self._wake.set)

    async def _hear(self, bucket: _Bucket) -> None:
        """Wait until the others were told and heard. While Postgres is away, go on without."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                while bucket.must_hear and not self._deaf:
                    await self._heard.wait()

    async def run(self, stop: asyncio.Event) -> None:
        """Tell the other replicas what was taken here, until `stop` is set.

        Raises:
            Unavailable: Postgres is away; what was taken is told when this is started again.
        """
        self._wake.set()
        with also_on(stop, self._wake.set):
            while not stop.is_set():
                await self._wake.wait()
                self._wake.clear()
                if self._timer is not None:
                    self._timer.cancel()
                    self._timer = None
                if self._untold:
                    await self._tell()
                self._sweep()

    async def _tell(self) -> None:
        told, self._untold = self._untold, {}
        for bucket in told.values():
            bucket.telling, bucket.untold = bucket.untold, 0
        try:
            levels = await self._shared.share(
                [Told(subject, bucket.telling, bucket.rate) for subject, bucket in told.items()]
            )
        except BaseException:
            for bucket in told.values():
                bucket.untold, bucket.telling = bucket.untold + bucket.telling, 0
            self._untold = told | self._untold
            self._deaf = True
            raise
        else:
            self._deaf = False
        finally:
            self._heard.set()
            self._heard = asyncio.Event()
        now = asyncio.get_running_loop().time()
        for subject, level in levels.items():
            told[subject].heard(level, now)

    def _sweep(self) -> None:
        now = asyncio.get_running_loop().time()
        if now < self._swept_at + SWEEP:
            return
        self._swept_at = now
        self._buckets = {
            subject: bucket
            for subject, bucket in self._buckets.items()
            if bucket.untold or bucket.telling or bucket.standing(now).reset
        }
