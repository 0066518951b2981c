"""Polls and replays of what has ended come from a hot standby, and from the primary wherever that
does not have it, lags, hangs or is gone."""

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta

import pytest
from openai import AsyncOpenAI, NotFoundError

from longrun import metrics
from longrun.fanout.hub import Hub
from longrun.fanout.tail import Tail
from longrun.store import standby as standbys
from longrun.store.database import Database
from longrun.store.events import EventLog
from longrun.store.records import Chunk, Ended, Ending
from longrun.store.responses import Responses
from longrun.store.rewriting import rewrite_all
from longrun.store.standby import Standby
from tests import postgres, servers
from tests.postgres import Pair, Server
from tests.reading import (
    Wire,
    check_complete,
    eventually,
    finished,
    in_background,
    read,
    script,
)
from tests.reading import stream_url as stream_of
from tests.storing import add_response, connected, event, log_of, migrated, opened, writing


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with postgres.pair(synchronous=False) as made:
        yield made


@pytest.fixture
async def store(pair: Pair, schema: str) -> AsyncIterator[Database]:
    """Of a replica that knows the standby."""
    urls = {"database_url": pair.primary.url, "read_database_url": pair.standby.url}
    async with migrated(pair.primary.url, schema, chunk_bytes=1024, **urls) as made:
        yield made


def count(outcome: str) -> float:
    return float(metrics.standby_reads.labels(outcome)._value.get())


@contextlib.contextmanager
def counted(**more: int) -> Iterator[None]:
    """So many reads of each outcome within the block, and none of the others."""
    before = {outcome: count(outcome) for outcome in ("served", "behind", "failed")}
    yield
    found = {outcome: int(count(outcome) - was) for outcome, was in before.items()}
    assert found == {"served": 0, "behind": 0, "failed": 0, **more}


async def ended(store: Database, *, seconds: float = 60) -> str:
    """Ann's response of two pages, which ended so long ago."""
    response_id = await add_response(store, principal="ann")
    async with writing(store) as writer:
        run = log_of(writer, response_id)
        for _ in range(10):
            run.append([event(0, delta="x" * 200) for _ in range(10)])
            await run.flush()
        item = json.dumps({"type": "message", "text": "x" * 10_000})
        run.append(
            [event(0, "response.completed")],
            items=[(0, item)],
            ending=Ending("completed", '{"object": "response"}'),
        )
        await run.flush()
    await store.execute(
        f'UPDATE "{store.settings.db_schema}".responses SET finished_at = $2 WHERE id = $1',
        response_id,
        datetime.now(UTC) - timedelta(seconds=seconds),
    )
    return response_id


async def replayed(pair: Pair) -> None:
    """Wait until the standby has all that the primary has."""
    async with connected(pair.primary.url) as primary, connected(pair.standby.url) as standby:
        reached = await primary.fetchval("SELECT pg_current_wal_lsn()")

        async def has() -> bool:
            return bool(await standby.fetchval("SELECT pg_last_wal_replay_lsn() >= $1", reached))

        await eventually(has)


async def whole(store: Database, response_id: str) -> list[Chunk]:
    """The stream of Ann's response, page by page, as a reader has it."""
    log = EventLog(store)
    begun = await log.begin(response_id, "ann", -1, 3000)
    assert begun is not None
    tail = Tail(
        Hub(log, ring_bytes=1000, poll_interval=60),
        log,
        response_id,
        finished=True,
        ended=begun.ended,
        begun=begun.chunks,
        page_bytes=3000,
    )
    chunks: list[Chunk] = []
    async with asyncio.timeout(30):
        with tail:
            while block := await tail.next(30):
                chunks += block
    assert tail.ended
    return chunks


def lines_of(chunks: list[Chunk]) -> list[bytes]:
    return [line for chunk in chunks for line in chunk.data.split(b"\n")]


