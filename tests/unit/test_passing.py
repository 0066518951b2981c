"""Turns that are passed over at a takeover leave what they leave when the SDK replays them.

Each run is taken over after every step, with turns passed over and, beside it, with none.
"""

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
from agents import (
    Agent,
    AgentHooks,
    GuardrailFunctionOutput,
    InputGuardrail,
    RunConfig,
    RunHooks,
    ToolGuardrailFunctionOutput,
    ToolInputGuardrail,
    ToolOutputText,
    ToolsToFinalOutputResult,
    function_tool,
    handoff,
)
from agents.tool_context import ToolContext

from longrun.execution.passing import Passing
from longrun.execution.replay import sdk
from longrun.protocol import RunRequest
from tests.unit import runs
from tests.unit.runs import Commits, Played
from tests.unit.streams import call, message, reasoning, request, turn

PARTED = turn(call("risky", "{}", call_id="risk"))


@function_tool
async def look(at: str) -> Any:
    """Look."""
    if at == "fault":
        raise ValueError("it is dark")
    found = {"long": "seen " * 200, "dict": {"a": [1, None]}, "none": None}
    return [ToolOutputText(text="rich")] if at == "rich" else found.get(at, f"saw {at}")


@function_tool(needs_approval=True)
async def risky() -> str:
    """Needs an approval: the run is parked, and with it all that it has come to."""
    return ""


def looked(*at: str, before: Any = (), id: str = "") -> Any:
    calls = [
        call("look", json.dumps({"at": each}), call_id=f"{id}{each}", index=n, id=f"fc_{id}{n}")
        for n, each in enumerate(at, len(before))
    ]
    return turn(*before, *calls)


TURNS = [
    looked("tea", before=[reasoning("hm", id="rs_a")], id="a"),
    looked("dict", "rich", before=[message("Two at once", id="msg_b")], id="b"),
    looked("fault", id="c"),
    looked("long", "none", id="d"),
    looked("tea", id="a"),
    looked("coffee", id="e"),
]
"""With a call id that comes again, so one is minted."""


