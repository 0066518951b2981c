"""Agents whose code does what no agent should: one for each place and each exception.

`PLACE EXCEPTION` is an agent's name. `stubborn` does not heed its cancellation, `sleepy` hangs in a
thread; `healthy` is beside them.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from agents import (
    Agent,
    AgentHooks,
    GuardrailFunctionOutput,
    InputGuardrail,
    OutputGuardrail,
    function_tool,
)

from tests.scripted import by_input, echo, note_effect, scripted
from tests.scripted_model import Asked, ScriptedModel

AGENTS = "tests.faults.breaking:agents"

RAISED: dict[str, BaseException] = {
    "SystemExit": SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt(),
    "GeneratorExit": GeneratorExit(),
    "BaseExceptionGroup": BaseExceptionGroup("all", [SystemExit(1)]),
    "CancelledError": asyncio.CancelledError(),
}

PLACES = ("tool", "thread", "model", "instructions", "hook", "before", "after")


def breaking_model(error: BaseException) -> ScriptedModel:
    async def play(asked: Asked) -> AsyncIterator[Any]:
        async for event in by_input(asked):
            yield event
            if event.type == "response.output_text.delta":
                raise error

    return ScriptedModel(play)


class BreakingHooks(AgentHooks[Any]):
    def __init__(self, error: BaseException) -> None:
        self.error = error

    async def on_start(self, context: Any, agent: Any) -> None:
        raise self.error


def breaking(place: str, error: BaseException) -> dict[str, Any]:
    """What an agent is made of that raises this."""

    @function_tool(failure_error_function=None)
    async def breaks() -> str:
        """Raise."""
        raise error

    @function_tool(failure_error_function=None, name_override="breaks")
    def breaks_in_thread() -> str:
        """Raise, in a thread."""
        raise error

    def instructions(context: Any, agent: Any) -> str:
        raise error

    async def judge(context: Any, agent: Any, what: Any) -> GuardrailFunctionOutput:
        raise error

    return {
        "tool": {"tools": [breaks]},
        "thread": {"tools": [breaks_in_thread]},
        "model": {"model": breaking_model(error)},
        "instructions": {"instructions": instructions},
        "hook": {"hooks": BreakingHooks(error)},
        "before": {"input_guardrails": [InputGuardrail(judge)]},
        "after": {"output_guardrails": [OutputGuardrail(judge)]},
    }[place]


@function_tool
async def swallows() -> str:
    """Never end, whatever is asked."""
    note_effect("stubborn", "started")
    while True:
        try:  # noqa: SIM105
            await asyncio.sleep(0.05)
        except:  # noqa: E722
            pass


@function_tool
def sleeps(seconds: float) -> str:
    """Hang in a thread, which nobody can stop."""
    note_effect("sleepy", "started")
    time.sleep(seconds)
    return "slept"


def agents() -> list[Agent[Any]]:
    made = [
        Agent(name=f"{place} {name}", **{"model": scripted(), **breaking(place, error)})
        for place in PLACES
        for name, error in RAISED.items()
    ]
    return [
        *made,
        Agent(name="healthy", model=scripted(), tools=[echo]),
        Agent(name="stubborn", model=scripted(), tools=[swallows]),
        Agent(name="sleepy", model=scripted(), tools=[sleeps]),
    ]
