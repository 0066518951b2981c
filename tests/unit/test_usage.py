"""Usage over takeovers: each finished turn once, of runs inside the run too."""

import json
from typing import Any

import pytest
from agents import Agent, GuardrailFunctionOutput, InputGuardrail, Runner

from longrun.assembly.assembler import Assembler
from longrun.assembly.usage import UsageSum
from longrun.execution.takeover import add_recorded_usage
from longrun.store.records import Step
from tests.scripted import echo, scripted
from tests.unit import runs
from tests.unit.streams import request, usage

INNER = json.dumps({"turns": [[["echo", {"text": "b"}]]]})
FAILING = json.dumps({"turns": [[["echo", {"text": "b"}]]], "fail": 0})
TOO_LONG = json.dumps({"turns": [[["echo", {"text": "b"}]]], "hold": 60})


async def heard(event: Any) -> None:
    """Makes a nested run a streamed one."""


async def judged(context: Any, agent: Any, said: Any) -> GuardrailFunctionOutput:
    await Runner.run(Agent(name="judge", model=scripted()), "hm")
    return GuardrailFunctionOutput(None, tripwire_triggered=False)


def agent(inner_asked: str = INNER) -> Agent[Any]:
    inner = Agent(name="inner", model=scripted(), tools=[echo])
    asks = [inner.as_tool("ask", "ask"), inner.as_tool("ask_streamed", "ask", on_stream=heard)]
    for tool in asks:
        tool.timeout_seconds = 0.2 if inner_asked == TOO_LONG else None
    return Agent(
        name="agent",
        model=scripted(),
        tools=[*asks],
        input_guardrails=[InputGuardrail(judged)],
    )


def asked(tool: str, inner: str) -> Any:
    return request(input=json.dumps({"turns": [[[tool, {"input": inner}]]]}))


def of_turns(count: int) -> Any:
    return usage(10 * count, 5 * count, cached=count, reasoned=2 * count)


@pytest.mark.parametrize("tool", ["ask", "ask_streamed"])
@pytest.mark.parametrize("inner", [INNER, FAILING, TOO_LONG], ids=["ends", "fails", "too long"])
async def test_each_finished_turn_is_counted_once(tool: str, inner: str) -> None:
    """Wherever the run dies, also of an agent tool that took too long, which is not run again."""
    given = asked(tool, inner)
    whole = await runs.run(agent(inner), given)
    if inner != TOO_LONG:
        scopes = {step.scope for step in turns_of(whole)}
        assert scopes == {"", "/guardrail judged 1", "/call_0_0"}
    assert runs.check(whole).response["usage"] == of_turns(len(turns_of(whole)))
    for commit in range(1, len(whole.entries)):
        commits = whole.died_after(commit)
        await runs.take_over(agent(inner), given, commits)
        stream = runs.check(commits)
        assert stream.response["usage"] == of_turns(len(turns_of(commits))), commit


def turns_of(commits: runs.Commits) -> list[Step]:
    return [step for step in commits.committed_steps if step.kind == "model"]


async def test_a_response_that_only_ends_has_what_was_recorded() -> None:
    given = asked("ask", INNER)
    whole = await runs.run(agent(), given)
    assembler = Assembler(given.response_id, given.document)
    add_recorded_usage(assembler, whole.committed_steps)
    assert assembler.usage.as_json() == of_turns(5)


def test_where_nothing_is_told_all_are_0() -> None:
    used = UsageSum()
    for told in (None, object(), type("Loose", (), {"input_tokens": None, "output_tokens": "3"})):
        used.add(told)
    assert used.as_json() == of_turns(0)
