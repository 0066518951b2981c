"""What an end and a takeover read of a long log, and that one end is enough."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from longrun.execution.takeover import Position, read_position
from longrun.pending import lines
from longrun.store.claims import Claims
from longrun.store.database import Database
from longrun.store.events import EventLog
from longrun.store.records import Chunk
from longrun.store.run_log import RunLog
from tests import postgres
from tests.crashing import Served, asked, finish, replica
from tests.journal_agents.models import agent, says
from tests.storing import add_response, event, log_of, migrated, writing

CHUNK = 4096


class Log:
    """Writes the events of messages, as a run's assembler would."""

    def __init__(self, run: RunLog) -> None:
        self.run = run

    def add(self, type: str, **fields: Any) -> None:
        self.run.append([event(self.run.next_sequence, type, **fields)])

    def open_message(self, index: int, deltas: int) -> None:
        where = {"item_id": f"msg_{index}", "output_index": index, "content_index": 0}
        item = {"id": f"msg_{index}", "type": "message", "role": "assistant", "content": []}
        self.add("response.output_item.added", output_index=index, item=item)
        part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        self.add("response.content_part.added", part=part, **where)
        for number in range(deltas):
            delta = f"{index}.{number} "
            self.add("response.output_text.delta", delta=delta, logprobs=[], **where)

    def close_message(self, index: int) -> None:
        item = {"id": f"msg_{index}", "type": "message", "role": "assistant", "content": []}
        self.add("response.output_item.done", output_index=index, item=item)


class CountedLog(EventLog):
    """Counts the chunks that are read."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.chunks = 0

    async def page_unscoped(self, response_id: str, cursor: int, limit: int) -> list[Chunk]:
        return self._counted(await super().page_unscoped(response_id, cursor, limit))

    async def item_page_unscoped(self, response_id: str, cursor: int, limit: int) -> list[Chunk]:
        return self._counted(await super().item_page_unscoped(response_id, cursor, limit))

    def _counted(self, chunks: list[Chunk]) -> list[Chunk]:
        self.chunks += len(chunks)
        return chunks


async def read(database: Database, write: Callable[[Log], None]) -> tuple[Position, int, int]:
    """Where a response stands with this log; how many chunks were read, and how many it has."""
    response_id = await add_response(database)
    async with writing(database) as writer:
        run = log_of(writer, response_id)
        write(Log(run))
        await run.flush()
    claims, log = Claims(database, "next"), CountedLog(database)
    await claims.count_deaths(["replica_of_the_tests"])
    [claim] = await claims.orphans(1)
    position = await read_position(claim, claims, log, to_end=True)
    whole = await database.fetch_row(
        f'SELECT count(*) AS n FROM "{database.settings.db_schema}".event_chunks '
        "WHERE response_id = $1",
        response_id,
    )
    assert whole is not None
    assert position.next_sequence == run.next_sequence
    return position, log.chunks, whole["n"]


async def test_of_what_is_closed_only_beginnings_and_ends_are_read(
    database: postgres.Server, schema: str
) -> None:
    def write(log: Log) -> None:
        for index in range(3):
            log.open_message(index, 2000)
            log.close_message(index)
        log.open_message(3, 50)

    async with migrated(database.url, schema, chunk_bytes=CHUNK) as store:
        position, read_chunks, all_chunks = await read(store, write)
    assert all_chunks > 200
    assert read_chunks < 20
    closed = [json.loads(line) for line in lines(position.assembler.collect().events)]
    [done] = [each for each in closed if each["type"] == "response.output_item.done"]
    text = "".join(f"3.{number} " for number in range(50))
    assert (done["output_index"], done["item"]["content"][0]["text"]) == (3, text)


async def test_a_long_item_that_is_open_is_closed_with_all_of_its_text(
    database: postgres.Server, schema: str
) -> None:
    def write(log: Log) -> None:
        log.open_message(0, 20)
        log.open_message(1, 3000)
        log.close_message(0)

    async with migrated(database.url, schema, chunk_bytes=CHUNK) as store:
        position, _, _ = await read(store, write)
    closed = [json.loads(line) for line in lines(position.assembler.collect().events)]
    [done] = [each for each in closed if each["type"] == "response.output_item.done"]
    assert done["item"]["content"][0]["text"] == "".join(f"1.{n} " for n in range(3000))
    assert done["item"]["status"] == "incomplete"


async def test_an_end_that_takes_long_is_not_claimed_again(
    database: postgres.Server, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look claimed it again, and fenced the end that was under way: it never came."""
    held = Served(lambda: agent("agent", [says("never")]))
    async with (
        replica(held, database.url, schema) as one,
        replica(held, database.url, schema) as two,
    ):
        request = asked("go")
        looks = 0
        look_around = one.parts.claims.look_around

        async def counted_look() -> Any:
            nonlocal looks
            looks += 1
            return await look_around()

        async def slow(*given: Any) -> list[Chunk]:
            before = looks
            while looks < before + 4:
                await asyncio.sleep(0.01)
            return []

        monkeypatch.setattr(one.parts.claims, "look_around", counted_look)
        for app in (one, two):
            monkeypatch.setattr(app.parts.event_log, "item_page_unscoped", slow)
            app.parts.admission.makes_room = True  # it is queued
        await one.parts.admission.submit(request)
        await one.parts.database.execute(
            f'UPDATE "{schema}".responses SET deadline_at = now() WHERE id = $1',
            request.response_id,
        )
        await finish(one, [request.response_id])
        row = await one.parts.database.fetch_row(
            f'SELECT attempt, status FROM "{schema}".responses'
        )
    assert row is not None
    assert row["status"] == "failed"
    # A look may have begun it before its time was over.
    assert row["attempt"] <= 2
