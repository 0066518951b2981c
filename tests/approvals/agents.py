"""Agents that ask for approvals, on the provider of the tests: `longrun serve
tests.approvals.agents:agents`. What a run does, the script in its input says.

An agent is named FAMILY-KIND, as those of the provider. KIND says what it has:

    asking   `look`; `pay`, which needs an approval, as `spend` does from 10 on; `expert`, which is
             an agent with the same tools; a handoff to `FAMILY-other`
    mcp      an MCP server, of whose tools `slow` needs an approval
    hosted   (responses) a hosted MCP server whose calls need approvals
"""

import os
import sys
from pathlib import Path
from typing import Any

from agents import (
    Agent,
    HostedMCPTool,
    Model,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Tool,
    function_tool,
)
from agents.mcp import MCPServerStdio
from openai import AsyncOpenAI

from tests.provider.server import KEY
from tests.scripted import note_effect

AGENTS = "tests.approvals.agents:agents"

REPOSITORY = Path(__file__).resolve().parents[2]


@function_tool
async def look(word: str) -> str:
    """Look a word up."""
    note_effect("tool", f"look {word}")
    return f"found {word}"


@function_tool(needs_approval=True)
async def pay(to: str) -> str:
    """Pay somebody."""
    note_effect("tool", f"pay {to}")
    return f"paid {to}"


async def _much(context: Any, arguments: dict[str, Any], call_id: str) -> bool:
    return bool(arguments["amount"] >= 10)


@function_tool(needs_approval=_much)
async def spend(amount: int) -> str:
    """Spend money."""
    note_effect("tool", f"spend {amount}")
    return f"spent {amount}"


def _models() -> dict[str, Model]:
    client = AsyncOpenAI(base_url=os.environ["PROVIDER_URL"], api_key=KEY, max_retries=0)
    return {
        "responses": OpenAIResponsesModel("tests", client),
        "chat": OpenAIChatCompletionsModel("tests", client),
    }


def agents() -> list[Agent[Any]]:
    """All of them."""
    made: list[Agent[Any]] = []
    for family, model in _models().items():
        tools: list[Tool] = [look, pay, spend]
        inner = Agent(name=f"{family}-inner", model=model, tools=tools)
        expert = inner.as_tool("expert", "Asks an expert.")
        other = Agent(name=f"{family}-other", model=model, tools=tools)
        server = MCPServerStdio(
            {
                "command": sys.executable,
                "args": ["-m", "tests.mcp_server"],
                "cwd": str(REPOSITORY),
            },
            name="local",
            client_session_timeout_seconds=20,
            require_approval={"always": {"tool_names": ["slow"]}},
        )
        made += [
            Agent(name=f"{family}-asking", model=model, tools=[*tools, expert], handoffs=[other]),
            Agent(name=f"{family}-mcp", model=model, mcp_servers=[server]),
        ]
    hosted = HostedMCPTool(
        {
            "type": "mcp",
            "server_label": "server",
            "server_url": "https://mcp.example",
            "require_approval": "always",
        }
    )
    made.append(
        Agent(name="responses-hosted", model=_models()["responses"], tools=[hosted, look, pay])
    )
    return made
