"""The log writer when Postgres refuses, forgets, or takes too long: no gap, and nobody waits for
ever; what goes wrong for one run is that run's alone."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import timedelta

import pytest

from longrun.errors import Fenced, LongrunError, NotStored
from longrun.store import log_writer
from longrun.store.batch import NOTHING_TOLD, end_columns
from longrun.store.database import Database
from longrun.store.log_writer import LogWriter
from longrun.store.one_chunk import NOBODY
from longrun.store.records import Chunk, Step
from longrun.store.run_log import RunLog
from tests import proxy
from tests.postgres import Server
from tests.reading import eventually
from tests.storing import (
    Direct,
    add_response,
    connected,
    direct_way,
    events,
    locked,
    log_of,
    logged,
    migrated,
    opened,
    waiting_for_locks,
    writing,
)


def append(run: RunLog, count: int, **fields: object) -> None:
    run.append(events(run.next_sequence, count, **fields))


async def change(database: Database, sql: str, *values: object) -> None:
    """Change what is in the tables, behind the log writer's back."""
    await database.execute(sql.replace("longrun.", f'"{database.settings.db_schema}".'), *values)


def columns_of(database: Database) -> dict[str, list[object]]:
    """The parameters of `append_log`, for a batch of nothing."""
    names = database.queries._parameters["append_log"]
    return {name: [] for name in names} | NOTHING_TOLD | end_columns(None)


@contextlib.asynccontextmanager
async def cuttable(database: Server, schema: str) -> AsyncIterator[tuple[Database, Direct]]:
    """The pools of a replica that has a role of its own."""
    async with migrated(database.url, schema):
        pass
    async with direct_way(database.url, schema) as way, opened(way.url, schema) as store:
        yield store, way


@contextlib.asynccontextmanager
async def with_setting(database: Server, schema: str, setting: str) -> AsyncIterator[Database]:
    """The store of a role that may be hurt, and that has a setting of its own."""
    async with migrated(database.url, schema):
        pass
    async with direct_way(database.url, schema) as way, connected(database.url) as admin:
        await admin.execute(f"ALTER ROLE direct_{schema} SET {setting}")
        async with opened(way.url, schema) as store:
            yield store


class TestRefusedConnections:
    @pytest.mark.parametrize(
        "sqlstate",
        ["28000", "28P01", "3D000", "42501", "53300", "55000", "57P03", "08P01", "XX000"],
    )
    @pytest.mark.parametrize("loss", ["request", "answer"])
    async def test_whatever_the_reason_nothing_is_lost_and_nothing_twice(
        self, database: Server, schema: str, sqlstate: str, loss: proxy.Loss
    ) -> None:
        async with (
            proxy.before(database.url) as between,
            migrated(between.url, schema) as store,
            writing(store) as writer,
        ):
            run = log_of(writer, await add_response(store))
            append(run, 2)
            await run.flush()
            between.loss, between.marker = loss, run.response_id.encode()
            between.refusing = sqlstate
            append(run, 2)
            await eventually(lambda: between.refused >= 2)
            append(run, 3)
            assert writer.failing_since is not None
            between.refusing = None
            await run.flush()
            append(run, 1)
            await run.flush()
            assert len(await logged(store, run.response_id)) == 9
            assert writer.failing_since is None

    async def test_a_role_that_may_not_log_in_for_a_while(
        self, database: Server, schema: str
    ) -> None:
        async with cuttable(database, schema) as (store, way):
            async with writing(store) as writer:
                runs = [log_of(writer, await add_response(store)) for _ in range(5)]
                for run in runs:
                    append(run, 100)
                await asyncio.gather(*(run.flush() for run in runs))
                await way.cut()
                for _ in range(7):
                    for run in runs:
                        append(run, 10)
                    await asyncio.sleep(0.1)
                await way.mend()
                await asyncio.gather(*(run.flush() for run in runs))
            for run in runs:
                assert len(await logged(store, run.response_id)) == 171


