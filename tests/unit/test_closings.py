"""Model turns that end: behind their last deltas, and one after the other."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from agents import Agent

from longrun.execution.replay.closings import Closings
from tests.scripted_model import Asked, ScriptedModel, begun, closed, completed, delta, opened
from tests.unit import runs

MANY = 20


async def saying(_: Asked) -> AsyncIterator[Any]:
    """Its last delta, and all that ends it, come in one moment."""
    for event in (*begun(), *opened()):
        yield event
    for word in ("one ", "two ", "three"):
        for _ in range(10):
            await asyncio.sleep(0)
        yield delta(word)
    *closing, done = closed("one two three")
    for event in (*closing, done, completed([done.item])):
        yield event


async def test_a_last_delta_is_committed_before_the_end_of_its_turn() -> None:
    commits = await runs.run(
        Agent(name="saying", model=ScriptedModel(saying)), commits=runs.Commits(slowness=1)
    )
    [entry] = [each for each in commits.entries if any(b'"three"' in e for e in each.events[-1:])]
    assert b'output_text.delta"' in entry.events[-1]
    assert [*entry.steps, *entry.items, entry.ending] == [None]
    runs.check(commits)


async def test_the_loop_turns_between_two_that_end() -> None:
    closings, turns, ended = Closings(), 0, []

    async def others() -> None:
        nonlocal turns
        while len(ended) < MANY:
            turns += 1
            await asyncio.sleep(0)

    async def end(number: int) -> None:
        await closings.turn()
        ended.append((number, turns))

    async with asyncio.TaskGroup() as group:
        for number in range(MANY):
            group.create_task(end(number))
        group.create_task(others())
    assert [number for number, _ in ended] == list(range(MANY))
    assert len({turn for _, turn in ended}) == MANY


async def test_one_that_is_stopped_keeps_nobody_waiting() -> None:
    closings = Closings()
    tasks = [asyncio.create_task(closings.turn()) for _ in range(MANY)]
    await asyncio.sleep(0)
    for task in tasks[:-1]:
        task.cancel()
    async with asyncio.timeout(10):
        await tasks[-1]
        await closings.turn()
    await asyncio.gather(*tasks, return_exceptions=True)
