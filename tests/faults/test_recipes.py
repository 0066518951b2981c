"""The servers of the documented recipes: each serves, and stops in order with a stream open.

Files and commands are taken from `serving/README.md` itself.
"""

import asyncio
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from openai.types.responses import ResponseCreatedEvent

from tests import postgres, servers
from tests.reading import Wire, eventually
from tests.sockets import connected

DOCUMENT = (servers.REPOSITORY / "src/longrun/serving/README.md").read_text()
SECTION = DOCUMENT.split("\n## In a server of your own\n")[1].split("\n## ")[0]

AGENTS = """
from agents import Agent
from tests.scripted import echo, scripted

researcher = Agent(name="researcher", model=scripted(), tools=[echo])
"""

LONG = json.dumps({"turns": [[["echo", {"text": str(n), "pause": 0.3}]] for n in range(12)]})


def files() -> dict[str, str]:
    """Those of the section, by the name in their first line."""
    blocks = re.findall(r"^```python\n(.*?)^```", SECTION, re.MULTILINE | re.DOTALL)
    return {block.split("\n")[0].removeprefix("# "): block for block in blocks}


def commands() -> list[str]:
    [block] = re.findall(r"^```sh\n(.*?)^```", SECTION, re.MULTILINE | re.DOTALL)
    return str(block).splitlines()


RECIPES = {
    **{command.split()[0]: (command, "") for command in commands()},
    "fastapi": (commands()[0].replace("server:app", "main:app"), "/agents"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the document has one write, with agents of ours."""
    (tmp_path / "my_app").mkdir()
    (tmp_path / "my_app" / "agents.py").write_text(AGENTS)
    for name, text in files().items():
        (tmp_path / name).write_text(text)
    return tmp_path


def start(
    command: str, prefix: str, folder: Path, database: postgres.Server, schema: str
) -> servers.Replica:
    port = servers.free_port()
    program, *arguments = shlex.split(command.replace("8000", str(port)))
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("LONGRUN_", "OPENAI_"))}
    log = folder / f"{program}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [Path(sys.executable).parent / program, *arguments],
            cwd=folder,
            stdout=output,
            stderr=output,
            env={
                **inherited,
                **servers.SEALED,
                "PYTHONPATH": f"{folder}:{servers.REPOSITORY}",
                "LONGRUN_DATABASE_URL": database.url,
                "LONGRUN_SCHEMA": schema,
                "LONGRUN_DRAIN_SECONDS": "2",
            },
        )
    return servers.Replica(f"http://127.0.0.1:{port}{prefix}", process, log)


@pytest.fixture
def other(database: postgres.Server, schema: str) -> Iterator[servers.Replica]:
    """A replica that takes over, of `longrun serve`."""
    with servers.replicas(
        1, database.url, schema=schema, agents="tests.faults.recipe_agents:researcher"
    ) as [replica]:
        yield replica


@pytest.mark.parametrize("name", RECIPES)
async def test_serves_and_stops_in_order(
    name: str, folder: Path, database: postgres.Server, schema: str, other: servers.Replica
) -> None:
    """SIGTERM while streams are open and a run is under way, which goes on elsewhere."""
    replica = start(*RECIPES[name], folder, database, schema)
    try:
        servers.wait_ready(replica)
        here = openai.AsyncOpenAI(base_url=replica.base_url, api_key="none", max_retries=0)
        there = openai.AsyncOpenAI(base_url=other.base_url, api_key="none", max_retries=0)
        answer = await here.responses.create(model="researcher", input="hello")
        assert answer.output_text == "hello"
        stream = await here.responses.create(
            model="researcher", input=LONG, stream=True, background=True
        )
        seen = []
        async for event in stream:
            seen.append(event)
            if event.type == "response.output_item.done":
                replica.signal(signal.SIGTERM)
                break
        async for event in stream:
            seen.append(event)
        assert seen[-1].type != "response.completed"
        replica.wait(15)
        assert "Traceback" not in replica.output()
        assert isinstance(seen[0], ResponseCreatedEvent)
        numbers = [event.sequence_number for event in seen]
        async for event in await there.responses.retrieve(
            seen[0].response.id, stream=True, starting_after=numbers[-1]
        ):
            numbers.append(event.sequence_number)
        assert numbers == list(range(len(numbers)))
        assert event.type == "response.completed"
        await here.close()
        await there.close()
    finally:
        replica.end()


async def test_a_plain_request_is_answered_before_the_server_stops(
    folder: Path, database: postgres.Server, schema: str
) -> None:
    replica = start(*RECIPES["uvicorn"], folder, database, schema)
    try:
        servers.wait_ready(replica)
        async with connected(replica) as socket:
            # Its messages come whole.
            said = await socket.ask("hello", model="researcher", generate=False)
            assert said["type"] == "response.completed", said
        client = openai.AsyncOpenAI(base_url=replica.base_url, api_key="none", max_retries=0)
        asking = asyncio.create_task(client.responses.create(model="researcher", input=LONG))
        deadline = time.monotonic() + 20
        while b"longrun_runs 1.0" not in await Wire.fetch(replica.url + "/metrics"):
            assert time.monotonic() < deadline
        replica.signal(signal.SIGTERM)
        with pytest.raises(openai.InternalServerError) as raised:
            await asking
        await client.close()
        assert (raised.value.status_code, raised.value.code) == (503, "still_running")
        replica.wait(15)
    finally:
        replica.end()


async def test_a_mounted_one_that_was_not_started_says_how(
    folder: Path, database: postgres.Server, schema: str
) -> None:
    main = folder / "main.py"
    main.write_text(main.read_text().replace("FastAPI(lifespan=agents_app.lifespan)", "FastAPI()"))
    replica = start(*RECIPES["fastapi"], folder, database, schema)
    try:
        await eventually(lambda: "startup complete" in replica.output())
        client = openai.AsyncOpenAI(base_url=replica.base_url, api_key="none", max_retries=0)
        with pytest.raises(openai.InternalServerError) as raised:
            await client.responses.create(model="researcher", input="hello")
        await client.close()
        assert (raised.value.status_code, raised.value.code) == (503, "not_running")
        assert "FastAPI(lifespan=agents_app.lifespan)" in str(raised.value)
        with pytest.raises(AssertionError, match="not ready"):
            servers.wait_ready(replica, 0.5)
    finally:
        replica.end()
