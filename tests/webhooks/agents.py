"""The scripted agents, and one whose tool needs an approval."""

from typing import Any

from agents import Agent, function_tool

from tests.scripted import agents as usual
from tests.scripted import scripted


@function_tool(needs_approval=True)
async def pay(to: str) -> str:
    """Pay somebody."""
    return f"paid {to}"


def agents() -> list[Agent[Any]]:
    return [*usual(), Agent(name="asking", model=scripted(), tools=[pay])]
