"""Why a run failed: kept for its operator, logged, shown by `longrun show`, and to clients where
that is wanted."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import asyncpg
import httpx2
import pytest

from tests import servers
from tests.postgres import Server
from tests.provider import agents as served
from tests.provider.agents import script
from tests.provider.server import Provider
from tests.reading import create, delete
from tests.reading import script as scripted
from tests.servers import Replica
from tests.storing import reads_tables

LONGRUN = (sys.executable, "-m", "longrun")

SECRET = "secret internal text of the model's failure"

MODEL = scripted(deltas=5, fail=2)
"""What makes the scripted model raise."""


@pytest.fixture(scope="module")
def replica(database: Server) -> Iterator[Replica]:
    with servers.replicas(1, database.url, schema="failures") as started:
        yield started[0]


def show(replica: Replica, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`longrun show` beside a server."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("LONGRUN_")}
    return subprocess.run(
        [*LONGRUN, "show", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**inherited, **replica.environment},
    )


@reads_tables
async def test_the_reason_is_kept_and_goes_with_the_response(
    replica: Replica, database: Server
) -> None:
    response = await create(replica, MODEL, model="scripted")
    assert response["status"] == "failed"
    assert SECRET not in json.dumps(response)
    connection = await asyncpg.connect(database.url)
    try:
        find = 'SELECT reason FROM "failures".responses WHERE id = $1'
        reason = json.loads(await connection.fetchval(find, response["id"]))
        await delete(replica, response["id"])
        assert await connection.fetchval(find, response["id"]) is None
    finally:
        await connection.close()
    assert reason["exception"] == "RuntimeError"
    assert reason["message"] == SECRET
    assert reason["attempt"] == 1
    assert reason["step"] == "the model of agent 'scripted'"
    assert reason["traceback"].rstrip().endswith(f"RuntimeError: {SECRET}")
    logged = replica.output()
    assert f"run of {response['id']} failed in the model of agent 'scripted', attempt 1" in logged


async def test_a_tool_is_named_as_the_step(replica: Replica) -> None:
    response = await create(replica, scripted(turns=[[["broken", {}]]]), model="scripted")
    reason = json.loads(show(replica, response["id"], "--json").stdout)["reason"]
    assert reason["step"] == "tool 'broken'"
    assert "secret internal text of the tool's failure" in reason["message"]
    logged = replica.output()
    assert f"run of {response['id']} failed in tool 'broken', attempt 1" in logged
    assert logged.count(f"tool 'broken' of {response['id']} raised, attempt 1") == 1


async def test_longrun_show(replica: Replica) -> None:
    response = await create(replica, MODEL, model="scripted")
    told = json.loads(show(replica, response["id"], "--json").stdout)
    assert (told["id"], told["status"], told["agent"]) == (response["id"], "failed", "scripted")
    assert told["error"] == response["error"]
    assert told["reason"]["message"] == SECRET
    said = show(replica, response["id"])
    assert said.returncode == 0
    assert f"message      {SECRET}" in said.stdout
    assert "Traceback (most recent call last)" in said.stdout


async def test_longrun_show_of_one_that_completed(replica: Replica) -> None:
    response = await create(replica, scripted(turns=[[["echo", {"text": "a"}]]]), model="scripted")
    told = json.loads(show(replica, response["id"], "--json").stdout)
    assert (told["status"], told["reason"]) == ("completed", None)
    assert told["items"] == len(response["output"])
    assert len(told["steps"]) == 3
    numbered = [(each["step"], each["kind"], each["name"]) for each in told["numbered_steps"]]
    assert numbered == [(1, "model", "scripted"), (2, "tool", "echo"), (3, "model", "scripted")]
    [attempt] = told["attempts"]
    assert (attempt["attempt"], attempt["how"]) == (1, "completed")
    assert attempt["replica_id"].startswith("replica_")
    assert told["usage"] == response["usage"]
    assert "Traceback" not in show(replica, response["id"]).stdout


def test_longrun_show_of_none(replica: Replica) -> None:
    said = show(replica, "resp_none")
    assert said.returncode == 2
    assert "there is no response 'resp_none'" in said.stderr


async def test_clients_are_told_where_that_is_wanted(database: Server) -> None:
    with servers.replicas(
        1, database.url, schema="failures_shown", environment={"LONGRUN_SHOW_ERRORS": "true"}
    ) as (replica,):
        response = await create(replica, MODEL, model="scripted")
        status, found = await failure(replica, response["id"])
    assert (status, found["reason"]["message"]) == (200, SECRET)
    message = response["error"]["message"]
    assert message.startswith(f"The agent failed. RuntimeError: {SECRET} (in the model of agent")
    assert "scripted_model.py, line " in message or "scripted.py, line " in message


async def failure(replica: Replica, response_id: str, key: str = "") -> tuple[int, dict[str, Any]]:
    bearer = {"authorization": f"Bearer {key}"} if key else {}
    async with httpx2.AsyncClient(base_url=replica.base_url, headers=bearer) as client:
        answer = await client.get(f"/responses/{response_id}/failure")
    return answer.status_code, answer.json()


async def test_an_admin_is_told_why_and_others_are_not(replica: Replica, database: Server) -> None:
    response = await create(replica, MODEL, model="scripted")
    status, refused = await failure(replica, response["id"])
    assert (status, refused["error"]["code"]) == (403, "forbidden")
    schema = {"LONGRUN_SCHEMA": "failures_keys"}
    with servers.replicas(1, database.url, schema="failures_keys") as (guarded,):
        keys = {}
        for name, scopes in (("owner", "read,write"), ("operator", "admin")):
            made = subprocess.run(
                [*LONGRUN, "keys", "create", name, "--scopes", scopes, "--json"],
                capture_output=True,
                text=True,
                check=True,
                timeout=60,
                env={**os.environ, **guarded.environment, **schema},
            )
            keys[name] = json.loads(made.stdout)["key"]
        async with httpx2.AsyncClient(base_url=guarded.base_url, timeout=30) as client:
            failed, fine = [
                (
                    await client.post(
                        "/responses",
                        json={"model": "scripted", "input": said},
                        headers={"authorization": f"Bearer {keys['owner']}"},
                    )
                ).json()
                for said in (MODEL, "hello")
            ]
        assert (await failure(guarded, failed["id"], keys["owner"]))[0] == 403
        status, found = await failure(guarded, failed["id"], keys["operator"])
        assert status == 200
        assert found["reason"].pop("traceback").endswith(f"RuntimeError: {SECRET}\n")
        assert found == {
            "object": "response.failure",
            "id": failed["id"],
            "status": "failed",
            "attempts": 1,
            "deaths": 0,
            "reason": {
                "exception": "RuntimeError",
                "message": SECRET,
                "step": "the model of agent 'scripted'",
                "attempt": 1,
            },
        }
        status, found = await failure(guarded, fine["id"], keys["operator"])
        assert (status, found["status"], found["reason"]) == (200, "completed", None)
        for unknown in ("resp_" + "0" * 32, "nothing"):
            assert (await failure(guarded, unknown, keys["operator"]))[0] == 404


async def test_what_a_tool_raised_is_logged_though_its_model_gets_words(
    database: Server, provider: Provider
) -> None:
    with servers.replicas(
        1,
        database.url,
        schema="failures_tools",
        agents=served.AGENTS,
        environment=served.environment(provider),
    ) as (replica,):
        response = await create(replica, script([{"call": "fail"}]), model="responses-tools")
        log = replica.output()
    assert response["status"] == "completed"
    assert log.count(f"tool 'fail' of {response['id']} raised, attempt 1") == 1
    assert "RuntimeError: the tool failed" in log


KEYLESS = """
from agents import Agent
agent = Agent(name="keyless", model="gpt-5")
"""


async def test_without_a_key_the_failure_says_which_variable_is_missing(
    database: Server, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "keyless_agents.py").write_text(KEYLESS)
    with servers.replicas(
        1,
        database.url,
        schema="failures_key",
        agents="keyless_agents:agent",
        environment={"PYTHONPATH": str(tmp_path)},
    ) as (replica,):
        response = await create(replica, "hi", model="keyless")
    assert response["status"] == "failed"
    assert response["error"]["message"] == (
        "The model has no API key: OPENAI_API_KEY is not set on this server."
    )