class TestWhatItHas:
    async def test_comes_from_it_and_is_the_same(
        self, pair: Pair, store: Database, schema: str
    ) -> None:
        response_id = await ended(store)
        await replayed(pair)
        async with opened(pair.primary.url, schema) as alone:
            expected = await Responses(alone).get(response_id, "ann")
            assert expected is not None
            with counted(served=1):
                assert await Responses(store).get(response_id, "ann") == expected
            with counted():
                chunks = await whole(alone, response_id)
        before = count("served")
        assert await whole(store, response_id) == chunks
        assert count("served") - before > 5

    async def test_what_has_just_ended_or_is_live_is_not_asked_of_it(self, store: Database) -> None:
        live = await add_response(store, principal="ann")
        just = await ended(store, seconds=0)
        with counted():
            for response_id in (live, just):
                found = await Responses(store).get(response_id, "ann")
                assert found is not None
                assert found.finished == (response_id == just)
                begun = await EventLog(store).begin(response_id, "ann", -1, 1 << 20)
                assert begun is not None
                assert begun.chunks

    async def test_past_the_end_there_is_nothing(self, pair: Pair, store: Database) -> None:
        response_id = await ended(store)
        await replayed(pair)
        log = EventLog(store)
        begun = await log.begin(response_id, "ann", 1000, 1 << 20)
        assert begun is not None
        assert begun.ended is not None
        with counted(served=1):
            assert await log.ended_page(response_id, begun.ended, 1000, 1 << 20) == []

    async def test_9_of_anothers_there_is_nothing(self, pair: Pair, store: Database) -> None:
        response_id = await ended(store)
        await replayed(pair)
        log, found = EventLog(store), await EventLog(store).begin(response_id, "ann", -1, 1)
        assert found is not None
        assert found.ended is not None
        assert await Responses(store).get(response_id, "bob") is None
        assert await log.begin(response_id, "bob", -1, 1) is None
        assert await log.ended_page(response_id, Ended("bob", found.ended.at), -1, 1 << 20) == []


class TestAStandbyThatLags:
    @pytest.fixture(autouse=True)
    def frozen(self, pair: Pair, store: Database) -> Iterator[None]:
        """Replication stands still at the end of each test at the latest."""
        yield
        pair.thaw_replication()

    async def test_lacks_what_ended_since_and_the_primary_has_it(
        self, pair: Pair, store: Database, schema: str
    ) -> None:
        old = await ended(store, seconds=600)
        await replayed(pair)
        pair.freeze_replication()
        new, newer = await ended(store, seconds=60), await ended(store, seconds=30)
        with counted(behind=1):
            for response_id in (new, newer, newer):
                found = await Responses(store).get(response_id, "ann")
                assert found is not None
                assert found.status == "completed"
                assert found.output
        with counted(served=1):
            assert await Responses(store).get(old, "ann") is not None, "what it has it serves"
        async with opened(pair.primary.url, schema) as alone:
            assert await whole(store, new) == await whole(alone, new)
        pair.thaw_replication()
        await replayed(pair)

        async def served() -> bool:
            before = count("served")
            await Responses(store).get(newer, "ann")
            return count("served") > before

        await eventually(served)

    async def test_gives_nothing_that_was_deleted(self, pair: Pair, store: Database) -> None:
        response_id, log = await ended(store), EventLog(store)
        await replayed(pair)
        begun = await log.begin(response_id, "ann", -1, 3000)
        assert begun is not None
        assert begun.ended is not None
        assert await log.ended_page(response_id, begun.ended, -1, 3000) != []
        pair.freeze_replication()
        await Responses(store).delete(response_id, "ann")
        async with connected(pair.standby.url) as standby:
            query = f'SELECT count(*) FROM "{store.settings.db_schema}".event_chunks'
            assert await standby.fetchval(query) > 0, "it still has it"
        assert await Responses(store).get(response_id, "ann") is None
        assert await log.begin(response_id, "ann", -1, 3000) is None
        assert await log.ended_page(response_id, begun.ended, 5, 3000) == [], (
            "not even what follows"
        )

    async def test_has_what_was_encrypted_with_a_key_that_is_gone(
        self, pair: Pair, schema: str
    ) -> None:
        keys = [base64.b64encode(each * 32).decode() for each in (b"1", b"2")]
        urls = {"database_url": pair.primary.url, "read_database_url": pair.standby.url}
        url = pair.primary.url
        async with migrated(url, schema, encryption_keys=f"one:{keys[0]}") as store:
            response_id = await ended(store)
        await replayed(pair)
        pair.freeze_replication()
        ring = f"two:{keys[1]} one:{keys[0]}"
        async with opened(url, schema, encryption_keys=ring) as store:
            await rewrite_all(store)
        async with opened(url, schema, encryption_keys=f"two:{keys[1]}", **urls) as store:
            with counted(served=1):
                found = await Responses(store).get(response_id, "ann")
            assert found is not None
            assert found.output
            assert (await whole(store, response_id))[-1].last == 101


