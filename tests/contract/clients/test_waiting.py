"""Plain answers that take longer than a proxy waits: OpenAI's SDKs, in four versions, behind an
nginx that gives up after a second of silence."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import nginx, servers
from tests.contract.clients.installed import CLIENTS, HERE, Client
from tests.contract.clients.test_clients import require
from tests.postgres import Server
from tests.reading import script

SECONDS = 2.5
"""That a run takes; nginx waits for 1, and a space comes every 0.3."""


@pytest.fixture(scope="module")
def effects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("effects") / "effects"
    path.touch()
    return path


@pytest.fixture(scope="module")
def proxy(database: Server, effects: Path) -> Iterator[str]:
    environment = {"LONGRUN_KEEPALIVE_INTERVAL": "0.3", "EFFECTS": str(effects)}
    with servers.replicas(1, database.url, schema="waiting_clients", environment=environment) as (
        replica,
    ):
        http = (
            "server { listen 80; location / {"
            f" proxy_pass {replica.url}; proxy_read_timeout 1s; send_timeout 1s; }} }}"
        )
        with nginx.running(http) as url:
            yield url


def _command(client: Client) -> list[str]:
    if client.command[0] == "node":
        return ["node", str(HERE / "waiting.mjs")]
    return [client.command[0], str(HERE / "waiting.py")]


@pytest.mark.parametrize(
    "client",
    [client for client in CLIENTS if client.name.startswith("openai")],
    ids=lambda client: str(client.name),
)
async def test_it_comes_and_is_one_run(proxy: str, effects: Path, client: Client) -> None:
    require(client)
    text = client.name.replace(" ", "_")
    asked = script(turns=[[["echo", {"text": text, "pause": SECONDS}]]])
    process = await asyncio.create_subprocess_exec(
        *_command(client),
        *(f"{proxy}/v1", asked, *client.after),
        stdout=asyncio.subprocess.PIPE,
        cwd=HERE,
    )
    async with asyncio.timeout(60):
        output, _ = await process.communicate()
    assert process.returncode == 0
    said = json.loads(output)
    assert (said["status"], said["output_text"]) == ("completed", "word0 word1 word2 ")
    assert effects.read_text().splitlines().count(f"tool {text}") == 1
