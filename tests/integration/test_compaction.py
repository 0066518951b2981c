"""Compaction: fewer and larger chunks, and readers none the wiser, whatever happens meanwhile."""

import asyncio
import contextlib
import itertools
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from longrun.fanout.hub import Hub
from longrun.fanout.tail import Tail
from longrun.metrics import registry
from longrun.store import compaction
from longrun.store.compaction import Compaction
from longrun.store.database import Database
from longrun.store.events import EventLog
from longrun.store.responses import Responses
from longrun.store.rewriting import rewrite_all
from longrun.store.sealing import chunk_place
from tests import servers
from tests.integration.test_encryption import ONE, OTHER_ONE, TWO
from tests.postgres import Server
from tests.reading import eventually
from tests.storing import add_response, connected, event, logged, migrated, waiting_for_locks

EVENTS = 400
CHUNK_BYTES = 4096


@pytest.fixture(params=[None, ONE], ids=["plain", "sealed"])
async def small(
    request: pytest.FixtureRequest, database: Server, schema: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Database]:
    """A store of small chunks, compacted in many transactions, each of many reads."""
    monkeypatch.setattr(compaction, "PART_BYTES", 3 * CHUNK_BYTES)
    monkeypatch.setattr(compaction, "READ_BYTES", 1500)
    keys = request.param
    async with migrated(
        database.url, schema, encryption_keys=keys, chunk_bytes=CHUNK_BYTES, compact_after=60.0
    ) as opened:
        yield opened


