"""The log writer on a real Postgres: grouped, fenced, bounded; nothing lost, nothing twice."""

import asyncio
import random
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from longrun import metrics
from longrun.errors import Fenced, NotStored
from longrun.store.database import Database
from longrun.store.log_writer import LogWriter
from longrun.store.records import Chunk, Ending, Step
from longrun.store.run_log import RunLog
from longrun.store.sealing import model_place
from tests import proxy
from tests.postgres import Server
from tests.reading import eventually
from tests.storing import (
    add_response,
    connected,
    event,
    events,
    locked,
    log_of,
    logged,
    migrated,
    reads_tables,
    terminate,
    total,
    waiting_for_locks,
    writing,
)

COMPLETED = Ending("completed", "{}")


def counted(name: str) -> float:
    return metrics.registry.get_sample_value(name) or 0.0


def append(run: RunLog, count: int, **fields: object) -> None:
    run.append(events(run.next_sequence, count, **fields))


async def rows(database: Database, table: str, response_id: str) -> int:
    schema = database.settings.db_schema
    found = await database.fetch_row(
        f'SELECT count(*) FROM "{schema}".{table} WHERE response_id = $1', response_id
    )
    assert found is not None
    return int(found[0])


async def status(database: Database, response_id: str) -> str:
    schema = database.settings.db_schema
    found = await database.fetch_row(
        f'SELECT status FROM "{schema}".responses WHERE id = $1', response_id
    )
    assert found is not None
    return str(found[0])


