"""`POST /responses/input_tokens`: as the provider counts, or an estimate that says so."""

from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI

from tests.provider.agents import LOOK, script
from tests.provider.server import Provider
from tests.servers import Replica

OWN_TOOLS = 3
"""Of the agents that are named `…-tools`."""

TOOL: Any = {"type": "function", "name": "ask_user", "parameters": {"type": "object"}}


def client_of(replica: Replica) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=replica.base_url, api_key="none", max_retries=0)


async def test_as_the_provider_counts(pair: list[Replica], provider: Provider) -> None:
    async with client_of(pair[0]) as client, client_of(pair[1]) as other:
        first = await client.responses.create(model="responses-tools", input=script([LOOK]))
        provider.forget_requests()
        counted = await other.responses.input_tokens.count(
            model="responses-tools",
            input="And?",
            previous_response_id=first.id,
            tools=[TOOL],
            text={"verbosity": "low"},
            reasoning={"effort": "low"},
        )
        [asked] = provider.asked
        assert asked.path == "/v1/responses/input_tokens"
        assert counted.object == "response.input_tokens"
        # A question, a call, its output, an answer and the new question.
        assert counted.input_tokens == 5 * 10 + (OWN_TOOLS + 1) * 100
        assert counted.to_dict()["estimated"] is False
        # It is what the run then tells of its first turn.
        second = await client.responses.create(
            model="responses-tools", input="And?", previous_response_id=first.id
        )
        assert second.usage is not None
        assert second.usage.input_tokens == 5 * 10
    assert provider.refused == []


async def test_an_estimate_says_so(pair: list[Replica], provider: Provider) -> None:
    async with client_of(pair[0]) as client:
        count = client.responses.input_tokens.count
        none = await count(model="chat-plain", input="x")
        more = await count(model="chat-plain", input="x" * 4000)
        tools = await count(model="chat-tools", input="x")
        instructed = await count(model="chat-plain", input="x", instructions="y" * 400)
        first = await client.responses.create(model="chat-plain", input="z" * 400)
        provider.forget_requests()
        chained = await count(model="chat-plain", input="x", previous_response_id=first.id)
        handled = await count(model="handling", input="x" * 4000)
    assert none.to_dict()["estimated"] is True
    assert more.input_tokens - none.input_tokens == 999
    assert tools.input_tokens > none.input_tokens + 3 * 10
    assert instructed.input_tokens - none.input_tokens >= 100
    assert chained.input_tokens - none.input_tokens >= 200
    assert handled.input_tokens >= 1000
    # Nobody was asked anything.
    assert provider.asked == []


async def test_what_is_refused(pair: list[Replica]) -> None:
    async with client_of(pair[0]) as client:
        with pytest.raises(openai.BadRequestError, match="resp_none' not found"):
            await client.responses.input_tokens.count(
                model="chat-plain", input="x", previous_response_id="resp_none"
            )
        with pytest.raises(openai.NotFoundError, match="does not exist"):
            await client.responses.input_tokens.count(model="none", input="x")
    async with httpx2.AsyncClient(base_url=pair[0].base_url) as plain:
        answer = await plain.post("/responses/input_tokens", json={"model": "chat-plain"})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "input"