def lines(count: int = EVENTS) -> list[bytes]:
    """Events of very different sizes, one of which is larger than any chunk."""
    sizes = random.Random(count)
    texts = ["x" * sizes.choice((1, 3, 10, 50, 600)) for _ in range(count)]
    texts[count // 3] = "y" * (2 * CHUNK_BYTES)
    kinds = ["response.created", *["response.output_text.delta"] * (count - 2)]
    found = [event(n, kind, delta=texts[n]) for n, kind in enumerate(kinds)]
    return [*found, event(count - 1, "response.completed", response={})]


async def add_finished(store: Database, ago: str = "1 hour", attempts: int = 2) -> str:
    """A response that finished a while ago, its log of some attempts in chunks of 1 to 3 events."""
    response_id = await add_response(store)
    schema = store.settings.db_schema
    await store.execute(f'DELETE FROM "{schema}".event_chunks WHERE response_id = $1', response_id)
    left, rows, sizes = lines(), [], random.Random(7)
    first = 0
    while left:
        count = min(sizes.randint(1, 3), len(left))
        data, left = b"\n".join(left[:count]), left[count:]
        last = first + count - 1
        sealed = store.sealing.seal(chunk_place(response_id, first, last), data)
        rows.append((response_id, first, last, 1 + attempts * first // EVENTS, sealed))
        first = last + 1
    async with store.transaction() as connection:
        await connection.executemany(
            f'INSERT INTO "{schema}".event_chunks VALUES ($1, $2, $3, $4, $5)', rows
        )
    await store.execute(
        f"UPDATE \"{schema}\".responses SET status = 'completed', replica_id = NULL,"
        f" finished_at = now() - interval '{ago}' WHERE id = $1",
        response_id,
    )
    return response_id


async def chunks(store: Database, response_id: str) -> list[tuple[int, int, int]]:
    rows = await store.fetch(
        f'SELECT first, last, attempt FROM "{store.settings.db_schema}".event_chunks'
        " WHERE response_id = $1 ORDER BY last",
        response_id,
    )
    return [tuple(row) for row in rows]


async def is_done(store: Database, response_id: str) -> bool:
    row = await store.fetch_row(
        f'SELECT compacted_at FROM "{store.settings.db_schema}".responses WHERE id = $1',
        response_id,
    )
    return row is not None and row["compacted_at"] is not None


async def attempts(store: Database, response_id: str) -> list[int]:
    """Of each event."""
    return [
        attempt
        for first, last, attempt in await chunks(store, response_id)
        for _ in range(first, last + 1)
    ]


class Reader:
    """A reader of a finished log: its bytes, page by page."""

    def __init__(self, store: Database, response_id: str, cursor: int, page_bytes: int = 1) -> None:
        event_log = EventLog(store)
        hub = Hub(event_log, ring_bytes=1024, poll_interval=60)
        self._tail = Tail(
            hub, event_log, response_id, cursor=cursor, finished=True, page_bytes=page_bytes
        )
        self._entered = False
        self.body: list[bytes] = []

    async def read(self, pages: int = 10_000) -> list[bytes]:
        """So many pages more, or all that is left; gives all that it has read."""
        if not self._entered:
            self._tail.__enter__()
            self._entered = True
        for _ in range(pages):
            if (block := await self._tail.next(10)) is None:
                self._tail.__exit__(None, None, None)
                break
            self.body += [line for chunk in block for line in chunk.data.split(b"\n")]
        return self.body


def counted(name: str) -> float:
    return registry.get_sample_value(name) or 0.0


class TestWhatReadersSee:
    async def test_the_bytes_after_each_cursor_are_the_same(self, small: Database) -> None:
        response_id = await add_finished(small)
        before = await chunks(small, response_id)
        of_attempts = await attempts(small, response_id)
        logs, size = (
            counted("longrun_compacted_logs_total"),
            counted("longrun_compacted_bytes_total"),
        )
        await Compaction(small).compact(response_id)
        after = await chunks(small, response_id)
        assert len(after) < len(before) / 6
        assert await attempts(small, response_id) == of_attempts
        assert await is_done(small, response_id)
        assert len(await logged(small, response_id)) == EVENTS
        expected = lines()
        for cursor in (-1, *range(0, EVENTS, 7), *(last for _, last, _ in after)):
            assert await Reader(small, response_id, cursor).read() == expected[cursor + 1 :]
        assert counted("longrun_compacted_logs_total") == logs + 1
        assert counted("longrun_compacted_bytes_total") > size + 20_000

    async def test_chunks_are_as_large_as_chunks_may_be(self, small: Database) -> None:
        response_id = await add_finished(small, attempts=1)
        await Compaction(small).compact(response_id)
        sizes = [
            len(chunk.data)
            for chunk in await EventLog(small).page_unscoped(response_id, -1, 10_000_000)
        ]
        one_event = [size for size in sizes if size > CHUNK_BYTES]
        assert len(one_event) == 1
        others = [size for size in sizes if size <= CHUNK_BYTES]
        assert all(one + two > CHUNK_BYTES for one, two in itertools.pairwise(others))

    async def test_readers_that_page_meanwhile_miss_nothing(self, small: Database) -> None:
        """Some are in the middle when it begins, and all go on while it is under way."""
        response_id = await add_finished(small)
        expected = lines()
        cursors = [random.Random(n).randrange(-1, EVENTS - 1) for n in range(12)]
        readers = [
            Reader(small, response_id, cursor, 1 + 200 * (n % 3))
            for n, cursor in enumerate(cursors)
        ]
        for n, reader in enumerate(readers):
            await reader.read(pages=n)
        bodies, _ = await asyncio.gather(
            asyncio.gather(*(reader.read() for reader in readers)),
            Compaction(small).compact(response_id),
        )
        assert bodies == [expected[cursor + 1 :] for cursor in cursors]
        assert await is_done(small, response_id)

    async def test_a_second_time_nothing_is_written(self, small: Database) -> None:
        response_id = await add_finished(small)
        await Compaction(small).compact(response_id)
        schema = small.settings.db_schema
        rows = f'SELECT last, ctid FROM "{schema}".event_chunks ORDER BY last'
        before = await small.fetch(rows)
        await small.execute(f'UPDATE "{schema}".responses SET compacted_at = NULL')
        await Compaction(small).compact(response_id)
        assert await small.fetch(rows) == before
        assert await is_done(small, response_id)


class TestWhatIsCompacted:
    async def test_by_a_running_part_what_ended_a_while_ago(
        self, small: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(compaction, "INTERVAL", 0.02)
        old = [await add_finished(small) for _ in range(3)]
        fresh, live = await add_finished(small, "1 second"), await add_response(small)
        compacting, stop = Compaction(small), asyncio.Event()
        assert sorted(await compacting.due()) == sorted(old)
        async with asyncio.TaskGroup() as group:
            group.create_task(compacting.run(stop))

            async def all_done() -> bool:
                return all([await is_done(small, each) for each in old])

            await eventually(all_done)
            stop.set()
        assert await compacting.due() == []
        assert not await is_done(small, fresh)
        await compacting.compact(live)
        assert not await is_done(small, live)

    async def test_nothing_where_it_is_off_or_a_key_is_missing(
        self, small: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(compaction, "INTERVAL", 0.001)
        response_id = await add_finished(small)
        looked = asyncio.Event()

        def fit() -> bool:
            looked.set()
            return False

        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(Compaction(small, fit).run(stop))
            await looked.wait()
            stop.set()
        assert not await is_done(small, response_id)
        small.settings = small.settings.model_copy(update={"compact_after": 0.0})
        off = Compaction(small)
        monkeypatch.setattr(off, "due", None)
        async with asyncio.TaskGroup() as group:
            group.create_task(off.run(stop))

    async def test_a_log_that_cannot_be_opened_is_left_for_good(
        self, database: Server, schema: str
    ) -> None:
        async with migrated(database.url, schema, encryption_keys=ONE, compact_after=60.0) as one:
            response_id = await add_finished(one)
            before = await chunks(one, response_id)
        async with migrated(database.url, schema, encryption_keys=OTHER_ONE) as other:
            refused = counted("longrun_compaction_refusals_total")
            await Compaction(other).compact(response_id)
            assert counted("longrun_compaction_refusals_total") == refused + 1
            assert await chunks(other, response_id) == before
            assert await is_done(other, response_id)


class TestMeanwhile:
    async def test_another_compacts_it_too(
        self, small: Database, database: Server, schema: str
    ) -> None:
        keys = small.settings.encryption_keys
        response_ids = [await add_finished(small) for _ in range(4)]
        async with migrated(
            database.url, schema, encryption_keys=keys, chunk_bytes=CHUNK_BYTES
        ) as other:
            for response_id in response_ids:
                both = (Compaction(small), Compaction(other), Compaction(other))
                await asyncio.gather(*(each.compact(response_id) for each in both))
                await eventually_compacted(small, response_id)
                assert len(await chunks(small, response_id)) < EVENTS / 12
                assert await Reader(small, response_id, -1).read() == lines()

    async def test_it_is_deleted(self, small: Database, database: Server, schema: str) -> None:
        """Both ways round: the deletion waits for one transaction, or keeps compaction out."""
        response_id = await add_finished(small)
        in_the_middle = (await chunks(small, response_id))[EVENTS // 4]
        responses = Responses(small)
        async with asyncio.TaskGroup() as group:
            async with held(database.url, schema, response_id, in_the_middle[1]):
                compacting = group.create_task(Compaction(small).compact(response_id))
                await eventually(lambda: waiting(database, 1))
                deleting = group.create_task(responses.delete(response_id, ""))
                await eventually(lambda: waiting(database, 2))
            assert await deleting
            await compacting
        assert await chunks(small, response_id) == []
        other = await add_finished(small)
        async with small.transaction() as connection:
            await connection.fetch(small.queries.lock_response_of, other, "")
            await Compaction(small).compact(other)
            assert not await is_done(small, other)
            await connection.execute(small.queries.delete_response, other)
        assert await chunks(small, other) == []

    async def test_it_is_rewritten_with_another_key(
        self, small: Database, database: Server, schema: str
    ) -> None:
        response_ids = [await add_finished(small) for _ in range(3)]
        keys = small.settings.encryption_keys
        ring = f"{TWO} {keys.get_secret_value()}" if keys else TWO
        async with migrated(
            database.url, schema, encryption_keys=ring, chunk_bytes=CHUNK_BYTES
        ) as other:
            rewritten, *_ = await asyncio.gather(
                rewrite_all(other), *(eventually_compacted(other, each) for each in response_ids)
            )
            assert rewritten.done
            for each in response_ids:
                assert await Reader(other, each, -1).read() == lines()
                assert len(await chunks(other, each)) < EVENTS / 12
            rows = await other.fetch(f'SELECT data FROM "{schema}".event_chunks')
            assert all(b"two" in row["data"][:20] for row in rows)

    async def test_somebody_takes_a_chunk_away_without_asking(
        self, small: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As in psql: what was read is not written again, and nothing is lost besides."""
        response_id = await add_finished(small)
        first, *kept = await chunks(small, response_id)
        merge = Compaction._merge

        async def late(self: Compaction, *args: Any) -> None:
            await small.execute(
                f'DELETE FROM "{small.settings.db_schema}".event_chunks WHERE last = $1', first[1]
            )
            await merge(self, *args)

        monkeypatch.setattr(Compaction, "_merge", late)
        with pytest.raises(RuntimeError, match="changed while it was compacted"):
            await Compaction(small).compact(response_id)
        assert await chunks(small, response_id) == kept

    async def test_its_process_is_killed(
        self, small: Database, database: Server, schema: str
    ) -> None:
        response_id = await add_finished(small)
        before = await chunks(small, response_id)
        in_the_middle = before[len(before) // 2]
        process = subprocess.Popen(
            [sys.executable, "-c", COMPACTS, database.url, schema, response_id, keys_of(small)],
            cwd=servers.REPOSITORY,
        )
        try:
            async with held(database.url, schema, response_id, in_the_middle[1]):
                await eventually(lambda: waiting(database, 1), 30)
                process.send_signal(signal.SIGKILL)
                process.wait()
            half = await chunks(small, response_id)
            assert before != half
            assert in_the_middle in half
            assert await Reader(small, response_id, -1).read() == lines()
            assert not await is_done(small, response_id)
        finally:
            process.kill()
            process.wait()
        await eventually_compacted(small, response_id)
        assert len(await chunks(small, response_id)) < EVENTS / 12
        assert await Reader(small, response_id, -1).read() == lines()


COMPACTS = f"""
import asyncio, sys
from longrun.store import compaction
from tests.storing import opened

async def compact(url, schema, response_id, keys):
    compaction.PART_BYTES = {3 * CHUNK_BYTES}
    async with opened(
        url, schema, encryption_keys=keys or None, chunk_bytes={CHUNK_BYTES}
    ) as store:
        await compaction.Compaction(store).compact(response_id)

asyncio.run(compact(*sys.argv[1:]))
"""


def keys_of(store: Database) -> str:
    keys = store.settings.encryption_keys
    return keys.get_secret_value() if keys else ""


async def eventually_compacted(store: Database, response_id: str) -> None:
    """Whoever was kept out tries again."""

    async def compacted() -> bool:
        await Compaction(store).compact(response_id)
        return await is_done(store, response_id)

    await eventually(compacted)


async def waiting(database: Server, count: int) -> bool:
    return await waiting_for_locks(database.url) >= count


@contextlib.asynccontextmanager
async def held(url: str, schema: str, response_id: str, last: int) -> AsyncIterator[None]:
    """Within the block, whoever deletes this chunk waits."""
    async with connected(url) as connection, connection.transaction():
        await connection.fetch(
            f'SELECT 1 FROM "{schema}".event_chunks'
            " WHERE response_id = $1 AND last = $2 FOR UPDATE",
            response_id,
            last,
        )
        yield
