"""Tools and the journal: what a tool can know, at most once, early outputs, handing over."""

import asyncio
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from agents import Agent, ComputerTool, function_tool

import longrun
from tests import postgres
from tests.crashing import (
    Crash,
    Served,
    asked,
    check_effects,
    check_log,
    crash,
    effects_of,
    finish,
    left_of,
    replica,
    resume_all,
)
from tests.journal_agents import actions, calling
from tests.journal_agents.models import agent, calls, says
from tests.journal_agents.tools import look
from tests.reading import eventually

SCHEMA = "journal_tools"
UNKNOWN = "outcome is unknown"


# -- what a tool can know ---------------------------------------------------------------------

KNOWN: dict[str, longrun.Current] = {}


@pytest.fixture(autouse=True)
def as_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls are shown with their call ids."""
    monkeypatch.setenv("LONGRUN_SERVER_TOOLS", "function_call")


@function_tool
async def ask_who(who: str) -> str:
    """Note who calls."""
    KNOWN[who] = longrun.current()
    return who


@function_tool
def ask_who_in_thread(who: str) -> str:
    """Note who calls, in a thread."""
    KNOWN[who] = longrun.current()
    return who


def knowing() -> Agent[Any]:
    inner = agent(
        "inner",
        [calls("ask_who", "call_1", who="nested")],
        [says("found")],
        tools=[ask_who],
    )

    def instructions(context: Any, agent: Any) -> str:
        KNOWN["instructions"] = longrun.current()
        return "be brief"

    return agent(
        "agent",
        [
            calls("ask_who", "call_1", who="tool"),
            calls("ask_who_in_thread", "call_2", who="thread"),
            calls("ask", "call_3", input="x"),
        ],
        [says("known")],
        instructions=instructions,
        tools=[ask_who, ask_who_in_thread, inner.as_tool("ask", "ask")],
    )


async def test_current_tells_the_run_and_the_call(database: postgres.Server) -> None:
    async with replica(Served(knowing), database.url, SCHEMA) as app:
        request = asked("go")
        await app.parts.admission.submit(request)
        await finish(app, [request.response_id])
    for known in KNOWN.values():
        assert (known.response_id, known.attempt) == (request.response_id, 1)
        assert known.cancelled, "the run has ended"
    id_ = request.response_id
    assert KNOWN["tool"].idempotency_key == f"{id_}/call_1"
    assert KNOWN["thread"].idempotency_key == f"{id_}/call_2"
    assert KNOWN["nested"].idempotency_key == f"{id_}/call_3/call_1"
    assert KNOWN["instructions"].idempotency_key is None


def test_current_outside_a_run_is_a_lookup_error() -> None:
    with pytest.raises(LookupError, match="outside a run"):
        longrun.current()


async def test_a_call_that_runs_again_has_the_same_key_and_a_new_attempt(
    database: postgres.Server, tmp_path: Path
) -> None:
    crashed = Crash(
        Served(calling.sequential),
        *(database.url, SCHEMA, tmp_path / "effects", tmp_path / "plan", "go", "first"),
        ["start tool /call_2"],
    )
    plan = crash(crashed)
    await resume_all(crashed, plan)
    [happened] = effects_of(crashed.effects).values()
    assert "first start tool /call_2" in happened
    assert "last start tool /call_2" in happened


# -- at most once -----------------------------------------------------------------------------


def paying_otherwise(kind: str) -> Agent[Any]:
    served = actions.acting(kind)
    longrun.at_most_once(served.tools[0])
    return served


@pytest.mark.parametrize("kind", ["function", "shell", "custom", "patch", "local_shell"])
async def test_at_most_once(kind: str, database: postgres.Server, tmp_path: Path) -> None:
    """Interrupted, it is not run again, and the model is told; finished, its result stands."""
    make = calling.paying
    call_id = "call_1"
    if kind != "function":
        make, call_id = functools.partial(paying_otherwise, kind), f"call_{kind}"
    points = [f"start tool /{call_id}", f"end tool /{call_id}", f"commit tool /{call_id}"]
    crashed = Crash(
        Served(make),
        *(database.url, SCHEMA, tmp_path / "effects", tmp_path / "plan", "go", "first"),
        [*points, "commit model agent::0", f"commit start /{call_id}"],
    )
    plan = crash(crashed)
    await resume_all(crashed, plan)
    told = []
    for response_id, happened in effects_of(crashed.effects).items():
        left = await left_of(database.url, SCHEMA, response_id)
        check_log(left)
        check_effects(happened)
        assert left.status == "completed"
        assert str(happened).count(f"start tool /{call_id}") <= 1
        output = next(
            item for item in left.output if item.get("call_id") == call_id and "output" in item
        )
        told.append(UNKNOWN in str(output["output"]))
    assert told == [True, True, False, False, True]


def test_at_most_once_refuses_what_it_cannot_do() -> None:
    with pytest.raises(TypeError, match="at_most_once"):
        longrun.at_most_once(ComputerTool(actions.Screen()))
    with pytest.raises(TypeError, match="at_most_once"):
        longrun.at_most_once(lambda: None)


# -- outputs as they come ---------------------------------------------------------------------


class Gate:
    """An agent with a slow tool, which ends when the test says so, and others beside it."""

    def __init__(self, beside: Callable[[], tuple[Any, dict[str, Any]]]) -> None:
        self.beside = beside
        self.open = asyncio.Event()
        self.started: list[int] = []

    def agent(self) -> Agent[Any]:
        @function_tool
        async def slow() -> str:
            """Wait for the test."""
            self.started.append(longrun.current().attempt)
            await self.open.wait()
            return "slow"

        tool, call = self.beside()
        return agent(
            "agent", [calls("slow", "call_slow"), call], [says("both")], tools=[slow, tool]
        )


def inner_agent() -> tuple[Any, dict[str, Any]]:
    inner = agent("inner", [calls("look", "call_1", what="a")], [says("found")], tools=[look])
    return inner.as_tool("ask", "ask"), calls("ask", "call_quick", input="x")


def quick() -> tuple[Any, dict[str, Any]]:
    return look, calls("look", "call_quick", what="quick", pause=0.05)


def action(kind: str) -> tuple[Any, dict[str, Any]]:
    tool, call = actions.tool_with_item(kind)
    return tool, {**call, "call_id": "call_quick"}


BESIDE = {
    "function": quick,
    "agent": inner_agent,
    **{
        kind: functools.partial(action, kind)
        for kind in ("shell", "custom", "patch", "computer", "local_shell")
    },
}


@pytest.mark.parametrize("kind", BESIDE)
async def test_a_result_goes_out_when_its_tool_ends_not_when_the_turn_does(
    kind: str, database: postgres.Server
) -> None:
    gate = Gate(BESIDE[kind])
    async with replica(Served(gate.agent), database.url, SCHEMA) as app:
        request = asked("go")
        await app.parts.admission.submit(request)

        async def shown() -> bool:
            left = await left_of(database.url, SCHEMA, request.response_id)
            answered = {item.get("call_id") for item in left.output if "output" in item}
            return answered == {"call_quick"}

        await eventually(shown)
        gate.open.set()
        await finish(app, [request.response_id])
    left = await left_of(database.url, SCHEMA, request.response_id)
    check_log(left)
    assert left.status == "completed"


# -- handing over -----------------------------------------------------------------------------


async def test_a_run_leaves_when_no_step_is_under_way(database: postgres.Server) -> None:
    """At a drain: the inner agent could leave before its tool, but the slow one is under way."""
    gate = Gate(inner_agent)
    served = Served(gate.agent)
    async with replica(served, database.url, SCHEMA) as first:
        request = asked("go")
        await first.parts.admission.submit(request)
        run = first.parts.host.find(request.response_id)
        assert run is not None
        while not gate.started:
            await asyncio.sleep(0)
        run.leaving = True
        await asyncio.sleep(0.1)
        assert not run.left
        gate.open.set()
        await eventually(lambda: run.left)
        await finish(first, [request.response_id])
    left = await left_of(database.url, SCHEMA, request.response_id)
    check_log(left)
    assert left.status == "completed"
    assert left.attempts[-1] > 1
    assert gate.started == [1]
