"""Agents that misbehave in every way that code can, beside healthy ones on the same replicas.

Each bad run ends once, soon, in words; no replica ends, and every healthy run completes whole.
"""

import asyncio
import json

import pytest

from tests import postgres
from tests.faults.bad_agents import AGENTS, statuses
from tests.faults.ground import following, ground
from tests.reading import create

HEALTHY = 12

pytestmark = pytest.mark.timeout(300)


async def test_10_each_ends_in_words_and_harms_nobody(database: postgres.Server) -> None:
    with ground(database, "bad_company", agents=AGENTS) as found:
        replicas = await asyncio.to_thread(found.start, 2)
        expected = statuses()
        healthy = [(await found.submit(replicas[n % 2], pause=0.1))[0] for n in range(HEALTHY)]
        names = list(expected)
        ids = {
            name: (await create(replicas[n % 2], "x", model=name, background=True))["id"]
            for n, name in enumerate(names)
        }
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
