"""Encryption at rest with real replicas: nothing to read in the files of Postgres, takeovers, and
rings that differ."""

import base64
import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import openai
import pytest
from openai import AsyncOpenAI

from longrun.settings import Settings
from longrun.store.command import forget_key, inspect_response
from tests import postgres, servers
from tests.faults.ground import Ground, following, ground
from tests.openapi import Judge
from tests.reading import Wire, eventually, read
from tests.servers import Replica

CANARY = "canary-of-the-files"

ONE = "one:" + base64.b64encode(b"1" * 32).decode()
TWO = "two:" + base64.b64encode(b"2" * 32).decode()

KEYS = "LONGRUN_ENCRYPTION_KEYS"


@pytest.fixture
def found(database: postgres.Server, schema: str) -> Iterator[Ground]:
    with ground(database, f"encryption_{schema}") as made:
        yield made


def with_ring(found: Ground, ring: str) -> Replica:
    [replica] = found.start(**{KEYS: ring})
    return replica


@contextlib.asynccontextmanager
async def clients_of(*replicas: Replica) -> AsyncIterator[list[AsyncOpenAI]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                AsyncOpenAI(base_url=replica.base_url, api_key="none", max_retries=0)
            )
            for replica in replicas
        ]


def holding(folder: Path, text: str) -> list[Path]:
    """The files that hold a text, as it is or as base64 at any offset."""
    raw = text.encode()
    needles = [raw, *(base64.b64encode(b"x" * n + raw)[4:-4] for n in range(3))]
    return [
        file
        for file in folder.rglob("*")
        if file.is_file() and any(needle in file.read_bytes() for needle in needles)
    ]


def run(found: Ground, ring: str | None, *command: str) -> subprocess.CompletedProcess[str]:
    given = {"LONGRUN_SCHEMA": found.schema, "LONGRUN_DATABASE_URL": found.database.url}
    return subprocess.run(
        [sys.executable, "-m", "longrun", *command],
        env=given | ({KEYS: ring} if ring else {}),
        cwd=servers.REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
    )


async def test_a_takeover_leaves_nothing_to_read_in_the_files(found: Ground) -> None:
    """Events, items, steps, a conversation, metadata, a failure; and one of two replicas dies."""
    one, two = found.start(2, **{KEYS: ONE})
    plan = {
        "turns": [[["work", {"name": CANARY}]]],
        "deltas": 4,
        "delta": f"{CANARY} {{n}} ",
        "gates": ["delta 2"],
    }
    async with clients_of(one, two) as (client, other):
        conversation = await client.conversations.create(
            metadata={"about": CANARY}, items=[{"role": "user", "content": f"{CANARY} before"}]
        )
        response = await client.responses.create(
            model="gated",
            input=json.dumps(plan),
            instructions=CANARY,
            metadata={"about": CANARY},
            conversation=conversation.id,
            background=True,
        )
        async with following([one, two], [response.id]) as [follower]:
            await found.reach([response.id], "delta 2")
            one.signal(signal.SIGKILL)
            await found.reach([response.id], "delta 2", attempt=2)
            found.open("delta 2")
        numbers = [json.loads(line)["sequence_number"] for line in follower.lines]
        assert numbers == list(range(len(numbers)))
        assert CANARY in follower.lines[-1].decode()
        ended = await other.responses.retrieve(response.id)
        assert ended.status == "completed"
        assert ended.output_text == "".join(f"{CANARY} {n} " for n in range(4))
        items = other.conversations.items.list(conversation.id, order="asc")
        kinds = [item.type async for item in items]
        assert kinds == ["message", "message", "mcp_call", "message"]
        assert CANARY in (await other.conversations.retrieve(conversation.id)).metadata["about"]
        failing = json.dumps({"deltas": 2, "delta": CANARY, "fail": 1})
        assert (await other.responses.create(model="gated", input=failing)).status == "failed"
        chained = await other.responses.create(
            model="gated",
            input=json.dumps({"show": True, "delta": CANARY}),
            previous_response_id=response.id,
        )
        assert f"{CANARY} 3" in chained.output_text
    await found.sql("CHECKPOINT")
    assert holding(found.database.data, CANARY) == []
    assert CANARY not in found.logs()


async def test_the_search_finds_what_is_plain(found: Ground) -> None:
    one = with_ring(found, f"plain {ONE}")
    async with clients_of(one) as [client]:
        await client.responses.create(model="gated", input="another canary of the files")
    await found.sql("CHECKPOINT")
    assert holding(found.database.data, "another canary of the files")


async def test_rings_that_differ(found: Ground) -> None:
    """One step of a rotation was left out: the replica that lacks the new key says so, and gives
    errors for what it cannot read; the other one reads everything."""
    old = with_ring(found, ONE)
    refused = run(found, TWO, "serve", "--port", "0", "tests.faults.agents:agents")
    assert refused.returncode == 2
    assert "LONGRUN_ENCRYPTION_KEYS: the ring lacks 'one'" in refused.stderr
    new = with_ring(found, f"{TWO} {ONE}")
    async with clients_of(old, new) as (of_old, of_new):
        before = await of_old.responses.create(model="gated", input="from before")
        after = await of_new.responses.create(model="gated", input="from after")

        async def says_so() -> bool:
            async with await Wire.open(old.url + "/readyz") as wire:
                await wire.rest()
                return wire.status == 503 and b"the ring of encryption keys" in wire.body

        await eventually(says_so, timeout=30, every=0.3)
        with pytest.raises(openai.InternalServerError) as raised:
            await of_old.responses.retrieve(after.id)
        assert raised.value.body["code"] == "unreadable"
        assert "two" not in str(raised.value)
        with pytest.raises(openai.InternalServerError):
            await of_old.responses.retrieve(after.id, stream=True)
        assert f"document of {after.id} cannot be opened: key 'two'" in old.output()
        assert (await of_old.responses.retrieve(before.id)).output_text == "from before"
        # A list shows both, in the shape that clients know.
        judge = Judge(json.loads(await read(f"{old.url}/openapi.json")))
        listed = await read(f"{old.url}/responses")
        assert [each["id"] for each in json.loads(listed)["data"]] == [after.id, before.id]
        problem = judge.problem("GET", "/responses", 200, "application/json", listed.decode())
        assert problem is None
        for each in (before, after):
            assert (await of_new.responses.retrieve(each.id)).output_text == each.output_text
    rewritten = run(found, f"{TWO} {ONE}", "encryption", "rewrite", "--json")
    assert rewritten.returncode == 0, rewritten.stderr
    assert json.loads(rewritten.stdout)["rewritten"]["responses"] == 1


async def test_a_run_whose_key_is_lost_ends_in_words(found: Ground) -> None:
    old = with_ring(found, ONE)
    [response_id] = await found.submit(old, gates=("in a",))
    await found.reach([response_id], "in a")
    old.signal(signal.SIGKILL)
    old.wait()
    settings = Settings.load(
        schema=found.schema, database_url=found.database.url, encryption_keys=TWO
    )
    assert not await forget_key(settings, "other")
    assert await forget_key(settings, "one")
    new = with_ring(found, TWO)
    await found.all_finished([response_id])
    async with clients_of(new) as [client]:
        ended = await client.responses.retrieve(response_id)
        assert ended.status == "failed"
        assert ended.error is not None
        assert "cannot be read" in ended.error.message
        shown = await inspect_response(settings, response_id)
        assert shown is not None
        assert "cannot be read" in shown[0]["document"]
        assert shown[1] is None
        await client.responses.delete(response_id)
