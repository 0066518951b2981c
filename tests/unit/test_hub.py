"""The hub: what is announced is fetched once, for all readers, at once; memory is bounded."""

import asyncio
import logging
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longrun.fanout.hub import FLOW_LOOKS, FLOW_POLL
from longrun.store.events import News
from longrun.store.records import Chunk
from tests.unit import clock
from tests.unit.logs import (
    ID,
    POLL,
    SILENCE,
    How,
    MemoryLog,
    Read,
    Replica,
    chunks_of,
    read,
    replica,
    sizes,
    thorough,
    write,
)


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Parts that are restarted say so, thousands of times."""
    caplog.set_level(logging.ERROR)


class TestRaces:
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

            async def news_unscoped(
                self, positions: Mapping[str, int], limit: int
            ) -> dict[str, News]:
                found = await super().news_unscoped(positions, limit)
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
    def test_what_is_announced_while_a_reader_joins_is_fetched_at_once(self) -> None:
        """It asks for the end of the log, and before it hears of it a commit moves the end: the
        only announcement of that comes when there is no ring yet that would be behind."""

        class Moving(MemoryLog):
            async def end_unscoped(self, response_id: str) -> Chunk | None:
                end = await super().end_unscoped(response_id)
                for chunk in coming:
                    self.commit(ID, chunk)
                    one.hub.announced(ID, chunk.last)
                coming.clear()
                return end

        log, chunks = Moving(), chunks_of([1, 1])
        coming = chunks[1:]
        one: Replica

        async def scene() -> Read:
            nonlocal one
            log.commit(ID, chunks[0])
            async with replica(log) as one:
                return await read(one.tail(cursor=0))

        assert clock.run(scene()).finished_at < POLL / 2

    def test_what_is_written_faster_than_it_is_announced_is_looked_for(self) -> None:
        async def scene() -> tuple[float, int]:
            log, chunks = MemoryLog(), chunks_of([1] * 30)
            log.commit(ID, chunks[0])
            loop = asyncio.get_running_loop()
            async with replica(log) as one:
                reading = asyncio.create_task(read(one.tail()))
                await asyncio.sleep(POLL / 2)
                for chunk in chunks[1:4]:
                    log.commit(ID, chunk)
                one.hub.announced(ID, 3)
                for chunk in chunks[4:-1]:
                    await asyncio.sleep(2.5 * FLOW_POLL)
                    assert one.hub._topics[ID].ring.end == chunk.first - 1
                    log.commit(ID, chunk)
                await asyncio.sleep(2 * FLOW_LOOKS * FLOW_POLL)
                asked = log.questions
                await asyncio.sleep(POLL / 4)
                asked -= log.questions
                log.commit(ID, chunks[-1])
                one.hub.announced(ID, 29)
                last, seen = loop.time(), await reading
                assert seen.cursor == 29
                return seen.finished_at - last, asked

        late, asked = clock.run(scene())
        assert late < FLOW_POLL
        assert asked == 0, "it is looked for no longer than it comes"

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


class TestLeaving:
    def test_patient_readers_that_come_late_leave_as_well(self) -> None:
        """They stayed for ever, and their server with them."""

        async def scene() -> list[float]:
            log, chunks = MemoryLog(), chunks_of([1, 1])
            log.commit(ID, chunks[0])
            async with replica(log) as one:
                one.hub.send_away(within=5.0)
                await asyncio.sleep(1)
                late = await read(one.tail(patient=True))
                await asyncio.sleep(5)
                latest = await read(one.tail(patient=True))
                return [late.finished_at, latest.finished_at]

        assert clock.run(scene()) == [5, 10]

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
                assert (late.events, late.ended) == (chunks[0].data.split(b"\n"), False)
                assert 10.5 <= late.finished_at <= 11.5
                return (await hasty).finished_at, (await patient).finished_at

        hasty, patient = clock.run(scene())
        assert 10 <= hasty < 11
        assert patient == 15

    def test_who_created_a_response_leaves_last_and_never_without_an_event(self) -> None:
        """It would not even know the id of what it has created."""

        async def scene() -> list[Read]:
            log, chunks = MemoryLog(), chunks_of([1, 1])
            async with replica(log) as one:
                early = asyncio.create_task(read(one.tail(coming=True)))
                await asyncio.sleep(0)
                log.commit(ID, chunks[0])
                one.hub.committed(ID, [chunks[0]])
                one.hub.send_away(within=5.0)
                await asyncio.sleep(1)
                late = asyncio.create_task(read(one.tail(coming=True)))
                await asyncio.sleep(6)
                latest = asyncio.create_task(read(one.tail(coming=True)))
                await asyncio.sleep(1)
                one.hub.committed(ID, [chunks[0]])
                return [await early, await late, await latest]

        early, late, latest = clock.run(scene())
        assert [len(each.events) for each in (early, late, latest)] == [1, 1, 1]
        assert 4 < early.finished_at <= 5
        assert late.finished_at == 5
        assert latest.finished_at == 8


class TestMemory:
    @pytest.mark.parametrize(
        "wrong",
        [
            Chunk(0, 1, b"{}\n{}"),  # begins before the ring's end
            Chunk(2, 2, b"{}"),  # leaves a gap
            Chunk(1, 2, b"{}"),  # has fewer events than it says
            Chunk(1, 1, b"{}\n{}"),
            Chunk(1, 0, b""),
        ],
    )
    def test_what_an_announcement_carries_continues_a_ring_or_is_fetched(
        self, wrong: Chunk
    ) -> None:
        async def scene() -> Read:
            log, chunks = MemoryLog(), chunks_of([1, 1, 1])
            log.commit(ID, chunks[0])
            async with replica(log) as one:
                one.hub.carried(ID, chunks[1])
                reading = asyncio.create_task(read(one.tail()))
                await asyncio.sleep(0.1)
                one.hub.carried(ID, wrong)
                await asyncio.sleep(0.1)
                for chunk in chunks[1:]:
                    log.commit(ID, chunk)
                    one.hub.carried(ID, chunk)
                one.hub.carried(ID, Chunk(3, 3, b"{}"))  # behind its end
                return await reading

        assert clock.run(scene()).cursor == 2

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
                    while not await tail.next(SILENCE):
                        pass
                    while await tail.next(SILENCE):
                        pass
                    for chunk in chunks[1:]:
                        log.commit(ID, chunk)
                        one.hub.committed(ID, [chunk])
                        held = one.hub._topics[ID].ring._chunks
                        size = sum(len(each.data) for each in held)
                        assert size <= ring_bytes or len(held) == 1
                        assert held[-1] == chunk

        clock.run(scene())
