"""A run that is taken over in the middle of a model's turn, and how its conversation goes on.

The model is the provider's (`tests/provider`): there it is seen what it was asked, and refused.
"""

import asyncio
import json
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests import postgres
from tests.faults.ground import Ground, ground
from tests.provider import agents as served
from tests.provider.agents import FAMILIES, LOOK
from tests.provider.server import Provider
from tests.provider.usage import usage_of
from tests.reading import create, finished


@pytest.fixture
def found(database: postgres.Server, provider: Provider, schema: str) -> Iterator[Ground]:
    given = served.environment(provider)
    with ground(database, f"histories_{schema}", agents=served.AGENTS, **given) as made:
        made.start(2)
        yield made


async def taken_over(found: Ground, provider: Provider, family: str) -> dict[str, Any]:
    """A response whose second model turn broke off with its replica."""
    victim, successor = found.replicas
    gate = f"{found.schema} {family}"
    half = {"items": [{"text": "one two three"}], "gate": gate, "after": 5}
    said = json.dumps({"turns": [[LOOK], half]})
    begun = await create(victim, said, model=f"{family}-tools", background=True)
    await asyncio.to_thread(provider.gates.reached, gate)
    victim.signal(signal.SIGKILL)
    provider.gates.open(gate)
    return await finished(successor, begun["id"])


@pytest.mark.parametrize("family", FAMILIES)
async def test_the_turn_that_broke_off_is_asked_again_and_no_other(
    found: Ground, provider: Provider, family: str
) -> None:
    response = await taken_over(found, provider, family)
    assert response["status"] == "completed"
    assert len(provider.asked) == 3
    messages = [item for item in response["output"] if item["type"] == "message"]
    texts = [part["text"] for item in messages for part in item["content"]]
    assert texts == ["one two three"]
    finished = [provider.asked[0], provider.asked[2]]
    assert response["usage"] == usage_of(finished), "of what broke off nothing is counted"
    assert provider.refused == []


@pytest.mark.parametrize("family", FAMILIES)
async def test_its_conversation_goes_on(found: Ground, provider: Provider, family: str) -> None:
    response = await taken_over(found, provider, family)
    shown = await create(
        found.replicas[1],
        json.dumps({"show": True}),
        model=f"{family}-tools",
        previous_response_id=response["id"],
    )
    assert provider.refused == []
    assert shown["status"] == "completed"
    given = json.dumps(shown["output"])
    assert given.count("one two three") == 2, "in what the user said, and in the answer"
    assert given.count("found cat") == 1
