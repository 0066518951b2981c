"""Agents that misbehave in every way that code can, beside healthy ones on the same replicas.

Each bad run ends once, soon, in words; no replica ends, and every healthy run completes whole.
"""

import asyncio
import json
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests import postgres
from tests.faults.bad_agents import AGENTS, EITHER, FAILS, RAISED, statuses
from tests.faults.ground import Ground, following, ground
from tests.reading import Wire, create, eventually, finished, metric, script
from tests.servers import Replica

HEALTHY = 12

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def found(database: postgres.Server, schema: str) -> Iterator[Ground]:
    with ground(database, f"bad_{schema}", agents=AGENTS, LONGRUN_DRAIN_SECONDS="2") as made:
        yield made


async def submit(replica: Replica, agent: str, **fields: Any) -> str:
    answer = await create(replica, script(**fields), model=agent, background=True)
    return str(answer["id"])


async def cancel(replica: Replica, response_id: str) -> None:
    url = f"{replica.base_url}/responses/{response_id}/cancel"
    async with await Wire.open(url, method="POST") as wire:
        await wire.rest()
        assert wire.status == 200


def started(found: Ground, agent: str) -> int:
    effects = found.folder / "effects"
    return effects.read_text().count(f"{agent} started") if effects.exists() else 0


async def test_10_each_ends_in_words_and_harms_nobody(found: Ground) -> None:
    replicas = await asyncio.to_thread(found.start, 2)
    expected = statuses()
    healthy = [(await found.submit(replicas[n % 2], pause=0.1))[0] for n in range(HEALTHY)]
    names = list(expected)
    ids = {name: await submit(replicas[n % 2], name) for n, name in enumerate(names)}
    async with following(replicas, healthy, timeout=120) as followers:
        pass
    await found.all_finished(list(ids.values()), timeout=120)
    await found.check_all(healthy, followers)
    wrong = {}
    for name, id_ in ids.items():
        row = await found.row(id_)
        if row["status"] not in expected[name] or row["attempt"] != 1:
            wrong[name] = (row["status"], row["attempt"])
        lines = await found.log_of(id_)
        last = json.loads(lines[-1])
        assert last["type"] in ("response.completed", "response.failed"), (name, last)
        if row["status"] == "failed":
            assert last["response"]["error"]["message"], name
    assert wrong == {}
    assert [replica.process.poll() for replica in replicas] == [None, None]
    for replica in replicas:
        replica.signal(signal.SIGTERM)
    assert [replica.wait(30) for replica in replicas] == [0, 0]
    await _are_told(found, {name: id_ for name, id_ in ids.items() if expected[name] != EITHER})


async def _are_told(found: Ground, ids: dict[str, str]) -> None:
    """What no code should raise: the client is told that the agent failed, the log by what."""
    log = found.logs()
    kinds = [kind for kind, make in RAISED.items() if not isinstance(make(), Exception)]
    raised = {name: id_ for name, id_ in ids.items() if name.split()[0] in kinds}
    assert len(raised) >= 9 * len(kinds)
    for name, id_ in raised.items():
        assert statuses()[name] == FAILS
        last = json.loads((await found.log_of(id_))[-1])
        assert last["response"]["error"]["message"] == "The agent failed.", name
        assert f"run of {id_} failed" in log, name
        assert f"raised {name.split()[0]}" in log
    assert f"tool 't' of {raised['SystemExit tool']} raised SystemExit" in log


async def test_tools_that_hang_in_threads_keep_no_others_from_starting(found: Ground) -> None:
    """48 calls that hang, of runs that were cancelled; there were 32 threads."""
    (replica,) = found.start(LONGRUN_MAX_RUNS="16")
    for count in (16, 32, 48):
        asks = {"turns": [[["sleeps", {"seconds": 120}]]]}
        ids = [await submit(replica, "sleepy", **asks) for _ in range(16)]
        await eventually(lambda count=count: started(found, "sleepy") == count)
        await asyncio.gather(*(cancel(replica, response_id) for response_id in ids))
    assert await metric(replica, 'longrun_tool_threads{state="abandoned"}') == 48
    response_id = await submit(replica, "sleepy", turns=[[["sleeps", {"seconds": 0}]]])
    assert (await finished(replica, response_id, 20))["status"] == "completed"


async def test_a_tool_that_swallows_its_cancellation_does_not_hold_the_process(
    found: Ground,
) -> None:
    (replica,) = found.start()
    await submit(replica, "stubborn")
    await eventually(lambda: started(found, "stubborn") == 1)
    began = time.monotonic()
    replica.signal(signal.SIGTERM)
    assert await asyncio.to_thread(replica.wait, 40) == 0
    assert time.monotonic() - began < 2 + 10
    [line] = [line for line in replica.output().splitlines() if "exiting without tasks" in line]
    assert "swallows (" in line


async def test_nor_does_it_hold_its_place_when_its_run_was_cancelled(found: Ground) -> None:
    (replica,) = found.start(LONGRUN_MAX_RUNS="1")
    stubborn = await submit(replica, "stubborn")
    await eventually(lambda: started(found, "stubborn") == 1)
    await cancel(replica, stubborn)
    (healthy,) = await found.submit(replica)
    await found.all_finished([healthy])
    await found.check(healthy)
