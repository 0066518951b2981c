"""Digests: who joins a long text by a snapshot is told the same with them, and sooner."""

import asyncio
import base64
import json
from typing import Any

import pytest

from longrun import ids
from longrun.assembly.kinds import ITEM_ADDED, ITEM_DONE
from longrun.fanout import catch_up
from longrun.fanout.hub import Hub
from longrun.fanout.tail import Tail
from longrun.store.compaction import Compaction
from longrun.store.database import Database
from longrun.store.digesting import Digesting
from longrun.store.events import EventLog
from longrun.store.records import Ending
from longrun.store.responses import Responses
from longrun.store.rewriting import rewrite_all
from longrun.store.sealing import chunk_place
from tests import servers
from tests.postgres import Server
from tests.reading import Wire, eventually, frames_alone, in_background, parse, stream_url
from tests.storing import add_response, connected, event, log_of, migrated, opened, writing

WORDS = 700
"""Of each part: several pages of a log, an event a chunk."""

ONE, TWO = (
    f"{name}:{base64.b64encode(name[:1].encode() * 32).decode()}" for name in ("one", "two")
)


def said(response_id: str) -> list[bytes]:
    """A finished message, one that is open with two parts and an annotation, and an open call."""
    events: list[dict[str, Any]] = []

    def item(index: int, kind: str, **more: Any) -> dict[str, Any]:
        name = ids.item_id(response_id, index, kind)
        return {"id": name, "type": kind, "status": "in_progress", **more}

    def add(type: str, index: int, **more: Any) -> None:
        events.append({"type": type, "output_index": index, **more})

    def text(index: int, part: int, id_: str) -> None:
        about = {"item_id": id_, "content_index": part}
        empty = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        add("response.content_part.added", index, **about, part=empty)
        for n in range(WORDS):
            delta = 'say "ü" \\ ' if n % 50 == 0 else f"word{n} "
            add("response.output_text.delta", index, **about, delta=delta, logprobs=[])

    for index in (0, 1):
        message = item(index, "message", role="assistant", content=[])
        add(ITEM_ADDED, index, item=message)
        text(index, 0, message["id"])
        if index == 0:
            add(ITEM_DONE, index, item={**message, "status": "completed"})
    annotation = {"type": "url_citation", "url": "u", "title": "t", "start_index": 0}
    add(
        "response.output_text.annotation.added",
        1,
        item_id=ids.item_id(response_id, 1, "message"),
        content_index=0,
        annotation_index=0,
        annotation={**annotation, "end_index": 1},
    )
    text(1, 1, ids.item_id(response_id, 1, "message"))
    call = item(2, "function_call", name="f", arguments="", call_id="c")
    add(ITEM_ADDED, 2, item=call)
    for n in range(WORDS):
        add("response.function_call_arguments.delta", 2, item_id=call["id"], delta=f"{n} ")
    return [event(n, each.pop("type"), **each) for n, each in enumerate(events, 1)]


async def written(store: Database) -> str:
    """As a slow run leaves it: an event a chunk."""
    response_id = await add_response(store, principal="ann")
    rows = [
        (response_id, n, store.sealing.seal(chunk_place(response_id, n, n), data))
        for n, data in enumerate(said(response_id), 1)
    ]
    async with store.transaction() as connection:
        await connection.executemany(
            f'INSERT INTO "{store.settings.db_schema}".event_chunks'
            " (response_id, first, last, attempt, data) VALUES ($1, $2, $2, 1, $3)",
            rows,
        )
    return response_id


async def snapshot(store: Database, response_id: str) -> tuple[int, Any]:
    """The number of a snapshot, and what it shows."""
    log = EventLog(store)
    stored = await Responses(store).get(response_id, "ann")
    assert stored is not None
    with Tail(Hub(log, ring_bytes=1000, poll_interval=60), log, response_id, page_bytes=1) as tail:
        begun = await catch_up.snapshot(tail, log, stored)
    assert begun is not None
    [chunk] = begun.chunks
    return chunk.last, json.loads(chunk.data)["response"]["output"]


async def digests(store: Database) -> list[tuple[int, int]]:
    rows = await store.fetch(
        f'SELECT first, last FROM "{store.settings.db_schema}".digests ORDER BY last'
    )
    return [(row["first"], row["last"]) for row in rows]


async def digested(store: Database) -> set[str]:
    rows = await store.fetch(f'SELECT response_id FROM "{store.settings.db_schema}".digests')
    return {row["response_id"] for row in rows}


async def digest_all(store: Database, response_id: str, reached: int | None = None) -> None:
    digesting = Digesting(store)
    while (reached := await digesting.digest(response_id, reached)) is not None:
        pass


