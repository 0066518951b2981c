"""Handlers of several frameworks on real replicas: what clients see, and what a killed replica
leaves to the next one."""

import asyncio
import difflib
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI, BadRequestError
from pydantic import BaseModel

from tests import postgres
from tests.faults.ground import Ground, ground
from tests.provider.agents import environment
from tests.provider.server import Provider
from tests.reading import create, finished

AGENTS = "tests.handlers.served:agents"

LOOK = {"call": "look", "arguments": {"word": "owls"}}


@pytest.fixture
def found(database: postgres.Server, provider: Provider, schema: str) -> Iterator[Ground]:
    with ground(database, f"handlers_{schema}", agents=AGENTS, **environment(provider)) as made:
        made.start(2)
        yield made


def script(*turns: Any, then: str = "the end") -> str:
    return json.dumps({"turns": turns, "then": then})


def texts(output: list[Any]) -> str:
    parts = [item for item in output if item["type"] == "message"]
    return "".join(part["text"] for item in parts for part in item["content"])


def looked(found: Ground) -> list[str]:
    file = found.folder / "effects"
    return file.read_text().splitlines() if file.exists() else []


async def test_each_answers_as_a_stream_and_goes_on(found: Ground, provider: Provider) -> None:
    said = {
        "loop": (script([LOOK]), "the end"),
        "pydantic-ai": (script([LOOK]), "the end"),
        "langgraph": (script(), "found graphs the end "),
        "assistant": (script(), "the end"),
    }
    first, second = found.replicas
    for model, (asked, answer) in said.items():
        async with (
            AsyncOpenAI(base_url=first.base_url, api_key="none", max_retries=0) as client,
            client.responses.stream(model=model, input=asked) as stream,
        ):
            deltas = [e.delta async for e in stream if e.type == "response.output_text.delta"]
            response = await stream.get_final_response()
        assert response.status == "completed", (model, response.error, found.logs()[-3000:])
        assert response.output_text == answer == "".join(deltas), model
        async with AsyncOpenAI(base_url=second.base_url, api_key="none", max_retries=0) as client:
            again = await client.responses.create(
                model=model, input=asked, previous_response_id=response.id
            )
        assert again.status == "completed", (model, again.error, found.logs()[-3000:])
        assert again.output_text == answer, model
    assert provider.refused == []
    assert looked(found) == ["tool look owls"] * 4 + ["tool look graphs"] * 2


async def test_a_call_that_a_handler_tells_of_is_known_in_every_next_turn(
    found: Ground, provider: Provider
) -> None:
    first, second = found.replicas
    begun = await create(first, "go", model="caller")
    [call, said] = begun["output"]
    assert (call["type"], call["server_label"], call["status"]) == (
        "mcp_call",
        "caller",
        "completed",
    )
    whole = [{"role": "user", "content": "go"}, call, said]
    bare = [{key: each[key] for key in each if key != "id"} for each in whole]
    question = {"role": "user", "content": script()}
    for model, api in (
        ("loop", None),
        ("sdk-responses", None),
        ("sdk-chat", None),
        ("caller", "responses"),
        ("caller", "chat"),
    ):
        more = {"model": model, "metadata": {} if api is None else {"api": api}}
        for before in ({"previous_response_id": begun["id"]}, whole, bare):
            if isinstance(before, dict):
                response = await create(second, [question], **before, **more)
            else:
                response = await create(second, [*before, question], **more)
            assert response["status"] == "completed", (
                model,
                response["error"],
                found.logs()[-3000:],
            )
            body = json.dumps(provider.asked[-1].body)
            assert ("found owls" in body, "look" in body, "mcp_" in body) == (True, True, False), (
                body
            )
    assert provider.refused == []


def approval(output: list[Any], **answer: Any) -> dict[str, Any]:
    """The answer to the request that an output ends with."""
    assert output[-1]["type"] == "mcp_approval_request"
    return {"type": "mcp_approval_response", "approval_request_id": output[-1]["id"], **answer}


async def test_what_waits_for_an_approval_goes_on_wherever_it_is_answered(
    found: Ground, provider: Provider
) -> None:
    """The replica that asked is gone by then, and the one that goes on dies on its way."""
    asking, dying = found.replicas
    gate = f"{found.schema} paid"
    asked = json.dumps({"turns": [{"items": [{"text": "All done."}], "gate": gate}]})
    first, other = [await create(asking, asked, model="payer") for _ in range(2)]
    assert [each["status"] for each in (first, other)] == ["completed", "completed"]
    assert first["output"][-1]["name"] == "pay"
    assert json.loads(first["output"][-1]["arguments"]) == {"to": "found owls"}
    asking.signal(signal.SIGKILL)
    asking.wait()

    refused = approval(other["output"], approve=False, reason="too dear")
    response = await create(dying, [refused], model="payer", previous_response_id=other["id"])
    assert texts(response["output"]) == "Not paid: too dear."

    granted = approval(first["output"], approve=True)
    more: Any = {"model": "payer", "previous_response_id": first["id"], "background": True}
    begun = await create(dying, [granted], **more)
    await asyncio.to_thread(provider.gates.reached, gate)
    [successor] = found.start(1)
    dying.signal(signal.SIGKILL)
    provider.gates.open(gate)
    response = await finished(successor, begun["id"])
    assert response["status"] == "completed", found.logs()[-3000:]
    assert texts(response["output"]) == "Paid found owls. All done."
    assert looked(found) == ["tool look owls"] * 2 + ["tool pay found owls"]
    async with AsyncOpenAI(base_url=successor.base_url, api_key="none", max_retries=0) as client:
        with pytest.raises(BadRequestError) as twice:
            await client.responses.create(
                model="payer", input=[granted], previous_response_id=first["id"]
            )
    assert twice.value.code == "approval_already_answered"
    again = await create(
        successor, script(then="and on"), model="loop", previous_response_id=begun["id"]
    )
    assert again["status"] == "completed", found.logs()[-3000:]
    assert provider.refused == []


