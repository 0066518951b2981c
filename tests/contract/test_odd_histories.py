"""How a conversation goes on after a response that did not end as it should, in every way in which
clients go on. The provider refuses halves of calls, and ids that it does not know."""

import asyncio
import json
from typing import Any

import pytest
from openai import AsyncOpenAI, BadRequestError

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
    "a stream that breaks off behind finished items": (
        "failed",
        [[LOOK], {"items": [{"reasoning": "Hm."}, SAID], "end": "disconnect"}],
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


REFUSED: dict[str, tuple[str, list[Any]]] = {
    "the input": ("This is forbidden.", [[{"text": "Said of what is forbidden."}]]),
    "the input of a run with tools": (
        "This is forbidden.",
        [[{"call": "look", "arguments": {"word": "forbidden owls"}}]],
    ),
    "the output": ("Say it.", [[LOOK], [{"reasoning": "Hm."}, {"text": "It is unspeakable."}]]),
}
"""What a guardrail refuses: what the request says beside its script, and the script's turns."""


@pytest.mark.parametrize("way", ["previous", "conversation"])
@pytest.mark.parametrize("what", REFUSED)
async def test_what_a_guardrail_refused_is_in_no_later_context(
    replicas: list[Replica], provider: Provider, what: str, way: str
) -> None:
    """Else the guardrail of the next turn, which gets the whole context, refuses that too."""
    words, turns = REFUSED[what]
    first, second = (
        AsyncOpenAI(base_url=replica.base_url, api_key="none", max_retries=0)
        for replica in replicas[:2]
    )
    async with first, second:
        on: dict[str, Any] = {}
        if way == "conversation":
            on = {"conversation": (await first.conversations.create()).id}
        model = "responses-careful"
        before: Any = await first.responses.create(model=model, input="Good day.", **on)
        if way == "previous":
            on = {"previous_response_id": before.id}
        script = json.dumps({"turns": turns})
        said: list[Any] = [{"role": "user", "content": text} for text in (words, script)]
        refused = await second.responses.create(model=model, input=said, **on)
        assert refused.status == "failed"
        given = await first.responses.input_items.list(refused.id, order="asc")
        shown = [item.to_dict()["content"][0]["text"] for item in given.data]  # type: ignore[index]
        assert shown == [words, script], "its own input is shown all the same"
        if way == "previous":
            on = {"previous_response_id": refused.id}
        provider.forget_requests()
        after = await first.responses.create(model=model, input="And on.", **on)
        assert after.status == "completed", after.error
        references: Any = [{"type": "item_reference", "id": given.data[0].id}]
        if what != "the output":
            with pytest.raises(BadRequestError) as unknown:
                await second.responses.create(model=model, input=references)
            assert unknown.value.code == "item_not_found"
    assert provider.refused == []
    told = json.dumps(provider.asked[-1].items)
    assert "Good day." in told
    assert ("Say it." in told) == (what == "the output")
    assert "forbidden" not in told
    assert '"It is unspeakable."' not in told
