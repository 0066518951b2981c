"""Hub and tail: every reader gets exactly the events after its cursor, whatever happens.

The event log is kept in memory, with the answers of the real queries; time is the loop's own
(clock.py), so that every interleaving is one that hypothesis chose and can show again.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from longrun.errors import Unavailable
from longrun.fanout.hub import Hub
from longrun.fanout.tail import Tail
from longrun.store.events import News
from longrun.store.records import Chunk
from longrun.supervision import Supervisor
from tests.unit import clock

ID = "resp_1"
POLL = 2.0
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
    """The event log of the queries `read_page`, `read_end` and `read_news`.

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

    async def page(self, response_id: str, cursor: int, limit: int) -> list[Chunk]:
        await self._travel()
        found = self._page(response_id, cursor, limit)
        await self._travel(back=True)
        return found

    async def end(self, response_id: str) -> Chunk | None:
        await self._travel()
        chunks = self.committed.get(response_id)
        await self._travel(back=True)
        return chunks[-1] if chunks else None

    async def news(self, positions: Mapping[str, int], limit: int) -> dict[str, News]:
        await self._travel()
        found = {
            response_id: News(
                response_id not in self.committed, self._page(response_id, position, limit)
            )
            for response_id, position in positions.items()
        }
        await self._travel(back=True)
        return found

    def _page(self, response_id: str, cursor: int, limit: int) -> list[Chunk]:
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

    def tail(self, cursor: int = -1, *, finished: bool = False, patient: bool = False) -> Tail:
        given: Any = self.log
        return Tail(
            self.hub,
            given,
            ID,
            cursor=cursor,
            finished=finished,
            page_bytes=self.page_bytes,
            keepalive_interval=15.0,
            patient=patient,
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


async def read(tail: Tail, *, pace: float = 0.0, leave_after: int | None = None) -> Read:
    """Read to the end, with a pause after every block."""
    seen = Read(tail.cursor)
    loop = asyncio.get_running_loop()
    with tail:
        while (block := await tail.next()) is not None:
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
                for _ in range(chance.choice([1, 1, 2])):
                    loop.call_later(late, hub.announced, ID, chunk.last)
    return committed_at


@dataclass(frozen=True)
class How:
    """How the writer tells of its commits.

    Attributes:
        own_hub: the number of the hub on the writer's replica.
        lost, late: the share of announcements that are lost, and how late others may be.
        own_lost: the share of commits that the own replica is not told of (they were those of
            another attempt, say, elsewhere).
    """

    own_hub: int = 0
    lost: float = 0.0
    late: float = 0.0
    pause: float = 0.0
    pause_often: float = 0.0
    own_lost: float = 0.0


hows = st.builds(
    How,
    own_hub=st.integers(0, 2),
    lost=st.sampled_from([0.0, 0.5, 1.0]),
    late=st.sampled_from([0.0, 0.001, 3.0]),
    pause=st.sampled_from([0.0, 0.01, 5.0, 40.0]),
    pause_often=st.sampled_from([0.0, 0.3, 1.0]),
    own_lost=st.sampled_from([0.0, 0.3, 1.0]),
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


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Parts that are restarted say so, thousands of times."""
    caplog.set_level(logging.ERROR)


class TestEveryReader:
    @given(logs, sizes, readers, hows, rings, st.integers(1, 500), st.data())
    @thorough
    def test_gets_exactly_the_events_after_its_cursor(
        self,
        log: MemoryLog,
        sizes: list[int],
        readers: list[tuple[int, float, float, int]],
        how: How,
        ring_bytes: int,
        page_bytes: int,
        data: Any,
    ) -> None:
        chunks = chunks_of(sizes)
        committed_before = data.draw(st.integers(1, len(chunks)), label="committed before")

        async def come(
            replicas: list[Replica], cursor: int, at: float, pace: float, n: int
        ) -> Read:
            await asyncio.sleep(at)
            finished = log.committed[ID][-1].last == chunks[-1].last
            return await read(replicas[n].tail(cursor, finished=finished), pace=pace)

        async def scene() -> list[Read]:
            for chunk in chunks[:committed_before]:
                log.commit(ID, chunk)
            sizes_of = {"ring_bytes": ring_bytes, "page_bytes": page_bytes}
            async with replica(log, **sizes_of) as one, replica(log, **sizes_of) as two:
                async with asyncio.TaskGroup() as group:
                    reading = [group.create_task(come([one, two], *reader)) for reader in readers]
                    rest = chunks[committed_before:]
                    group.create_task(write(log, [one.hub, two.hub], rest, log.chance, how))
                return [task.result() for task in reading]

        everything = [line for chunk in chunks for line in chunk.data.split(b"\n")]
        for seen, (cursor, *_) in zip(clock.run(scene()), readers, strict=True):
            assert seen.events == everything[cursor + 1 :]
            assert seen.ended

    @given(logs, sizes, readers, hows, rings, st.integers(0, 30))
    @thorough
    def test_goes_on_elsewhere_after_its_last_event(
        self,
        log: MemoryLog,
        sizes: list[int],
        readers: list[tuple[int, float, float, int]],
        how: How,
        ring_bytes: int,
        first_part: int,
    ) -> None:
        """A reader that is cut, or sent away, and resumes at another replica with its cursor."""
        chunks = chunks_of([1, *sizes])

        async def twice(one: Replica, two: Replica, at: float, pace: float) -> Read:
            await asyncio.sleep(at)
            seen = await read(one.tail(), pace=pace, leave_after=first_part)
            rest = await read(two.tail(seen.cursor), pace=pace)
            seen.events += rest.events
            seen.ended = rest.ended
            return seen

        async def scene() -> list[Read]:
            log.commit(ID, chunks[0])
            async with (
                replica(log, ring_bytes=ring_bytes) as one,
                replica(log, ring_bytes=ring_bytes) as two,
            ):
                async with asyncio.TaskGroup() as group:
                    reading = [
                        group.create_task(twice(one, two, at, pace)) for _, at, pace, _ in readers
                    ]
                    hubs = [one.hub, two.hub]
                    group.create_task(write(log, hubs, chunks[1:], log.chance, how))
                    await asyncio.sleep(readers[0][1])
                    one.hub.send_away(within=5.0)
                return [task.result() for task in reading]

        everything = [line for chunk in chunks for line in chunk.data.split(b"\n")]
        for seen in clock.run(scene()):
            assert seen.events == everything
            assert seen.ended

    @given(logs, sizes, readers, hows, rings, st.floats(0, 10))
    @thorough
    def test_of_a_deleted_response_ends(
        self,
        log: MemoryLog,
        sizes: list[int],
        readers: list[tuple[int, float, float, int]],
        how: How,
        ring_bytes: int,
        deleted_at: float,
    ) -> None:
        chunks = chunks_of([1, *sizes, 1])[:-1]

        async def scene() -> list[Read]:
            log.commit(ID, chunks[0])
            async with replica(log, ring_bytes=ring_bytes) as one:
                async with asyncio.TaskGroup() as group:
                    reading = [
                        group.create_task(read(one.tail(), pace=pace)) for _, _, pace, _ in readers
                    ]
                    writing = group.create_task(write(log, [one.hub], chunks[1:], log.chance, how))
                    await asyncio.sleep(deleted_at)
                    writing.cancel()
                    log.delete(ID)
                return [task.result() for task in reading]

        everything = [line for chunk in chunks for line in chunk.data.split(b"\n")]
        for seen in clock.run(scene()):
            assert not seen.ended
            assert seen.events == everything[: len(seen.events)]


class TestRaces:
    def test_an_old_answer_does_not_end_the_stream(self) -> None:
        """A reader asks, finds nothing, and before it hears so another reader has read newer
        events and started the ring after them: nothing was deleted."""

        class Late(MemoryLog):
            late: asyncio.Event | None = None

            async def page(self, response_id: str, cursor: int, limit: int) -> list[Chunk]:
                found = self._page(response_id, cursor, limit)
                late, self.late = self.late, None
                if late is not None:
                    await late.wait()
                return found

        async def scene() -> list[Read]:
            log, chunks = Late(), chunks_of([1, 1, 1])
            log.commit(ID, chunks[0])
            async with replica(log) as one:
                log.late = arrives = asyncio.Event()
                slow = asyncio.create_task(read(one.tail(cursor=0)))
                await asyncio.sleep(0.1)
                log.commit(ID, chunks[1])
                quick = asyncio.create_task(read(one.tail(cursor=0)))
                await asyncio.sleep(0.1)
                arrives.set()
                await asyncio.sleep(0.1)
                log.commit(ID, chunks[2])
                one.hub.committed(ID, [chunks[2]])
                return [await slow, await quick]

        for seen in clock.run(scene()):
            assert [seen.cursor, seen.ended] == [2, True]

    @pytest.mark.parametrize("later", range(16))
    def test_two_readers_that_arrive_together_start_one_ring(self, later: int) -> None:
        """The second has just seen that there is none when the first starts it."""

        async def scene() -> list[Read]:
            log, chunks = MemoryLog(), chunks_of([1, 1])
            log.commit(ID, chunks[0])
            async with replica(log) as one:
                reading = [asyncio.create_task(read(one.tail()))]
                for _ in range(later):
                    await asyncio.sleep(0)
                reading.append(asyncio.create_task(read(one.tail(cursor=0))))
                await asyncio.sleep(1)
                log.commit(ID, chunks[1])
                one.hub.committed(ID, [chunks[1]])
                return [await each for each in reading]

        for seen in clock.run(scene()):
            assert [seen.cursor, seen.ended] == [1, True]

    def test_a_commit_that_was_not_told_of_leaves_no_gap(self) -> None:
        async def scene() -> Read:
            log, chunks = MemoryLog(), chunks_of([1, 1, 1, 1])
            log.commit(ID, chunks[0])
            async with replica(log) as one:
                reading = asyncio.create_task(read(one.tail()))
                await asyncio.sleep(0.1)
                for chunk in chunks[1:]:
                    log.commit(ID, chunk)
                one.hub.committed(ID, [chunks[2]])
                one.hub.committed(ID, [chunks[3]])
                return await reading

        assert clock.run(scene()).cursor == 3

    def test_news_that_came_meanwhile_by_itself_come_once(self) -> None:
        class Late(MemoryLog):
            asked = False

            async def news(self, positions: Mapping[str, int], limit: int) -> dict[str, News]:
                found = await super().news(positions, limit)
                self.asked = True
                await asyncio.sleep(0.1)
                return found

        async def scene() -> Read:
            log, chunks = Late(), chunks_of([1, 1, 1])
            log.commit(ID, chunks[0])
            async with replica(log) as one:
                quick = asyncio.create_task(read(one.tail()))
                slow = asyncio.create_task(read(one.tail(), pace=0.5))
                await asyncio.sleep(0.1)
                log.commit(ID, chunks[1])
                one.hub.announced(ID, 1)
                while not log.asked:
                    await asyncio.sleep(0)
                one.hub.committed(ID, [chunks[1]])
                await asyncio.sleep(1)
                log.commit(ID, chunks[2])
                one.hub.committed(ID, [chunks[2]])
                await quick
                return await slow

        assert clock.run(scene()).cursor == 2


class TestSpeed:
    def test_announcements_are_heard_at_once(self) -> None:
        async def scene() -> float:
            log, chunks = MemoryLog(), chunks_of([1] * 20)
            log.commit(ID, chunks[0])
            async with replica(log) as one:
                reading = asyncio.create_task(read(one.tail()))
                await asyncio.sleep(30)
                end = await write(
                    log, [one.hub], chunks[1:], log.chance, How(own_hub=9, pause=0.1, pause_often=1)
                )
                return (await reading).finished_at - end

        assert clock.run(scene()) == 0

    def test_without_any_the_poll_finds_them(self) -> None:
        """NOTIFY is a hint: lost ones cost time, at most that of a poll."""

        async def scene() -> float:
            log, chunks = MemoryLog(), chunks_of([1] * 20)
            log.commit(ID, chunks[0])
            async with replica(log) as one:
                reading = asyncio.create_task(read(one.tail()))
                await asyncio.sleep(30)
                how = How(own_hub=9, lost=1.0, pause=3.0, pause_often=1)
                end = await write(log, [one.hub], chunks[1:], log.chance, how)
                return (await reading).finished_at - end

        assert 0 < clock.run(scene()) <= POLL

    def test_more_news_than_one_answer_holds(self) -> None:
        """An answer of the database has an end; what is behind it does not wait for the poll."""

        async def scene() -> float:
            log, chunks = MemoryLog(rows=10), chunks_of([1] * 95)
            log.commit(ID, chunks[0])
            async with replica(log) as one:
                reading = asyncio.create_task(read(one.tail()))
                await asyncio.sleep(30)
                for chunk in chunks[1:]:
                    log.commit(ID, chunk)
                end = asyncio.get_running_loop().time()
                one.hub.announced(ID, chunks[-1].last)
                return (await reading).finished_at - end

        assert clock.run(scene()) == 0

    def test_an_announcement_of_something_old_asks_nothing(self) -> None:
        async def scene() -> int:
            log, chunks = MemoryLog(), chunks_of([3, 1])
            log.commit(ID, chunks[0])
            async with replica(log) as one:
                reading = asyncio.create_task(read(one.tail()))
                await asyncio.sleep(0.1)
                before = log.questions
                for _ in range(100):
                    one.hub.announced(ID, 2)
                    one.hub.announced("resp_of_nobody", 5)
                await asyncio.sleep(0.1)
                asked = log.questions - before
                log.commit(ID, chunks[1])
                await reading
                return asked

        assert clock.run(scene()) == 0

    def test_many_readers_ask_once(self) -> None:
        """What is announced is fetched once, however many read it."""

        async def scene() -> int:
            log, chunks = MemoryLog(), chunks_of([1] * 11)
            log.commit(ID, chunks[0])
            async with replica(log) as one:
                reading = [asyncio.create_task(read(one.tail())) for _ in range(50)]
                await asyncio.sleep(1)
                before = log.questions
                await write(log, [one.hub], chunks[1:], log.chance, How(own_hub=9))
                await asyncio.gather(*reading)
                return log.questions - before

        assert clock.run(scene()) <= 2 * 10

    def test_own_commits_are_never_asked_for(self) -> None:
        async def scene() -> int:
            log, chunks = MemoryLog(), chunks_of([1] * 11)
            log.commit(ID, chunks[0])
            async with replica(log) as one:
                reading = asyncio.create_task(read(one.tail()))
                await asyncio.sleep(1)
                before = log.questions
                await write(log, [one.hub], chunks[1:], log.chance, How())
                await reading
                return log.questions - before

        assert clock.run(scene()) == 0


class TestSilence:
    def test_a_stream_is_opened_at_once_and_kept_alive(self) -> None:
        async def scene() -> Read:
            log, chunks = MemoryLog(), chunks_of([1, 1])
            log.commit(ID, chunks[0])
            async with replica(log) as one:
                reading = asyncio.create_task(read(one.tail(cursor=0)))
                await asyncio.sleep(0.5)
                assert log.questions > 0
                await asyncio.sleep(100)
                log.commit(ID, chunks[1])
                one.hub.committed(ID, [chunks[1]])
                return await reading

        # One at once, then one every fifteen seconds.
        assert clock.run(scene()).empty == 1 + 6

    def test_a_reader_that_has_something_first_gets_that_first(self) -> None:
        async def scene() -> Read:
            log, chunks = MemoryLog(), chunks_of([1, 1])
            for chunk in chunks:
                log.commit(ID, chunk)
            async with replica(log) as one:
                return await read(one.tail())

        assert clock.run(scene()).empty == 0

    def test_a_response_without_a_log_is_none(self) -> None:
        async def scene() -> Read:
            async with replica(MemoryLog()) as one:
                return await read(one.tail())

        seen = clock.run(scene())
        assert (seen.events, seen.ended) == ([], False)

    def test_patient_readers_leave_last(self) -> None:
        async def scene() -> tuple[float, float]:
            log, chunks = MemoryLog(), chunks_of([1, 1])
            log.commit(ID, chunks[0])
            async with replica(log) as one:
                hasty = asyncio.create_task(read(one.tail()))
                patient = asyncio.create_task(read(one.tail(patient=True)))
                await asyncio.sleep(10)
                one.hub.send_away(within=5.0)
                late = await read(one.tail())
                assert (late.events, late.ended) == ([], False)
                return (await hasty).finished_at, (await patient).finished_at

        hasty, patient = clock.run(scene())
        assert 10 <= hasty < 11
        assert patient == 15


class TestMemory:
    @given(sizes, st.integers(1, 500))
    @thorough
    def test_a_ring_is_bounded(self, sizes: list[int], ring_bytes: int) -> None:
        """The newest chunks, as many as fit, and always one."""
        chunks = chunks_of([1, *sizes])

        async def scene() -> None:
            log = MemoryLog()
            log.commit(ID, chunks[0])
            async with replica(log, ring_bytes=ring_bytes) as one:
                with one.tail() as tail:
                    while not await tail.next():
                        pass
                    while await tail.next():
                        pass
                    for chunk in chunks[1:]:
                        log.commit(ID, chunk)
                        one.hub.committed(ID, [chunk])
                        held = one.hub._topics[ID]._ring
                        size = sum(len(each.data) for each in held)
                        assert size <= ring_bytes or len(held) == 1
                        assert held[-1] == chunk

        clock.run(scene())
