"""What a team brings, all at once: `longrun serve tests.approvals.afternoon:agents`.

A pool of Postgres in the context of each run, two MCP servers, a tool that needs an approval, and
an output of a type. Tools wait for gates, so that a test knows where a run is.
"""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
from agents import Agent, RunContextWrapper, function_tool
from agents.mcp import MCPServerStdio, create_static_tool_filter
from pydantic import BaseModel

import longrun
from tests.scripted import note_effect, scripted

AGENTS = "tests.approvals.afternoon:agents"

REPOSITORY = Path(__file__).resolve().parents[2]


class Order(BaseModel):
    """What the agent answers with."""

    what: str
    pieces: int


@dataclass
class Context:
    """That of a run; its pool is the process's."""

    pool: asyncpg.Pool


@contextlib.asynccontextmanager
async def lifespan(app: Any) -> AsyncIterator[asyncpg.Pool]:
    """The pool of a process."""
    async with asyncpg.create_pool(os.environ["SHOP_URL"], min_size=0, max_size=2) as pool:
        yield pool


async def context(run: longrun.Current) -> Context:
    """The context of a run."""
    return Context(run.state)


async def _passed(gate: str) -> None:
    """Say that it is there, and wait until the gate is open."""
    note_effect("in", gate)
    while not (Path(os.environ["GATES"]) / f"open {gate}").exists():
        await asyncio.sleep(0.02)


@function_tool
async def stock(run: RunContextWrapper[Context], thing: str) -> str:
    """How many there are."""
    found = await run.context.pool.fetchval("SELECT length($1)", thing)
    note_effect("tool", f"stock {thing}")
    return f"{found} of {thing}"


@function_tool(needs_approval=True)
async def pay(run: RunContextWrapper[Context], to: str) -> str:
    """Pay somebody."""
    await run.context.pool.fetchval("SELECT 1")
    note_effect("tool", f"pay {to}")
    return f"paid {to}"


@function_tool
async def wait(gate: str) -> str:
    """Wait for a gate."""
    await _passed(gate)
    return "waited"


@function_tool(needs_approval=True)
async def send(gate: str) -> str:
    """Send what was bought, once the gate is open."""
    await _passed(gate)
    note_effect("tool", "send")
    return "sent"


def _mcp(name: str, tool: str) -> MCPServerStdio:
    return MCPServerStdio(
        {"command": sys.executable, "args": ["-m", "tests.mcp_server"], "cwd": str(REPOSITORY)},
        name=name,
        client_session_timeout_seconds=20,
        tool_filter=create_static_tool_filter(allowed_tool_names=[tool]),
        require_approval={"always": {"tool_names": ["slow"]}},
    )


agents = [
    Agent(
        name="shop",
        model=scripted(),
        tools=[stock, pay, wait, send],
        mcp_servers=[_mcp("one", "process"), _mcp("two", "slow")],
        output_type=Order,
    )
]
