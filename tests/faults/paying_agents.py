"""An agent that stops at gates (`agents.py`), and has a tool that needs an approval."""

from typing import Any

from agents import Agent, function_tool
from agents.tool_context import ToolContext

from tests.faults.agents import Gates, gated, note, work
from tests.scripted_model import ScriptedModel


@function_tool(needs_approval=True)
async def pay(context: ToolContext[Any]) -> str:
    """Pay somebody."""
    note("tool", context.tool_call_id)
    return "paid"


def agents() -> list[Agent[Any]]:
    return [Agent(name="paying", model=ScriptedModel(gated), tools=[work, pay], hooks=Gates())]
