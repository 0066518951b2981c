"""A replica is lost while runs hand over to another agent, each at another point: what is finished
is not asked or called again, and nobody is handed over to twice."""

import json
import signal
from collections.abc import Iterator

import pytest

from tests import postgres
from tests.faults.ground import Ground, check_events, following, ground
from tests.storing import SEALING

TURNS = (
    (("work", {"name": "a"}),),
    (("transfer_to_second", {}),),
    (("work", {"name": "b"}), ("work", {"name": "c"})),
)
POINTS = (
    *("model 0", "turn 0", "in a"),
    *("model 1", "item 1 0", "turn 1"),
    *("model 2", "turn 2", "tool b", "in b"),
    *("model 3", "delta 3", "end"),
)
AGENTS_OF_TURNS = ["handing", "handing", "second", "second"]


@pytest.fixture
def found(database: postgres.Server, schema: str) -> Iterator[Ground]:
    agents = "tests.faults.steered_agents:agents"
    with ground(database, f"handoffs_{schema}", agents=agents) as made:
        yield made


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "drained"])
async def test_7_a_run_goes_on_with_the_agent_that_has_it(
    found: Ground, fault: signal.Signals
) -> None:
    victim, other = found.start(2)
    ids = {}
    for point in POINTS:
        [ids[point]] = await found.submit(victim, model="handing", gates=(point,), turns=TURNS)
    for point, id_ in ids.items():
        await found.reach([id_], point)
    async with following([victim, other], list(ids.values())) as followers:
        victim.signal(fault)
        await found.all_at_attempt(list(ids.values()), 2)
        found.open(*POINTS)
    for follower in followers:
        id_ = follower.response_id
        lines = await found.log_of(id_)
        assert follower.lines == lines
        events = [json.loads(line) for line in lines]
        check_events(id_, events, "completed")
        output = events[-1]["response"]["output"]
        names = [item.get("name", item["type"]) for item in output]
        assert names == ["work", "transfer_to_second", "work", "work", "message"]
        assert [item["output"] for item in output if item.get("name") == "work"] == [
            "did a",
            "did b",
            "did c",
        ]
        assert output[-1]["content"][0]["text"] == "word0 word1 word2 word3 word4 word5 "
        await found._check_steps(id_)
        steps = await found.sql(
            "SELECT key, kind, fingerprint FROM steps WHERE response_id = $1 ORDER BY key", id_
        )
        assert [step["key"] for step in steps if step["kind"] == "handoff"] == ["1"]
        if SEALING.knows_keys:
            continue
        asked = [json.loads(step["fingerprint"]) for step in steps if step["kind"] == "model"]
        assert [each["agent"] for each in asked] == AGENTS_OF_TURNS
