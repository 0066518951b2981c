"""What OpenAI's SDKs, in four versions, make of a response that was taken over twice."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests import postgres
from tests.contract.clients.installed import CLIENTS, HERE, Client
from tests.contract.clients.test_clients import require
from tests.faults.ground import Ground, ground
from tests.reading import eventually, finished, retrieve
from tests.servers import Replica

pytestmark = pytest.mark.asyncio(loop_scope="module")

LOOK = "Let me look. "
ANSWER = "word0 word1 word2 "

Taken = tuple[Replica, str]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def taken_over(database: postgres.Server) -> AsyncIterator[Taken]:
    """A replica, and a response whose first attempt died between a message and the call after it,
    and whose second one died in the middle of its last message."""
    with ground(database, "takeover_clients") as found:
        first, second, third = found.start(3)
        (id_,) = await found.submit(
            first,
            turns=((LOOK, ("work", {"name": "a"})),),
            deltas=3,
            gates=("item 0 0", "delta 3"),
        )
        await found.reach([id_], "item 0 0")
        await eventually(lambda: _has_committed(found, id_, b"output_item.done"))
        first.signal(signal.SIGKILL)
        found.open("item 0 0")
        await found.reach([id_], "delta 3", attempt=2)
        owner = await found.pid_of(id_)
        await eventually(lambda: _has_committed(found, id_, b"word2 "))
        successor = next(replica for replica in (second, third) if replica.process.pid == owner)
        survivor = second if successor is third else third
        successor.signal(signal.SIGKILL)
        found.open("delta 3")
        assert (await finished(survivor, id_))["status"] == "completed"
        yield survivor, id_


async def _has_committed(found: Ground, response_id: str, what: bytes) -> bool:
    return any(what in line for line in await found.log_of(response_id))


def _command(client: Client) -> list[str]:
    if client.command[0] == "node":
        return ["node", str(HERE / "takeover.mjs")]
    return [client.command[0], str(HERE / "takeover.py")]


async def _said_by(client: Client, taken: Taken) -> dict[str, Any]:
    require(client)
    replica, response_id = taken
    process = await asyncio.create_subprocess_exec(
        *_command(client),
        *(replica.base_url, response_id, *client.after),
        stdout=asyncio.subprocess.PIPE,
        cwd=HERE,
    )
    async with asyncio.timeout(60):
        output, _ = await process.communicate()
    assert process.returncode == 0
    return dict(json.loads(output))


@pytest.mark.parametrize(
    "client",
    [client for client in CLIENTS if client.name.startswith("openai")],
    ids=lambda client: str(client.name),
)
async def test_every_client_comes_to_the_stored_text_from_any_cursor(
    taken_over: Taken, client: Client
) -> None:
    said = await _said_by(client, taken_over)
    assert said["stored"] == LOOK + ANSWER
    assert said["accumulated"] == LOOK + ANSWER
    assert len(said["by_rule"]) > 30
    for cursor, (before, after) in enumerate(said["by_rule"]):
        assert before == LOOK + ANSWER, f"from {cursor}, before the terminal event"
        assert after == LOOK + ANSWER, f"from {cursor}"
    # At worst, of a client that knows no rule and only adds up deltas: what was said again is
    # there twice, and nothing is missing.
    assert said["deltas_alone"] == LOOK + LOOK + ANSWER + ANSWER


async def test_the_items_that_do_not_stay(taken_over: Taken) -> None:
    replica, response_id = taken_over
    output = (await retrieve(replica, response_id))["output"]
    assert [item["type"] for item in output] == ["message", "mcp_call", "message"]