async def test_a_snapshot_is_the_same_with_digests_wherever_there_are_some(
    store: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("longrun.store.digesting.PAGE_BYTES", 60_000)
    monkeypatch.setattr(catch_up, "PAGE_BYTES", 10_000)
    response_id = await written(store)
    schema = store.settings.db_schema
    plain = await snapshot(store, response_id)
    assert [len(each.get("content", ())) for each in plain[1]] == [0, 2, 0]
    await digest_all(store, response_id)
    made = await digests(store)
    assert len(made) >= 4
    assert [first for first, _ in made] == [0, *(last + 1 for _, last in made[:-1])]
    assert await snapshot(store, response_id) == plain
    # The log has gone on since.
    await store.execute(f'DELETE FROM "{schema}".digests WHERE last = $1', made[-1][1])
    assert await snapshot(store, response_id) == plain
    # One is not there, and another was made twice, by two replicas.
    await store.execute(f'DELETE FROM "{schema}".digests WHERE last = $1', made[1][1])
    await Digesting(store).digest(response_id, made[2][0] + 50)
    assert len(await digests(store)) == len(made) - 1
    assert await snapshot(store, response_id) == plain


async def test_of_a_long_text_little_is_read(
    store: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    response_id = await written(store)
    await digest_all(store, response_id)
    rows = 0
    fetch = store.fetch

    async def counted(query: str, *args: Any) -> Any:
        nonlocal rows
        found = await fetch(query, *args)
        rows += len(found)
        return found

    monkeypatch.setattr(store, "fetch", counted)
    await snapshot(store, response_id)
    assert rows < 20


async def test_they_go_with_the_end_or_the_response(store: Database) -> None:
    digesting = Digesting(store, rest=0)
    ended, deleted = [await written(store) for _ in range(2)]
    async with writing(store, lambda id_, chunks: digesting.committed(id_, chunks[-1])) as writer:
        for response_id in (ended, deleted):
            log = log_of(writer, response_id, first=len(said(response_id)) + 1)
            log.append([event(0, delta="more")])
            await log.flush()
        await digesting.digest_due(asyncio.Event())
        assert await digested(store) == {ended, deleted}
        await Responses(store).delete(deleted, "ann")
        assert await digested(store) == {ended}
        log = log_of(writer, ended, first=len(said(ended)) + 2)
        log.append([event(0, "response.completed")], ending=Ending("completed", "{}"))
        await log.flush()
    await digesting.digest_due(asyncio.Event())
    assert await digested(store) == set()
    assert await digesting.digest(ended) is None


async def test_compaction_drops_those_that_a_lost_replica_has_left(store: Database) -> None:
    response_id = await written(store)
    await digest_all(store, response_id)
    async with writing(store) as writer:
        log = log_of(writer, response_id, first=len(said(response_id)) + 1)
        log.append([event(0, "response.completed")], ending=Ending("completed", "{}"))
        await log.flush()
    assert await digests(store)
    await Compaction(store, rest=0).compact(response_id)
    assert await digests(store) == []


async def test_what_is_large_and_no_delta_is_not_kept_twice(store: Database) -> None:
    response_id = await add_response(store, principal="ann")
    async with writing(store) as writer:
        run = log_of(writer, response_id)
        for _ in range(20):
            run.append([event(0, "response.in_progress", text="x" * 5000)])
            await run.flush()
    await digest_all(store, response_id)
    assert await digests(store) == []


async def test_they_are_rewritten_with_another_key(database: Server, schema: str) -> None:
    async with migrated(database.url, schema, encryption_keys=ONE) as store:
        response_id = await written(store)
        await digest_all(store, response_id)
        shown = await snapshot(store, response_id)
    async with opened(database.url, schema, encryption_keys=f"{TWO} {ONE}") as store:
        done = await rewrite_all(store)
        assert done.done
        assert done.rows["digests"] >= 2
    async with opened(database.url, schema, encryption_keys=TWO) as store:
        assert await snapshot(store, response_id) == shown


async def test_a_replica_digests_what_it_executes(database: Server) -> None:
    each_an_event = {"LONGRUN_MERGE_DELTAS": "false"}
    with servers.replicas(2, database.url, schema="digesting", environment=each_an_event) as two:
        one, other = two
        response_id = await in_background(one, deltas=1500, hold=120)

        async def count() -> int:
            async with connected(database.url) as connection:
                return int(await connection.fetchval("SELECT count(*) FROM digesting.digests"))

        async def some() -> bool:
            return await count() > 0

        await eventually(some)
        joined = f"{stream_url(other, response_id)}&catch_up=snapshot"
        async with asyncio.timeout(30), await Wire.open(joined) as wire:
            while wire.frames < 1:
                assert await wire.more(1 << 16)
        first = parse(frames_alone(wire.body)).events[0]
        assert first["sequence_number"] > 1000
        [message] = first["response"]["output"]
        text = message["content"][0]["text"]
        assert len(text) > 8000
        assert "".join(f"word{n} " for n in range(1500)).startswith(text)
        cancel = f"{other.base_url}/responses/{response_id}/cancel"
        async with await Wire.open(cancel, method="POST") as wire:
            await wire.rest()
            assert wire.status == 200

        async def none() -> bool:
            return await count() == 0

        await eventually(none)
