"""Runs whose log is behind, or is no longer theirs."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from agents import Agent, ModelSettings, function_tool

from longrun.errors import Fenced
from longrun.store.run_log import RunLog
from tests.unit import runs
from tests.unit.runs import Commits, Played
from tests.unit.streams import call, message, request, turn

AWAY = 1.4
"""Seconds for which Postgres is away."""

TIMEOUT = 1.0
"""Seconds that a model may take; it takes none."""


@dataclass
class Away(Commits):
    """Postgres is away for a while, from the first thing on that a run writes, or the first step
    of a run inside it."""

    run_buffer_bytes: int = 200
    from_inside: bool = False
    waiting: list[RunLog] = field(default_factory=list)
    since: float | None = None

    def wake(self, run: RunLog) -> None:
        loop = asyncio.get_running_loop()
        steps = run._entries[-1].steps
        if self.since is None and (not self.from_inside or any(step.scope for step in steps)):
            self.since = loop.time()
            loop.call_later(AWAY, self.back)
        if self.since is None or loop.time() - self.since >= AWAY:
            super().wake(run)
        else:
            self.waiting.append(run)

    def back(self) -> None:
        for run in self.waiting:
            super().wake(run)


def timed(*turns: Any, **more: Any) -> Agent[Any]:
    settings = ModelSettings(timeout=TIMEOUT)
    return Agent(name="agent", model=Played(*turns), model_settings=settings, **more)


def status(commits: Commits) -> str:
    [ending] = [entry.ending for entry in commits.entries if entry.ending]
    return ending.status


LONG = turn(message(*["a word, and another one " * 10] * 20))


async def test_the_time_in_which_postgres_is_away_is_not_the_models() -> None:
    commits = await runs.run(timed(LONG), commits=Away())
    assert status(commits) == "completed"


@pytest.mark.parametrize("streamed", [True, False])
async def test_nor_that_of_an_agent_as_a_tool(streamed: bool) -> None:
    async def on_stream(event: Any) -> None:
        pass

    inner = timed(LONG)
    inner.name = "inner"
    tool = inner.as_tool("ask", "ask", on_stream=on_stream if streamed else None)
    outer = Agent(
        name="agent",
        model=Played(turn(call("ask", '{"input": "x"}')), turn(message("done"))),
        tools=[tool],
    )
    commits = await runs.run(outer, commits=Away(from_inside=True))
    assert status(commits) == "completed"
    assert "An error occurred" not in str(commits.committed_items)


class Slow(Played):
    async def get_response(self, *args: Any, **more: Any) -> Any:
        await asyncio.sleep(30)

    async def stream_response(self, *args: Any, **more: Any) -> AsyncIterator[Any]:
        yield runs.raw(LONG[0])
        await asyncio.sleep(30)


async def test_a_model_that_takes_too_long_is_stopped(caplog: pytest.LogCaptureFixture) -> None:
    agent = Agent(name="agent", model=Slow(), model_settings=ModelSettings(timeout=0.05))
    async with asyncio.timeout(20):
        commits = await runs.run(agent)
    assert status(commits) == "failed"
    assert "Model call timed out after 0.05 seconds" in caplog.text


async def test_an_agent_as_a_tool_that_takes_too_long_is_stopped() -> None:
    inner = Agent(name="inner", model=Slow(), model_settings=ModelSettings(timeout=0.05))
    tool = inner.as_tool("ask", "ask", failure_error_function=lambda context, error: str(error))
    outer = Agent(
        name="agent",
        model=Played(turn(call("ask", '{"input": "x"}')), turn(message("done"))),
        tools=[tool],
    )
    async with asyncio.timeout(20):
        commits = await runs.run(outer)
    assert "timed out after 0.05 seconds" in str(commits.committed_items)


# -- what an attempt does before it knows that the response is its own ------------------------


@dataclass
class TakenByAnother(Commits):
    """Postgres refuses, after a moment, whatever a run writes: a later attempt has it."""

    def wake(self, run: RunLog) -> None:
        asyncio.get_running_loop().call_later(0.05, run.lose, Fenced("taken"))


async def test_a_replay_begins_nothing_before_it_knows_that_it_holds_the_response() -> None:
    """The attempt that died had a turn, but not the tool that it called: that would run at once."""
    effects: list[str] = []

    @function_tool
    async def pay() -> str:
        """Have an effect."""
        effects.append("tool")
        return "paid"

    def paying(*turns: Any) -> Agent[Any]:
        return Agent(name="agent", model=Played(*turns), tools=[pay])

    asked = request()
    first = await runs.run(paying(turn(call("pay", "{}")), turn(message("done"))), asked)
    kinds = [{step.kind for step in entry.steps} for entry in first.entries]
    left = first.died_after(kinds.index({"model"}) + 1)
    taken = TakenByAnother(entries=left.entries)
    effects.clear()
    async with asyncio.timeout(20):
        await runs.take_over(paying(turn(message("never"))), asked, taken)
    assert effects == []
    await runs.take_over(paying(turn(message("done"))), asked, left)
    assert effects == ["tool"]
    assert status(left) == "completed"
