"""`longrun run`, `tail`, `ps`, `cancel`, `retry`, `doctor` and `prune`, beside two replicas."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI

from tests import postgres
from tests.contract.test_odd_requests import ask
from tests.reading import eventually, script
from tests.servers import Replica

LONGRUN = (sys.executable, "-m", "longrun")


@dataclass(frozen=True)
class Said:
    """What a command printed, and how it exited."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def environment(more: Mapping[str, str]) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("LONGRUN_", "OPENAI_"))}
    return {**kept, "COLUMNS": "200", **more}


async def begun(*arguments: str, **more: str) -> asyncio.subprocess.Process:
    """A command that was started."""
    return await asyncio.create_subprocess_exec(
        *LONGRUN,
        *arguments,
        env=environment(more),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def ended(process: asyncio.subprocess.Process) -> Said:
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return Said(process.returncode or 0, out.decode(), err.decode())


async def command(*arguments: str, **more: str) -> Said:
    return await ended(await begun(*arguments, **more))


@pytest.fixture
def url(two: list[Replica]) -> dict[str, str]:
    """Where commands find the first replica."""
    return {"LONGRUN_URL": two[0].url}


async def test_run_writes_what_the_agent_says_and_nothing_else(url: dict[str, str]) -> None:
    asked = script(turns=[[["echo", {"text": "x"}]]], deltas=3)
    said = await command("run", "scripted", asked, **url)
    assert (said.code, said.out) == (0, "word0 word1 word2 \n")
    first, *_ = said.err.splitlines()
    assert first.startswith("resp_")
    assert "→ echo(" in said.err


async def test_a_run_that_fails_exits_with_1(url: dict[str, str]) -> None:
    said = await command("run", "scripted", script(deltas=3, fail=1), **url)
    assert said.code == 1
    assert "failed: " in said.err
    told = await command("run", "scripted", script(deltas=3, fail=1), "--json", **url)
    assert (told.code, told.json["status"]) == (1, "failed")


async def test_tail_as_lines_of_json(url: dict[str, str]) -> None:
    made = await command("run", "scripted", script(deltas=4), "--detach", **url)
    response_id = made.out.strip()
    whole = await command("tail", response_id, "--json", **url)
    events = [json.loads(line) for line in whole.out.splitlines()]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert (whole.code, events[-1]["type"]) == (0, "response.completed")
    rest = await command("tail", response_id, "--json", "--after", "2", **url)
    assert rest.out.splitlines() == whole.out.splitlines()[3:]


async def test_what_is_no_text_for_a_terminal(url: dict[str, str], two: list[Replica]) -> None:
    """A lone surrogate was a traceback, and what a terminal acts upon was for it to act upon."""
    body = json.dumps({"model": "scripted", "input": "a\ud800b\x1b]0;c\x07\nd"}).encode()
    status, made = await asyncio.to_thread(ask, two[0], "POST", "/v1/responses", body)
    assert status == 200
    response_id = json.loads(made)["id"]
    told = await command("tail", response_id, **url)
    assert (told.code, told.out) == (0, "a\\ud800b\x1b]0;c\x07\nd\n")  # piped on as it is
    events = await command("tail", response_id, "--json", **url)
    [last] = [json.loads(line) for line in events.out.splitlines()][-1:]
    assert last["response"]["output"][0]["content"][0]["text"] == "a\ud800b\x1b]0;c\x07\nd"
    listed = await command("ps", "--all", **url)
    assert (listed.code, "\\x1b]0;c" in listed.out, "\x1b" in listed.out) == (0, True, False)
    shown = await command("show", response_id, **two[0].environment)
    assert (shown.code, "\x1b" in shown.out) == (0, False)


async def test_what_is_interrupted_goes_on(url: dict[str, str], clients: list[AsyncOpenAI]) -> None:
    process = await begun("run", "scripted", script(deltas=4000, pause=0.05), **url)
    assert process.stderr is not None
    first = (await asyncio.wait_for(process.stderr.readline(), 60)).decode()
    process.send_signal(signal.SIGINT)
    said = await ended(process)
    response_id = first.split()[0]
    assert said.code == 130
    assert f"longrun tail {response_id}" in said.err
    assert (await clients[1].responses.retrieve(response_id)).status == "in_progress"
    cancelled = await command("cancel", response_id, **url)
    assert (cancelled.code, cancelled.out) == (0, f"{response_id} cancelled\n")
    again = await command("tail", response_id, **url)
    assert again.code == 1
    assert "cancelled" in again.err


async def test_steer_puts_a_message_in(
    url: dict[str, str], clients: list[AsyncOpenAI], tmp_path: Path
) -> None:
    told_it = tmp_path / "told"
    said = script(deltas=3, until=str(told_it))
    made = await command("run", "scripted", said, "--detach", **url)
    response_id = made.out.strip()
    told = await command("steer", response_id, "and now?", **url)
    assert (told.code, told.err) == (0, "")
    told_it.touch()
    ended = await command("tail", response_id, **url)
    assert ended.out.endswith("and now?\n")
    items = await clients[1].responses.input_items.list(response_id)
    assert items.data[0].id == told.out.strip()
    late = await command("steer", response_id, "too late", **url)
    assert late.code == 2
    assert "has ended" in late.err


async def test_cancel_says_which_it_could_not(url: dict[str, str]) -> None:
    said = await command("cancel", "resp_nothing", "--json", **url)
    assert said.code == 1
    assert list(said.json["refused"]) == ["resp_nothing"]


async def test_retry_asks_the_same(url: dict[str, str], clients: list[AsyncOpenAI]) -> None:
    first = await clients[0].responses.create(
        model="scripted", input=script(show=True), instructions="Be brief.", metadata={"a": "b"}
    )
    second = await clients[0].responses.create(
        model="scripted", input=script(deltas=1), previous_response_id=first.id, temperature=0.5
    )
    for before in (first, second):
        said = await command("retry", before.id, "--json", **url)
        assert said.code == 0
        after = said.json
        assert after["id"] != before.id
        said_again = after["output"][-1]["content"][0]["text"]
        assert ("Be brief." in said_again) if before is first else (said_again == "word0 ")
        for name in ("instructions", "metadata", "previous_response_id", "temperature", "model"):
            assert after[name] == getattr(before, name), name


async def test_retry_from_a_step(url: dict[str, str], clients: list[AsyncOpenAI]) -> None:
    before = await clients[0].responses.create(
        model="scripted", input=script(turns=[[["echo", {"text": "a"}]]], deltas=1)
    )
    said = await command("retry", before.id, "--from-step", "2", "-i", "instead", "--json", **url)
    assert said.code == 0
    assert [item["type"] for item in said.json["output"]] == ["mcp_call", "message"]
    assert said.json["output"][1]["content"][0]["text"] == "instead"
    assert said.json["longrun"] == {"fork": {"response_id": before.id, "step": 2}}
    wrong = await command("retry", before.id, "--from-step", "9", **url)
    assert (wrong.code, "There is no step 9" in wrong.err) == (2, True)


async def test_ps_says_what_there_is_none_of(url: dict[str, str]) -> None:
    for arguments, words in (
        (("--all", "--agent", "nobody"), "there are no runs of nobody"),
        (("--agent", "nobody"), "nothing of nobody is queued or in progress"),
        (("--status", "failed", "--agent", "nobody"), "no run of nobody is failed"),
    ):
        assert words in (await command("ps", *arguments, **url)).out


async def test_ps_of_a_server_and_of_its_database(
    two: list[Replica], url: dict[str, str], clients: list[AsyncOpenAI]
) -> None:
    made = await clients[0].responses.create(
        model="scripted", input=script(deltas=4000, pause=0.05), background=True
    )
    database = ("--database-url", two[0].environment["LONGRUN_DATABASE_URL"])
    sources: list[tuple[tuple[str, ...], dict[str, str]]] = [
        ((), url),
        (database, {k: v for k, v in two[0].environment.items() if k != "LONGRUN_DATABASE_URL"}),
    ]
    try:
        for arguments, more in sources:
            shown = await command("ps", *arguments, **more)
            assert shown.code == 0
            [line] = [line for line in shown.out.splitlines() if line.startswith(made.id)]
            assert "in_progress" in line or "queued" in line
            listed = await command(
                "ps", *arguments, "--json", "--status", "in_progress,queued", **more
            )
            assert made.id in [each["id"] for each in listed.json["runs"]]
    finally:
        await clients[0].responses.cancel(made.id)
    shown = await command("ps", "--all", **url)
    [line] = [line for line in shown.out.splitlines() if line.startswith(made.id)]
    assert "cancelled" in line
    wrong = await command("ps", "--status", "done", **url)
    assert wrong.code == 2
    assert "--status 'done': allowed are queued, in_progress" in wrong.err


async def test_ps_goes_on_looking(url: dict[str, str], clients: list[AsyncOpenAI]) -> None:
    process = await begun("ps", "--watch", "--json", "--all", **url)
    assert process.stdout is not None

    async def looked() -> list[str]:
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), 60)
        return [each["id"] for each in json.loads(line)["runs"]]

    await looked()
    made = await clients[0].responses.create(model="scripted", input="x", background=True)
    for _ in range(10):
        if made.id in await looked():
            break
    else:
        raise AssertionError("a new run does not show")
    process.send_signal(signal.SIGINT)
    assert await asyncio.wait_for(process.wait(), 20) == 0