class TestAStandbyThatCannotAnswer:
    async def test_which_hangs(
        self, pair: Pair, store: Database, caplog: pytest.LogCaptureFixture
    ) -> None:
        response_id = await ended(store)
        await replayed(pair)
        with counted(served=1):
            await Responses(store).get(response_id, "ann")
        pair.freeze_standby()
        try:
            with counted(failed=1):
                for _ in range(20):
                    found = await Responses(store).get(response_id, "ann")
                    assert found is not None
                    assert found.output
        finally:
            pair.thaw_standby()
        assert "the standby cannot be read, the primary is read: TimeoutError" in caplog.text

        async def served() -> bool:
            before = count("served")
            await Responses(store).get(response_id, "ann")
            return count("served") > before

        await eventually(served)

    async def test_that_is_not_there(
        self, pair: Pair, schema: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        nowhere = f"postgresql://postgres@127.0.0.1:{servers.free_port()}/postgres"
        urls = {"database_url": pair.primary.url, "read_database_url": nowhere}
        async with migrated(pair.primary.url, schema, **urls) as store:
            response_id = await ended(store)
            with counted(failed=1):
                chunks = await whole(store, response_id)
                assert (await Responses(store).get(response_id, "ann")) is not None
        assert chunks[-1].last == 101
        assert "the standby cannot be read, the primary is read: ConnectionError" in caplog.text

    @pytest.mark.parametrize("tables", [False, True], ids=["without our tables", "of others"])
    async def test_that_is_another_server(
        self, database: Server, pair: Pair, schema: str, tables: bool
    ) -> None:
        """Even one that has a response of that id, which ended in another way."""
        urls = {"database_url": pair.primary.url, "read_database_url": database.url}
        async with migrated(pair.primary.url, schema, **urls) as store:
            response_id = await ended(store)
            if tables:
                async with migrated(database.url, schema) as other:
                    made = await ended(other, seconds=50)
                    await other.execute(
                        f"UPDATE {schema}.responses SET id = $1 WHERE id = $2", response_id, made
                    )
            with counted(**{"behind" if tables else "failed": 1}):
                found = await Responses(store).get(response_id, "ann")
            assert found is not None
            assert found.output

    async def test_one_asks_it_again_and_others_do_not_wait(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(standbys, "TIMEOUT", 0.05)
        asked = 0

        async def hangs() -> None:
            nonlocal asked
            asked += 1
            await asyncio.Event().wait()

        standby = Standby(hangs)  # type: ignore[arg-type]
        now = datetime.now(UTC)
        assert await standby.fetch(now, "SELECT") is None
        assert not standby.is_fit
        assert asked == 1
        await eventually(lambda: standby.is_fit)
        async with asyncio.TaskGroup() as group:
            for _ in range(10):
                group.create_task(standby.fetch(now, "SELECT"))
        assert asked == 2

    async def test_which_dies_while_readers_read(
        self, pair: Pair, store: Database, schema: str
    ) -> None:
        """In the midst of pages: each has everything once and in order, and it is read again."""
        response_id = await ended(store)
        await replayed(pair)
        async with opened(pair.primary.url, schema) as alone:
            expected = lines_of(await whole(alone, response_id))
        before, read_on = count("failed"), True

        async def reads() -> None:
            while read_on:
                assert lines_of(await whole(store, response_id)) == expected

        async with asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(reads())
            await asyncio.to_thread(pair.end_standby)
            try:
                await eventually(lambda: count("failed") > before)
            finally:
                await asyncio.to_thread(pair.start_standby)
            served = count("served")
            await eventually(lambda: count("served") > served)
            read_on = False

    async def test_those_that_were_under_way_when_one_failed_are_the_same_failure(self) -> None:
        """Each made the next pause longer: twenty readers did without it for half a minute."""
        refused = 0

        async def refuses() -> None:
            nonlocal refused
            refused += 1
            await asyncio.sleep(0.01)
            raise ConnectionRefusedError

        standby = Standby(refuses)  # type: ignore[arg-type]
        async with asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(standby.fetch(datetime.now(UTC), "SELECT"))
        assert refused == 20
        assert standby._away._backoff.coming == 1.0


async def test_a_replica_reads_from_it(pair: Pair, schema: str) -> None:
    environment = {"LONGRUN_READ_DATABASE_URL": pair.standby.url}
    with servers.replicas(1, pair.primary.url, schema=schema, environment=environment) as (one,):
        response_id = await in_background(one, input=script(deltas=200))
        expected = await finished(one, response_id)
        body = await read(stream_of(one, response_id))

        async def served() -> int:
            text = (await read_metrics(one.url)).partition('outcome="served"} ')[2]
            return int(float(text.split()[0])) if text else 0

        async def polled() -> bool:
            assert await finished(one, response_id) == expected
            return await served() > 0

        await eventually(polled, every=0.2)
        before = await served()
        again = await read(stream_of(one, response_id))
        assert again == body
        check_complete(again, with_ids=True)
        assert await served() > before
        after = await read(stream_of(one, response_id, 100))
        check_complete(after, with_ids=True, after=100)
        client = AsyncOpenAI(base_url=one.base_url, api_key="none", max_retries=0)
        async with client:
            pair.freeze_replication()
            try:
                await client.responses.delete(response_id)
                with pytest.raises(NotFoundError):
                    await client.responses.retrieve(response_id)
                with pytest.raises(NotFoundError):
                    await client.responses.retrieve(response_id, stream=True)
            finally:
                pair.thaw_replication()


async def read_metrics(url: str) -> str:

    return (await Wire.fetch(f"{url}/metrics")).decode()
