"""Messages for live responses: what is taken, what is refused, and where each stands afterwards."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI

from tests.reading import finished, script
from tests.servers import Replica

WORKING = [[["echo", {"text": "a", "pause": 1.5}]]]
"""A tool that takes some time."""

SHOW = script(show=True)


@pytest.fixture
async def http(two: list[Replica]) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=two[1].base_url, timeout=30) as client:
        yield client


async def begun(client: AsyncOpenAI, **more: Any) -> str:
    asked = {"model": "scripted", "input": script(turns=WORKING), "background": True, **more}
    return str((await client.responses.create(**asked)).id)


async def steer(client: AsyncOpenAI, response_id: str, said: Any, **headers: str) -> Any:
    """As the README has it."""
    return await client.post(
        f"/responses/{response_id}/steer",
        body={"input": said},
        options={"headers": headers},
        cast_to=dict[str, Any],
    )


def texts(items: list[dict[str, Any]]) -> list[str]:
    """What was said, in order, by whomever."""
    return [
        item["content"] if isinstance(item["content"], str) else item["content"][0]["text"]
        for item in items
        if item.get("role")
    ]


def shown(response: dict[str, Any]) -> list[dict[str, Any]]:
    """What the model was given in the last turn."""
    return list(json.loads(response["output"][-1]["content"][0]["text"]))


async def test_it_is_in_what_continues_the_response_at_its_place(
    two: list[Replica], clients: list[AsyncOpenAI]
) -> None:
    id_ = await begun(clients[0])
    told = await steer(clients[1], id_, [{"role": "user", "content": "hurry", "status": "new"}])
    assert told["object"] == "response.steer"
    assert told["response_id"] == id_
    assert told["input"] == [
        {
            "id": told["input"][0]["id"],
            "type": "message",
            "role": "user",
            "status": "completed",
            "content": [{"type": "input_text", "text": "hurry"}],
        }
    ]
    response = await finished(two[0], id_)
    # The message is the last word of the user's: the scripted model says it again.
    assert [item["type"] for item in response["output"]] == ["mcp_call", "message"]
    assert response["output"][-1]["content"][0]["text"] == "hurry"
    following = await clients[1].responses.create(
        model="scripted", input=SHOW, previous_response_id=id_
    )
    given = shown(following.model_dump())
    assert texts(given) == [script(turns=WORKING), "hurry", "hurry", SHOW]
    kinds = [item.get("type") or item["role"] for item in given]
    assert kinds[1:4] == ["function_call", "function_call_output", "user"]
    # And by reference.
    reference = {"type": "item_reference", "id": told["input"][0]["id"]}
    named = await clients[0].responses.create(
        model="scripted", input=[reference, {"role": "user", "content": SHOW}]
    )
    assert texts(shown(named.model_dump())) == ["hurry", SHOW]


async def test_it_is_in_its_conversation_at_its_place(
    two: list[Replica], clients: list[AsyncOpenAI]
) -> None:
    on = (await clients[0].conversations.create()).id
    id_ = await begun(clients[0], conversation=on)
    told = await steer(clients[1], id_, "hurry")
    await finished(two[0], id_)
    listed = await clients[1].conversations.items.list(on, order="asc")
    items = [item.model_dump() for item in listed.data]
    assert [item["type"] for item in items] == ["message", "mcp_call", "message", "message"]
    assert items[2]["id"] == told["input"][0]["id"]
    assert [item.get("role") for item in items] == ["user", None, "user", "assistant"]
    following = await clients[1].responses.create(model="scripted", input=SHOW, conversation=on)
    said = texts(shown(following.model_dump()))
    assert said == [script(turns=WORKING), "hurry", "hurry", SHOW]


async def test_a_foreground_stream_goes_on(two: list[Replica], clients: list[AsyncOpenAI]) -> None:
    async with clients[0].responses.stream(model="scripted", input=script(turns=WORKING)) as stream:
        async for event in stream:
            if event.type == "response.created":
                await steer(clients[1], event.response.id, "hurry")
        response = await stream.get_final_response()
    assert (response.status, response.output_text) == ("completed", "hurry")


async def test_what_waits_behind_a_call_for_the_client_comes_behind_its_output(
    two: list[Replica], clients: list[AsyncOpenAI]
) -> None:
    tool = {"type": "function", "name": "mine", "parameters": {}, "strict": False}
    asked = script(turns=[[["mine", {}], ["echo", {"text": "a", "pause": 1.0}]]])
    id_ = await begun(clients[0], input=asked, tools=[tool])
    await steer(clients[1], id_, SHOW)
    response = await finished(two[0], id_)
    (call,) = [item for item in response["output"] if item["type"] == "function_call"]
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "done"}
    following = await clients[1].responses.create(
        model="scripted", input=[output], previous_response_id=id_, tools=[tool]
    )
    given = shown(following.model_dump())
    assert texts(given)[-1] == SHOW
    assert [item.get("type") for item in given].count("function_call_output") == 2
    assert given[-1]["role"] == "user"


async def test_what_is_sent_again_goes_in_once(
    two: list[Replica], clients: list[AsyncOpenAI]
) -> None:
    id_ = await begun(clients[0])
    key = {"Idempotency-Key": "the first"}
    first, again, other = await asyncio.gather(
        steer(clients[0], id_, "one", **key),
        steer(clients[1], id_, "one", **key),
        steer(clients[1], id_, "two"),
    )
    assert first == again
    assert first["id"] != other["id"]
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        await steer(clients[0], id_, "three", **key)
    assert refused.value.code == "idempotency_key_reused"
    three = await steer(clients[0], id_, "three")
    # As OpenAI's SDKs say it, of a request whose connection broke.
    retried = await steer(clients[1], id_, "three", **{"x-stainless-retry-count": "1"})
    assert retried == three
    await finished(two[0], id_)
    assert await steer(clients[0], id_, "one", **key) == first, "after the end, too"
    listed = await clients[1].responses.input_items.list(id_, order="asc")
    said = texts([item.model_dump() for item in listed.data])[1:]
    assert sorted(said) == ["one", "three", "two"]


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({}, "input", "invalid_type"),
        ({"input": ""}, "input", "missing_required_parameter"),
        ({"input": []}, "input", "missing_required_parameter"),
        ({"input": 1}, "input", "invalid_type"),
        ({"input": [1]}, "input[0]", "invalid_type"),
        ({"input": [{"role": "system", "content": "a"}]}, "input[0]", "invalid_input"),
        ({"input": [{"role": "user"}]}, "input[0].content", "invalid_type"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0]", "invalid_input"),
        ({"input": "a" * 10_000_000}, None, None),
        ([], None, "invalid_request"),
    ],
)
async def test_what_no_message_is(
    http: httpx2.AsyncClient, clients: list[AsyncOpenAI], body: Any, param: str, code: str
) -> None:
    id_ = "resp_" + "0" * 32
    answer = await http.post(f"/responses/{id_}/steer", json=body)
    error = answer.json()["error"]
    if code is None:
        assert answer.status_code == 404, "a long one is one"
    else:
        assert (answer.status_code, error["param"], error["code"]) == (400, param, code)


async def test_too_many_wait(http: httpx2.AsyncClient, clients: list[AsyncOpenAI]) -> None:
    id_ = await begun(clients[0])
    path = f"/responses/{id_}/steer"
    message = {"role": "user", "content": "more"}
    assert (await http.post(path, json={"input": [message] * 31})).is_success
    assert (await http.post(path, json={"input": "the last"})).is_success
    refused = await http.post(path, json={"input": "one more"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (
        429,
        "too_many_pending_steers",
    )
    assert refused.headers["retry-after"]
    never = await http.post(path, json={"input": [message] * 33})
    assert never.status_code == 400
    await clients[0].responses.cancel(id_)


async def test_what_is_not_stored_takes_none(
    http: httpx2.AsyncClient, clients: list[AsyncOpenAI]
) -> None:
    async with clients[0].responses.stream(
        model="scripted", input=script(turns=WORKING), store=False
    ) as stream:
        async for event in stream:
            if event.type == "response.created":
                path = f"/responses/{event.response.id}/steer"
                answer = await http.post(path, json={"input": "hurry"})
                assert answer.status_code == 404


class TestWebSocket:
    """By OpenAI's client: `connection.response.steer`."""

    async def test_what_is_live_on_it_and_elsewhere(
        self, two: list[Replica], clients: list[AsyncOpenAI]
    ) -> None:
        elsewhere = await begun(clients[1])
        asked = {"model": "scripted", "input": script(turns=WORKING), "store": False}
        told, text = [], ""
        async with clients[0].responses.connect() as connection:
            await connection.send({"type": "response.create", "stream_id": "a", **asked})
            async for event in connection:
                if event.type == "response.created":
                    id_ = event.response.id
                    for each in (id_, elsewhere):
                        await connection.response.steer(
                            input=f"hurry, {each}", previous_response_id=each
                        )
                elif event.type == "response.steer.accepted":
                    told.append((event.steer.previous_response_id, event.stream_id))
                elif event.type in ("response.completed", "response.failed"):
                    text = event.response.output_text
                    break
                else:
                    assert event.type not in ("error", "response.steer.failed"), event
        assert told == [(id_, "a"), (elsewhere, None)]
        assert text == f"hurry, {id_}"
        response = await finished(two[0], elsewhere)
        assert response["output"][-1]["content"][0]["text"] == f"hurry, {elsewhere}"

    @pytest.mark.parametrize("store", [True, False])
    async def test_what_waits_for_the_client_is_told(
        self, two: list[Replica], clients: list[AsyncOpenAI], store: bool
    ) -> None:
        tool = {"type": "function", "name": "mine", "parameters": {}, "strict": False}
        asked: Any = {"model": "scripted", "tools": [tool], "store": store}
        script_ = script(turns=[*WORKING, [["mine", {}], ["echo", {"text": "a", "pause": 1.0}]]])
        events: list[Any] = []
        async with clients[0].responses.connect() as connection:
            await connection.send(
                {"type": "response.create", "stream_id": "a", "input": script_, **asked}
            )
            async for event in connection:
                events.append(event)
                if event.type == "response.created":
                    id_ = event.response.id
                    # Taken, before the call for the client.
                    taken = connection.response.steer(input=script_, previous_response_id=id_)
                    await taken
                elif event.type == "response.function_call_arguments.done":
                    waits = connection.response.steer(input=SHOW, previous_response_id=id_)
                    await waits
                elif event.type == "response.completed":
                    break
            pending: Any = await connection.recv()
            accepted = [each.steer.id for each in events if each.type == "response.steer.accepted"]
            [call] = [each for each in event.response.output if each.type == "function_call"]
            assert pending.type == "response.steer.pending"
            assert pending.steer.id == accepted[-1]
            assert pending.steer.previous_response_id == id_
            assert (pending.stream_id, pending.reason) == ("a", "waiting_for_required_input")
            [required] = pending.required_input
            stub = required.model_dump(exclude_unset=True)
            assert stub == {
                "type": "function_call_output",
                "call_id": call.call_id,
                "name": "mine",
            }
            following: Any = {"input": [{**stub, "output": "done"}], "previous_response_id": id_}
            await connection.send(
                {"type": "response.create", "stream_id": "a", **asked, **following}
            )
            async for event in connection:
                assert event.type != "response.steer.pending", "told once"
                if event.type == "response.completed":
                    break
        given = shown(event.response.model_dump())
        assert texts(given)[-1] == SHOW
        assert len(accepted) == 2

    async def test_what_it_cannot_put_in_comes_back(
        self, two: list[Replica], clients: list[AsyncOpenAI]
    ) -> None:
        ended = await clients[0].responses.create(model="scripted", input="hello")
        live = await begun(clients[1])
        said: Any
        async with clients[0].responses.connect() as connection:
            for response_id, said, code in (
                (ended.id, "more", "response_already_completed"),
                ("resp_" + "0" * 32, "more", "response_not_found"),
                (live, [{"role": "system", "content": "obey"}], "invalid_input"),
            ):
                await connection.response.steer(input=said, previous_response_id=response_id)
                event = await connection.recv()
                assert event.type == "response.steer.failed"
                assert event.error.code == code
                steer = event.steer.model_dump(exclude_unset=True, warnings=False)
                assert steer == {"previous_response_id": response_id, "input": said}
            nameless: Any = {"type": "response.steer", "input": "more"}
            await connection.send(nameless)
            assert (await connection.recv()).type == "error"
