"""After a handoff the next turn is for the agent that had the last word, on any replica."""

import signal
from collections.abc import Iterator
from typing import Any

import pytest
from openai import AsyncOpenAI

from tests import postgres
from tests.faults.ground import Ground, ground
from tests.faults.speaking_agents import AGENTS
from tests.reading import create, finished
from tests.servers import Replica


@pytest.fixture
def found(database: postgres.Server, schema: str) -> Iterator[Ground]:
    with ground(database, f"last_word_{schema}", agents=AGENTS) as made:
        made.start(2)
        yield made


def text_of(response: dict[str, Any]) -> str:
    assert response["status"] == "completed", response
    return str(response["output"][-1]["content"][0]["text"])


async def say(replica: Replica, words: str, model: str = "front", **fields: Any) -> dict[str, Any]:
    return await create(replica, words, model=model, **fields)


async def test_a_chain_goes_on_with_it(found: Ground) -> None:
    one, two = found.replicas
    first = await say(one, "to expert")
    assert text_of(first) == "expert: to expert"
    second = await say(two, "hello", previous_response_id=first["id"])
    assert text_of(second) == "expert: hello"
    third = await say(one, "to boss", previous_response_id=second["id"])
    assert text_of(third) == "boss: to boss"
    # It is found through the graph, also back from there.
    fourth = await say(two, "hello", previous_response_id=third["id"])
    assert text_of(fourth) == "boss: hello"
    aside = await say(two, "to front", previous_response_id=second["id"])
    assert text_of(aside) == "front: to front"
    assert text_of(await say(one, "so", previous_response_id=aside["id"])) == "front: so"
    # Another model was asked for.
    other = await say(one, "hello", model="other", previous_response_id=third["id"])
    assert text_of(other) == "other: hello"
    assert text_of(await say(one, "hello")) == "front: hello"


async def test_a_conversation_goes_on_with_it(found: Ground) -> None:
    one, two = found.replicas
    async with AsyncOpenAI(base_url=one.base_url, api_key="none") as client:
        on = {"conversation": (await client.conversations.create()).id}
        first = await say(one, "to expert", **on)
        await client.conversations.items.create(
            on["conversation"], items=[{"role": "user", "content": "between"}]
        )
        assert text_of(await say(two, "hello", **on)) == "expert: hello"
        boss = await say(one, "to boss", **on)
        assert text_of(await say(two, "hello", **on)) == "boss: hello"
        assert text_of(await say(two, "hello", model="other", **on)) == "other: hello"
        assert text_of(await say(one, "hello", **on)) == "front: hello"
        assert {first["model"], boss["model"]} == {"front"}


async def test_what_is_taken_over_is_finished_by_whom_it_was_begun(found: Ground) -> None:
    victim, other = found.replicas
    first = await say(victim, "to expert")
    begun = await say(victim, "wait here", previous_response_id=first["id"], background=True)
    await found.reach([begun["id"]], "waiting")
    victim.signal(signal.SIGKILL)
    await found.reach([begun["id"]], "waiting", attempt=2)
    found.open("waiting")
    second = await finished(other, begun["id"])
    assert text_of(second) == "expert: wait here"
    third = await say(other, "on", previous_response_id=second["id"])
    assert text_of(third) == "expert: on"


async def test_or_always_with_the_first(database: postgres.Server, schema: str) -> None:
    with ground(database, f"first_{schema}", agents=AGENTS, LONGRUN_CONTINUE_WITH="first") as found:
        [one] = found.start()
        first = await say(one, "to expert")
        assert text_of(first) == "expert: to expert"
        second = await say(one, "hello", previous_response_id=first["id"])
        assert text_of(second) == "front: hello"
