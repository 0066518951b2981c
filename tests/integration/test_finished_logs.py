"""A finished log is compacted, and loses its deltas: in either order, with readers in its midst."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from longrun.store import abridging, compaction
from longrun.store.abridging import Abridging
from longrun.store.compaction import Compaction
from longrun.store.database import Database
from longrun.store.sealing import chunk_place
from tests.integration.test_compaction import EVENTS, Reader, add_finished, chunks, is_done
from tests.integration.test_encryption import ONE
from tests.postgres import Server
from tests.storing import migrated

KEPT = 3
"""The first event, the last, and one delta with the text of all the others."""


@pytest.fixture(params=[None, ONE], ids=["plain", "sealed"])
async def store_of_small_chunks(
    request: pytest.FixtureRequest, database: Server, schema: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Database]:
    """Compacted in several transactions, abridged in several pages."""
    monkeypatch.setattr(compaction, "PART_BYTES", 3 * 4096)
    monkeypatch.setattr(compaction, "READ_BYTES", 1500)
    monkeypatch.setattr(abridging, "PAGE_BYTES", 3000)
    keys = request.param
    async with migrated(
        database.url, schema, encryption_keys=keys, chunk_bytes=4096, compact_after=60.0
    ) as opened:
        yield opened


Work = Callable[[Database, str], Awaitable[object]]


async def compacted(store: Database, response_id: str) -> None:
    await Compaction(store, rest=0).compact(response_id)


async def compacted_in_part(store: Database, response_id: str) -> None:
    """As after a crash between two transactions."""
    assert await Compaction(store, rest=0)._part(response_id, -1) is not None


async def abridged(store: Database, response_id: str) -> None:
    assert await Abridging(store, 0.001).abridge(response_id)


ORDERS: dict[str, list[Work]] = {
    "compacted, abridged": [compacted, abridged],
    "in part, abridged, compacted": [compacted_in_part, abridged, compacted],
    "abridged, compacted": [abridged, compacted],
    "abridged, compacted, both again": [abridged, compacted, abridged, compacted],
}


def numbers(body: list[bytes]) -> list[int]:
    return [json.loads(line)["sequence_number"] for line in body]


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: order.replace(", ", "-"))
async def test_in_whichever_order_readers_have_it_to_its_end(
    store_of_small_chunks: Database, order: str
) -> None:
    store = store_of_small_chunks
    response_id = await add_finished(store)
    whole = await Reader(store, response_id, -1).read()
    assert len(whole) == EVENTS
    readers = [Reader(store, response_id, cursor) for cursor in (-1, 10, EVENTS // 2)]
    for reader in readers:
        await reader.read(1)
    for work in ORDERS[order]:
        await work(store, response_id)
        amid = Reader(store, response_id, -1)
        readers.append(amid)
        await amid.read(1)
    assert await is_done(store, response_id)
    for reader in readers:
        found = numbers(await reader.read())
        assert found == sorted(set(found))
        assert json.loads(reader.body[-1])["type"] == "response.completed"
    late = await Reader(store, response_id, -1).read()
    assert numbers(late) == list(range(KEPT))
    before, after = ([json.loads(line) for line in body] for body in (whole, late))
    for old, new in ((before[0], after[0]), (before[-1], after[-1])):
        assert {**new, "sequence_number": 0} == {**old, "sequence_number": 0}
    assert after[1]["delta"] == "".join(event["delta"] for event in before[1:-1])


async def test_what_is_encrypted_is_bound_to_its_new_place(
    store_of_small_chunks: Database,
) -> None:
    store = store_of_small_chunks
    response_id = await add_finished(store, attempts=1)
    await compacted(store, response_id)
    await abridged(store, response_id)
    [(first, last, _)] = await chunks(store, response_id)
    schema = store.settings.db_schema
    row = await store.fetch_row(
        f'SELECT data FROM "{schema}".event_chunks WHERE response_id = $1', response_id
    )
    assert row is not None
    opened = store.sealing.open(chunk_place(response_id, first, last), row["data"])
    assert len(opened.split(b"\n")) == KEPT


async def test_what_was_compacted_is_said(
    store_of_small_chunks: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "longrun.store.compaction")
    compaction_ = Compaction(store_of_small_chunks, rest=0)
    await compaction_._compact_due(asyncio.Event())
    assert not caplog.records
    for _ in range(2):
        await add_finished(store_of_small_chunks)
    await compaction_._compact_due(asyncio.Event())
    [record] = caplog.records
    assert record.getMessage().startswith("compacted the logs of 2 finished responses, ")
