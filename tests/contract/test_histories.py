"""Three turns of every agent of `tests/provider`, in the ways in which clients go on.

The provider refuses what real ones refuse; the turns go to three replicas in turn.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from openai import AsyncOpenAI

from tests import servers
from tests.postgres import Server
from tests.provider import agents as served
from tests.provider.adapter import CALL_IDS
from tests.provider.agents import script, turns_of
from tests.provider.server import Provider
from tests.servers import Replica

WAYS = ("previous", "reference", "whole", "bare", "conversation")
"""`previous_response_id`, `item_reference`, all items with our ids, all items without ids; and a
conversation that has them."""

KINDS = ("plain", "tools", "handoff", "nested", "structured", "reasoning")

AGENTS = [
    *(f"{family}-{kind}" for family in served.FAMILIES for kind in KINDS),
    *("responses-encrypted", "responses-hosted", "responses-local"),
]


@pytest.fixture(scope="module")
def replicas(database: Server, running_provider: Provider) -> Iterator[list[Replica]]:
    """Three replicas with the agents of `tests/provider`."""
    with servers.replicas(
        3,
        database.url,
        schema="histories",
        agents=served.AGENTS,
        # Each turn's script hands over anew.
        environment=served.environment(running_provider) | {"LONGRUN_CONTINUE_WITH": "first"},
    ) as started:
        yield started


@pytest.fixture(scope="module")
def showing_pairs(database: Server, running_provider: Provider) -> Iterator[list[Replica]]:
    """Two that show the server's calls as `function_call` and `function_call_output`."""
    environment = served.environment(running_provider)
    with servers.replicas(
        2,
        database.url,
        schema="histories_pairs",
        agents=served.AGENTS,
        environment={
            **environment,
            "LONGRUN_SERVER_TOOLS": "function_call",
            "LONGRUN_CONTINUE_WITH": "first",
        },
    ) as started:
        yield started


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("agent", AGENTS)
async def test_three_turns(
    replicas: list[Replica], provider: Provider, agent: str, way: str
) -> None:
    shown = await converse(replicas, provider, agent, way)
    if any(kind in agent for kind in ("tools", "handoff", "nested")):
        assert [item["type"] for item in shown].count("mcp_call") >= 2
        assert not {"function_call", "function_call_output"} & {item["type"] for item in shown}
        failed = [item["name"] for item in shown if item["status"] == "failed"]
        assert failed == (["fail"] * 2 if agent.endswith("tools") else [])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("agent", ["responses-tools", "chat-tools", "litellm-handoff"])
async def test_three_turns_with_calls_shown_as_pairs(
    showing_pairs: list[Replica], provider: Provider, agent: str, way: str
) -> None:
    shown = await converse(showing_pairs, provider, agent, way)
    kinds = [item["type"] for item in shown]
    assert kinds.count("function_call") == kinds.count("function_call_output") >= 2


async def converse(
    replicas: list[Replica], provider: Provider, agent: str, way: str
) -> list[dict[str, Any]]:
    """Have a conversation of three turns; all items that the client was shown."""
    shown: list[dict[str, Any]] = []
    items: list[Any] = []
    texts: list[str] = []
    previous: str | None = None
    on: dict[str, Any] = {}
    if way == "conversation":
        async with AsyncOpenAI(base_url=replicas[0].base_url, api_key="none") as client:
            on = {"conversation": (await client.conversations.create()).id}
    # The last shows what the model is given; an output type does not let it.
    last = script() if agent.endswith("structured") else json.dumps({"show": True})
    for turn, said in enumerate([*[script(*turns_of(agent))] * 2, last]):
        news = [{"role": "user", "content": said}]
        items += news
        url = replicas[turn % len(replicas)].base_url
        async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
            response = await client.responses.create(
                model=agent,
                input=news if way in ("previous", "conversation") else items,
                **on,
                **({"previous_response_id": previous} if previous else {}),
            )
        assert provider.refused == []
        assert response.status == "completed", response.error
        previous = response.id if way == "previous" else None
        shown += [item.to_dict() for item in response.output]
        items += [going_back(item.to_dict(), way) for item in response.output]
        texts.append(response.output_text)
    if not agent.endswith("structured"):
        given = json.loads(texts[-1])
        assert texts[0]
        assert texts[0] == texts[1]
        assert [role for role, _ in said_in(given)].count("user") == 3
        assert [text for role, text in said_in(given) if role == "assistant"] == texts[:2]
        assert "provider_data" not in json.dumps(given)
    return shown


@pytest.mark.parametrize("kind", CALL_IDS)
async def test_call_ids_are_unique_whatever_the_adapter_gives(
    showing_pairs: list[Replica], provider: Provider, kind: str
) -> None:
    """In one turn of the user's: two calls at once, then another."""
    words = ("cat", "dog", "cow")
    first, second, third = ({"call": "look", "arguments": {"word": word}} for word in words)
    url = showing_pairs[0].base_url
    async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        response = await client.responses.create(
            model=f"litellm-ids-{kind}", input=script([first, second], [third])
        )
    assert response.status == "completed", response.error
    assert provider.refused == []
    items = [item.to_dict() for item in response.output]
    shown = [item["call_id"] for item in items if item["type"] == "function_call"]
    assert all(isinstance(call_id, str) and call_id for call_id in shown)
    assert len(shown) == len(set(shown))
    found = [
        message["content"] for message in provider.asked[-1].items if message["role"] == "tool"
    ]
    assert found == [f"found {word}" for word in words]


@pytest.mark.parametrize("kind", CALL_IDS)
async def test_each_call_has_its_own_output_whatever_the_adapter_gives(
    replicas: list[Replica], provider: Provider, kind: str
) -> None:
    words = ("cat", "dog", "cow")
    first, second, third = ({"call": "look", "arguments": {"word": word}} for word in words)
    url = replicas[0].base_url
    async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        response = await client.responses.create(
            model=f"litellm-ids-{kind}", input=script([first, second], [third])
        )
    assert response.status == "completed", response.error
    assert provider.refused == []
    calls = [item for item in response.output if item.type == "mcp_call"]
    assert [json.loads(call.arguments)["word"] for call in calls] == list(words)
    assert [call.output for call in calls] == [f"found {word}" for word in words]


def going_back(item: dict[str, Any], way: str) -> dict[str, Any]:
    if way == "reference":
        return {"type": "item_reference", "id": item["id"]}
    if way == "bare":
        return {name: value for name, value in item.items() if name != "id"}
    return item


def said_in(given: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Who said what, in the input or the messages of a model."""
    for item in given:
        content = item.get("content")
        if item.get("role") in ("user", "assistant") and content:
            parts = [content] if isinstance(content, str) else [p.get("text") for p in content]
            yield item["role"], "".join(parts)
