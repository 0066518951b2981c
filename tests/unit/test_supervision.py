"""Background parts, on a clock that jumps (clock.py)."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from itertools import pairwise

import pytest

from longrun import metrics
from longrun.errors import Unavailable
from longrun.supervision import FIRST_BACKOFF, LONGEST_BACKOFF, Supervisor, also_on, finished_before
from tests.unit import clock

Run = Callable[[asyncio.Event], Awaitable[None]]


async def _waits(stop: asyncio.Event) -> None:
    await stop.wait()


def restarts(name: str) -> float:
    return metrics.part_restarts.labels(name)._value.get()


def supervised(run: Run, watch: Callable[[Supervisor], Awaitable[None]]) -> list[float]:
    """Supervise a part beside one that only waits, while `watch` runs; then stop both.

    Returns:
        How often each was started again, as it was counted.
    """
    before = [restarts("part"), restarts("other")]

    async def scene() -> None:
        supervisor, stop = Supervisor(), asyncio.Event()
        supervisor.add("part", run)
        supervisor.add("other", _waits)
        running = asyncio.create_task(supervisor.run(stop))
        await watch(supervisor)
        stop.set()
        await running

    clock.run(scene())
    return [restarts("part") - before[0], restarts("other") - before[1]]


def now() -> float:
    return asyncio.get_running_loop().time()


class TestRestarts:
    @pytest.mark.parametrize("how", ["raises", "raises ours", "ends", "is cancelled inside"])
    def test_a_part_that_fails_is_started_again(self, how: str) -> None:
        starts: list[float] = []

        async def part(stop: asyncio.Event) -> None:
            starts.append(now())
            if len(starts) == 3:
                await stop.wait()
            elif how == "raises":
                raise ZeroDivisionError
            elif how == "raises ours":
                raise Unavailable("away")
            elif how == "is cancelled inside":
                raise TimeoutError

        async def watch(supervisor: Supervisor) -> None:
            await asyncio.sleep(60)
            assert len(starts) == 3

        assert supervised(part, watch) == [2, 0]

    def test_each_time_later_and_never_too_late(self) -> None:
        starts: list[float] = []

        async def part(stop: asyncio.Event) -> None:
            starts.append(now())
            raise Unavailable("away")

        async def watch(supervisor: Supervisor) -> None:
            await asyncio.sleep(120)

        supervised(part, watch)
        waits = [later - earlier for earlier, later in pairwise(starts)]
        backoff = FIRST_BACKOFF
        for wait in waits:
            assert 0.5 * backoff <= wait <= 1.5 * backoff
            backoff = min(2 * backoff, LONGEST_BACKOFF)
        assert backoff == LONGEST_BACKOFF
        assert len(set(waits[-10:])) == 10, "replicas must not come back all at once"

    def test_one_that_had_run_well_is_back_soon(self) -> None:
        starts: list[float] = []
        ends: list[float] = []

        async def part(stop: asyncio.Event) -> None:
            starts.append(now())
            await asyncio.sleep(LONGEST_BACKOFF + 1 if len(starts) > 8 else 0)
            ends.append(now())
            raise Unavailable("away")

        async def watch(supervisor: Supervisor) -> None:
            await asyncio.sleep(100)

        supervised(part, watch)
        last_wait = starts[-1] - ends[len(starts) - 2]
        assert last_wait <= 1.5 * FIRST_BACKOFF

    @pytest.mark.parametrize("of", ["itself", "a task"])
    def test_what_a_part_said_is_logged(self, of: str, caplog: pytest.LogCaptureFixture) -> None:
        """That Postgres was away was an error with a traceback where a task of the part said it."""
        said: list[Exception] = [Unavailable("the database is away"), ZeroDivisionError("a bug")]
        if of == "a task":
            away, bugs = said
            said = [ExceptionGroup("", [ExceptionGroup("", [away])])]
            said += [ExceptionGroup("", [away, bugs])]
        failures = iter(said)

        async def part(stop: asyncio.Event) -> None:
            for failure in failures:
                raise failure
            await stop.wait()

        async def watch(supervisor: Supervisor) -> None:
            await asyncio.sleep(10)

        with caplog.at_level(logging.WARNING, logger="longrun.parts"):
            supervised(part, watch)
        ours, bug = caplog.records
        assert (ours.levelname, bug.levelname) == ("WARNING", "ERROR")
        assert "the database is away" in ours.getMessage()
        assert ours.exc_info is None
        assert bug.exc_info is not None

    def test_restarts_are_counted(self) -> None:
        starts = 0

        async def part(stop: asyncio.Event) -> None:
            nonlocal starts
            starts += 1
            raise Unavailable("away")

        async def watch(supervisor: Supervisor) -> None:
            await asyncio.sleep(1)

        counted, other = supervised(part, watch)
        assert counted == starts > 1
        assert other == 0


class TestFailing:
    def test_from_a_failure_until_it_runs_again(self) -> None:
        working = False

        async def part(stop: asyncio.Event) -> None:
            if not working:
                raise Unavailable("away")
            await stop.wait()

        async def watch(supervisor: Supervisor) -> None:
            nonlocal working
            assert supervisor.failing() == []
            for _ in range(50):
                await asyncio.sleep(0.7)
                assert supervisor.failing() == ["part"]
            working = True
            await asyncio.sleep(4 * LONGEST_BACKOFF)
            assert supervisor.failing() == []

        supervised(part, watch)

    def test_a_part_that_only_began_again_is_still_failing(self) -> None:
        async def part(stop: asyncio.Event) -> None:
            await asyncio.sleep(FIRST_BACKOFF)
            raise Unavailable("away")

        async def watch(supervisor: Supervisor) -> None:
            await asyncio.sleep(2 * FIRST_BACKOFF)
            for _ in range(100):
                assert supervisor.failing() == ["part"]
                await asyncio.sleep(0.1)

        supervised(part, watch)


class TestStop:
    def test_stops_all_parts(self) -> None:
        stopped: list[str] = []

        async def part(stop: asyncio.Event) -> None:
            await stop.wait()
            await asyncio.sleep(3)
            stopped.append("part")

        async def watch(supervisor: Supervisor) -> None:
            await asyncio.sleep(1)

        assert supervised(part, watch) == [0, 0]
        assert stopped == ["part"]

    def test_does_not_wait_for_a_backoff(self) -> None:
        async def part(stop: asyncio.Event) -> None:
            raise Unavailable("away")

        times: list[float] = []

        async def watch(supervisor: Supervisor) -> None:
            await asyncio.sleep(61.03)
            times.append(now())

        async def scene() -> float:
            supervisor, stop = Supervisor(), asyncio.Event()
            supervisor.add("part", part)
            running = asyncio.create_task(supervisor.run(stop))
            await watch(supervisor)
            stop.set()
            await running
            return now()

        assert clock.run(scene()) == times[0]

    def test_before_the_start_nothing_runs(self) -> None:
        async def scene() -> int:
            starts = 0

            async def part(stop: asyncio.Event) -> None:
                nonlocal starts
                starts += 1

            supervisor, stop = Supervisor(), asyncio.Event()
            supervisor.add("part", part)
            stop.set()
            await supervisor.run(stop)
            return starts

        assert clock.run(scene()) == 0

    def test_a_part_that_fails_while_it_stops_is_not_started_again(self) -> None:
        starts = 0

        async def part(stop: asyncio.Event) -> None:
            nonlocal starts
            starts += 1
            await stop.wait()
            raise Unavailable("away")

        async def watch(supervisor: Supervisor) -> None:
            await asyncio.sleep(1)

        counted, _ = supervised(part, watch)
        assert counted <= 1
        assert starts == 1

    def test_cancelling_the_supervisor_cancels_its_parts(self) -> None:
        async def scene() -> bool:
            cancelled = False

            async def part(stop: asyncio.Event) -> None:
                nonlocal cancelled
                try:
                    await stop.wait()
                except asyncio.CancelledError:
                    cancelled = True
                    raise

            supervisor = Supervisor()
            supervisor.add("part", part)
            running = asyncio.create_task(supervisor.run(asyncio.Event()))
            await asyncio.sleep(1)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            return cancelled

        assert clock.run(scene())


class TestAlsoOn:
    async def test_calls_once_when_stop_is_set(self) -> None:
        calls: list[None] = []
        stop = asyncio.Event()
        with also_on(stop, lambda: calls.append(None)):
            await asyncio.sleep(0)
            assert not calls
            stop.set()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert len(calls) == 1
        assert len(calls) == 1

    async def test_calls_at_once_when_it_is_set_already(self) -> None:
        called = asyncio.Event()
        stop = asyncio.Event()
        stop.set()
        with also_on(stop, called.set):
            await asyncio.wait_for(called.wait(), 5)


class TestWorkThatMayBeLeft:
    async def test_it_is_waited_for_until_stop_is_set(self) -> None:
        stop, ended = asyncio.Event(), asyncio.Event()

        async def stubborn() -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await ended.wait()
                raise

        async def short() -> None:
            await asyncio.sleep(0)

        async def broken() -> None:
            raise Unavailable("away")

        assert await finished_before(stop, short())
        with pytest.raises(Unavailable):
            await finished_before(stop, broken())
        waiting = asyncio.create_task(finished_before(stop, stubborn()))
        await asyncio.sleep(0)
        stop.set()
        assert not await waiting, "though the work has not ended"
        ended.set()
        await asyncio.sleep(0)