class TestGroupCommit:
    async def test_what_is_pending_of_all_runs_goes_in_one_commit(self, store: Database) -> None:
        writer = LogWriter(store, lambda *_: None)
        runs = [log_of(writer, await add_response(store)) for _ in range(50)]
        for run in runs:
            append(run, 3)
            append(run, 2)
        before = counted("longrun_appends_total")
        stop = asyncio.Event()
        task = asyncio.create_task(writer.run(stop))
        await asyncio.gather(*(run.flush() for run in runs))
        assert counted("longrun_appends_total") - before == 1
        stop.set()
        await task
        for run in runs:
            assert len(await logged(store, run.response_id)) == 6

    async def test_runs_are_locked_in_the_order_of_their_ids(self, store: Database) -> None:
        """Whichever was first to have something: so no two appends wait for each other."""
        committed: list[str] = []
        writer = LogWriter(store, lambda response_id, _: committed.append(response_id))
        ids = [await add_response(store) for _ in range(5)]
        for run in [log_of(writer, response_id) for response_id in reversed(ids)]:
            append(run, 1)
        stop = asyncio.Event()
        stop.set()
        await writer.run(stop)
        assert committed == sorted(ids)

    async def test_while_one_commit_is_under_way_the_next_batch_gathers(
        self, store: Database, database: Server
    ) -> None:
        held = await add_response(store)
        others = [await add_response(store) for _ in range(20)]
        async with writing(store) as writer:
            first = log_of(writer, held)
            runs = [log_of(writer, other) for other in others]
            before = counted("longrun_appends_total")
            async with locked(database.url, store.settings.db_schema, held):
                append(first, 1)
                await eventually(lambda: waits(database))
                for _ in range(10):
                    for run in runs:
                        append(run, 1)
                    await asyncio.sleep(0)
            await asyncio.gather(first.flush(), *(run.flush() for run in runs))
            assert counted("longrun_appends_total") - before == 2

    async def test_an_idle_writer_adds_no_wait(self, store: Database) -> None:
        async with writing(store) as writer:
            run = log_of(writer, await add_response(store))
            append(run, 1)
            await run.flush()
            loop = asyncio.get_running_loop()
            took = []
            for _ in range(50):
                began = loop.time()
                append(run, 1)
                await run.flush()
                took.append(loop.time() - began)
        assert sorted(took)[len(took) // 2] < 0.05

    async def test_what_one_run_says_alone_goes_the_short_way_once_its_log_is_known(
        self, store: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[str] = []
        async with writing(store) as writer:
            fetch = writer._lane.fetch

            async def noted(query: str, *args: object) -> list[asyncpg.Record]:
                asked.append("held" if query.startswith("WITH held AS") else query[:12])
                return await fetch(query, *args)

            monkeypatch.setattr(writer._lane, "fetch", noted)
            run = log_of(writer, await add_response(store))
            for _ in range(4):
                append(run, 2)
                await run.flush()
        assert asked == ["WITH checked", *["held"] * 3]
        assert len(await logged(store, run.response_id)) == 9

    async def test_the_short_way_fails_as_the_long_one_does(
        self, store: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its answer is lost after the commit: what is there is not written again."""
        before = counted("longrun_append_failures_total")
        async with writing(store) as writer:
            run = log_of(writer, await add_response(store))
            append(run, 1)
            await run.flush()
            fetch, lost = writer._lane.fetch, []

            async def losing(query: str, *args: object) -> list[asyncpg.Record]:
                rows = await fetch(query, *args)
                if query.startswith("WITH held AS") and not lost:
                    lost.append(rows)
                    raise ConnectionResetError
                return rows

            monkeypatch.setattr(writer._lane, "fetch", losing)
            for _ in range(2):
                append(run, 2)
                await run.flush()
        assert len(lost) == 1
        assert counted("longrun_append_failures_total") - before == 1
        assert len(await logged(store, run.response_id)) == 6

    async def test_when_a_server_was_started_is_exact_in_seconds(self, store: Database) -> None:
        """`append_chunk` is told in seconds; else it would find another server there."""
        moments = [
            datetime(2026, 1, 1, tzinfo=UTC)
            + timedelta(days=days, microseconds=random.randrange(86_400_000_000))
            for days in range(0, 29_200, 10)
        ]
        [row] = await store.fetch(
            "SELECT count(*) AS wrong"
            " FROM unnest($1::double precision[], $2::timestamptz[]) AS known (seconds, moment)"
            " WHERE to_timestamp(seconds) <> moment",
            [moment.timestamp() for moment in moments],
            moments,
        )
        assert row["wrong"] == 0

    async def test_items_steps_and_the_end_are_in_the_commit_of_their_events(
        self, store: Database
    ) -> None:
        response_id = await add_response(store)
        async with writing(store) as writer:
            run = log_of(writer, response_id)
            run.append(
                [event(1), event(2, "response.completed")],
                items=[(0, '{"a":1}'), (1, '{"b":2}')],
                models={1: '{"set":{}}'},
                steps=[Step("", "model", "0", "{}", "{}")],
                ending=COMPLETED,
            )
            await run.flush()
        assert await rows(store, "event_chunks", response_id) == 2
        assert await rows(store, "items", response_id) == 2
        schema = store.settings.db_schema
        faces = await store.fetch(
            f'SELECT model FROM "{schema}".items WHERE response_id = $1 ORDER BY output_index',
            response_id,
        )
        models = [
            store.sealing.open_some(model_place(response_id, index), row["model"])
            for index, row in enumerate(faces)
        ]
        assert models == [None, '{"set":{}}']
        assert await rows(store, "steps", response_id) == 1
        assert await status(store, response_id) == "completed"

    async def test_what_a_guardrail_refused_goes_with_the_end(self, store: Database) -> None:
        response_id = await add_response(store)
        async with writing(store) as writer:
            run = log_of(writer, response_id)
            run.append([event(1)], items=[(0, '{"a":1}'), (1, '{"b":2}')])
            await run.flush()
            run.append([event(2, "response.completed")], ending=COMPLETED._replace(refused=[1]))
            await run.flush()
        assert await status(store, response_id) == "completed"
        [item] = await store.fetch(store.queries.list_items, response_id)
        assert item["output_index"] == 0

    async def test_entries_larger_than_a_batch_keep_their_order_and_numbers(
        self, store: Database
    ) -> None:
        """Parallel tools with outputs of megabytes: the rest of a run waits for its turn."""
        response_id = await add_response(store)
        committed: list[Chunk] = []
        async with writing(store, lambda _, chunks: committed.extend(chunks)) as writer:
            run = log_of(writer, response_id)
            run.max_item_bytes = 100_000_000  # all of this is of one item, which does not end
            other = log_of(writer, await add_response(store))
            for _ in range(8):
                append(run, 3, delta="x" * 1_000_000)
            append(other, 1)
            for _ in range(8):
                append(run, 1, delta="y" * 5_000_000)
            await run.flush()
            await other.flush()
        assert len(await logged(store, response_id)) == 1 + 8 * 3 + 8
        assert [chunk.first for chunk in committed if len(chunk.data) > 1000][:1] == [1]
        assert total(committed) == 8 * 3 + 8 + 1

    async def test_a_chunk_is_bounded_unless_one_event_is_larger(self, store: Database) -> None:
        response_id = await add_response(store)
        chunks: list[Chunk] = []
        async with writing(store, lambda _, new: chunks.extend(new)) as writer:
            run = log_of(writer, response_id)
            append(run, 2000, delta="x" * 500)
            append(run, 1, delta="y" * 600_000)
            append(run, 5)
            await run.flush()
        bound = store.settings.chunk_bytes
        sizes = [len(chunk.data) for chunk in chunks]
        assert [size for size in sizes if size > bound] == [len(event(2001, delta="y" * 600_000))]
        assert len(await logged(store, response_id)) == 2007


class TestFencing:
    async def test_nothing_of_an_older_attempt_is_written(self, store: Database) -> None:
        response_id = await add_response(store)
        async with writing(store) as writer:
            run = log_of(writer, response_id)
            append(run, 1)
            await run.flush()
            await set_attempt(store, response_id, 2)
            run.append(
                events(2, 3),
                items=[(0, "{}")],
                steps=[Step("", "model", "0", "{}", "{}")],
                ending=COMPLETED,
            )
            with pytest.raises(Fenced):
                await run.flush()
            with pytest.raises(Fenced):
                await run.ready()
            append(run, 5)
            with pytest.raises(Fenced):
                await run.flush()
        assert len(await logged(store, response_id)) == 2
        assert await rows(store, "items", response_id) == 0
        assert await rows(store, "steps", response_id) == 0
        assert await status(store, response_id) == "in_progress"

    async def test_the_newer_attempt_goes_on_where_the_log_ends(self, store: Database) -> None:
        response_id = await add_response(store)
        async with writing(store) as one, writing(store) as two:
            old = log_of(one, response_id)
            append(old, 4)
            await old.flush()
            await set_attempt(store, response_id, 2)
            new = log_of(two, response_id, attempt=2, first=5)
            append(old, 1, delta="old")
            append(new, 1, delta="new")
            await new.flush()
            with pytest.raises(Fenced):
                await old.flush()
        log = await logged(store, response_id)
        assert [each.get("delta") for each in log] == [None] * 5 + ["new"]

    @pytest.mark.parametrize("known", [False, True])
    async def test_a_claim_waits_for_an_append_and_an_append_for_a_claim(
        self, store: Database, database: Server, known: bool
    ) -> None:
        """So that a successor reads the end of the log after the last append before it; whether or
        not the server has confirmed an append already."""
        response_id = await add_response(store)
        schema = store.settings.db_schema
        async with writing(store) as writer, connected(database.url) as claimer:
            run = log_of(writer, response_id)
            if known:
                append(run, 1)
                await run.flush()
            claim = claimer.transaction()
            await claim.start()
            await claimer.execute(
                f'UPDATE "{schema}".responses SET attempt = 2 WHERE id = $1', response_id
            )
            append(run, 1)
            await eventually(lambda: waits(database))
            await claim.commit()
            with pytest.raises(Fenced):
                await run.flush()
        assert len(await logged(store, response_id)) == 1 + known

    @pytest.mark.parametrize("end", ["completed", "failed", "incomplete", "cancelled"])
    async def test_after_the_end_nothing_is_written_by_anybody(
        self, store: Database, end: str
    ) -> None:
        response_id = await add_response(store)
        async with writing(store) as writer:
            run = log_of(writer, response_id)
            run.append([event(1, "response.completed")], ending=Ending(end, "{}"))  # type: ignore[arg-type]
            await run.flush()
            append(run, 1)
            with pytest.raises(Fenced):
                await run.flush()
            again = log_of(writer, response_id, first=2)
            again.append([event(2, "response.completed")], ending=COMPLETED)
            with pytest.raises(Fenced):
                await again.flush()
        assert len(await logged(store, response_id)) == 2
        assert await status(store, response_id) == end

    @pytest.mark.parametrize("known", [False, True])
    async def test_a_deleted_response_takes_nothing(self, store: Database, known: bool) -> None:
        response_id = await add_response(store)
        schema = store.settings.db_schema
        async with writing(store) as writer:
            run = log_of(writer, response_id)
            if known:
                append(run, 1)
                await run.flush()
            await store.execute(f'DELETE FROM "{schema}".responses WHERE id = $1', response_id)
            append(run, 1)
            with pytest.raises(Fenced):
                await run.flush()
        assert await rows(store, "event_chunks", response_id) == 1 + known

    async def test_one_fenced_run_harms_no_other(self, store: Database) -> None:
        ids = [await add_response(store) for _ in range(10)]
        async with writing(store) as writer:
            runs = [log_of(writer, response_id) for response_id in ids]
            await set_attempt(store, ids[3], 2)
            for _ in range(20):
                for run in runs:
                    append(run, 1)
                await asyncio.sleep(0)
            results = await asyncio.gather(*(r.flush() for r in runs), return_exceptions=True)
        assert [type(result) for result in results].count(Fenced) == 1
        for place, response_id in enumerate(ids):
            assert len(await logged(store, response_id)) == (1 if place == 3 else 21)


class TestBackpressure:
    async def test_a_run_that_outpaces_the_log_is_slowed_and_loses_nothing(
        self, database: Server, schema: str
    ) -> None:
        async with (
            migrated(database.url, schema, run_buffer_bytes=10_000) as store,
            writing(store) as writer,
        ):
            response_id = await add_response(store)
            run = log_of(writer, response_id)
            most = 0

            async def produce() -> None:
                nonlocal most
                for _ in range(1000):
                    await run.ready()
                    append(run, 1, delta="x" * 100)
                    most = max(most, run._pending_bytes)

            async with locked(database.url, schema, response_id):
                producing = asyncio.create_task(produce())
                await eventually(lambda: run._pending_bytes >= 10_000)
                for _ in range(100):
                    await asyncio.sleep(0)
                assert not producing.done()
                assert run.next_sequence < 100
            await producing
            await run.flush()
            assert most < 10_000 + 200
            assert run._pending_bytes == 0
            assert len(await logged(store, response_id)) == 1001

    async def test_a_fenced_run_does_not_wait_for_ever(self, database: Server, schema: str) -> None:
        async with (
            migrated(database.url, schema, run_buffer_bytes=2_000) as store,
            writing(store) as writer,
        ):
            response_id = await add_response(store)
            await set_attempt(store, response_id, 2)
            run = log_of(writer, response_id)
            append(run, 1, delta="x" * 5_000)
            with pytest.raises(Fenced):
                await asyncio.wait_for(run.ready(), 10)


class TestPoison:
    @pytest.mark.parametrize(
        ("item", "step"),
        [
            pytest.param((0, "a\x00b"), None, marks=reads_tables),
            pytest.param((0, "\ud800"), None, marks=reads_tables),
            ((None, "{}"), None),
            ((-1, "{}"), None),
            ((2**40, "{}"), None),
            (None, Step("", "nonsense", "0", "{}", "{}")),
        ],
        ids=["NUL", "surrogate", "null index", "negative index", "large index", "kind of step"],
    )
    async def test_what_postgres_refuses_fails_its_own_run_alone(
        self, store: Database, item: object, step: Step | None
    ) -> None:
        ids = [await add_response(store) for _ in range(5)]
        async with writing(store) as writer:
            runs = [log_of(writer, response_id) for response_id in ids]
            for run in runs:
                append(run, 2)
            runs[2].append(
                events(3, 1),
                items=[item] if item else (),  # type: ignore[list-item]
                steps=[step] if step else (),
            )
            for run in runs:
                append(run, 2)
            results = await asyncio.gather(*(r.flush() for r in runs), return_exceptions=True)
            assert [type(result) for result in results] == [
                NotStored if place == 2 else type(None) for place in range(5)
            ]
            for place, run in enumerate(runs):
                if place != 2:
                    append(run, 1)
                    await run.flush()
        for place, response_id in enumerate(ids):
            log = await logged(store, response_id)
            assert len(log) == 6 if place != 2 else len(log) in (1, 3)

    async def test_the_same_output_index_twice_is_refused(self, store: Database) -> None:
        response_id = await add_response(store)
        async with writing(store) as writer:
            run = log_of(writer, response_id)
            run.append([event(1)], items=[(0, "{}")])
            await run.flush()
            run.append([event(2)], items=[(0, "{}")])
            with pytest.raises(NotStored):
                await run.flush()
        assert len(await logged(store, response_id)) == 2


class TestLostConnections:
    @pytest.mark.parametrize("loss", ["request", "midway", "answer"])
    async def test_an_append_whose_connection_is_cut_is_neither_lost_nor_doubled(
        self, database: Server, schema: str, loss: proxy.Loss
    ) -> None:
        committed: list[Chunk] = []
        async with (
            proxy.before(database.url) as cutting,
            migrated(cutting.url, schema) as store,
            writing(store, lambda _, chunks: committed.extend(chunks)) as writer,
        ):
            response_id = await add_response(store)
            run = log_of(writer, response_id)
            append(run, 2)
            await run.flush()
            cutting.loss, cutting.marker = loss, response_id.encode()
            run.append(events(3, 2), items=[(0, "{}")])
            await run.flush()
            assert cutting.cuts == 1
            append(run, 2)
            await run.flush()
            assert len(await logged(store, response_id)) == 7
            assert await rows(store, "items", response_id) == 1
            assert [(c.first, c.last) for c in committed] == [(1, 2), (3, 4), (5, 6)]
            assert writer.failing_since is None

    @pytest.mark.parametrize("loss", ["request", "midway", "answer"])
    async def test_the_end_too(self, database: Server, schema: str, loss: proxy.Loss) -> None:
        async with (
            proxy.before(database.url) as cutting,
            migrated(cutting.url, schema) as store,
            writing(store) as writer,
        ):
            response_id = await add_response(store)
            run = log_of(writer, response_id)
            append(run, 1)
            await run.flush()
            cutting.loss, cutting.marker = loss, response_id.encode()
            run.append([event(2, "response.completed")], ending=COMPLETED)
            await run.flush()
            assert cutting.cuts == 1
            assert len(await logged(store, response_id)) == 3
            assert await status(store, response_id) == "completed"

    @pytest.mark.parametrize("loss", ["request", "midway", "answer"])
    async def test_an_append_of_a_step_alone_too(
        self, database: Server, schema: str, loss: proxy.Loss
    ) -> None:
        async with (
            proxy.before(database.url) as cutting,
            migrated(cutting.url, schema) as store,
            writing(store) as writer,
        ):
            response_id = await add_response(store)
            run = log_of(writer, response_id)
            append(run, 1)
            await run.flush()
            cutting.loss, cutting.marker = loss, response_id.encode()
            run.append([], steps=[Step("", "tool", "call_1", "{}", "{}")])
            await run.flush()
            assert cutting.cuts == 1
            assert await rows(store, "steps", response_id) == 1

    async def test_a_session_killed_in_the_middle_of_its_append(
        self, store: Database, database: Server
    ) -> None:
        response_id = await add_response(store)
        schema = store.settings.db_schema
        async with writing(store) as writer:
            run = log_of(writer, response_id)
            for _ in range(3):
                async with locked(database.url, schema, response_id):
                    append(run, 4)
                    await eventually(lambda: waits(database))
                    killed = await terminate(
                        database.url,
                        application="longrun log writer",
                        query=f'%"{schema}".responses%',
                    )
                    assert killed >= 1
                    await eventually(lambda: writer.failing_since is not None)
                await run.flush()
        assert len(await logged(store, response_id)) == 13

    async def test_sessions_killed_at_random_while_much_is_written(
        self, store: Database, database: Server
    ) -> None:
        chance = random.Random(7)
        ids = [await add_response(store) for _ in range(10)]
        done = asyncio.Event()
        killed = 0

        async def kill() -> None:
            nonlocal killed
            while not done.is_set():
                await asyncio.sleep(chance.uniform(0.01, 0.1))
                pattern = f'%"{store.settings.db_schema}".responses%'
                killed += await terminate(
                    database.url, application="longrun log writer", query=pattern
                )

        committed: dict[str, int] = dict.fromkeys(ids, 0)

        def note(response_id: str, chunks: list[Chunk]) -> None:
            assert chunks[0].first == committed[response_id] + 1
            committed[response_id] = chunks[-1].last

        async with writing(store, note) as writer:
            runs = [log_of(writer, response_id) for response_id in ids]
            killing = asyncio.create_task(kill())
            while killed < 15:
                for run in runs:
                    append(run, chance.randint(1, 40))
                await asyncio.sleep(0.002)
            done.set()
            await killing
            await asyncio.gather(*(run.flush() for run in runs))
        for run in runs:
            assert len(await logged(store, run.response_id)) == run.next_sequence
            assert committed[run.response_id] == run.next_sequence - 1


async def waits(database: Server) -> bool:
    return await waiting_for_locks(database.url) > 0


async def set_attempt(database: Database, response_id: str, attempt: int) -> None:
    """What a claim by another replica does."""
    await database.execute(
        f'UPDATE "{database.settings.db_schema}".responses SET attempt = $2 WHERE id = $1',
        response_id,
        attempt,
    )
