"""The same bytes go to Postgres once, whatever rows have them."""

import base64
import random
from collections.abc import Sequence
from typing import Any

import pytest
from agents import Agent, function_tool

from longrun.assembly.assembler import Assembler
from longrun.store.database import Database
from tests import proxy
from tests.crashing import Served, asked, finish, replica
from tests.journal_agents.models import agent, calls, says
from tests.postgres import Server
from tests.storing import add_response, log_of, migrated, writing
from tests.unit.streams import output_of

ODD = "a\x00b\ud800c\U0001f600\u2028\r\n\\u0000é\"'" * 100


def noise(size: int) -> str:
    return base64.b64encode(random.Random(size).randbytes(size)).decode()[:size]


async def items_of(database: Database, response_id: str) -> list[str]:
    rows = await database.fetch(
        f'SELECT item FROM "{database.settings.db_schema}".items WHERE response_id = $1'
        " ORDER BY output_index",
        response_id,
    )
    return [row["item"] for row in rows]


async def write(database: Database, outputs: Sequence[str]) -> None:
    """Outputs of tools, as a run appends them; the rows must be what the assembler said."""
    response_id = await add_response(database)
    assembler = Assembler(response_id, {}, next_sequence=1)
    told: list[str] = []
    async with writing(database) as writer:
        run = log_of(writer, response_id)
        for number, output in enumerate(outputs):
            assembler.tool_output(output_of(f"call_{number}", output))
            emission = assembler.collect()
            told += [text for _, text in emission.items]
            run.append(emission.events, items=emission.items, models=emission.models)
        await run.flush()
    assert await items_of(database, response_id) == told
    assert len(told) == len(outputs)


async def test_an_item_goes_over_the_wire_once(database: Server, schema: str) -> None:
    async with proxy.before(database.url) as way, migrated(way.url, schema) as store:
        await write(store, ["short"])
        before = way.sent
        await write(store, [noise(1_000_000)])
        assert 1_000_000 < way.sent - before < 1_050_000


async def test_rows_are_what_the_events_say_wherever_chunks_end(
    database: Server, schema: str
) -> None:
    sizes = [0, 300, 510, 600, 70_000, 5, 3_000, 200_000, 1]
    outputs = [noise(size) for size in sizes] + [ODD, ODD * 100, "é" * 5000, "\U0001f600" * 40_000]
    for chunk_bytes in (1024, 64 * 1024, 1 << 20):
        async with migrated(database.url, schema, chunk_bytes=chunk_bytes) as store:
            await write(store, outputs)


OUTPUT, TEXT = noise(1_000_000), noise(300_000)


@function_tool
async def give_output() -> str:
    """A megabyte."""
    return OUTPUT


def long_winded() -> Agent[Any]:
    return agent("agent", [calls("give_output")], [says(TEXT)], tools=[give_output])


@pytest.mark.parametrize("shown_as", ["function_call", "mcp_call"])
async def test_a_run_sends_no_more_than_its_events(
    shown_as: str, database: Server, schema: str
) -> None:
    """What a tool gave goes over the wire as `done` and in the final snapshot; a text besides as
    deltas and in the events of its end, which are three. The rest is statements: each is sent
    once for each way in which it is used."""
    most = 2 * len(OUTPUT) + 5 * len(TEXT) + 80_000
    async with (
        proxy.before(database.url) as way,
        replica(Served(long_winded), way.url, schema, server_tools=shown_as) as app,
    ):
        before = way.sent
        request = asked("go")
        await app.parts.admission.submit(request)
        await finish(app, [request.response_id])
        assert way.sent - before < most
        rows = await app.parts.database.fetch(f'SELECT kind, result FROM "{schema}".steps')
    assert [row["kind"] for row in rows] == ["model", "tool", "model"]
    assert sum(len(row["result"]) for row in rows) < 3000