def an_agent(turns: list[Any], **given: Any) -> Agent[Any]:
    return Agent(
        **{
            "name": "agent",
            "instructions": "Look.",
            "model": Played(*turns),
            "tools": [look, risky],
            **given,
        }
    )


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many turns were passed over, of each run that began behind some."""
    found: list[int] = []
    begin = sdk.begin_behind

    def noted(result: Any, agent: Any, done: Any) -> None:
        found.append(len(done))
        begin(result, agent, done)

    monkeypatch.setattr(sdk, "begin_behind", noted)
    return found


async def nothing(*_: Any) -> list[Any]:
    return []


async def continued(asked: RunRequest, died: Commits, **given: Any) -> tuple[Any, ...]:
    """What a takeover comes to: its log, items, steps, what its models were asked, and the SDK's
    whole state as it was parked."""
    done = len([s for s in died.committed_steps if (s.scope, s.kind) == ("", "model")])
    left = died.died_after(len(died.entries))
    agent = an_agent([*TURNS[done:], PARTED], **given)
    await runs.take_over(agent, asked, left)
    runs.check(left)
    [ending] = [entry.ending for entry in left.entries if entry.ending]
    assert ending.parked is not None
    usage = json.loads(ending.document)["usage"]
    played: Any = agent.model
    return (
        left.lines[:-1],
        left.committed_items,
        left.committed_steps,
        played.asked,
        json.loads(ending.parked.state),
        usage,
    )


async def test_wherever_its_replica_dies_it_goes_on_as_if_all_had_been_replayed(
    passed: list[int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "longrun.execution.replay.journal")
    asked = request()
    first = await runs.run(an_agent([*TURNS, PARTED]), asked)
    recorded = [n for n, entry in enumerate(first.entries, 1) if entry.steps]
    for commits in [*recorded, recorded[-2] - 1]:
        died = first.died_after(commits)
        with monkeypatch.context() as patch:
            patch.setattr(Passing, "over", nothing)
            replayed = await continued(asked, died)
        fast = await continued(asked, died)
        for one, other in zip(fast, replayed, strict=True):
            assert one == other, commits
    # All but the last recorded turn, of each run that had more than one.
    assert set(passed) == {1, 2, 3, 4, 5, 6}
    assert "differs" not in caplog.text


Told = list[str]


def hooks_of_tools(told: Told) -> dict[str, Any]:
    class Hooks(AgentHooks[Any]):
        async def on_tool_start(self, *_: Any) -> None:
            told.append("start")

    return {"hooks": Hooks()}


def hooks_of_turns(told: Told) -> dict[str, Any]:
    class Hooks(AgentHooks[Any]):
        async def on_llm_end(self, *_: Any) -> None:
            told.append("end")

    return {"hooks": Hooks()}


def instructions(told: Told) -> dict[str, Any]:
    def said(context: Any, agent: Any) -> str:
        told.append("asked")
        return "Look."

    return {"instructions": said}


def guardrail(told: Told) -> dict[str, Any]:
    async def guard(*_: Any) -> GuardrailFunctionOutput:
        told.append("guarded")
        return GuardrailFunctionOutput(None, False)

    return {"input_guardrails": [InputGuardrail(guard)]}


def behaviour(told: Told) -> dict[str, Any]:
    def decide(context: Any, results: Any) -> Any:
        told.append("decided")
        return ToolsToFinalOutputResult(is_final_output=False)

    return {"tool_use_behavior": decide}


def tool_guardrail(told: Told) -> dict[str, Any]:
    async def guard(data: Any) -> ToolGuardrailFunctionOutput:
        told.append("guarded")
        return ToolGuardrailFunctionOutput.allow()

    guarded = function_tool(look_again, name_override="look")
    guarded.tool_input_guardrails = [ToolInputGuardrail(guard)]
    return {"tools": [guarded, risky]}


def is_enabled(told: Told) -> dict[str, Any]:
    def enabled(*_: Any) -> bool:
        told.append("enabled")
        return True

    switched = function_tool(look_again, name_override="look", is_enabled=enabled)
    return {"tools": [switched, risky]}


def approval(told: Told) -> dict[str, Any]:
    async def needed(*_: Any) -> bool:
        told.append("asked")
        return False

    asks = function_tool(look_again, name_override="look", needs_approval=needed)
    return {"tools": [asks, risky]}


def handoffs(told: Told) -> dict[str, Any]:
    async def filtered(data: Any) -> Any:
        return data

    other = Agent(name="other", model=Played())
    told.append("no function")
    return {"handoffs": [handoff(other, input_filter=filtered)]}


async def look_again(at: str) -> Any:
    """Look."""
    return f"saw {at}"


ALONE: list[Callable[[Told], dict[str, Any]]] = [
    *(hooks_of_tools, hooks_of_turns, instructions, guardrail, behaviour),
    *(tool_guardrail, is_enabled, approval, handoffs),
]


@pytest.mark.parametrize("kind", ALONE, ids=lambda kind: kind.__name__)
async def test_where_something_of_the_applications_would_run_all_is_replayed(
    kind: Callable[[Told], dict[str, Any]], passed: list[int]
) -> None:
    asked = request()
    simple = [looked(str(n), id=str(n)) for n in range(4)]
    first_told: Told = []
    first = await runs.run(an_agent([*simple, turn(message("done"))], **kind(first_told)), asked)
    told: Told = []
    died = first.died_after(len(first.entries) - 1)
    done = len(died.turns)
    await runs.take_over(
        an_agent([*simple, turn(message("done"))][done:], **kind(told)), asked, died
    )
    runs.check(died)
    assert not passed
    assert told == first_told


class Heard(RunHooks[Any]):
    async def on_llm_start(self, *_: Any) -> None:
        pass


@pytest.mark.parametrize(
    "given",
    [
        {"run_config": RunConfig(call_model_input_filter=lambda data: data.model_data)},
        {"run_config": RunConfig(reasoning_item_id_policy="omit")},
        {"hooks": Heard()},
    ],
    ids=["filter", "ids", "hooks"],
)
async def test_nor_where_the_application_gives_it(given: Any, passed: list[int]) -> None:
    asked = request()
    turns = [looked("1", id="1"), looked("2", id="2"), turn(message("done"))]
    first = await runs.run(an_agent(turns), asked)
    died = first.died_after(len(first.entries) - 1)
    await runs.take_over(an_agent(turns[len(died.turns) :]), asked, died, **given)
    assert not passed


async def test_hooks_that_hear_no_turns_are_told_of_the_start_once(passed: list[int]) -> None:
    told: Told = []

    class Hooks(AgentHooks[Any]):
        async def on_start(self, *_: Any) -> None:
            told.append("start")

        async def on_end(self, *_: Any) -> None:
            told.append("end")

    asked = request()
    turns = [looked("1", id="1"), looked("2", id="2"), turn(message("done"))]
    first = await runs.run(an_agent(turns), asked)
    died = first.died_after(len(first.entries) - 1)
    await runs.take_over(an_agent(turns[len(died.turns) :], hooks=Hooks()), asked, died)
    assert passed
    assert told == ["start", "end"]


async def test_what_was_asked_differently_is_replayed_and_said(
    passed: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "longrun.execution.replay.journal")
    asked = request()
    turns = [looked("1", id="1"), looked("2", id="2"), turn(message("done"))]
    first = await runs.run(an_agent(turns), asked)
    died = first.died_after(len(first.entries) - 1)
    changed = an_agent(turns[len(died.turns) :], instructions="Look elsewhere.")
    await runs.take_over(changed, asked, died)
    runs.check(died)
    assert not passed
    assert "input_digest differs" in caplog.text


async def test_a_tool_is_told_what_the_turns_before_have_used(passed: list[int]) -> None:
    told: list[Any] = []

    @function_tool
    async def tell(context: ToolContext[Any]) -> str:
        """Tell."""
        told.append((context.usage.requests, context.usage.total_tokens, context.turn_input))
        return "told"

    asked = request()
    turns = [looked(str(n), id=str(n)) for n in range(3)]
    last = [turn(call("tell", "{}", call_id="tell")), turn(message("done"))]
    tools = [look, tell]
    first = await runs.run(an_agent([*turns, *last], tools=tools), asked)
    commits = next(n for n, e in enumerate(first.entries) if "tell" in str(e.steps))
    died = first.died_after(commits)
    await runs.take_over(an_agent(last, tools=tools), asked, died)
    assert passed == [2]
    assert told[0] == told[1]


async def test_the_limit_of_turns_counts_those_that_are_passed(
    passed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = runs.Settings
    monkeypatch.setattr(runs, "Settings", lambda **given: settings(max_turns=4, **given))
    asked = request()
    turns = [looked(str(n), id=str(n)) for n in range(9)]
    first = await runs.run(an_agent(turns), asked)
    died = first.died_after(len(first.entries) - 1)
    await runs.take_over(an_agent(turns[len(died.turns) :]), asked, died)
    assert passed == [3]
    assert [entry.ending.status for entry in died.entries if entry.ending] == ["failed"]
    errors = [json.loads(run.lines[-1])["response"]["error"] for run in (first, died)]
    assert errors[0] == errors[1]
