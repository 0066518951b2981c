"""Runs that start at the same time: streams come in between."""

import asyncio

import pytest

from longrun.execution import host
from longrun.execution.host import Handle
from longrun.execution.starts import Starts
from tests.storing import request_for

MANY = 20


async def test_the_loop_turns_between_two_starts() -> None:
    starts, turns, begun = Starts(), 0, []

    async def streams() -> None:
        nonlocal turns
        while len(begun) < MANY:
            turns += 1
            await asyncio.sleep(0)

    async def start() -> None:
        await starts.turn()
        begun.append(turns)

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(streams())
        for _ in range(MANY):
            group.create_task(start())
    assert len(set(begun)) == MANY
    assert begun == sorted(begun)


async def test_one_that_is_given_up_keeps_nobody_waiting() -> None:
    starts = Starts()
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        tasks = [group.create_task(starts.turn()) for _ in range(4)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        tasks[2].cancel()
    assert [task.cancelled() for task in tasks] == [True, False, True, False]


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
