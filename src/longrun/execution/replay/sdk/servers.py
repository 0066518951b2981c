"""MCP servers."""

import importlib
from typing import Any

from agents.mcp import MCPServer


def mcp_server_name(server: MCPServer) -> str:
    """Its name, without the credentials that may be in a URL."""
    names: Any = importlib.import_module("agents.mcp._logging")
    return str(names.get_mcp_server_log_name(server.name))


async def probe_mcp_server(server: MCPServer) -> None:
    """Ask something of it that has no effect, and is not answered from a cache. Raises what
    anything may raise that is behind a connection."""
    session: Any = getattr(server, "session", None)
    if session is None:
        await server.list_tools()
    else:
        await session.list_tools()


def is_mcp_timeout(error: BaseException) -> bool:
    """Whether a server did not answer in time, which need not mean that it is gone."""
    compat: Any = importlib.import_module("agents.mcp._compat")
    return bool(compat.is_mcp_timeout_error(error))
