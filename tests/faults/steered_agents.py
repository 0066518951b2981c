"""Agents that stop at gates (`agents.py`), for messages that come meanwhile: guarded, with a
session, handing over, and asking another agent as a tool."""

import os
from pathlib import Path
from typing import Any

from agents import (
    Agent,
    GuardrailFunctionOutput,
    RunContextWrapper,
    SQLiteSession,
    input_guardrail,
    output_guardrail,
)

import longrun
from tests.faults.agents import Gates, gated, work
from tests.scripted_model import ScriptedModel, last_text


@input_guardrail
def on_the_way_in(
    context: RunContextWrapper[Any], agent: Agent[Any], items: Any
) -> GuardrailFunctionOutput:
    return GuardrailFunctionOutput(None, "forbidden" in last_text(items))


@output_guardrail
def on_the_way_out(
    context: RunContextWrapper[Any], agent: Agent[Any], output: Any
) -> GuardrailFunctionOutput:
    return GuardrailFunctionOutput(None, "secret" in output)


def session(current: longrun.Current) -> SQLiteSession:
    return SQLiteSession(current.response_id, Path(os.environ["GATES"]) / "sessions")


def agents() -> list[Agent[Any]]:
    model, hooks = ScriptedModel(gated), Gates()
    guarded = Agent(
        name="guarded",
        model=model,
        tools=[work],
        hooks=hooks,
        input_guardrails=[on_the_way_in],
        output_guardrails=[on_the_way_out],
    )
    second = Agent(name="second", model=model, tools=[work], hooks=hooks)
    handing = Agent(name="handing", model=model, tools=[work], hooks=hooks, handoffs=[second])
    inner = Agent(name="inner", model=model, tools=[work], hooks=hooks)
    asking = Agent(
        name="asking", model=model, tools=[inner.as_tool("ask", "Ask the other.")], hooks=hooks
    )
    return [guarded, handing, asking]
