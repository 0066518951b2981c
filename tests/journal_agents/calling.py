"""Agents that call function tools: in order, at once, with every way for a call to end."""

from typing import Any

from agents import (
    Agent,
    StopAtTools,
    function_tool,
)
from pydantic import BaseModel

from tests.crashing import effect, place
from tests.journal_agents.models import JSONObject, agent, calls, says, thinks
from tests.journal_agents.tools import endless, fails, look, look_in_thread, pay, raises


def plain() -> Agent[Any]:
    return agent("agent", [thinks("hm"), says("one two three four")])


def sequential() -> Agent[Any]:
    return agent(
        "agent",
        [thinks("hm"), says("I look."), calls("look", "call_1", what="a")],
        [calls("look_in_thread", "call_2", what="b")],
        [calls("look", "call_3", what="c")],
        [says("seen it all")],
        tools=[look, look_in_thread],
    )


def parallel() -> Agent[Any]:
    return agent(
        "agent",
        [
            calls("look", "call_1", what="slow", pause=0.06),
            calls("look", "call_2", what="quick"),
            calls("look", "call_3", what="middling", pause=0.02),
            calls("fails", "call_4", why="so"),
            calls("look_in_thread", "call_5", what="aside"),
        ],
        [says("seen it all")],
        tools=[look, fails, look_in_thread],
    )


def raising() -> Agent[Any]:
    return agent(
        "agent",
        [calls("look", "call_1", what="a"), calls("raises", "call_2")],
        [says("never")],
        tools=[look, raises],
    )


class Weather(BaseModel):
    city: str
    degrees: int


def structured() -> Agent[Any]:
    return agent(
        "agent",
        [calls("look", "call_1", what="sky")],
        [says('{"city": "Rome", "degrees": 21}')],
        tools=[look],
        output_type=Weather,
    )


def first_tool_ends() -> Agent[Any]:
    return agent(
        "agent",
        [says("looking"), calls("look", "call_1", what="a")],
        [says("never")],
        tools=[look],
        tool_use_behavior="stop_on_first_tool",
    )


def tool_ends() -> Agent[Any]:
    return agent(
        "agent",
        [calls("look", "call_1", what="a")],
        [calls("look_in_thread", "call_2", what="b"), calls("look", "call_3", what="c")],
        [says("never")],
        tools=[look, look_in_thread],
        tool_use_behavior=StopAtTools(stop_at_tool_names=["look_in_thread"]),
    )


def timing_out() -> Agent[Any]:
    return agent(
        "agent",
        [calls("endless", "call_1"), calls("look", "call_2", what="b")],
        [says("too long")],
        tools=[endless, look],
    )


def paying() -> Agent[Any]:
    return agent(
        "agent",
        [calls("pay", "call_1", amount=3), calls("look", "call_2", what="b")],
        [says("paid")],
        tools=[pay, look],
    )


async def _too_much(context: Any, arguments: JSONObject, call_id: str) -> bool:
    return bool(arguments["amount"] > 10)


def asking_approval() -> Agent[Any]:
    """A callable `needs_approval`: one call may run, the other must wait."""

    @function_tool(needs_approval=_too_much)
    async def spend(amount: int) -> str:
        """Spend."""
        await effect(f"start tool {place()}")
        await effect(f"end tool {place()}")
        return f"spent {amount}"

    return agent(
        "agent",
        [calls("spend", "call_1", amount=5), calls("spend", "call_2", amount=50)],
        [says("never")],
        tools=[spend],
    )


HISTORY: list[JSONObject] = [
    {"role": "user", "content": "before"},
    {
        "type": "function_call",
        "call_id": "call_1",
        "name": "look",
        "arguments": '{"what": "then"}',
        "id": "fc_1",
    },
    {"type": "function_call_output", "call_id": "call_1", "output": "seen"},
    {
        "type": "message",
        "id": "msg_1",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": "I saw", "annotations": []}],
    },
    {"role": "user", "content": "go"},
]
"""The input of a run that continues a previous response."""


def continuing() -> Agent[Any]:
    return agent(
        "agent",
        [calls("look", "call_2", what="a")],
        [says("continued")],
        tools=[look],
    )
