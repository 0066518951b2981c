"""The tail: every reader gets exactly the events after its cursor, whatever happens."""

import asyncio
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longrun.store.records import Chunk
from tests.unit import clock
from tests.unit.logs import (
    ID,
    How,
    MemoryLog,
    Read,
    Replica,
    chunks_of,
    hows,
    logs,
    read,
    readers,
    replica,
    rings,
    sizes,
    thorough,
    write,
)


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
        # Some come with the first page, which was read before they were registered.
        begin = data.draw(st.sets(st.integers(0, len(readers))), label="begun")

        async def come(
            number: int, replicas: list[Replica], cursor: int, at: float, pace: float, n: int
        ) -> Read:
            await asyncio.sleep(at)
            finished = log.committed[ID][-1].last == chunks[-1].last
            begun = log.page(ID, cursor, page_bytes) if number in begin else []
            if begun:
                await asyncio.sleep(pace)
            tail = replicas[n].tail(cursor, finished=finished, begun=begun)
            return await read(tail, pace=pace, takes=log.chance if number % 2 else None)

        async def scene() -> list[Read]:
            for chunk in chunks[:committed_before]:
                log.commit(ID, chunk)
            sizes_of = {"ring_bytes": ring_bytes, "page_bytes": page_bytes}
            async with replica(log, **sizes_of) as one, replica(log, **sizes_of) as two:
                async with asyncio.TaskGroup() as group:
                    reading = [
                        group.create_task(come(number, [one, two], *reader))
                        for number, reader in enumerate(readers)
                    ]
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

            async def page_unscoped(self, response_id: str, cursor: int, limit: int) -> list[Chunk]:
                found = self.page(response_id, cursor, limit)
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


class TestLostCommits:
    """A failover to a standby that did not have everything: the log is shorter than what was read,
    and ends before it."""

    @pytest.mark.parametrize("here", [True, False], ids=["here", "elsewhere"])
    @pytest.mark.parametrize("sizes", [[1, 9, 1], [1, 9, 9, 1]])
    def test_who_has_read_further_is_not_told_that_it_is_done(
        self, here: bool, sizes: list[int]
    ) -> None:
        async def scene() -> list[Read]:
            log, chunks = MemoryLog(), chunks_of(sizes)
            end = chunks_of([1, 1])[1]
            log.committed[ID] = chunks[:-1]
            async with replica(log) as one:
                reading = asyncio.create_task(read(one.tail()))
                await asyncio.sleep(1)
                log.committed[ID] = chunks[:1]
                if here:  # by a run on this replica, before the hub has looked
                    log.commit(ID, end)
                    one.hub.committed(ID, [end])
                one.hub.look_again()
                await asyncio.sleep(1)
                if not here:
                    log.commit(ID, end)
                seen = await reading
                return [seen, await read(one.tail(cursor=seen.cursor, finished=True))]

        before, again = clock.run(scene())
        assert (len(before.events), before.ended) == (sum(sizes[:-1]), False)
        assert (again.events, again.ended) == ([], True)


class TestSilence:
    def test_a_response_without_a_log_is_none(self) -> None:
        async def scene() -> Read:
            async with replica(MemoryLog()) as one:
                return await read(one.tail())

        seen = clock.run(scene())
        assert (seen.events, seen.ended) == ([], False)
