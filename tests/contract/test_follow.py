"""`longrun.client` on responses that have ended, go on, are deleted, or were never there."""

import asyncio
import contextlib

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from longrun.client import Transcript, create_and_follow, follow
from tests.reading import create, in_background, script
from tests.servers import Replica


async def numbers(client: AsyncOpenAI, response_id: str, after: int | None) -> list[int]:
    return [event.sequence_number async for event in follow(client, response_id, after=after)]


async def test_a_finished_one_from_any_cursor(
    two: list[Replica], clients: list[AsyncOpenAI]
) -> None:
    """Past the end, too: nothing comes, and it ends."""
    response = await create(two[0], script(deltas=3, pause=0.01))
    whole = await numbers(clients[1], response["id"], None)
    last = whole[-1]
    assert whole == list(range(last + 1))
    for after in (-1, 0, last - 1, last, last + 1, last + 50):
        found = await numbers(clients[0], response["id"], after)
        assert found == list(range(after + 1, last + 1))


async def test_create_and_follow_with_a_sync_client(two: list[Replica]) -> None:
    def run() -> None:
        transcript = Transcript()
        with OpenAI(base_url=two[0].base_url, api_key="none") as client:
            made = create_and_follow(client, model="scripted", input=script(deltas=3, pause=0.01))
            events = []
            for event in made:
                events.append(event)
                transcript.take(event)
            assert events[0].response.background
            assert [e.sequence_number for e in events] == list(range(len(events)))
            final = client.responses.retrieve(events[0].response.id)
            assert transcript.text == final.output_text == "word0 word1 word2 "
            assert [e.to_json() for e in follow(client, final.id, after=1)] == [
                e.to_json() for e in events[2:]
            ]

    await asyncio.to_thread(run)


async def test_one_that_is_deleted_meanwhile_ends_and_is_not_found(
    two: list[Replica], clients: list[AsyncOpenAI]
) -> None:
    response_id = await in_background(two[0], deltas=500, pause=0.02)
    following = follow(clients[1], response_id)
    seen = [await anext(following) for _ in range(5)]
    await clients[0].responses.delete(response_id)
    # Deleted is cancelled first: the end of that comes still, or the stream was cut before.
    with contextlib.suppress(openai.NotFoundError):
        async for event in following:
            seen.append(event)
    assert len(seen) < 100
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    with pytest.raises(openai.NotFoundError):
        await anext(follow(clients[0], response_id, after=3))


async def test_a_wrong_request_is_raised_at_once(clients: list[AsyncOpenAI]) -> None:
    with pytest.raises(openai.BadRequestError):
        await anext(create_and_follow(clients[0], model="scripted", input="x", store=False))
