"""Code of agents that would end a replica, or hold it: real processes, each exception and place."""

import asyncio
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import postgres, servers
from tests.faults.breaking import AGENTS, PLACES, RAISED
from tests.reading import Wire, create, eventually, finished, metric, script
from tests.servers import Replica


@pytest.fixture
def effects(tmp_path: Path) -> Path:
    file = tmp_path / "effects"
    file.touch()
    return file


@pytest.fixture
def replica(
    database: postgres.Server, schema: str, effects: Path, request: Any
) -> Iterator[Replica]:
    environment = {"EFFECTS": str(effects), "LONGRUN_DRAIN_SECONDS": "2", **request.param}
    started = servers.start(
        database.url, schema=schema, agents=AGENTS, environment=environment, wait=False
    )
    try:
        servers.wait_ready(started)
        yield started
    finally:
        started.end()
        started.log.unlink()


def with_settings(**environment: str) -> Any:
    return pytest.mark.parametrize("replica", [environment], indirect=True, ids=[""])


async def submit(replica: Replica, agent: str, **fields: Any) -> str:
    answer = await create(replica, script(**fields), model=agent, background=True)
    return str(answer["id"])


async def cancel(replica: Replica, response_id: str) -> None:
    url = f"{replica.base_url}/responses/{response_id}/cancel"
    async with await Wire.open(url, method="POST") as wire:
        await wire.rest()
        assert wire.status == 200


@with_settings()
async def test_what_would_end_a_process_ends_one_run(replica: Replica) -> None:
    """Each beside a run that is live all the while."""
    healthy = await submit(replica, "healthy", deltas=2000, pause=0.003)
    names = [f"{place} {name}" for place in PLACES for name in RAISED]
    calls = {"turns": [[["breaks", {}]]]}
    ids = {
        name: await submit(replica, name, **(calls if name[:4] in ("tool", "thre") else {}))
        for name in names
    }
    for name, response_id in ids.items():
        response = await finished(replica, response_id)
        assert (name, response["status"]) == (name, "failed")
        assert response["error"]["message"] == "The agent failed."
    assert (await finished(replica, healthy))["status"] == "completed"
    assert replica.process.poll() is None
    log = replica.output()
    for name, response_id in ids.items():
        assert f"run of {response_id} failed" in log
        assert f"raised {name.split()[1]}" in log
    assert f"tool 'breaks' of {ids['tool SystemExit']} raised SystemExit" in log
    replica.signal(signal.SIGTERM)
    assert replica.wait(15) == 0


@with_settings(LONGRUN_MAX_RUNS="16")
async def test_tools_that_hang_in_threads_keep_no_others_from_starting(
    replica: Replica, effects: Path
) -> None:
    """48 calls that hang, of runs that were cancelled; there were 32 threads."""
    for started in (16, 32, 48):
        asks = {"turns": [[["sleeps", {"seconds": 120}]]]}
        ids = [await submit(replica, "sleepy", **asks) for _ in range(16)]
        await eventually(
            lambda started=started: effects.read_text().count("sleepy started") == started
        )
        await asyncio.gather(*(cancel(replica, response_id) for response_id in ids))
    assert await metric(replica, 'longrun_tool_threads{state="abandoned"}') == 48
    response_id = await submit(replica, "sleepy", turns=[[["sleeps", {"seconds": 0}]]])
    assert (await finished(replica, response_id, 20))["status"] == "completed"


@with_settings()
async def test_a_tool_that_swallows_its_cancellation_does_not_hold_the_process(
    replica: Replica, effects: Path
) -> None:
    await submit(replica, "stubborn", turns=[[["swallows", {}]]])
    await eventually(lambda: "stubborn started" in effects.read_text())
    began = time.monotonic()
    replica.signal(signal.SIGTERM)
    assert await asyncio.to_thread(replica.wait, 40) == 0
    assert time.monotonic() - began < 2 + 10
    [line] = [line for line in replica.output().splitlines() if "exiting without tasks" in line]
    assert "swallows (" in line
