"""Webhooks by OpenAI's clients for node: 6 unwraps, 7 manages endpoints besides."""

import asyncio
import json
from typing import Any

import pytest
from openai import AsyncOpenAI

from tests.contract.clients.installed import HERE, MODULES
from tests.reading import eventually
from tests.servers import Replica
from tests.webhooks.conftest import SECRET
from tests.webhooks.sink import Received, Sink
from tests.webhooks.test_delivery import background
from tests.webhooks.test_endpoints import ALL


async def node(package: str, received: Received, **given: str) -> dict[str, Any]:
    """What the client saw of a delivery, and of endpoints on a server."""
    if not (MODULES / package).exists():
        pytest.skip(f"{package} is not installed: make clients")
    said = {"body": received.body.decode(), "headers": received.headers, "secret": SECRET, **given}
    process = await asyncio.create_subprocess_exec(
        *("node", str(HERE / "webhooks.mjs"), json.dumps(said), package),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=HERE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, err.decode()
    return dict(json.loads(out))


@pytest.mark.parametrize("package", ["openai6", "openai7"])
async def test_it_unwraps(both: list[AsyncOpenAI], sink: Sink, package: str) -> None:
    response_id = await background(both[0], input="hello")
    await eventually(lambda: len(sink.of(response_id)) == 1)
    [received] = sink.of(response_id)
    saw = await node(package, received)
    assert saw == {"event": received.event, "refused": True}


async def test_it_manages_endpoints(
    both: list[AsyncOpenAI], told: list[Replica], sink: Sink
) -> None:
    response_id = await background(both[0], input="hello")
    await eventually(lambda: len(sink.of(response_id)) == 1)
    url = f"{sink.url}/of-node"
    saw = await node("openai7", sink.of(response_id)[0], server=told[0].base_url, url=url)
    made = saw["made"]
    assert saw["types"] == ALL
    assert (made["url"], made["event_types"]) == (url, ["response.failed"])
    assert saw["rotated"]["signing_secret"] != made["signing_secret"]
    assert saw["changed"]["event_types"] == ["response.completed"]
    assert (saw["tested"]["status_code"], len(sink.at("/of-node"))) == (200, 1)
    assert made["id"] in saw["listed"]
    assert saw["gone"] == {"id": made["id"], "object": "webhook_endpoint.deleted", "deleted": True}
