"""Every attempt ends in words (invariant 10): however it breaks off, nothing is executed again
and again."""

import asyncio
import json
from typing import Any

import pytest
from agents import Agent, SQLiteSession, function_tool

import longrun
from longrun.app import Longrun
from longrun.protocol import RunRequest
from tests import postgres
from tests.crashing import Left, Served, asked, finish, left_of, replica
from tests.journal_agents.models import agent, calls, says
from tests.reading import eventually
from tests.storing import connected

REFUSE = """
CREATE FUNCTION "{schema}".refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'refused' USING ERRCODE = 'character_not_in_repertoire'; END $$;
CREATE TRIGGER refuse BEFORE INSERT ON "{schema}".steps
    FOR EACH ROW WHEN (new.kind = 'tool') EXECUTE FUNCTION "{schema}".refuse();
"""


@pytest.fixture(autouse=True)
def as_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls are shown with their call ids."""
    monkeypatch.setenv("LONGRUN_SERVER_TOOLS", "function_call")


class Counting:
    """An agent that calls a tool, which counts its calls."""

    def __init__(self) -> None:
        self.called = 0

    def agent(self) -> Agent[Any]:
        @function_tool
        async def count() -> str:
            """Count."""
            self.called += 1
            return "counted"

        return agent("agent", [calls("count")], [says("done")], tools=[count])


async def whole(app: Longrun, url: str, request: RunRequest) -> Left:
    await app.parts.admission.submit(request)
    await finish(app, [request.response_id])
    left = await left_of(url, app.settings.db_schema, request.response_id)
    assert json.loads(left.lines[-1])["type"] in ("response.failed", "response.completed")
    return left


def error_of(left: Left) -> dict[str, str]:
    assert left.status == "failed"
    return dict(left.document["error"])


async def test_one_whose_step_is_refused_fails_at_once(
    database: postgres.Server, schema: str
) -> None:
    counting = Counting()
    async with replica(Served(counting.agent), database.url, schema) as app:
        async with connected(database.url) as connection:
            await connection.execute(REFUSE.format(schema=schema))
        left = await whole(app, database.url, asked("go"))
        error = error_of(left)
        assert error["code"] == "server_error"
        assert "stored" in error["message"]
        assert counting.called == 1
        await eventually(lambda: app.parts.host.idle)
        # Its items were finished, and stay.
        assert [item["type"] for item in left.output][:1] == ["function_call"]


async def test_one_whose_task_is_cancelled_by_others_fails_at_once(
    database: postgres.Server, schema: str
) -> None:
    made = 0

    def session(current: longrun.Current) -> SQLiteSession:
        nonlocal made
        made += 1
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        return SQLiteSession("one")

    served = Served(Counting().agent, session=session)
    async with replica(served, database.url, schema) as app:
        error = error_of(await whole(app, database.url, asked("go")))
    assert error == {"code": "server_error", "message": "The agent failed."}
    assert made == 1


async def test_what_an_earlier_attempt_left_unreadable_ends_all_the_same(
    database: postgres.Server, schema: str
) -> None:
    counting = Counting()
    async with replica(Served(counting.agent), database.url, schema) as app:
        request = asked("go")
        async with connected(database.url) as connection:
            app.parts.admission.makes_room = True  # it is queued
            await app.parts.admission.submit(request)
            await connection.execute(
                f'UPDATE "{schema}".event_chunks SET data = $1',
                b'{"type":"response.output_item.added","sequence_number":0}',
            )
        app.parts.watch.look_again()
        await finish(app, [request.response_id])
        async with connected(database.url) as connection:
            row = await connection.fetchrow(f'SELECT status, document FROM "{schema}".responses')
    assert row["status"] == "failed"
    assert json.loads(row["document"])["error"]["message"] == "The agent failed."
    assert counting.called == 0


async def test_while_postgres_is_away_nothing_is_executed_again(
    database: postgres.Server, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of what broke off is tried until Postgres is back."""
    counting = Counting()
    async with replica(Served(counting.agent), database.url, schema) as app:
        async with connected(database.url) as connection:
            await connection.execute(REFUSE.format(schema=schema))
        tries = 0
        to_fail = app.parts.claims.to_fail

        async def away_at_first(*given: Any) -> Any:
            nonlocal tries
            tries += 1
            if tries < 3:
                raise longrun.errors.Unavailable("away")
            return await to_fail(*given)

        monkeypatch.setattr("longrun.execution.attempts.RETRY", 0.8)
        monkeypatch.setattr(app.parts.claims, "to_fail", away_at_first)
        error_of(await whole(app, database.url, asked("go")))
    assert (tries, counting.called) == (3, 1)
