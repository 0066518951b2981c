"""How a conversation goes on after a response that did not end as it should, in every way in which
clients go on. The provider refuses halves of calls, and ids that it does not know."""

import asyncio
import json
from typing import Any

import pytest
from openai import AsyncOpenAI

from tests.contract.test_histories import WAYS, going_back, replicas
from tests.provider.agents import FAMILIES
from tests.provider.server import Provider
from tests.servers import Replica

__all__ = ["replicas"]

LOOK = {"call": "look", "arguments": {"word": "owls"}}
ADD = {"call": "add", "arguments": {"a": 1, "b": 2}}
THEIRS = {"call": "theirs", "arguments": {}}
SAID = {"text": "one two three"}

TOOL = {"type": "function", "name": "theirs", "parameters": {"type": "object", "properties": {}}}

ENDS: dict[str, tuple[str, list[Any]]] = {
    "parallel calls": ("completed", [[LOOK, ADD, LOOK]]),
    "a refusal": ("completed", [[LOOK], [{"refusal": "I will not."}]]),
    "cut at its limit": ("incomplete", [[LOOK], {"items": [SAID], "end": "incomplete"}]),
    "an error of the provider": ("failed", [[LOOK], {"items": [SAID], "status": 500}]),
    "a stream that breaks off": (
        "failed",
        [[LOOK], {"items": [SAID], "end": "disconnect", "after": 5}],
    ),
    "a call of the client's that it never answers": ("completed", [[LOOK], [THEIRS]]),
    "cancelled": ("cancelled", [[LOOK], {"items": [SAID, LOOK], "gate": "{gate}", "after": 5}]),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("family", FAMILIES)
async def test_the_next_turn_is_taken(
    replicas: list[Replica], provider: Provider, family: str, end: str, way: str
) -> None:
    status, turns = ENDS[end]
    gate = f"{family} {end} {way}"
    asked = {"role": "user", "content": json.dumps({"turns": turns}).replace("{gate}", gate)}
    first, second = (
        AsyncOpenAI(base_url=replica.base_url, api_key="none", max_retries=0)
        for replica in replicas[:2]
    )
    async with first, second:
        on: dict[str, Any] = {}
        if way == "conversation":
            on = {"conversation": (await first.conversations.create()).id}
        model = f"{family}-tools"
        response: Any = await first.responses.create(
            model=model, input=[asked], tools=[TOOL], background=status == "cancelled", **on
        )
        if status == "cancelled":
            await asyncio.to_thread(provider.gates.reached, gate)
            response = await second.responses.cancel(response.id)
            provider.gates.open(gate)
        assert response.status == status, response.error
        provider.forget_requests()
        news: list[Any] = [{"role": "user", "content": json.dumps({"then": "and on"})}]
        if way == "previous":
            on = {"previous_response_id": response.id}
        elif way != "conversation":
            output = [going_back(item.to_dict(), way) for item in response.output]
            news = [asked, *output, *news]
        again = await second.responses.create(model=model, input=news, **on)
    assert provider.refused == []
    assert again.status == "completed", again.error
    assert again.output_text == "and on"
