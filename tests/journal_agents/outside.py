"""What is outside of the process: sessions in files, and an MCP server."""

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from agents import (
    Agent,
    SQLiteSession,
)
from agents.mcp import MCPServerStdio

import longrun
from tests.crashing import effect
from tests.journal_agents.models import agent, calls, says
from tests.journal_agents.tools import look

FILES = Path(
    os.environ.setdefault(
        "JOURNAL_FILES", str(Path(tempfile.gettempdir()) / f"longrun-journal-{os.getpid()}")
    )
)
"""What sessions and MCP servers write: of this process of tests, and those that it starts."""

MCP_EFFECTS = FILES / "mcp-effects"
SESSIONS = FILES / "sessions"


@contextlib.contextmanager
def files() -> Iterator[None]:
    """The folder for them, while a test needs it."""
    SESSIONS.mkdir(parents=True)
    try:
        yield
    finally:
        shutil.rmtree(FILES)


MCP_SERVER = """
from mcp.server import MCPServer

server = MCPServer("tests")

@server.tool()
def add(a: int, b: int) -> int:
    with open({effects!r}, "a") as file:
        file.write(f"{{a}}+{{b}}\\n")
    return a + b

server.run("stdio")
"""


def with_mcp() -> Agent[Any]:
    return agent(
        "agent",
        [calls("add", "call_1", a=1, b=2), calls("look", "call_2", what="it", pause=0.02)],
        [calls("add", "call_3", a=3, b=4)],
        [says("added")],
        tools=[look],
    )


@contextlib.asynccontextmanager
async def mcp_server(served: Agent[Any]) -> AsyncIterator[None]:
    script = MCP_SERVER.format(effects=str(MCP_EFFECTS))
    parameters: Any = {"command": sys.executable, "args": ["-c", script]}
    async with MCPServerStdio(parameters, client_session_timeout_seconds=30) as server:
        served.mcp_servers = [server]
        yield


class WatchedSession(SQLiteSession):
    """A session in a file, one for each response, whose reads and writes are effects."""

    async def get_items(self, limit: int | None = None) -> list[Any]:
        found = await super().get_items(limit)
        await effect("session get")
        return found

    async def add_items(self, items: list[Any]) -> None:
        await effect("session about to add")
        await super().add_items(items)
        await effect("session added")


def session(current: longrun.Current) -> WatchedSession:
    return WatchedSession(current.response_id, SESSIONS / current.response_id)
