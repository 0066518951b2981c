"""Usage: what the provider told of all turns, of nested agents and guardrails too (contract,
"Response object")."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from openai import AsyncOpenAI

from tests import servers
from tests.postgres import Server
from tests.provider import agents as served
from tests.provider.agents import FAMILIES, script, turns_of
from tests.provider.server import Provider
from tests.provider.usage import usage_of
from tests.servers import Replica

KINDS = ("plain", "tools", "handoff", "nested", "guarded", "reasoning")


@pytest.fixture(scope="module")
def replica(database: Server, running_provider: Provider) -> Iterator[Replica]:
    with servers.replicas(
        1,
        database.url,
        schema="usage",
        agents=served.AGENTS,
        environment=served.environment(running_provider),
    ) as (started,):
        yield started


@pytest.fixture
async def client(replica: Replica) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=replica.base_url, api_key="none", max_retries=0) as made:
        yield made


async def used(client: AsyncOpenAI, agent: str) -> dict[str, Any]:
    response = await client.responses.create(model=agent, input=script(*turns_of(agent)))
    assert response.status == "completed", response.error
    assert response.usage is not None
    return response.usage.to_dict()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
async def test_all_turns_are_counted(
    client: AsyncOpenAI, provider: Provider, family: str, kind: str
) -> None:
    found = await used(client, f"{family}-{kind}")
    assert (
        len(provider.asked)
        == {"plain": 1, "tools": 3, "handoff": 3, "nested": 4, "guarded": 5, "reasoning": 2}[kind]
    )
    assert found == usage_of(provider.asked)
    assert found["input_tokens_details"]["cached_tokens"] > 0


async def test_who_does_not_want_to_be_told_has_zeros(
    client: AsyncOpenAI, provider: Provider
) -> None:
    """An agent's own setting wins: some providers refuse to be asked."""
    assert await used(client, "chat-uncounted") == usage_of([])
    wanted = [asked.body.get("stream_options") for asked in provider.asked]
    assert wanted == [{"include_usage": False}] * 3