def failed_over(*runs: RunLog) -> None:
    """What these know is of another server than the one that answers now."""
    for run in runs:
        assert run.end is not None
        run.end = (run.end[0] - timedelta(days=1), run.end[1])


class TestContiguous:
    async def test_what_the_database_forgot_is_not_written_past(self, store: Database) -> None:
        """As after a failover to a standby that had not got the last commits."""
        async with writing(store) as writer:
            run, other = [log_of(writer, await add_response(store)) for _ in range(2)]
            for each in (run, other):
                append(each, 2)
                await each.flush()
                append(each, 2)
                await each.flush()
            await change(
                store,
                "DELETE FROM longrun.event_chunks WHERE response_id = $1 AND last = 4",
                run.response_id,
            )
            failed_over(run, other)
            append(run, 3)
            append(other, 3)
            await other.flush()
            with pytest.raises(NotStored, match="has lost events of this run"):
                await run.flush()
            with pytest.raises(NotStored):
                await run.ready()
        assert len(await logged(store, run.response_id)) == 3
        assert len(await logged(store, other.response_id)) == 8

    async def test_nor_past_what_it_forgot_of_one_that_writes_alone(self, store: Database) -> None:
        async with writing(store) as writer:
            run = log_of(writer, await add_response(store))
            for _ in range(2):
                append(run, 2)
                await run.flush()
            await change(
                store,
                "DELETE FROM longrun.event_chunks WHERE response_id = $1 AND last = 4",
                run.response_id,
            )
            failed_over(run)
            append(run, 3)
            with pytest.raises(NotStored, match="has lost events of this run"):
                await run.flush()
        assert len(await logged(store, run.response_id)) == 3

    @pytest.mark.parametrize("count", [1, 3])
    async def test_what_another_server_has_as_well_is_gone_on_from(
        self, store: Database, count: int
    ) -> None:
        """As after a failover in which nothing was lost: looked at once, and known again."""
        async with writing(store) as writer:
            runs = [log_of(writer, await add_response(store)) for _ in range(count)]
            for n in range(3):
                for run in runs:
                    append(run, 2)
                    if n == 1:
                        failed_over(run)
                await asyncio.gather(*(run.flush() for run in runs))
            [row] = await store.fetch("SELECT pg_postmaster_start_time() AS server")
            assert {run.end for run in runs} == {(row["server"], 7)}
        for run in runs:
            assert len(await logged(store, run.response_id)) == 7

    async def test_nor_a_step_alone(self, store: Database) -> None:
        async with writing(store) as writer:
            run = log_of(writer, await add_response(store))
            append(run, 2)
            await run.flush()
            await change(
                store,
                "DELETE FROM longrun.event_chunks WHERE response_id = $1 AND last = 2",
                run.response_id,
            )
            failed_over(run)
            run.append([], steps=[Step("", "tool", "call_1", "{}", "{}")])
            with pytest.raises(NotStored):
                await run.flush()
        assert await store.fetch(f'SELECT FROM "{store.settings.db_schema}".steps') == []

    @pytest.mark.parametrize("first", [2, 100, 0])
    async def test_a_run_that_is_wrong_about_the_end_of_its_log_writes_nothing(
        self, store: Database, first: int
    ) -> None:
        response_id = await add_response(store)
        async with writing(store) as writer:
            run = log_of(writer, response_id, first=first)
            append(run, 3)
            with pytest.raises(NotStored):
                await run.flush()
        assert len(await logged(store, response_id)) == 1

    async def test_a_batch_that_was_dropped_is_not_passed_over(
        self, store: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whatever bug there may be: the numbers of events are those that they were given."""
        async with writing(store) as writer:
            run = log_of(writer, await add_response(store))
            append(run, 2)
            assert run.next_entries(1)
            append(run, 2)
            with pytest.raises(NotStored):
                await run.flush()
        assert len(await logged(store, run.response_id)) == 1

    async def test_chunks_that_do_not_follow_each_other(self, store: Database) -> None:
        """Their run is refused as a whole, and no other."""
        ids = [await add_response(store) for _ in range(3)]
        columns = columns_of(store)
        columns |= {
            "response_ids": ids,
            "attempts": [1, 1, 1],
            "firsts": [1, 1, 1],
            "chunk_runs": [1, 1, 2, 2, 2, 3],
            "chunk_firsts": [1, 3, 1, 3, 6, 1],
            "chunk_lasts": [2, 4, 2, 4, 7, 9],
            "chunk_data": [b"{}\n{}"] * 6,
            "step_runs": [2],
            **{f"step_{name}s": ["x"] for name in Step._fields},
        }
        rows = await store.fetch(*store.queries.bind("append_log", **columns))
        assert [(row["n"], row["follows"]) for row in rows] == [(1, True), (2, False), (3, True)]
        schema = store.settings.db_schema
        found = await store.fetch(
            f'SELECT response_id, max(last) FROM "{schema}".event_chunks GROUP BY 1'
        )
        assert dict(map(tuple, found)) == dict(zip(ids, [4, 0, 9], strict=True))
        assert await store.fetch(f'SELECT FROM "{schema}".steps') == []

    async def test_commits_are_durable_whatever_the_servers_default_is(
        self, database: Server, schema: str
    ) -> None:
        async with with_setting(database, schema, "synchronous_commit = off") as store:
            columns = columns_of(store)
            columns |= {
                "response_ids": [await add_response(store)],
                "attempts": [1],
                "firsts": [1],
            }
            small = {name: columns[name] for name in ("response_ids", "attempts", "firsts")}
            small |= {"lasts": [1], "data": [b"{}"]}
            small |= dict.fromkeys(("told_runs", "events_channel", "parcel"))
            small |= end_columns(None)
            [row] = await store.fetch("SELECT pg_postmaster_start_time() AS server")
            one = {name: small[f"{name}s"][0] for name in ("response_id", "attempt")}
            one = {**NOBODY, **one, "server": row["server"].timestamp(), "told": None}
            for query, values in (
                ("append_log", columns),
                ("append_events", small),
                ("append_chunk", one | {"first": 2, "last": 2, "data": b"{}"}),
            ):
                async with store.transaction() as connection:
                    assert await connection.fetchval("SHOW synchronous_commit") == "off"
                    await connection.fetch(*store.queries.bind(query, **values))
                    assert await connection.fetchval("SHOW synchronous_commit") == "on"


class TestAttempts:
    async def test_two_attempts_of_one_response_in_one_batch(self, store: Database) -> None:
        response_id = await add_response(store)
        await change(store, "UPDATE longrun.responses SET attempt = 2 WHERE id = $1", response_id)
        writer = LogWriter(store, lambda *_: None)
        old, new = log_of(writer, response_id), log_of(writer, response_id, attempt=2)
        # Of different lengths: no key of one is a key of the other.
        for n, (run, name) in enumerate([(old, "old"), (new, "new")]):
            run.append(
                events(1, 2 + n, delta=name),
                items=[(n, f'"{name}"')],
                steps=[Step("", "tool", name, "{}", "{}")],
            )
        stop = asyncio.Event()
        task = asyncio.create_task(writer.run(stop))
        await new.flush()
        with pytest.raises(Fenced):
            await old.flush()
        stop.set()
        await task
        assert [each.get("delta") for each in await logged(store, response_id)] == [
            None,
            *["new"] * 3,
        ]
        schema = store.settings.db_schema
        assert [r["item"] for r in await store.fetch(f'SELECT item FROM "{schema}".items')] == [
            '"new"'
        ]
        steps = await store.fetch(f'SELECT key, attempt FROM "{schema}".steps')
        assert [tuple(row) for row in steps] == [("new", 2)]


class TestInTime:
    @pytest.mark.parametrize("setting", ["lock_timeout = 200", "statement_timeout = 200"])
    async def test_what_is_held_up_holds_nobody_up(
        self, database: Server, schema: str, setting: str
    ) -> None:
        """A response that somebody locked: the others are written, and it is too, in the end."""
        async with with_setting(database, schema, setting) as store, writing(store) as writer:
            runs = [log_of(writer, await add_response(store)) for _ in range(4)]
            async with locked(database.url, schema, runs[2].response_id):
                for run in runs:
                    append(run, 3)
                free = [run for run in runs if run is not runs[2]]
                await asyncio.gather(*(run.flush() for run in free))
                append(runs[2], 2)
                assert runs[2].lost is None
            await runs[2].flush()
            append(runs[2], 1)
            await runs[2].flush()
            assert [len(await logged(store, run.response_id)) for run in runs] == [4, 4, 7, 4]

    async def test_what_cannot_be_written_while_others_are_fails_its_run(
        self, database: Server, schema: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """But not while nobody else's are: it may be Postgres, and not this run."""
        monkeypatch.setattr(log_writer, "LONGEST_BACKOFF", 0.1)
        setting = "statement_timeout = 100"
        async with with_setting(database, schema, setting) as store, writing(store) as writer:
            stuck, other = [log_of(writer, await add_response(store)) for _ in range(2)]
            before = counted(writer)
            async with locked(database.url, schema, stuck.response_id):
                append(stuck, 3)
                await eventually(lambda: counted(writer) >= before + log_writer.TRIES_ALONE + 2)
                assert stuck.lost is None
                async with asyncio.timeout(60):
                    while stuck.lost is None:
                        append(other, 1)
                        await other.flush()
                with pytest.raises(NotStored):
                    await stuck.flush()
            assert len(await logged(store, stuck.response_id)) == 1
            assert len(await logged(store, other.response_id)) == other.next_sequence

    async def test_a_share_that_takes_too_long_is_cut(
        self, database: Server, schema: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Down to single entries; each is committed with all that belongs to it."""
        fetch = log_writer.Lane.fetch

        async def slow(self: log_writer.Lane, query: str, *values: object) -> object:
            columns = [column for column in values if isinstance(column, list)]
            sent = sum(len(each) for column in columns for each in column if type(each) is bytes)
            if sent > 50_000:
                raise TimeoutError
            return await fetch(self, query, *values)

        monkeypatch.setattr(log_writer.Lane, "fetch", slow)
        chunks: list[Chunk] = []
        async with (
            migrated(database.url, schema, chunk_bytes=40_000) as store,
            writing(store, lambda _, new: chunks.extend(new)) as writer,
        ):
            run = log_of(writer, await add_response(store))
            for n in range(9):
                run.append(events(run.next_sequence, 33, delta="x" * 1000), items=[(n, "{}")])
            await run.flush()
            append(run, 1)
            await run.flush()
            assert len(await logged(store, run.response_id)) == 1 + 9 * 33 + 1
            assert len(await store.fetch(f'SELECT FROM "{schema}".items')) == 9
        assert [chunk.first for chunk in chunks] == [1, *(chunk.last + 1 for chunk in chunks[:-1])]

    async def test_an_entry_larger_than_a_batch_goes_beside_the_others(
        self, store: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(log_writer, "BATCH_BYTES", 100_000)
        async with writing(store) as writer:
            large, small = [log_of(writer, await add_response(store)) for _ in range(2)]
            for _ in range(3):
                append(large, 2, delta="x" * 300_000)
                append(small, 2)
                append(large, 1)
            await asyncio.gather(large.flush(), small.flush())
        assert len(await logged(store, large.response_id)) == 10
        assert len(await logged(store, small.response_id)) == 7

    async def test_a_serialization_failure_is_tried_again(
        self, database: Server, schema: str
    ) -> None:
        setting = "default_transaction_isolation = 'repeatable read'"
        async with with_setting(database, schema, setting) as store, writing(store) as writer:
            run = log_of(writer, await add_response(store))
            append(run, 1)
            await run.flush()
            async with connected(database.url) as other:
                async with other.transaction():
                    await other.execute(
                        f'UPDATE "{schema}".responses SET cancelled = true WHERE id = $1',
                        run.response_id,
                    )
                    append(run, 2)
                    await eventually(lambda: is_waiting(database))
                await run.flush()
            assert len(await logged(store, run.response_id)) == 4


def counted(writer: LogWriter) -> float:
    value = log_writer.metrics.registry.get_sample_value("longrun_append_failures_total")
    return value or 0.0


async def is_waiting(database: Server) -> bool:
    return await waiting_for_locks(database.url) > 0


class TestTheEnd:
    async def test_when_the_writer_is_cancelled_nobody_waits_on(
        self, store: Database, database: Server
    ) -> None:
        schema = store.settings.db_schema
        held, later = await add_response(store), await add_response(store)
        writer = LogWriter(store, lambda *_: None)
        task = asyncio.create_task(writer.run(asyncio.Event()))
        under_way, waiting = log_of(writer, held), log_of(writer, later)
        async with locked(database.url, schema, held):
            append(under_way, 1)
            await eventually(lambda: is_waiting(database))
            append(waiting, 1)
            task.cancel()
            for run in (under_way, waiting):
                with pytest.raises(LongrunError):
                    await asyncio.wait_for(run.flush(), 10)
        with contextlib.suppress(asyncio.CancelledError):
            await task
        append(waiting, 1)
        with pytest.raises(LongrunError):
            await asyncio.wait_for(waiting.flush(), 10)

    async def test_when_it_fails_what_was_under_way_is_lost_in_words_and_the_rest_written(
        self, store: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whatever its bug: the supervisor starts it again."""
        writer = LogWriter(store, lambda *_: None)
        failing, other = [log_of(writer, await add_response(store)) for _ in range(2)]
        break_once(writer, monkeypatch, lambda: append(other, 2))
        stop = asyncio.Event()
        append(failing, 2)
        with pytest.raises(BaseExceptionGroup):
            await writer.run(stop)
        with pytest.raises(NotStored):
            await asyncio.wait_for(failing.flush(), 10)
        task = asyncio.create_task(writer.run(stop))
        await asyncio.wait_for(other.flush(), 10)
        stop.set()
        await task
        assert len(await logged(store, failing.response_id)) == 1
        assert len(await logged(store, other.response_id)) == 3

    async def test_when_it_fails_for_a_run_alone_the_others_do_not_notice(
        self, store: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(log_writer, "BATCH_BYTES", 1000)
        async with writing(store) as writer:
            failing, other = [log_of(writer, await add_response(store)) for _ in range(2)]
            break_once(writer, monkeypatch, lambda: append(other, 2))
            append(failing, 2, delta="x" * 3000)
            with pytest.raises(NotStored):
                await failing.flush()
            await other.flush()
            assert len(await logged(store, failing.response_id)) == 1
            assert len(await logged(store, other.response_id)) == 3

    async def test_a_step_that_postgres_cannot_even_be_asked_about(self, store: Database) -> None:
        """A call id with NUL: neither its step is taken, nor the question whether it was."""
        async with writing(store) as writer:
            run, other = [log_of(writer, await add_response(store)) for _ in range(2)]
            for key in ("a\x00b", "\ud800"):
                run = log_of(writer, await add_response(store))
                run.append([], steps=[Step("", "tool", key, "{}", "{}")])
                append(other, 1)
                with pytest.raises(NotStored):
                    await run.flush()
                await other.flush()


def break_once(
    writer: LogWriter, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], None]
) -> None:
    """Let the writer have a bug that shows at its next append, and then no more."""
    real = writer._try

    async def broken(*given: object) -> object:
        monkeypatch.setattr(writer, "_try", real)
        meanwhile()
        raise RuntimeError("a bug")

    monkeypatch.setattr(writer, "_try", broken)
