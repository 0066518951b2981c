"""Runs that start at the same time: first events come before them, streams in between."""

import asyncio

import pytest

from longrun.execution import host
from longrun.execution.host import Handle
from longrun.execution.starts import LONGEST, PATIENCE, Starts, Turn
from tests.storing import request_for
from tests.unit import clock

MANY = 20


class Run:
    """Waits for its turn, and asks its model when it is told to."""

    def __init__(self, starts: Starts) -> None:
        self.turn: Turn | None = None
        self.began: float | None = None
        self.may_ask = asyncio.Event()
        self.task = asyncio.create_task(self._run(starts))

    async def _run(self, starts: Starts) -> None:
        with starts.one() as self.turn:
            await self.turn.begin()
            self.began = asyncio.get_running_loop().time()
            await self.may_ask.wait()
            self.turn.over()
            await asyncio.Event().wait()

    async def end(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def begun(runs: list[Run]) -> list[bool]:
    return [run.began is not None for run in runs]


async def test_the_loop_turns_between_two_starts() -> None:
    starts, turns, began = Starts(), 0, []

    async def streams() -> None:
        nonlocal turns
        while len(began) < MANY:
            turns += 1
            await asyncio.sleep(0)

    async def start() -> None:
        with starts.one() as turn:
            await turn.begin()
            began.append(turns)

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(streams())
        for _ in range(MANY):
            group.create_task(start())
    assert len(set(began)) == MANY
    assert began == sorted(began)


def test_the_next_starts_when_one_has_asked_its_model_or_is_over() -> None:
    async def check() -> None:
        starts = Starts()
        runs = [Run(starts) for _ in range(6)]
        await settled()
        assert begun(runs) == [True, False, False, False, False, False]
        runs[0].may_ask.set()
        await settled()
        assert begun(runs) == [True, True, False, False, False, False]
        # One that has not begun is given up, then one that has.
        await runs[2].end()
        await runs[1].end()
        await settled()
        assert begun(runs) == [True, True, False, True, False, False]
        assert asyncio.get_running_loop().time() == 0
        # One waits for something that the application does: it makes way.
        await asyncio.sleep(LONGEST)
        await settled()
        assert begun(runs) == [True, True, False, True, True, False]
        # What makes way twice lets one in.
        runs[3].may_ask.set()
        await settled()
        assert begun(runs) == [True, True, False, True, True, False]
        for run in runs:
            await run.end()

    clock.run(check())


def test_runs_start_after_the_first_events_of_others_or_in_a_moment() -> None:
    async def check() -> None:
        starts, loop = Starts(), asyncio.get_running_loop()
        with starts.coming():
            with starts.coming():
                run = Run(starts)
                await asyncio.sleep(PATIENCE / 4)
                assert run.began is None
            await asyncio.sleep(PATIENCE / 4)
            assert run.began is None
        await settled()
        assert run.began == loop.time() < PATIENCE
        await run.end()
        # Some are always on their way: nobody waits longer than that, all together.
        since = loop.time()
        with starts.coming():
            runs = [Run(starts) for _ in range(3)]
            for run in runs:
                run.may_ask.set()
            await asyncio.sleep(PATIENCE)
            await settled()
            assert [run.began for run in runs] == [since + PATIENCE] * 3
        for run in runs:
            await run.end()

    clock.run(check())


async def test_a_run_waits_for_its_answer_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[Handle] = []

    async def execute(handle: Handle) -> None:
        await handle.until_answered()
        waited.append(handle)

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        monkeypatch.setattr(host, "ANSWER_WAIT", 60)
        answered = Handle(request_for("resp_1"), 1, execute, group)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert waited == []
        answered.answered.set()
        await answered.task
        monkeypatch.setattr(host, "ANSWER_WAIT", 0.01)
        await Handle(request_for("resp_2"), 1, execute, group).task
    assert len(waited) == 2