class City(BaseModel):
    name: str


async def test_what_it_says_last_is_parsed_or_fails(found: Ground) -> None:
    replica = found.replicas[0]
    wanted: Any = {"type": "json_schema", "name": "city", "strict": True}
    wanted["schema"] = {**City.model_json_schema(), "additionalProperties": False}
    async with AsyncOpenAI(base_url=replica.base_url, api_key="none", max_retries=0) as client:
        for said, status in (('{"name": "Oslo"}', "completed"), ("prose", "failed")):
            response = await client.responses.create(
                model="loop",
                input=script([LOOK], then=said),
                text={"format": wanted},
            )
            assert (response.status, response.output_text) == (status, said)
        assert response.error is not None
        assert "text.format" in response.error.message
        parsed = await client.responses.parse(
            model="loop", input=script(then='{"name": "Rome"}'), text_format=City
        )
    assert parsed.output_parsed == City(name="Rome")


@pytest.mark.parametrize("model", ["loop", "langgraph"])
async def test_a_killed_replica_repeats_nothing(
    found: Ground, provider: Provider, model: str
) -> None:
    victim, successor = found.replicas
    gate = f"{found.schema} {model}"
    last = {"items": [{"text": "the last words"}], "gate": gate}
    turns = [[LOOK], last] if model == "loop" else [last]
    begun = await create(victim, json.dumps({"turns": turns}), model=model, background=True)
    await asyncio.to_thread(provider.gates.reached, gate)
    asked = len(provider.asked)
    victim.signal(signal.SIGKILL)
    provider.gates.open(gate)
    response = await finished(successor, begun["id"])
    assert response["status"] == "completed", found.logs()[-3000:]
    assert "the last words" in texts(response["output"])
    # Only what was under way was asked again, and nothing was looked up twice.
    assert len(provider.asked) == asked + 1
    assert len(looked(found)) == 1
    assert provider.refused == []


async def test_a_drained_replica_hands_its_runs_over(found: Ground, provider: Provider) -> None:
    leaving, successor = found.replicas
    gate = f"{found.schema} drained"
    turns = [{"items": [LOOK], "gate": gate}]
    begun = await create(leaving, json.dumps({"turns": turns}), model="loop", background=True)
    await asyncio.to_thread(provider.gates.reached, gate)
    leaving.signal(signal.SIGTERM)
    provider.gates.open(gate)
    response = await finished(successor, begun["id"])
    assert response["status"] == "completed", found.logs()[-3000:]
    assert len(provider.asked) == 2
    assert looked(found) == ["tool look owls"]


def test_the_template_is_served_with_five_lines_changed() -> None:
    here = Path(__file__).parent
    before, after = (
        (here / name).read_text().splitlines() for name in ("template_before.py", "template.py")
    )
    changed = [line for line in difflib.ndiff(before, after) if line.startswith("+ ")]
    assert len(changed) <= 6, changed  # a blank line among them


async def test_what_a_handler_was_told_it_is_told_again_after_a_takeover(found: Ground) -> None:
    first, second = found.replicas
    asked = json.dumps({"gates": ["in a", "in b", "in c"]})
    begun = [
        await create(first, asked, model=model, background=True) for model in ("listener", "deaf")
    ]
    id_, other = [each["id"] for each in begun]
    async with AsyncOpenAI(base_url=second.base_url, api_key="none", max_retries=0) as client:

        async def steer(response_id: str, text: str) -> None:
            path = f"/responses/{response_id}/steer"
            await client.post(path, body={"input": text}, cast_to=dict[str, Any])

        await found.reach([id_, other], "in a")
        with pytest.raises(BadRequestError) as refused:
            await steer(other, "hello")
        assert refused.value.code == "steering_not_supported"
        await steer(id_, "one")
        await steer(id_, "two")
        found.open("in a")
        await found.reach([id_], "in b")
        first.signal(signal.SIGKILL)
        await found.reach([id_], "in b", attempt=2)
        await steer(id_, "three")
        found.open("in b")
        await found.reach([id_], "in c", attempt=2)
        await steer(id_, "too late to be heard")
        found.open("in c")
        response = await finished(second, id_)
        assert texts(response["output"]) == "Heard one. Heard two. Heard three. Done."
        items = await client.responses.input_items.list(id_)
        assert len(items.data) == 5
    assert looked(found).count("tool a") == 2, "one for each of the two"
