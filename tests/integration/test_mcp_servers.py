"""MCP servers of agents, on stdio and streamable HTTP: connected, lost, connected again, closed."""

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from agents import Agent
from agents.mcp import MCPServer, MCPServerStdio, MCPServerStreamableHttp

from longrun import metrics
from longrun.app import Longrun, create_app
from longrun.settings import Settings
from tests import postgres
from tests.crashing import Left, asked, finish, left_of
from tests.reading import eventually
from tests.scripted import scripted
from tests.servers import REPOSITORY, free_port

PROGRAM = [sys.executable, "-m", "tests.mcp_server"]


def on_stdio(command: str = sys.executable, **given: Any) -> MCPServer:
    params: Any = {"command": command, "args": PROGRAM[1:], "cwd": str(REPOSITORY)}
    return MCPServerStdio(params, client_session_timeout_seconds=20, **given)


def on_http(port: int) -> MCPServer:
    return MCPServerStreamableHttp(
        {"url": f"http://user:secret@127.0.0.1:{port}/mcp?key=secret"},
        client_session_timeout_seconds=20,
    )


@contextlib.contextmanager
def serving(port: int) -> Iterator[subprocess.Popen[bytes]]:
    """The server behind `on_http`."""
    process = subprocess.Popen([*PROGRAM, str(port)], cwd=REPOSITORY, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def agent(*servers: MCPServer, name: str = "agent", **given: Any) -> Agent[Any]:
    return Agent(name=name, model=scripted(), mcp_servers=list(servers), **given)


@contextlib.asynccontextmanager
async def replica(agents: Any, url: str, schema: str, **given: Any) -> AsyncIterator[Longrun]:
    settings = Settings.load(database_url=url, schema=schema, drain_seconds=2)
    app = create_app(agents, settings, **given)
    async with app.running():
        yield app


async def run(app: Longrun, database: postgres.Server, *calls: Any) -> Left:
    """A run that calls these tools one after the other, and says what came of them."""
    script = json.dumps({"turns": [[call] for call in calls], "show": True})
    request = asked(script)
    await app.parts.admission.submit(request)
    await finish(app, [request.response_id])
    return await left_of(database.url, app.settings.db_schema, request.response_id)


def said(left: Left) -> str:
    assert left.status == "completed", left.document
    return str(left.output[-1]["content"][0]["text"])


def process_in(left: Left) -> int:
    found = re.search(r"process (\d+)", said(left))
    assert found is not None
    return int(found[1])


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().split()[2] == "Z"


class TestStdio:
    async def test_is_connected_at_start_and_closed_at_the_end(
        self, database: postgres.Server, schema: str
    ) -> None:
        async with replica(agent(on_stdio()), database.url, schema) as app:
            assert (app.problems(), app.warnings()) == ([], [])
            first = process_in(await run(app, database, ["process", {}]))
            assert process_in(await run(app, database, ["process", {}])) == first
        await eventually(lambda: is_gone(first))

    async def test_is_connected_again_when_it_was_killed(
        self, database: postgres.Server, schema: str
    ) -> None:
        async with replica(agent(on_stdio()), database.url, schema) as app:
            first = process_in(await run(app, database, ["process", {}]))
            os.kill(first, signal.SIGKILL)
            second = process_in(await run(app, database, ["process", {}]))
            assert second != first

    async def test_one_that_dies_of_a_call_is_there_for_the_next(
        self, database: postgres.Server, schema: str
    ) -> None:
        """The call is not made again; the model is told that it failed."""
        async with replica(agent(on_stdio()), database.url, schema) as app:
            left = await run(app, database, ["die", {}], ["process", {}])
            assert "error" in said(left)
            assert process_in(left)

    async def test_cached_tools_do_not_hide_that_it_was_killed(
        self, database: postgres.Server, schema: str
    ) -> None:
        served = agent(on_stdio(cache_tools_list=True))
        async with replica(served, database.url, schema) as app:
            first = process_in(await run(app, database, ["process", {}]))
            os.kill(first, signal.SIGKILL)
            await run(app, database, ["process", {}])
            assert process_in(await run(app, database, ["process", {}])) != first


class TestHTTP:
    async def test_is_connected_again_when_it_was_killed(
        self, database: postgres.Server, schema: str
    ) -> None:
        port = free_port()
        with serving(port) as first:
            async with replica(agent(on_http(port)), database.url, schema) as app:
                await eventually(lambda: app.warnings() == [])
                assert process_in(await run(app, database, ["process", {}])) == first.pid
                first.kill()
                first.wait()
                with serving(port) as second:
                    assert process_in(await run(app, database, ["process", {}])) == second.pid

    async def test_one_that_is_away_fails_only_runs_that_need_it(
        self, database: postgres.Server, schema: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """In words that have no secret of its address in them."""
        monkeypatch.setattr("longrun.execution.mcp_servers.UP_WAIT", 0.5)
        port = free_port()
        needy = agent(on_http(port))
        both = agent(on_stdio(), handoffs=[needy])
        async with replica([both, agent(on_http(port), name="other")], database.url, schema) as app:
            assert app.problems() == []
            assert len(app.warnings()) == 2
            assert f"http://127.0.0.1:{port}/mcp is away" in app.warnings()[0]
            assert "secret" not in str(app.warnings())
            assert b'longrun_mcp_servers{state="away"} 2.0' in metrics.exposition()
            assert process_in(await run(app, database, ["process", {}]))
            left = await run(app, database, ["transfer_to_agent", {}])
            assert left.status == "failed"
            assert left.document["error"]["message"] == (
                "An MCP server of the agent 'agent' cannot be reached."
            )
            with serving(port):
                await eventually(lambda: app.warnings() == [])
                left = await run(app, database, ["transfer_to_agent", {}])
                assert left.status == "completed"


class TestWhose:
    async def test_those_of_agents_made_for_a_run_are_closed_with_it(
        self, database: postgres.Server, schema: str
    ) -> None:
        async with replica({"agent": lambda: agent(on_stdio())}, database.url, schema) as app:
            first = process_in(await run(app, database, ["process", {}]))
            await eventually(lambda: is_gone(first))
            assert process_in(await run(app, database, ["process", {}])) != first

    async def test_one_that_several_such_agents_share_is_kept_until_the_last_run_ends(
        self, database: postgres.Server, schema: str
    ) -> None:
        shared = on_stdio()
        async with replica({"agent": lambda: agent(shared)}, database.url, schema) as app:
            runs = [
                run(app, database, ["slow", {"seconds": n / 4}], ["process", {}]) for n in range(4)
            ]
            found = {process_in(left) for left in await asyncio.gather(*runs)}
            assert len(found) == 1
            await eventually(lambda: is_gone(found.copy().pop()))

    async def test_one_that_the_lifespan_connected_is_left_to_it(
        self, database: postgres.Server, schema: str
    ) -> None:
        server = on_stdio()
        events: list[str] = []

        @contextlib.asynccontextmanager
        async def lifespan() -> AsyncIterator[str]:
            async with server:
                events.append("connected")
                yield "state"
            events.append("closed")

        async with replica(agent(server), database.url, schema, lifespan=lifespan) as app:
            assert events == ["connected"]
            pid = process_in(await run(app, database, ["process", {}]))
        assert events == ["connected", "closed"]
        await eventually(lambda: is_gone(pid))

    async def test_those_of_agents_that_are_tools_are_found(
        self, database: postgres.Server, schema: str
    ) -> None:
        inner = agent(on_stdio(), name="inner")
        outer = agent(tools=[inner.as_tool("ask", "Ask.")])
        async with replica(outer, database.url, schema) as app:
            script = json.dumps({"turns": [[["process", {}]]], "show": True})
            assert process_in(await run(app, database, ["ask", {"input": script}]))


async def test_a_busy_one_is_not_taken_for_dead(
    database: postgres.Server, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is looked at again and again while it answers a long call, and cannot answer in time."""
    monkeypatch.setattr("longrun.execution.mcp_servers.LOOK_INTERVAL", 0.1)
    monkeypatch.setattr("longrun.execution.mcp_servers.LOOK_WAIT", 0.0)
    async with replica(agent(on_stdio()), database.url, schema) as app:
        left = await run(app, database, ["slow", {"seconds": 1}])
        assert "slept" in said(left)
