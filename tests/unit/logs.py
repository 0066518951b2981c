"""Logs in memory, with the answers of the real queries; who writes them, and who reads them.

Time is the loop's own (clock.py), so that every interleaving is one that hypothesis chose and can
show again.
"""

import asyncio
import contextlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from longrun.errors import Unavailable
from longrun.fanout.hub import Hub
from longrun.fanout.tail import Tail
from longrun.store.events import News
from longrun.store.records import Chunk
from longrun.supervision import Supervisor

ID = "resp_1"
POLL = 2.0
SILENCE = 15.0
FOR_EVER = 3600.0

thorough = settings(
    max_examples=200,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
)


def event(number: int, last: bool) -> bytes:
    kind = "response.completed" if last else "response.output_text.delta"
    return b'{"type":"%b","sequence_number":%d}' % (kind.encode(), number)


def chunks_of(sizes: Sequence[int]) -> list[Chunk]:
    """A whole log: chunks of so many events, the very last of them terminal."""
    chunks, first, total = [], 0, sum(sizes)
    for size in sizes:
        lines = [event(n, n == total - 1) for n in range(first, first + size)]
        chunks.append(Chunk(first, first + size - 1, b"\n".join(lines)))
        first += size
    return chunks


@dataclass
class MemoryLog:
    """The event log of the queries `read_page`, `read_end`, `read_news` and `find_lost`.

    Every answer is what was committed at one moment between the question and its arrival.

    Attributes:
        slowness: seconds that an answer takes, at most; 0 to 3 turns of the loop besides.
        rows: the most chunks in one answer.
        failing: how many answers are lost instead.
    """

    chance: random.Random = field(default_factory=lambda: random.Random(1))
    slowness: float = 0.0
    rows: int = 2000
    failing: int = 0
    committed: dict[str, list[Chunk]] = field(default_factory=dict)
    questions: int = 0

    def commit(self, response_id: str, chunk: Chunk) -> None:
        self.committed.setdefault(response_id, []).append(chunk)

    def delete(self, response_id: str) -> None:
        self.committed.pop(response_id, None)

    async def page_unscoped(self, response_id: str, cursor: int, limit: int) -> list[Chunk]:
        await self._travel()
        found = self.page(response_id, cursor, limit)
        await self._travel(back=True)
        return found

    async def end_unscoped(self, response_id: str) -> Chunk | None:
        await self._travel()
        chunks = self.committed.get(response_id)
        await self._travel(back=True)
        return chunks[-1] if chunks else None

    async def news_unscoped(self, positions: Mapping[str, int], limit: int) -> dict[str, News]:
        await self._travel()
        found = {
            response_id: News(
                response_id not in self.committed, self.page(response_id, position, limit)
            )
            for response_id, position in positions.items()
        }
        await self._travel(back=True)
        return found

    def opened(self, response_id: str, chunk: Chunk) -> Chunk:
        return chunk

    async def lost_unscoped(self, positions: Mapping[str, int]) -> list[str]:
        await self._travel()
        found = [
            response_id
            for response_id, position in positions.items()
            if all(chunk.last < position for chunk in self.committed.get(response_id, ()))
        ]
        await self._travel(back=True)
        return found

    def page(self, response_id: str, cursor: int, limit: int) -> list[Chunk]:
        """What `page_unscoped` answers."""
        found: list[Chunk] = []
        size = 0
        for chunk in self.committed.get(response_id, ()):
            if chunk.last > cursor and size < limit and len(found) < self.rows:
                found.append(chunk)
                size += len(chunk.data)
        return found

    async def _travel(self, back: bool = False) -> None:
        self.questions += 1
        for _ in range(self.chance.randrange(4)):
            await asyncio.sleep(0)
        if self.slowness and self.chance.random() < 0.5:
            await asyncio.sleep(self.slowness * self.chance.random())
        if back and self.failing and self.chance.random() < 0.3:
            self.failing -= 1
            raise Unavailable("away")


@dataclass
class Replica:
    """A hub that runs, supervised as in the application."""

    log: MemoryLog
    hub: Hub
    page_bytes: int

    def tail(
        self,
        cursor: int = -1,
        *,
        finished: bool = False,
        begun: list[Chunk] | None = None,
        patient: bool = False,
        coming: bool = False,
    ) -> Tail:
        given: Any = self.log
        return Tail(
            self.hub,
            given,
            ID,
            cursor=cursor,
            finished=finished,
            begun=begun,
            page_bytes=self.page_bytes,
            patient=patient,
            coming=coming,
        )


@contextlib.asynccontextmanager
async def replica(log: MemoryLog, *, ring_bytes: int = 1 << 20, page_bytes: int = 1 << 17) -> Any:
    given: Any = log
    hub = Hub(given, ring_bytes=ring_bytes, poll_interval=POLL)
    supervisor = Supervisor()
    supervisor.add("hub", hub.run)
    stop = asyncio.Event()
    running = asyncio.create_task(supervisor.run(stop))
    yield Replica(log, hub, page_bytes)
    stop.set()
    await running
    assert not hub._topics, "a topic outlived its readers"


