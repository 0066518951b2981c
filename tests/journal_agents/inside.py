"""Runs inside a run: handoffs, agents as tools, guardrails and instructions that ask models."""

import asyncio
import time
from typing import Any

from agents import (
    Agent,
    GuardrailFunctionOutput,
    InputGuardrail,
    ModelSettings,
    OutputGuardrail,
    RunContextWrapper,
    Runner,
    ToolGuardrailFunctionOutput,
    ToolInputGuardrail,
    ToolOutputGuardrail,
    function_tool,
    handoff,
)
from agents.retry import ModelRetrySettings
from pydantic import BaseModel

from tests.crashing import effect, place
from tests.journal_agents.models import agent, calls, says, thinks
from tests.journal_agents.tools import look, raises


class Reason(BaseModel):
    reason: str


async def on_handoff(context: RunContextWrapper[Any], given: Reason) -> None:
    await effect("start handoff second")
    await asyncio.sleep(0)
    await effect("end handoff second")


def handing_off() -> Agent[Any]:
    third = agent(
        "third", [calls("look", "call_t", what="c")], [says("the third is done")], tools=[look]
    )
    second = agent(
        "second",
        [calls("look", "call_2", what="b")],
        [says("and on"), calls("transfer_to_third", "call_4")],
        tools=[look],
        handoffs=[third],
    )
    return agent(
        "agent",
        [calls("look", "call_1", what="a")],
        [thinks("hm"), calls("transfer_to_second", "call_3", reason="so")],
        tools=[look],
        handoffs=[handoff(second, on_handoff=on_handoff, input_type=Reason)],
    )


def nested() -> Agent[Any]:
    """Agents as tools, two calls of the same one at once, two deep, call ids used again."""
    innermost = agent(
        "innermost", [calls("look", "call_1", what="deep")], [says("dug")], tools=[look]
    )
    inner = agent(
        "inner",
        [calls("look", "call_1", what="in"), calls("dig", "call_2", input="dig it")],
        [says("found")],
        tools=[look, innermost.as_tool("dig", "dig")],
    )
    return agent(
        "agent",
        [
            calls("ask", "call_1", input="first"),
            calls("ask", "call_2", input="second"),
            calls("look", "call_3", what="out", pause=0.03),
        ],
        [says("asked")],
        tools=[inner.as_tool("ask", "ask"), look],
    )


async def on_stream(event: Any) -> None:
    await asyncio.sleep(0)


def nested_streamed() -> Agent[Any]:
    inner = agent(
        "inner",
        [thinks("hm"), calls("look", "call_1", what="in")],
        [says("found it")],
        tools=[look],
    )
    return agent(
        "agent",
        [calls("ask", "call_1", input="first")],
        [says("asked")],
        tools=[inner.as_tool("ask", "ask", on_stream=on_stream)],
    )


def nested_failing() -> Agent[Any]:
    """A tool that raises in an agent as a tool; the outer agent is told, and continues."""
    inner = agent("inner", [calls("raises", "call_1")], [says("never")], tools=[raises])
    return agent(
        "agent",
        [calls("ask", "call_1", input="first")],
        [calls("look", "call_2", what="b")],
        [says("asked")],
        tools=[inner.as_tool("ask", "ask"), look],
    )


def _judge(name: str, answer: str = "fine") -> Agent[Any]:
    return agent(name, [calls("look", "call_1", what="law")], [says(answer)], tools=[look])


async def _judged(name: str, given: str) -> Any:
    result = await Runner.run(_judge(name), given)
    return result.final_output


def guarded() -> Agent[Any]:
    """Guardrails of all four kinds, each with a model and a tool of its own."""

    async def of_input(context: Any, agent: Any, given: Any) -> GuardrailFunctionOutput:
        await effect("guard in")
        return GuardrailFunctionOutput(await _judged("injudge", "in"), tripwire_triggered=False)

    async def of_output(context: Any, agent: Any, given: Any) -> GuardrailFunctionOutput:
        return GuardrailFunctionOutput(await _judged("outjudge", "out"), tripwire_triggered=False)

    async def before_tool(data: Any) -> ToolGuardrailFunctionOutput:
        await effect("guard before")
        name = f"before_{data.context.tool_call_id}"
        return ToolGuardrailFunctionOutput.allow(await _judged("toolinjudge", name))

    async def after_tool(data: Any) -> ToolGuardrailFunctionOutput:
        await effect("guard after")
        name = f"after_{data.context.tool_call_id}"
        return ToolGuardrailFunctionOutput.allow(await _judged("tooloutjudge", name))

    @function_tool(
        tool_input_guardrails=[ToolInputGuardrail(before_tool)],
        tool_output_guardrails=[ToolOutputGuardrail(after_tool)],
    )
    async def guarded_look(what: str) -> str:
        """Look under guard."""
        await effect(f"start tool {place()}")
        await effect(f"end tool {place()}")
        return what

    return agent(
        "agent",
        [
            calls("guarded_look", "call_1", what="a"),
            calls("guarded_look", "call_2", what="b"),
        ],
        [says("guarded")],
        tools=[guarded_look],
        input_guardrails=[InputGuardrail(of_input)],
        output_guardrails=[OutputGuardrail(of_output)],
    )


def tripping() -> Agent[Any]:
    """An output guardrail, with a model of its own, that refuses."""

    async def of_output(context: Any, agent: Any, given: Any) -> GuardrailFunctionOutput:
        return GuardrailFunctionOutput(await _judged("outjudge", "out"), tripwire_triggered=True)

    return agent(
        "agent",
        [calls("look", "call_1", what="a")],
        [says("refused")],
        tools=[look],
        output_guardrails=[OutputGuardrail(of_output)],
    )


def retrying() -> Agent[Any]:
    """Each turn's first request fails; the run's own turns and those of an agent as a tool."""
    again = ModelSettings(
        retry=ModelRetrySettings(
            max_retries=2, policy=lambda context: True, backoff={"initial_delay": 0.001}
        )
    )
    inner = agent(
        "inner",
        [calls("look", "call_1", what="in")],
        [says("found")],
        fails=1,
        tools=[look],
        model_settings=again,
    )
    return agent(
        "agent",
        [calls("ask", "call_1", input="first")],
        [calls("look", "call_2", what="b")],
        [says("asked")],
        fails=1,
        tools=[inner.as_tool("ask", "ask"), look],
        model_settings=again,
    )


def instructed() -> Agent[Any]:
    """Instructions that change, and that ask an agent of their own, with tools and a handoff."""

    async def instructions(context: Any, asking: Any) -> str:
        last = agent("last", [says("be brief")])
        adviser = agent(
            "adviser",
            [calls("look", "call_1", what="book")],
            [calls("transfer_to_last", "call_2")],
            tools=[look],
            handoffs=[last],
        )
        result = await Runner.run(adviser, "how?")
        return f"{result.final_output} at {time.monotonic_ns()}"

    second = agent("second", [says("done by the second")])
    return agent(
        "agent",
        [calls("look", "call_1", what="a")],
        [calls("transfer_to_second", "call_2")],
        instructions=instructions,
        tools=[look],
        handoffs=[second],
    )
