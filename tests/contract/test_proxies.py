"""Behind the proxies that `longrun deploy` prints configurations for."""

import signal
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from openai import AsyncOpenAI

from longrun.client import follow
from longrun.deploy.printing import Wanted, printed
from longrun.settings import Settings
from tests import nginx, servers
from tests.postgres import Server
from tests.reading import script
from tests.servers import Replica


@pytest.fixture
def pair(database: Server, schema: str) -> Iterator[list[Replica]]:
    with servers.replicas(2, database.url, schema=schema) as started:
        yield started


@pytest.fixture
def proxy(pair: list[Replica]) -> Iterator[str]:
    places = tuple(each.url.removeprefix("http://") for each in pair)
    with nginx.running(printed("nginx", Wanted(servers=places), Settings())) as url:
        yield url


async def until_ended(connection: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for event in connection:
        yield event
        if event.type == "response.completed":
            return


async def test_events_come_as_they_are_made_and_go_on_on_the_other_replica(
    pair: list[Replica], proxy: str
) -> None:
    async with AsyncOpenAI(base_url=f"{proxy}/v1", api_key="none", max_retries=0) as client:
        # As the console: its page was taken for one of elsewhere, on a port that is not usual.
        assert (await client.models.list(extra_headers={"Origin": proxy})).data
        async with client.responses.connect() as connection:
            await connection.response.create(model="scripted", input="by WebSocket")
            said = [event async for event in until_ended(connection)]
            assert said[-1].response.output_text == "by WebSocket"
        made = await client.responses.create(
            model="scripted", input=script(deltas=60, pause=0.1), background=True
        )
        numbers = []
        async for event in follow(client, made.id):
            numbers.append(event.sequence_number)
            if len(numbers) == 10:
                # It came while the run was going on, since nginx keeps nothing back.
                assert (await client.responses.retrieve(made.id)).status == "in_progress"
                pair[0].signal(signal.SIGKILL)
        assert numbers == list(range(len(numbers)))
        ended = await client.responses.retrieve(made.id)
        assert ended.status == "completed"
        for _ in range(6):
            # Half of these meet the dead one first.
            again = await client.responses.create(model="scripted", input="x")
            assert again.status == "completed"
