"""What user code raises that is no Exception: the run fails, in words, and nothing else does."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from agents import (
    Agent,
    AgentHooks,
    GuardrailFunctionOutput,
    InputGuardrail,
    OutputGuardrail,
    SQLiteSession,
    function_tool,
    handoff,
)

from longrun.execution.contained import Escaped, contain_tasks
from longrun.execution.current import Current, set_current
from tests.unit import runs
from tests.unit.runs import Commits, Played
from tests.unit.streams import call, message, turn

RAISED: dict[str, Callable[[], BaseException]] = {
    "SystemExit": lambda: SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt,
    "GeneratorExit": GeneratorExit,
    "BaseExceptionGroup": lambda: BaseExceptionGroup("all", [SystemExit(1)]),
    "CancelledError": asyncio.CancelledError,
}


class Raises:
    """Agents that raise something at one place."""

    def __init__(self, make: Callable[[], BaseException]) -> None:
        self.make = make
        self.calls = 0

    def fail(self) -> Any:
        self.calls += 1
        raise self.make()

    def tool(self) -> Agent[Any]:
        @function_tool(failure_error_function=None)
        async def breaks() -> str:
            """Break."""
            await asyncio.sleep(0)
            return str(self.fail())

        return self._calling(breaks)

    def tool_in_thread(self) -> Agent[Any]:
        @function_tool(failure_error_function=None)
        def breaks() -> str:
            """Break."""
            return str(self.fail())

        return self._calling(breaks)

    def tool_with_timeout(self) -> Agent[Any]:
        @function_tool(failure_error_function=None, timeout=5, timeout_behavior="raise_exception")
        async def breaks() -> str:
            """Break."""
            return str(self.fail())

        return self._calling(breaks)

    def _calling(self, tool: Any) -> Agent[Any]:
        model = Played(turn(call("breaks", "{}")), turn(message("never")))
        return Agent(name="agent", model=model, tools=[tool])

    def handing_off(self) -> Agent[Any]:
        second = Agent(name="second", model=Played(turn(message("never"))))
        to_second = handoff(second, on_handoff=lambda context: self.fail())
        model = Played(turn(call("transfer_to_second", "{}")))
        return Agent(name="agent", model=model, handoffs=[to_second])

    def model(self) -> Agent[Any]:
        return Agent(name="agent", model=_Breaking(self.fail))

    def agent_tool(self) -> Agent[Any]:
        inner = Agent(name="inner", model=_Breaking(self.fail))
        return Agent(
            name="agent",
            model=Played(turn(call("breaks", '{"input": "x"}')), turn(message("never"))),
            tools=[inner.as_tool("breaks", "break", failure_error_function=None)],
        )

    def instructions(self) -> Agent[Any]:
        return self._saying(instructions=lambda context, agent: self.fail())

    def before_agent(self) -> Agent[Any]:
        return self._saying(hooks=_Hooks("on_start", self.fail))

    def after_agent(self) -> Agent[Any]:
        return self._saying(hooks=_Hooks("on_end", self.fail))

    def before_tool(self) -> Agent[Any]:
        @function_tool(failure_error_function=None)
        async def breaks() -> str:
            """Do nothing."""
            return "never"

        agent = self._calling(breaks)
        agent.hooks = _Hooks("on_tool_start", self.fail)
        return agent

    def input_guardrail(self) -> Agent[Any]:
        async def judge(context: Any, agent: Any, asked: Any) -> GuardrailFunctionOutput:
            await asyncio.sleep(0)
            self.fail()
            return GuardrailFunctionOutput(None, tripwire_triggered=False)

        return self._saying(input_guardrails=[InputGuardrail(judge)])

    def output_guardrail(self) -> Agent[Any]:
        async def judge(context: Any, agent: Any, said: Any) -> GuardrailFunctionOutput:
            await asyncio.sleep(0)
            self.fail()
            return GuardrailFunctionOutput(None, tripwire_triggered=False)

        return self._saying(output_guardrails=[OutputGuardrail(judge)])

    def _saying(self, **more: Any) -> Agent[Any]:
        return Agent(name="agent", model=Played(turn(message("unchecked"))), **more)


class _Breaking(Played):
    """Says a word, and breaks; asked for the whole, at once."""

    def __init__(self, fail: Callable[[], Any]) -> None:
        super().__init__()
        self.fail = fail

    async def get_response(self, *args: Any, **more: Any) -> Any:
        return self.fail()

    async def stream_response(self, *args: Any, **more: Any) -> AsyncIterator[Any]:
        for event in turn(message("half"))[:4]:
            yield runs.raw(event)
        self.fail()


class _Hooks(AgentHooks[Any]):
    def __init__(self, name: str, fail: Callable[[], Any]) -> None:
        async def hook(*args: Any) -> None:
            fail()

        setattr(self, name, hook)


class BreakingSession(SQLiteSession):
    def __init__(self, fail: Callable[[], Any]) -> None:
        super().__init__("one")
        self.fail = fail

    async def get_items(self, limit: int | None = None) -> list[Any]:
        found: list[Any] = self.fail()
        return found


PLACES = [name for name in vars(Raises) if not name.startswith("_") and name != "fail"]


def status(commits: Commits) -> str:
    [ending] = [entry.ending for entry in commits.entries if entry.ending]
    return ending.status


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("raised", RAISED)
async def test_it_fails_its_run(raised: str, place: str, caplog: pytest.LogCaptureFixture) -> None:
    raises = Raises(RAISED[raised])
    async with asyncio.timeout(20):
        commits = await runs.run(getattr(raises, place)())
    assert raises.calls == 1
    assert status(commits) == "failed"
    runs.check(commits)
    assert raised in caplog.text
    assert "resp_" in caplog.text


@pytest.mark.parametrize("raised", RAISED)
async def test_in_a_session_too(raised: str) -> None:
    raises = Raises(RAISED[raised])
    session = BreakingSession(raises.fail)
    async with asyncio.timeout(20):
        commits = await runs.run(raises._saying(), session=lambda current: session)
    session.close()
    assert status(commits) == "failed"


@pytest.mark.parametrize("raised", RAISED)
async def test_in_a_task_of_its_own(raised: str) -> None:
    """Nobody waits for the task: the run need not fail, but the loop lives."""
    raises = Raises(RAISED[raised])

    @function_tool
    async def starts() -> str:
        """Start a task, and see what becomes of it."""

        async def work() -> None:
            await asyncio.sleep(0)
            raises.fail()

        task = asyncio.create_task(work())
        await asyncio.wait([task])
        return "cancelled" if task.cancelled() else type(task.exception()).__name__

    model = Played(turn(call("starts", "{}")), turn(message("done")))
    commits = await runs.run(Agent(name="agent", model=model, tools=[starts]))
    assert status(commits) == "completed"
    ended = "cancelled" if raised == "CancelledError" else Escaped.__name__
    assert ended in commits.committed_items[0][1]


@pytest.mark.parametrize("itself", [False, True])
async def test_a_tool_that_ends_by_its_own_cancelled_error_is_recorded_and_told(
    itself: bool,
) -> None:
    """As the SDK has it: its failure function makes an output of it. It does not run again."""
    calls: list[int] = []

    @function_tool
    async def breaks() -> str:
        """Break."""
        calls.append(1)
        if not itself:
            raise asyncio.CancelledError("of its own")
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(1)
        return "never"

    def made() -> Agent[Any]:
        model = Played(turn(call("breaks", "{}")), turn(message("told")))
        return Agent(name="agent", model=model, tools=[breaks])

    asked = runs.request()
    commits = await runs.run(made(), asked)
    assert status(commits) == "completed"
    outputs = [item for _, item in commits.committed_items if "An error occurred" in item]
    assert len(outputs) == 1
    kinds = [{step.kind for step in entry.steps} for entry in commits.entries]
    again = commits.died_after(kinds.index({"tool"}) + 1)
    replaying = Agent(name="agent", model=Played(turn(message("told"))), tools=[breaks])
    await runs.take_over(replaying, asked, again)
    assert status(again) == "completed"
    assert [item for _, item in again.committed_items if "An error occurred" in item]
    assert calls == [1]


async def test_a_task_that_is_cancelled_before_it_starts_leaves_no_warning() -> None:
    contain_tasks()
    set_current(Current("resp_1", 1, ""))
    task = asyncio.create_task(asyncio.sleep(1))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_tasks_outside_of_runs_are_as_they_were() -> None:
    contain_tasks()
    contain_tasks()
    work = asyncio.sleep(0)
    task = asyncio.create_task(work, name="mine")
    assert (task.get_coro(), task.get_name()) == (work, "mine")
    await task


def test_the_log_names_the_tool(caplog: pytest.LogCaptureFixture) -> None:
    raises = Raises(RAISED["SystemExit"])
    with caplog.at_level(logging.ERROR, "longrun.execution.contained"):
        asyncio.run(runs.run(raises.tool()))
    [line] = [r.getMessage() for r in caplog.records if r.name.endswith("contained")]
    assert line.startswith("tool 'breaks' of resp_")
    assert line.endswith("raised SystemExit")
