"""The ends of background responses come to the endpoint of the settings: each once in the usual
case, signed as the clients of OpenAI verify it."""

import json
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.reading import eventually, script
from tests.servers import Replica
from tests.webhooks.conftest import SECRET
from tests.webhooks.sink import Sink


async def ended(client: AsyncOpenAI, response_id: str) -> str:
    """Wait for the end of a response; its status."""

    async def has_ended() -> bool:
        found = await client.responses.retrieve(response_id)
        return found.status not in ("queued", "in_progress")

    await eventually(has_ended)
    return str((await client.responses.retrieve(response_id)).status)


async def background(client: AsyncOpenAI, model: str = "scripted", **more: Any) -> str:
    return (await client.responses.create(model=model, background=True, **more)).id


async def test_each_way_to_end_is_told_once(both: list[AsyncOpenAI], sink: Sink) -> None:
    [one, other] = both
    tool = ["echo", {"text": "x"}]
    made = {
        await background(one, input="hello"): "completed",
        await background(other, input=script(fail=1)): "failed",
        await background(one, input=script(turns=[[tool], [tool]]), max_tool_calls=1): "incomplete",
        (cancelled := await background(other, input=script(hold=60))): "cancelled",
    }
    await one.responses.cancel(cancelled)
    for response_id, status in made.items():
        assert await ended(one, response_id) == status
        await eventually(lambda id_=response_id: len(sink.of(id_)) == 1)
    for response_id, status in made.items():
        [received] = sink.of(response_id)
        about = await one.responses.retrieve(response_id)
        assert received.event == {
            "id": received.event["id"],
            "object": "event",
            "type": f"response.{status}",
            "created_at": received.event["created_at"],
            "data": {"id": response_id},
        }
        assert received.event["id"].startswith("evt_")
        assert received.headers["webhook-id"].startswith("wh_")
        assert abs(received.event["created_at"] - about.created_at) < 60
        assert received.headers["content-type"] == "application/json"


async def test_an_approval_that_waits_is_told_besides(both: list[AsyncOpenAI], sink: Sink) -> None:
    response_id = await background(
        both[0], "asking", input=script(turns=[[["pay", {"to": "alice"}]]])
    )
    await eventually(lambda: len(sink.of(response_id)) == 2)
    told = sink.of(response_id)
    assert {each.event["type"] for each in told} == {
        "response.completed",
        "response.action_required",
    }
    assert len({each.event["id"] for each in told}) == 2


async def test_what_is_not_in_the_background_is_not_told(
    both: list[AsyncOpenAI], sink: Sink
) -> None:
    foreground = await both[0].responses.create(model="scripted", input="hello")
    told = await background(both[0], input="hello")
    await eventually(lambda: len(sink.of(told)) == 1)
    assert sink.of(foreground.id) == []


async def test_the_python_client_unwraps_it(both: list[AsyncOpenAI], sink: Sink) -> None:
    response_id = await background(both[0], input="hello")
    await eventually(lambda: len(sink.of(response_id)) == 1)
    [received] = sink.of(response_id)
    client = OpenAI(api_key="none", webhook_secret=SECRET)
    event = client.webhooks.unwrap(received.body, received.headers)
    assert event.type == "response.completed"
    assert event.data.id == response_id
    with pytest.raises(openai.InvalidWebhookSignatureError):
        client.webhooks.unwrap(received.body + b" ", received.headers)
    with pytest.raises(openai.InvalidWebhookSignatureError):
        client.webhooks.unwrap(received.body, received.headers, secret="whsec_" + "A" * 32)


@pytest.mark.parametrize("behaviour", [500, 404, 429, "redirect", "break", "hang"])
async def test_what_is_not_taken_comes_again(
    both: list[AsyncOpenAI], sink: Sink, behaviour: int | str
) -> None:
    sink.behaviour["/hook"] = behaviour
    try:
        response_id = await background(both[0], input="hello")
        await eventually(lambda: len(sink.of(response_id)) >= 2)
    finally:
        sink.behaviour.clear()
    count = len(sink.of(response_id))
    await eventually(lambda: len(sink.of(response_id)) > count)
    told = sink.of(response_id)
    assert len({each.body for each in told}) == 1
    assert len({each.headers["webhook-id"] for each in told}) == 1
    stamps = [int(each.headers["webhook-timestamp"]) for each in told]
    assert stamps == sorted(stamps)
    assert sink.at("/elsewhere") == [], "a redirect is not followed"


async def test_an_endless_answer_is_not_read(both: list[AsyncOpenAI], sink: Sink) -> None:
    sink.behaviour["/hook"] = "flood"
    try:
        response_id = await background(both[0], input="hello")
        await eventually(lambda: len(sink.of(response_id)) == 1)
    finally:
        sink.behaviour.clear()
    later = await background(both[0], input="hello")
    await eventually(lambda: len(sink.of(later)) == 1)
    assert len(sink.of(response_id)) == 1


def test_neither_url_nor_secret_is_in_the_log(told: list[Replica], sink: Sink) -> None:
    for replica in told:
        assert SECRET not in replica.output()
        assert f"{sink.url}/hook" not in replica.output()
        assert json.dumps(SECRET)[7:-1] not in replica.output()