class TestDoctor:
    async def test_of_a_database(self, two: list[Replica]) -> None:
        said = await command("doctor", "--json", **two[0].environment)
        found = {each["check"]: each for each in said.json["findings"]}
        assert said.code == 0
        assert {each["state"] for each in found.values()} <= {"ok", "warning"}
        assert found["schema"]["state"] == found["rights"]["state"] == found["LISTEN"]["state"]
        assert "2 alive" in found["replicas"]["said"]

    async def test_of_one_that_is_empty(self, database: postgres.Server) -> None:
        empty = {"LONGRUN_DATABASE_URL": database.url, "LONGRUN_SCHEMA": "doctor_empty"}
        said = await command("doctor", **empty)
        assert said.code == 1
        assert "✗ schema" in said.out
        assert "longrun migrate" in said.out

    async def test_of_none(self) -> None:
        said = await command("doctor", LONGRUN_DATABASE_URL="postgresql://127.0.0.1:1/x")
        assert said.code == 1
        assert "cannot connect to Postgres" in said.out

    async def test_of_a_server(self, two: list[Replica]) -> None:
        said = await command("doctor", "--url", two[1].url, "--json")
        assert said.code == 0
        assert [each["check"] for each in said.json["findings"]] == ["server", "agents"]
        away = await command("doctor", "--url", "http://127.0.0.1:1")
        assert away.code == 1
        assert "does not answer" in away.out


async def test_prune_asks_first(two: list[Replica], clients: list[AsyncOpenAI]) -> None:
    made = await clients[0].responses.create(model="scripted", input="x")
    database = two[0].environment
    counted = await command("prune", "--older-than", "1d", "--dry-run", "--json", **database)
    assert counted.json == {"due": 0, "deleted": 0}

    async def is_due() -> bool:
        due = await command("prune", "--older-than", "1s", "--dry-run", "--json", **database)
        return bool(due.json["due"])

    await eventually(is_due, every=0.2)
    refused = await command("prune", "--older-than", "1s", **database)
    assert (refused.code, "--yes" in refused.err) == (2, True)
    assert (await clients[0].responses.retrieve(made.id)).id == made.id


async def test_messages_for_a_wrong_server_or_key(two: list[Replica]) -> None:
    for arguments, expected in (
        (("ps",), "no server answers at http://127.0.0.1:1"),
        (("tail", "resp_x"), "no server answers"),
    ):
        said = await command(*arguments, LONGRUN_URL="http://127.0.0.1:1")
        assert said.code == 2
        assert expected in said.err
    said = await command("ps", "--url", "localhost:8000")
    assert "is no URL of a server" in said.err
