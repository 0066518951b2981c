"""Conversations whose responses lose their replicas: what was said is there once, in order."""

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from openai import AsyncOpenAI, BadRequestError

from longrun.store.sealing import item_place, said_place
from tests import postgres
from tests.faults.ground import Ground, ground, script
from tests.reading import create, eventually
from tests.servers import Replica
from tests.storing import SEALING, waiting_for_locks

PARALLEL = 20


@pytest.fixture
def queueing(database: postgres.Server, schema: str) -> Iterator[Ground]:
    with ground(database, f"conversations_{schema}", LONGRUN_CONVERSATION_OVERLAP="queue") as found:
        yield found


@pytest.fixture
def refusing(database: postgres.Server, schema: str) -> Iterator[Ground]:
    with ground(database, f"conversations_{schema}") as found:
        yield found


async def conversation(replica: Replica) -> str:
    async with client_of(replica) as client:
        return (await client.conversations.create()).id


def client_of(replica: Replica) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=replica.base_url, api_key="none", max_retries=0)


async def begin(replica: Replica, conversation_id: str, **fields: Any) -> str:
    text = json.dumps(script(**fields))
    made = await create(replica, text, model="gated", background=True, conversation=conversation_id)
    return str(made["id"])


async def check_items(found: Ground, conversation_id: str, ids: list[str]) -> None:
    """The items of these responses are in the conversation, in this order, each once; and each
    response has read what was said before it, and nothing else."""
    rows = await found.sql(
        "SELECT position, id, response_id FROM conversation_items WHERE conversation_id = $1"
        " ORDER BY position",
        conversation_id,
    )
    assert [row["position"] for row in rows] == list(range(len(rows)))
    expected: list[str] = []
    for id_ in ids:
        row = await found.row(id_)
        assert row["context_end"] == len(expected)
        items = await found.sql(
            "SELECT output_index, item FROM items WHERE response_id = $1 ORDER BY output_index", id_
        )
        opened = [SEALING.open_text(item_place(id_, *row), item) for *row, item in items]
        output = [json.loads(item)["id"] for item in opened]
        assert len(output) == 3, "two calls, a message"
        expected += [f"msg_{id_.removeprefix('resp_')}800000", *output]
    assert [row["id"] for row in rows] == expected


async def in_order(found: Ground, conversation_id: str) -> list[str]:
    """The responses on a conversation, by their turns."""
    rows = await found.sql(
        "SELECT id FROM responses WHERE conversation_id = $1 ORDER BY turn", conversation_id
    )
    return [row["id"] for row in rows]


async def test_twenty_at_once_on_three_replicas_of_which_one_is_killed(queueing: Ground) -> None:
    replicas = queueing.start(3)
    on = await conversation(replicas[0])

    async def in_foreground(replica: Replica) -> None:
        async with client_of(replica) as client:
            await client.responses.create(
                model="gated", input=json.dumps(script()), conversation=on
            )

    async with asyncio.TaskGroup() as group:
        background = [
            group.create_task(
                begin(replicas[n % 3], on, **({"gates": ("delta 3",)} if n == 4 else {}))
            )
            for n in range(PARALLEL // 2)
        ]
        foreground = [
            # That of the replica which is killed breaks off.
            asyncio.ensure_future(in_foreground(replicas[n % 3]))
            for n in range(PARALLEL // 2)
        ]
    stopped = background[4].result()
    await queueing.reach([stopped], "delta 3")
    pid = await queueing.pid_of(stopped)
    assert pid is not None

    async def all_created() -> bool:
        return len(await in_order(queueing, on)) == PARALLEL

    await eventually(all_created)
    live = await queueing.value("SELECT count(*) FROM responses WHERE status = 'in_progress'")
    assert live == 1
    os.kill(pid, signal.SIGKILL)
    await queueing.all_at_attempt([stopped], 2)
    queueing.open("delta 3")
    ids = await in_order(queueing, on)
    await queueing.all_finished(ids)
    done = await asyncio.gather(*foreground, return_exceptions=True)
    assert len([each for each in done if each is None]) >= PARALLEL // 3
    await queueing.check_all(ids)
    await check_items(queueing, on, ids)


async def test_killed_in_the_commit_of_its_end(queueing: Ground) -> None:
    victim, other = queueing.start(2)
    on = await conversation(victim)
    first = await begin(victim, on, gates=("end",))
    await queueing.reach([first], "end")
    second = await begin(other, on)
    async with queueing.connected() as connection, connection.transaction():
        await connection.fetch("SELECT FROM conversations WHERE id = $1 FOR UPDATE", on)
        queueing.open("end")

        async def is_committing() -> bool:
            return await waiting_for_locks(queueing.database.url) > 0

        await eventually(is_committing)
        victim.signal(signal.SIGKILL)
        victim.wait()
    await queueing.all_finished([first, second])
    await queueing.check_all([first, second])
    await check_items(queueing, on, [first, second])


async def test_cancelled_in_the_queue_it_leaves_nothing_and_the_next_one_goes_on(
    queueing: Ground,
) -> None:
    one, two = queueing.start(2)
    on = await conversation(one)
    first = await begin(one, on, gates=("in a",))
    await queueing.reach([first], "in a")
    withdrawn, third = await begin(one, on), await begin(two, on)
    async with client_of(two) as client:
        cancelled = await client.responses.cancel(withdrawn)
    assert cancelled.status == "cancelled"
    assert (await queueing.row(third))["status"] == "queued"
    queueing.open("in a")
    await queueing.all_finished([third])
    await check_items(queueing, on, [first, third])


async def test_it_is_free_when_the_time_of_its_response_is_over(refusing: Ground) -> None:
    one, two = refusing.start(2)
    on = await conversation(one)
    late = await begin(one, on, gates=("in a",))
    async with client_of(two) as client:
        with pytest.raises(BadRequestError, match="Another response"):
            await client.responses.create(model="gated", input="x", conversation=on)

    async def one_tool_has_ended() -> bool:
        query = "SELECT count(*) FROM items WHERE response_id = $1"
        return bool(await refusing.value(query, late) == 1)

    await eventually(one_tool_has_ended)
    await refusing.sql("UPDATE responses SET deadline_at = now() WHERE id = $1", late)
    await refusing.all_finished([late])
    assert (await refusing.row(late))["status"] == "failed"
    items = await refusing.sql(
        "SELECT id, item FROM conversation_items WHERE conversation_id = $1 ORDER BY position", on
    )
    opened = [SEALING.open_text(said_place(on, id_), item) for id_, item in items]
    kinds = [json.loads(item).get("type", "message") for item in opened]
    assert kinds == ["message", "mcp_call"]
    next_one = await begin(two, on)
    await refusing.all_finished([next_one])
    await refusing.check(next_one)
