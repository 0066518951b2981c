"""What talks to the provider directly, without longrun."""

from collections.abc import AsyncIterator

import pytest
from openai import AsyncOpenAI

from tests.provider.server import KEY, Provider


@pytest.fixture
async def openai_client(provider: Provider) -> AsyncIterator[AsyncOpenAI]:
    client = AsyncOpenAI(base_url=provider.url, api_key=KEY, max_retries=0)
    yield client
    await client.close()
