"""Two replicas whose settings name a sink, and whose schedule is short."""

import base64
from collections.abc import AsyncIterator, Iterator

import pytest
from openai import AsyncOpenAI

from tests import servers
from tests.postgres import Server
from tests.servers import Replica
from tests.webhooks.sink import Sink, sinking

SECRET = "whsec_" + base64.b64encode(b"the secret of the settings, 32 b").decode()

SCHEDULE = {
    "LONGRUN_WEBHOOK_NETWORKS": "127.0.0.0/8",
    "LONGRUN_WEBHOOK_TIMEOUT": "1",
    "LONGRUN_WEBHOOK_RETRY_FIRST": "0.1",
    "LONGRUN_WEBHOOK_RETRY_LONGEST": "0.4",
}


@pytest.fixture(scope="package")
def sink() -> Iterator[Sink]:
    with sinking() as listening:
        yield listening


@pytest.fixture(scope="package")
def told(database: Server, sink: Sink) -> Iterator[list[Replica]]:
    """Two replicas; the ends of all background responses come to `/hook` of the sink."""
    environment = {
        **SCHEDULE,
        "LONGRUN_WEBHOOK_URL": f"{sink.url}/hook",
        "LONGRUN_WEBHOOK_SECRET": SECRET,
    }
    with servers.replicas(
        2, database.url, schema="webhooks", environment=environment, agents=AGENTS
    ) as started:
        yield started


AGENTS = "tests.webhooks.agents:agents"


@pytest.fixture
async def both(told: list[Replica]) -> AsyncIterator[list[AsyncOpenAI]]:
    made = [AsyncOpenAI(base_url=r.base_url, api_key="none", max_retries=0) for r in told]
    yield made
    for client in made:
        await client.close()