@dataclass
class Read:
    """What one reader saw."""

    cursor: int
    events: list[bytes] = field(default_factory=list)
    ended: bool = False
    finished_at: float = 0.0
    blocks: int = 0
    empty: int = 0

    def take(self, block: Sequence[Chunk]) -> None:
        self.blocks += 1
        self.empty += not block
        for chunk in block:
            lines = chunk.data.split(b"\n")
            assert chunk.first == self.cursor + 1, "a gap, or an event twice"
            assert len(lines) == chunk.last - chunk.first + 1
            self.events += lines
            self.cursor = chunk.last


async def read(
    tail: Tail,
    *,
    pace: float = 0.0,
    leave_after: int | None = None,
    takes: random.Random | None = None,
) -> Read:
    """Read to the end, with a pause after every block.

    Args:
        takes: most of what comes while it waits is taken at once, without a pause.
    """
    seen = Read(tail.cursor)

    def take(block: list[Chunk]) -> bool:
        if takes is None or takes.random() < 0.3:
            return False
        seen.take(block)
        return True

    loop = asyncio.get_running_loop()
    with tail:
        while (block := await tail.next(SILENCE, takes and take)) is not None:
            seen.take(block)
            assert loop.time() < FOR_EVER, "a reader waits for ever"
            if leave_after is not None and len(seen.events) >= leave_after:
                return seen
            if pace:
                await asyncio.sleep(pace)
    seen.ended = tail.ended
    seen.finished_at = loop.time()
    return seen


async def write(
    log: MemoryLog, hubs: Sequence[Hub], chunks: Sequence[Chunk], chance: random.Random, how: "How"
) -> float:
    """Commit chunks, and tell of them as a replica does: or late, or twice, or not at all.

    Every hub hears announcements, that of the writer's own replica of its commits too.

    Returns:
        When the last one was committed.
    """
    loop = asyncio.get_running_loop()
    committed_at = loop.time()
    for chunk in chunks:
        if chance.random() < how.pause_often:
            await asyncio.sleep(how.pause * chance.random())
        elif chance.random() < 0.5:
            await asyncio.sleep(0)
        log.commit(ID, chunk)
        committed_at = loop.time()
        for number, hub in enumerate(hubs):
            if number == how.own_hub and chance.random() >= how.own_lost:
                # A batch is told of after its commit, perhaps some turns of the loop later.
                for _ in range(chance.randrange(2)):
                    await asyncio.sleep(0)
                hub.committed(ID, [chunk])
            if chance.random() >= how.lost:
                late = how.late * chance.random()
                carries = chance.random() < how.carried
                for _ in range(chance.choice([1, 1, 2])):
                    if carries:
                        loop.call_later(late, hub.carried, ID, chunk)
                    loop.call_later(late, hub.announced, ID, chunk.last)
    return committed_at


@dataclass(frozen=True)
class How:
    """How the writer tells of its commits.

    Attributes:
        own_hub: the number of the hub on the writer's replica.
        lost, late: the share of announcements that are lost, and how late others may be.
        carried: the share of announcements that bring the chunk along.
        own_lost: the share of commits that the own replica is not told of (they were those of
            another attempt, say, elsewhere).
    """

    own_hub: int = 0
    lost: float = 0.0
    late: float = 0.0
    pause: float = 0.0
    pause_often: float = 0.0
    own_lost: float = 0.0
    carried: float = 0.0


hows = st.builds(
    How,
    own_hub=st.integers(0, 2),
    lost=st.sampled_from([0.0, 0.5, 1.0]),
    late=st.sampled_from([0.0, 0.001, 3.0]),
    pause=st.sampled_from([0.0, 0.01, 5.0, 40.0]),
    pause_often=st.sampled_from([0.0, 0.3, 1.0]),
    own_lost=st.sampled_from([0.0, 0.3, 1.0]),
    carried=st.sampled_from([0.0, 0.5, 1.0]),
)

readers = st.lists(
    st.tuples(
        st.integers(-1, 60),  # cursor
        st.sampled_from([0.0, 0.0, 0.001, 1.0, 30.0]),  # when it comes
        st.sampled_from([0.0, 0.0, 0.002, 3.0]),  # its pace
        st.integers(0, 1),  # its replica
    ),
    min_size=1,
    max_size=5,
)
logs = st.builds(
    MemoryLog,
    chance=st.builds(random.Random, st.integers(0, 2**32)),
    slowness=st.sampled_from([0.0, 0.0, 0.01, 4.0]),
    rows=st.sampled_from([2000, 1, 3]),
    failing=st.sampled_from([0, 0, 3]),
)
sizes = st.lists(st.integers(1, 6), min_size=1, max_size=12)
rings = st.sampled_from([1, 150, 400, 1 << 20])
