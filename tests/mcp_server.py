"""An MCP server: `python -m tests.mcp_server` on stdio, with a port on streamable HTTP."""

import asyncio
import os
import sys

from mcp.server.mcpserver import MCPServer

server = MCPServer("tests", log_level="ERROR")


@server.tool()
async def process() -> str:
    """The id of this process."""
    return f"process {os.getpid()}"


@server.tool()
async def slow(seconds: float) -> str:
    """Take some time."""
    await asyncio.sleep(seconds)
    return "slept"


@server.tool()
async def die() -> str:
    """End this process in the middle of a call."""
    os._exit(1)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        server.run("streamable-http", port=int(sys.argv[1]))
    else:
        server.run("stdio")
