"""What holds for the runs of one agent: how many at once, how long, with which parameters."""

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from agents import Agent

import longrun
from longrun.app import Longrun, create_app
from longrun.errors import ConfigurationError
from longrun.execution.outcomes import instead_of_a_run
from longrun.execution.served import Served
from longrun.protocol import RunRequest
from longrun.settings import Settings
from longrun.store.claims import Claim
from tests import postgres
from tests.crashing import asked, finish, left_of
from tests.reading import eventually
from tests.scripted import echo, scripted
from tests.unit.streams import request

PAUSE = json.dumps({"turns": [[["echo", {"text": "x", "pause": 0.3}]]]})


def agent(name: str) -> Agent[Any]:
    return Agent(name=name, model=scripted(), tools=[echo])


@contextlib.asynccontextmanager
async def replica(
    agents: Any, database: postgres.Server, schema: str, **settings: Any
) -> AsyncIterator[Longrun]:
    given = {"max_runs": 4, "drain_seconds": 1, **settings}
    app = create_app(agents, Settings.load(database_url=database.url, schema=schema, **given))
    async with app.running():
        yield app


def of(name: str, input: str = PAUSE) -> RunRequest:
    return dataclasses.replace(request(input=input, background=True), agent=name)


class TestConcurrency:
    async def test_more_than_that_wait_and_others_do_not_wait_for_them(
        self, database: postgres.Server, schema: str
    ) -> None:
        served = [Served(agent("few"), concurrency=1), agent("others")]
        async with replica(served, database, schema) as app:
            few = [of("few") for _ in range(4)]
            statuses = [(await app.parts.admission.submit(each)).status for each in few]
            assert statuses == ["in_progress", "queued", "queued", "queued"]
            await eventually(lambda: not app.parts.admission.work_waits)
            assert (await app.parts.admission.submit(of("others", "hello"))).status == "in_progress"
            most = 0
            finishing = asyncio.create_task(finish(app, [each.response_id for each in few]))
            while not finishing.done():
                most = max(most, app.parts.host.running("few"))
                await asyncio.sleep(0.01)
            assert most == 1
            for each in few:
                left = await left_of(database.url, schema, each.response_id)
                assert left.status == "completed"

    async def test_runs_of_another_replica_are_taken_over_within_it(
        self, database: postgres.Server, schema: str
    ) -> None:
        few = Served(agent("few"), concurrency=2)
        async with replica([few], database, schema) as first:
            requests = [of("few") for _ in range(4)]
            for each in requests:
                await first.parts.admission.submit(each)
            async with replica([few], database, schema) as second:
                await finish(second, [each.response_id for each in requests])
                assert first.parts.host.running("few") + second.parts.host.running("few") <= 4

    async def test_new_ones_do_not_pass_those_that_wait(
        self, database: postgres.Server, schema: str
    ) -> None:
        async with replica([Served(agent("few"), concurrency=1)], database, schema) as app:
            requests = [of("few"), of("few"), of("few", "hello")]
            for each in requests:
                await app.parts.admission.submit(each)
            await eventually(lambda: app.parts.host.idle or app.parts.host.running("few") == 1)
            last = of("few", "hello")
            assert (await app.parts.admission.submit(last)).status == "queued"
            await finish(app, [each.response_id for each in [*requests, last]])


class TestTimeout:
    async def test_is_the_agent_s(self, database: postgres.Server, schema: str) -> None:
        async with replica([Served(agent("short"), timeout=0.5)], database, schema) as app:
            slow = of("short", json.dumps({"turns": [[["echo", {"text": "x", "pause": 20}]]]}))
            await app.parts.admission.submit(slow)
            await finish(app, [slow.response_id])
            left = await left_of(database.url, schema, slow.response_id)
            assert left.status == "failed"
            assert left.document["error"]["message"] == (
                "The response took longer than 0.5 seconds (the limit of its agent)."
            )


def test_attempts_are_the_agent_s() -> None:
    claim = Claim(asked("go"), attempt=3, spent=2, handovers=0, cancelled=False, overdue=False)
    once = Served(agent("once"), attempts=1)
    assert instead_of_a_run(claim, Settings()) is None
    outcome = instead_of_a_run(claim, Settings(), once)
    assert outcome is not None
    assert outcome.error == {
        "code": "server_error",
        "message": "The run was interrupted 1 times and was given up.",
    }


async def test_parameters_are_the_agent_s(database: postgres.Server, schema: str) -> None:
    strict = Served(
        agent("strict"),
        forbidden_parameters=["temperature"],
        parameter_limits={"max_output_tokens": 10},
    )
    async with replica([agent("free"), strict], database, schema) as app:
        transport = httpx2.ASGITransport(app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:

            async def code_of(model: str, **body: Any) -> Any:
                given = {"model": model, "input": "hello", **body}
                answer = (await client.post("/v1/responses", json=given)).json()
                return (answer["error"] or {}).get("code"), (answer["error"] or {}).get("param")

            assert await code_of("free", temperature=1, max_output_tokens=11) == (None, None)
            assert await code_of("strict", max_output_tokens=10) == (None, None)
            refused = ("parameter_not_allowed", "temperature")
            assert await code_of("strict", temperature=1) == refused
            refused = ("parameter_too_large", "max_output_tokens")
            assert await code_of("strict", max_output_tokens=11) == refused


async def test_handlers_can_be_served_so_as_well(database: postgres.Server, schema: str) -> None:
    @longrun.agent(name="handler")
    async def answer(request: longrun.HandlerRequest) -> AsyncIterator[str]:
        await asyncio.sleep(0.2)
        yield f"said: {request.text}"

    async with replica(Served(answer, concurrency=1), database, schema) as app:
        requests = [of("handler", "hello") for _ in range(2)]
        statuses = [(await app.parts.admission.submit(each)).status for each in requests]
        assert statuses == ["in_progress", "queued"]
        await finish(app, [each.response_id for each in requests])
        left = await left_of(database.url, schema, requests[1].response_id)
        assert left.output[0]["content"][0]["text"] == "said: hello"


class TestWrong:
    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ({"concurrency": 0}, "Served.concurrency is 0: expected a whole number"),
            ({"concurrency": 1.5}, "Served.concurrency is 1.5: expected a whole number"),
            ({"attempts": True}, "Served.attempts is True"),
            ({"timeout": "5"}, "Served.timeout is '5': expected a number of seconds"),
            ({"forbidden_parameters": "text"}, "expected a list"),
            ({"forbidden_parameters": ["temprature"]}, "did you mean temperature?"),
            ({"parameter_limits": {"tools": 1}}, "'tools' cannot be bounded"),
            ({"parameter_limits": {"temperature": "1"}}, "expected a number greater than 0"),
        ],
    )
    def test_values_are_refused(self, given: Any, said: str) -> None:
        with pytest.raises(ConfigurationError) as raised:
            Served(agent("a"), **given)
        assert said in raised.value.message

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ({"timeout": 5000}, "timeout=5000 of the agent 'a' is more than LONGRUN_RUN_TIMEOUT"),
            ({"attempts": 4}, "more than LONGRUN_MAX_ATTEMPTS=3"),
            ({"concurrency": 101}, "more than LONGRUN_MAX_RUNS=100"),
        ],
    )
    def test_more_than_the_settings_allow(self, given: Any, said: str) -> None:
        settings = Settings(database_url="postgresql:///x")
        with pytest.raises(ConfigurationError) as raised:
            create_app(Served(agent("a"), **given), settings)
        assert said in raised.value.message
