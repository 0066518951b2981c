"""Admission: what a replica takes, gives away and stops, by what Postgres says is whose."""

import asyncio
from typing import Any

import pytest
from agents import Agent, function_tool

from longrun.app import Longrun
from longrun.errors import Unavailable
from longrun.execution import admission, host
from tests import postgres
from tests.crashing import Served, asked, finish, left_of, replica
from tests.journal_agents.models import agent, calls, says
from tests.reading import eventually


class Held:
    """An agent whose tool waits until it may end."""

    def __init__(self) -> None:
        self.started = 0
        self.may_end = asyncio.Event()

    def agent(self) -> Agent[Any]:
        @function_tool
        async def wait() -> str:
            """Wait."""
            self.started += 1
            await self.may_end.wait()
            return "waited"

        return agent("agent", [calls("wait")], [says("done")], tools=[wait])


@pytest.fixture
def held() -> Held:
    return Held()


async def change(app: Longrun, what: str, *args: object) -> None:
    await app.parts.database.execute(f"UPDATE {app.settings.db_schema}.responses SET {what}", *args)


async def row(app: Longrun) -> Any:
    found = await app.parts.database.fetch_row(f"SELECT * FROM {app.settings.db_schema}.responses")
    assert found is not None
    return found


async def test_a_run_starts_when_its_client_has_its_first_event(
    database: postgres.Server, schema: str, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "ANSWER_WAIT", 60)
    async with replica(Served(held.agent), database.url, schema) as app:
        submitted = await app.parts.admission.submit(asked("go"))
        assert (await row(app))["status"] == "in_progress"
        assert held.started == 0
        submitted.answered()
        await eventually(lambda: held.started == 1)
        held.may_end.set()
        await eventually(lambda: app.parts.host.idle)


async def test_a_claim_whose_answer_was_lost_is_given_up_and_resumed(
    database: postgres.Server, schema: str, held: Held
) -> None:
    held.may_end.set()
    async with replica(Served(held.agent), database.url, schema) as app:
        app.parts.admission.makes_room = True  # it is queued
        request = asked("go")
        await app.parts.admission.submit(request)
        lost = (await app.parts.claims.queued(1))[0]
        assert (lost.id, app.parts.host.idle) == (request.response_id, True)
        await finish(app, [request.response_id])
        assert ((await row(app))["attempt"], (await row(app))["spent"]) == (2, 1)
    left = await left_of(database.url, schema, request.response_id)
    assert left.status == "completed"


async def test_a_run_that_is_no_longer_ours_is_stopped(
    database: postgres.Server, schema: str, held: Held
) -> None:
    """Though nobody told: every message about it was lost."""
    async with replica(Served(held.agent), database.url, schema) as app:
        request = asked("go")
        await app.parts.admission.submit(request)
        await eventually(lambda: held.started == 1)
        handle = app.parts.host.find(request.response_id)
        assert handle is not None
        await change(app, "attempt = attempt + 1, replica_id = 'another'")
        await eventually(lambda: handle.abandoned)
        await eventually(lambda: app.parts.host.idle)
        assert (await row(app))["replica_id"] == "another"


async def test_runs_that_do_not_end_are_handed_over_for_one_that_is_to_be_alone(
    database: postgres.Server, schema: str, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not wait for all that this replica executes, which may take hours."""
    monkeypatch.setattr(admission, "ROOM_WAIT", 0.0)
    async with replica(Served(held.agent), database.url, schema) as app:
        long, suspect = asked("go"), asked("go")
        await app.parts.admission.submit(long)
        await eventually(lambda: held.started == 1)
        handle = app.parts.host.find(long.response_id)
        assert handle is not None
        app.parts.admission.work_waits = True  # it is queued
        await app.parts.admission.submit(suspect)
        await app.parts.admission.take_queued()
        app.parts.host.abandon_earlier(suspect.response_id, 2)
        await change(
            app, "attempt = 2, deaths = 2, replica_id = NULL WHERE id = $1", suspect.response_id
        )
        await eventually(lambda: handle.leaving)
        held.may_end.set()
        await finish(app, [long.response_id, suspect.response_id])
    for response_id in (long.response_id, suspect.response_id):
        left = await left_of(database.url, schema, response_id)
        assert (left.status, max(left.attempts) > 1) == ("completed", True)


async def test_what_is_being_created_is_not_taken_for_lost(
    database: postgres.Server, schema: str, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Postgres has it before its creator knows, and may have it long after it was asked."""
    held.may_end.set()
    async with replica(Served(held.agent), database.url, schema) as app:
        looked = 0
        look_around, create = app.parts.claims.look_around, app.parts.responses.create

        async def counted() -> Any:
            nonlocal looked
            looked += 1
            return await look_around()

        async def look_on() -> None:
            before = looked
            while looked < before + 4:
                await asyncio.sleep(0.01)

        async def slow(new: Any) -> None:
            await look_on()
            await create(new)
            await look_on()

        monkeypatch.setattr(app.parts.claims, "look_around", counted)
        monkeypatch.setattr(app.parts.responses, "create", slow)
        request = asked("go")
        assert (await app.parts.admission.submit(request)).status == "in_progress"
        await finish(app, [request.response_id])
        assert ((await row(app))["attempt"], (await row(app))["status"]) == (1, "completed")
        assert held.started == 1


async def test_a_drain_waits_for_what_is_being_created(
    database: postgres.Server, schema: str, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    held.may_end.set()
    request = asked("go")
    async with replica(Served(held.agent), database.url, schema, drain_seconds=20) as app:
        create = app.parts.responses.create
        draining = asyncio.Event()

        async def slow(new: Any) -> None:
            await draining.wait()
            await create(new)

        monkeypatch.setattr(app.parts.responses, "create", slow)
        submitted = asyncio.create_task(app.parts.admission.submit(request))
        await eventually(lambda: not app.parts.host.idle)
        app.drain()
        await eventually(lambda: not app.parts.host.hosting)
        draining.set()
        assert (await submitted).status == "in_progress"
    left = await left_of(database.url, schema, request.response_id)
    assert left.status == "completed"
    assert held.started == 1


async def test_nothing_is_taken_once_it_stops(
    database: postgres.Server, schema: str, held: Held
) -> None:
    async with replica(Served(held.agent), database.url, schema) as app:
        app.drain()
        await eventually(lambda: not app.parts.host.hosting)
        with pytest.raises(Unavailable, match="stopping"):
            await app.parts.admission.submit(asked("go"))
        assert not await app.parts.admission.cancel("resp_1", "")
        app.parts.admission.cancel_soon("resp_1", "")
    with pytest.raises(Unavailable, match="stopping"):
        await app.parts.admission.cancel("resp_1", "")


@pytest.mark.parametrize("soon", [False, True])
async def test_a_cancel_is_for_its_principal_alone(
    database: postgres.Server, schema: str, held: Held, soon: bool
) -> None:
    async with replica(Served(held.agent), database.url, schema) as app:
        request = asked("go")
        await app.parts.admission.submit(request)
        await eventually(lambda: held.started == 1)
        assert not await app.parts.admission.cancel(request.response_id, "somebody else")
        assert ((await row(app))["attempt"], (await row(app))["cancelled"]) == (1, False)
        if soon:
            app.parts.admission.cancel_soon(request.response_id, request.principal)
        else:
            assert await app.parts.admission.cancel(request.response_id, request.principal)
        await finish(app, [request.response_id])
        assert (await row(app))["status"] == "cancelled"
        assert not await app.parts.admission.cancel(request.response_id, request.principal)
