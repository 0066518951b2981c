"""The host: what is live, what has room, and how a drain ends it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from longrun.errors import Unavailable
from longrun.execution import host as module
from longrun.execution.host import Handle, Host
from tests.reading import eventually
from tests.unit.streams import request


class Runs:
    """Attempts that live until they are told to end, and note how they did."""

    def __init__(self) -> None:
        self.end = asyncio.Event()
        self.ended: list[str] = []

    async def execute(self, handle: Handle) -> None:
        handle.prepared.set_result(None)
        try:
            await self.end.wait()
            self.ended.append("by itself")
        except asyncio.CancelledError:
            self.ended.append("left" if handle.left else "abandoned")
            raise

    async def at_a_boundary(self, handle: Handle) -> None:
        """Leaves as soon as it may."""
        while not handle.leaving:
            await asyncio.sleep(0)
        self.ended.append("at a boundary")


@pytest.fixture
def runs() -> Runs:
    return Runs()


@contextlib.asynccontextmanager
async def hosting(*, max_runs: int = 3, drain_seconds: float = 0.0) -> AsyncIterator[Host]:
    """A host, which is drained at the end of the block."""
    made = Host(max_runs, drain_seconds)
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(made.run(stop))
        while not made.hosting:
            await asyncio.sleep(0)
        try:
            yield made
        finally:
            stop.set()


async def settled() -> None:
    """Let all tasks come to where they wait."""
    for _ in range(10):
        await asyncio.sleep(0)


class TestRoom:
    async def test_a_place_is_taken_at_once_and_freed_at_the_end(self, runs: Runs) -> None:
        async with hosting(max_runs=2) as host:
            handle = host.begin(request(), 1, runs.execute)
            assert (host.room, host.idle) == (1, False)
            assert host.attempts == {handle.response_id: 1}
            assert not host.slot_freed.is_set()
            runs.end.set()
            await host.slot_freed.wait()
            assert (host.room, host.idle) == (2, True)

    async def test_beside_one_that_is_alone_there_is_none(self, runs: Runs) -> None:
        async with hosting() as host:
            with host.reserved():
                assert host.room == 0
                host.begin(request(), 1, runs.execute, alone=True)
            assert host.room == 0
            runs.end.set()
            await host.slot_freed.wait()
            assert host.room == 3

    async def test_what_is_alone_leaves_when_it_has_got_on(self, runs: Runs) -> None:
        async with hosting(drain_seconds=30) as host:
            ordinary = host.begin(request(), 1, runs.at_a_boundary)
            ordinary.got_on()
            assert not ordinary.leaving
            host.begin(request(), 1, runs.at_a_boundary, alone=True).got_on()
            await eventually(lambda: runs.ended == ["at a boundary"])
            ordinary.leave()

    async def test_room_is_made_at_step_boundaries_but_for_what_is_alone(self, runs: Runs) -> None:
        async with hosting(drain_seconds=30) as host:
            host.begin(request(), 1, runs.at_a_boundary)
            alone = host.begin(request(), 1, runs.execute, alone=True)
            await settled()
            host.make_room()
            await eventually(lambda: runs.ended == ["at a boundary"])
            assert not alone.leaving
            runs.end.set()

    async def test_a_reservation_that_was_not_used_ends(self) -> None:
        async with hosting() as host:
            with host.reserved():
                pass
            assert host.room == 3

    async def test_none_before_it_hosts_and_after_it_stops(self, runs: Runs) -> None:
        assert Host(3, 0.0).room == 0
        async with hosting() as host:
            pass
        assert host.room == 0
        with pytest.raises(Unavailable, match="stopping"):
            host.begin(request(), 1, runs.execute)
        with pytest.raises(Unavailable, match="stopping"):
            host.spawn(asyncio.sleep(0))

    async def test_what_fails_takes_nothing_along(self, runs: Runs) -> None:
        async def fails(handle: Handle) -> None:
            raise RuntimeError("no")

        async with hosting() as host:
            broken = host.begin(request(), 1, fails)
            other = host.begin(request(), 1, runs.execute)
            await settled()
            assert list(host.attempts) == [other.response_id]
            assert broken.current.cancelled
            runs.end.set()
        assert runs.ended == ["by itself"]


class TestHandles:
    async def test_an_earlier_attempt_is_abandoned(self, runs: Runs) -> None:
        async with hosting() as host:
            handle = host.begin(request(), 2, runs.execute)
            await settled()
            host.abandon_earlier(handle.response_id, 2)
            assert not handle.abandoned
            host.abandon_earlier(handle.response_id, 3)
            assert handle.current.cancelled
            await settled()
            assert host.idle
        assert runs.ended == ["abandoned"]

    async def test_one_that_is_abandoned_before_it_began(self, runs: Runs) -> None:
        async with hosting() as host:
            handle = host.begin(request(), 1, runs.execute)
            handle.abandon()
            with pytest.raises(Unavailable):
                await handle.prepared
            assert host.idle

    async def test_a_handover_is_not_broken_off_by_a_second_stop(self) -> None:
        handed_over = asyncio.Event()

        async def leaves(handle: Handle) -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                handle.task.uncancel()
            await settled()
            handed_over.set()

        async with hosting() as host:
            handle = host.begin(request(), 1, leaves)
            await settled()
            handle.leave()
            await asyncio.sleep(0)
            handle.leave()
            handle.abandon()
            await handed_over.wait()

    async def test_its_successor_is_not_forgotten_with_it(self, runs: Runs) -> None:
        """The same response, taken over by the replica that had it."""
        async with hosting() as host:
            given = request()
            earlier = host.begin(given, 1, runs.execute)
            await settled()
            host.abandon_earlier(given.response_id, 2)
            host.begin(given, 2, runs.execute)
            await asyncio.wait([earlier.task])
            await settled()
            assert host.attempts == {given.response_id: 2}
            runs.end.set()


class TestDrain:
    async def test_runs_may_end(self, runs: Runs) -> None:
        async with hosting(drain_seconds=30) as host:
            host.begin(request(), 1, runs.execute)
            await settled()
            asyncio.get_running_loop().call_later(0.05, runs.end.set)
        assert runs.ended == ["by itself"]

    async def test_then_they_leave_at_a_boundary(self, runs: Runs) -> None:
        async with hosting(drain_seconds=2) as host:
            host.begin(request(), 1, runs.at_a_boundary)
        assert runs.ended == ["at a boundary"]

    async def test_or_wherever_they_are(self, runs: Runs) -> None:
        async with hosting() as host:
            host.begin(request(), 1, runs.execute)
            await settled()
        assert runs.ended == ["left"]

    async def test_what_is_being_created_is_waited_for(self, runs: Runs) -> None:
        """Its response may be in Postgres already: it is a run like any other."""
        created = asyncio.Event()

        async def creates(handle: Handle) -> None:
            await created.wait()
            await runs.execute(handle)

        async with hosting(drain_seconds=30) as host:
            handle = host.begin(request(), 1, creates)
            await settled()
            runs.end.set()
            asyncio.get_running_loop().call_later(0.05, created.set)
        assert handle.prepared.done()
        assert runs.ended == ["by itself"]

    async def test_who_waits_for_one_may_leave_and_others_are_told_at_once(self) -> None:
        created = asyncio.Event()

        async def creates(handle: Handle) -> None:
            await created.wait()
            handle.settle(Unavailable("away"))

        async with hosting() as host:
            handle = host.begin(request(), 1, creates)
            one, other = (asyncio.ensure_future(handle.until_prepared()) for _ in range(2))
            await settled()
            one.cancel()
            await settled()
            assert not handle.task.done()
            created.set()
            with pytest.raises(Unavailable, match="away"):
                await other
            with pytest.raises(Unavailable, match="away"):
                await handle.until_prepared()

    async def test_what_cannot_be_handed_over_is_dropped(
        self, runs: Runs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "LAST_WAIT", 0.05)

        async def hangs(handle: Handle) -> None:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            await asyncio.Event().wait()

        async with hosting() as host:
            handle = host.begin(request(), 1, hangs)
            await settled()
        assert handle.task.cancelled()

    async def test_a_host_that_is_cancelled_abandons_its_runs(self, runs: Runs) -> None:
        host = Host(3, 0.0)
        task = asyncio.create_task(host.run(asyncio.Event()))
        await settled()
        handle = host.begin(request(), 1, runs.execute)
        await settled()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert handle.abandoned
        assert runs.ended == ["abandoned"]
