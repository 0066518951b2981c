"""`longrun.client`, and the documented ways to resume, over replicas that die, drain, are away.

The blocks of code are taken from the documents themselves.
"""

import asyncio
import contextlib
import json
import re
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import openai
import pytest

from longrun.client import Transcript, create_and_follow, follow
from tests import postgres
from tests.faults.ground import Ground, ground, script
from tests.reading import eventually
from tests.servers import REPOSITORY, Replica, wait_ready

README = (REPOSITORY / "README.md").read_text()
SECTION = README.split("**Background, streamed, resumed.**")[1].split("\n**")[0]
GUIDE = (REPOSITORY / "src/longrun/client/README.md").read_text()
SHORT, LOOP = re.findall(r"^```python\n(.*?)^```", SECTION + GUIDE, re.MULTILINE | re.DOTALL)

ASKED = {"model": "gated", "input": json.dumps(script(gates=("delta 3",)))}
TEXT = "word0 word1 word2 word3 word4 word5 "


class Relay:
    """What a load balancer does: the first replica that takes the connection, else 503.

    Attributes:
        refusals: how often nobody was there.
    """

    def __init__(self) -> None:
        self.replicas: list[Replica] = []
        self.refusals = 0
        self._tasks: set[asyncio.Task[Any]] = set()

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """The base URL for clients."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        finally:
            server.close()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            for _ in range(5):  # an aborted transport closes in the next turn of the loop
                await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(OSError):
                await self._relay(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for replica in self.replicas:
            with contextlib.suppress(OSError):
                up = await asyncio.open_connection(*replica.url.removeprefix("http://").split(":"))
                break
        else:
            self.refusals += 1
            await reader.read(1 << 16)
            said = b"Content-Length: 0\r\nRetry-After: 1\r\nConnection: close\r\n\r\n"
            writer.write(b"HTTP/1.1 503 Service Unavailable\r\n" + said)
            await writer.drain()
            writer.close()
            await writer.wait_closed()
            return
        ways = [asyncio.ensure_future(_pump(*way)) for way in ((reader, up[1]), (up[0], writer))]
        try:
            # What the replica said last is passed on before its end is.
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            # Before anything is waited for: that may be cut short by a cancellation.
            up[1].transport.abort()
            writer.close()
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            await writer.wait_closed()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()


@pytest.fixture
def found(database: postgres.Server, schema: str) -> Iterator[Ground]:
    environment = {"LONGRUN_DRAIN_SECONDS": "1"}
    with ground(database, f"follow_{schema}", **environment) as made:
        yield made


class Seen:
    """What a client was given, and what it showed."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.transcript = Transcript()
        self.shown = ""

    def take(self, event: Any) -> None:
        self.events.append(event)
        self.shown = self.transcript.text
        self.transcript.take(event)


def sync(base_url: str, seen: Seen) -> None:
    with openai.OpenAI(base_url=base_url, api_key="none") as client:
        for event in create_and_follow(client, give_up_after=30, **ASKED):
            seen.take(event)


async def not_sync(base_url: str, seen: Seen) -> None:
    async with openai.AsyncOpenAI(base_url=base_url, api_key="none") as client:
        created = await client.responses.create(background=True, **ASKED)
        async for event in follow(client, created.id, give_up_after=30):
            seen.take(event)


def program(block: str, base_url: str) -> str:
    """A block of a document, asking the agent of these tests."""
    asked = f"model={ASKED['model']!r}, input={ASKED['input']!r}"
    assert 'model="demo", input="a long one"' in block
    block = block.replace('model="demo", input="a long one"', asked)
    if "print" not in block:
        block += "print(transcript.text)\n"
    client = f"from openai import OpenAI\nclient = OpenAI(base_url={base_url!r}, api_key='none')\n"
    return client + block


async def printed(block: str, base_url: str) -> str:
    """What a block of a document prints in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program(block, base_url)), stdout=asyncio.subprocess.PIPE
    )
    try:
        output, _ = await process.communicate()
        assert process.returncode == 0
        return output.decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_over_a_kill_a_takeover_a_drain_and_nobody_there(found: Ground) -> None:
    """Four clients: sync, async, and both documented ways."""
    relay, one, two = Relay(), Seen(), Seen()
    first, second = relay.replicas = found.start(2)
    async with (
        asyncio.timeout(60),
        relay.listening() as base_url,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(asyncio.to_thread(sync, base_url, one))
        group.create_task(not_sync(base_url, two))
        ways = [group.create_task(printed(block, base_url)) for block in (SHORT, LOOP)]
        await eventually(lambda: found.value("SELECT count(*) = 4 FROM responses"))
        ids = [row["id"] for row in await found.sql("SELECT id FROM responses")]
        await found.reach(ids, "delta 3")
        await eventually(lambda: all(s.transcript.text.endswith("word2 ") for s in (one, two)))
        first.signal(signal.SIGKILL)
        await found.reach(ids, "delta 3", attempt=2)
        # All are on the second one by now, or come to it; it sends them away, and goes.
        (third,) = found.start(1, wait=False)
        second.signal(signal.SIGTERM)
        assert await asyncio.to_thread(second.wait, 15) == 0
        gone = relay.refusals
        await eventually(lambda: relay.refusals >= gone + 4)
        found.open("delta 3")
        await asyncio.to_thread(wait_ready, third)
        relay.replicas = [third]
    assert [way.result() for way in ways] == [TEXT + "\n"] * 2
    for seen in (one, two):
        assert seen.shown == seen.transcript.text == TEXT
        lines = await found.log_of(seen.events[0].response.id)
        assert [e.sequence_number for e in seen.events] == list(range(len(lines)))
        assert [e.type for e in seen.events] == [json.loads(line)["type"] for line in lines]
        deltas = "".join(e.delta for e in seen.events if e.type == "response.output_text.delta")
        assert deltas != TEXT, "something was taken back"
        for after in range(len(lines) - 1):
            late = Transcript()
            for event in seen.events[after:]:
                late.take(event)
            assert late.text == TEXT
    for id_ in ids:
        await found.check(id_)
