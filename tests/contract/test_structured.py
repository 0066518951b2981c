"""`text.format`: what a request wants the last text to be reaches the model, whoever speaks last,
and is checked; the client's own ways to ask for it work."""

import json
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from openai import AsyncOpenAI
from pydantic import BaseModel

from tests import servers
from tests.postgres import Server
from tests.provider import agents as served
from tests.provider.agents import LOOK, script, turns_of
from tests.provider.server import Provider
from tests.servers import Replica


class City(BaseModel):
    name: str
    people: int | None
    size: Literal["small", "large"]


CITY = '{"name":"text","people":1,"size":"small"}'
"""The smallest value by its schema, which is what the provider's model makes."""


@pytest.fixture(scope="module")
def replica(database: Server, running_provider: Provider) -> Iterator[Replica]:
    """One with the agents of `tests/provider`."""
    with servers.replicas(
        1,
        database.url,
        schema="structured",
        agents=served.AGENTS,
        environment=served.environment(running_provider),
    ) as started:
        yield started[0]


@pytest.fixture
async def client(replica: Replica, provider: Provider) -> Any:
    async with AsyncOpenAI(base_url=replica.base_url, api_key="none", max_retries=0) as client:
        yield client


def told(asked: Any) -> dict[str, Any]:
    """The format that a model was asked for, as the Responses API has it."""
    if "messages" not in asked.body:
        return dict((asked.body.get("text") or {}).get("format") or {})
    wanted = dict(asked.body.get("response_format") or {})
    return {**wanted, **wanted.pop("json_schema", {})}


@pytest.mark.parametrize("family", served.FAMILIES)
async def test_parse(client: AsyncOpenAI, provider: Provider, family: str) -> None:
    response = await client.responses.parse(
        model=f"{family}-tools", input=script([LOOK]), text_format=City
    )
    assert response.output_parsed == City(name="text", people=1, size="small")
    assert [told(asked)["strict"] for asked in provider.asked] == [True, True]
    assert told(provider.asked[0])["schema"]["additionalProperties"] is False
    assert response.text is not None
    assert response.text.format is not None
    assert response.text.format.type == "json_schema"


async def test_stream(client: AsyncOpenAI, provider: Provider) -> None:
    async with client.responses.stream(
        model="responses-plain", input=script(), text_format=City
    ) as stream:
        deltas = [e.delta async for e in stream if e.type == "response.output_text.delta"]
        response = await stream.get_final_response()
    assert json.loads("".join(deltas)) == json.loads(CITY)
    assert response.output_parsed == City(name="text", people=1, size="small")


@pytest.mark.parametrize("family", ["responses", "chat"])
async def test_the_agent_that_was_handed_to_is_told(
    client: AsyncOpenAI, provider: Provider, family: str
) -> None:
    response = await client.responses.parse(
        model=f"{family}-handoff", input=script(*turns_of(f"{family}-handoff")), text_format=City
    )
    assert response.output_parsed == City(name="text", people=1, size="small")
    assert all(told(asked)["type"] == "json_schema" for asked in provider.asked)


async def test_an_agent_that_is_a_tool_is_not(client: AsyncOpenAI, provider: Provider) -> None:
    response = await client.responses.parse(
        model="responses-nested", input=script(*turns_of("responses-nested")), text_format=City
    )
    assert response.output_parsed == City(name="text", people=1, size="small")
    inside = [asked for asked in provider.asked if "expert" not in json.dumps(asked.body["tools"])]
    assert len(inside) == 2
    assert [told(asked) for asked in inside] == [{}, {}]


async def ask(client: AsyncOpenAI, said: str, strict: bool | None, **fields: Any) -> Any:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    wanted = {"type": "json_schema", "name": "a", "schema": schema, "strict": strict}
    return await client.responses.create(
        model="responses-plain",
        input=json.dumps({"then": said}),
        **{"text": {"format": wanted}, **fields},
    )


@pytest.mark.parametrize(
    ("said", "strict", "status"),
    [
        ('{"a": 1}', True, "completed"),
        ('{"a": "no"}', True, "failed"),
        ('{"a": 1, "b": 2}', True, "failed"),
        ('{"a": "no"}', False, "completed"),
        ('{"a": "no"}', None, "completed"),
        ("prose", False, "failed"),
        ("prose", True, "failed"),
    ],
)
async def test_the_last_text_is_checked(
    client: AsyncOpenAI, said: str, strict: bool | None, status: str
) -> None:
    response = await ask(client, said, strict)
    assert response.status == status
    assert response.output_text == said
    if status == "failed":
        assert response.error.code == "server_error"
        assert "text.format" in response.error.message


async def test_a_call_that_the_client_answers_is_no_last_text(client: AsyncOpenAI) -> None:
    call = {"call": "mine", "arguments": {}}
    response = await client.responses.create(
        model="responses-plain",
        input=script([call]),
        tools=[{"type": "function", "name": "mine", "parameters": {}, "strict": False}],
        text={"format": {"type": "json_object"}},
    )
    assert response.status == "completed"
    assert response.output[-1].type == "function_call"


@pytest.mark.parametrize("family", ["responses", "chat", "litellm"])
async def test_json_of_any_shape(client: AsyncOpenAI, provider: Provider, family: str) -> None:
    response = await client.responses.create(
        model=f"{family}-plain",
        input=json.dumps({"then": "[1]"}),
        text={"format": {"type": "json_object"}, "verbosity": "low"},
    )
    assert response.status == "completed"
    assert told(provider.asked[0])["type"] == "json_object"
    body = provider.asked[0].body
    assert (body.get("text") or body)["verbosity"] == "low"


class Weather(BaseModel):
    """As in `tests.provider.agents`, with other words for it."""

    city: str
    degrees: int


async def test_an_agent_s_own_type_may_be_asked_for(client: AsyncOpenAI) -> None:
    response = await client.responses.parse(
        model="responses-structured", input=script(), text_format=Weather
    )
    assert response.output_parsed == Weather(city="text", degrees=1)


async def test_another_type_than_an_agent_s_own_is_refused(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await client.responses.parse(model="chat-structured", input=script(), text_format=City)
    assert refused.value.param == "text.format"
    assert refused.value.code == "output_type_conflict"
    assert "chat-structured" in refused.value.message


@pytest.mark.parametrize(
    ("wanted", "param"),
    [
        ({"type": "xml"}, "text.format.type"),
        ({}, "text.format.type"),
        ({"type": "json_schema", "schema": {}}, "text.format.name"),
        ({"type": "json_schema", "name": "no spaces", "schema": {}}, "text.format.name"),
        ({"type": "json_schema", "name": "a"}, "text.format.schema"),
        ({"type": "json_schema", "name": "a", "schema": {"type": 5}}, "text.format.schema"),
        ({"type": "json_schema", "name": "a", "schema": {}, "strict": 1}, "text.format.strict"),
        (
            {"type": "json_schema", "name": "a", "schema": {"type": "array"}, "strict": True},
            "text.format.schema",
        ),
        (
            {"type": "json_schema", "name": "a", "schema": {"x": "y" * 120_000}},
            "text.format.schema",
        ),
    ],
)
async def test_what_is_wrong_is_named(
    client: AsyncOpenAI, wanted: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await client.responses.create(model="responses-plain", input="hi", text={"format": wanted})  # type: ignore[typeddict-item]
    assert refused.value.param == param
