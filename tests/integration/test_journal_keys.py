"""Call ids as adapters invent them: none may keep a step out of Postgres, nor run a tool twice."""

import functools
from pathlib import Path
from typing import Any

import pytest
from agents import Agent

from tests import postgres
from tests.crashing import (
    Crash,
    Served,
    check_effects,
    check_log,
    crash,
    effects_of,
    left_of,
    resume_all,
)
from tests.journal_agents.models import agent, calls, says
from tests.journal_agents.tools import look

SCHEMA = "journal_keys"

CALL_IDS = {
    "nul": "call_\x00_1",
    "surrogate": "call_\ud800_1",
    "slash": "a/b",
    "signature": "".join(f"{n:x}" for n in range(3000)),
}


def calling(call_id: str) -> Agent[Any]:
    inner = agent("inner", [calls("look", call_id, what="in")], [says("found")], tools=[look])
    return agent(
        "agent",
        [calls("look", call_id, what="a"), calls("ask", call_id + "2", input="first")],
        [says("seen it all")],
        tools=[look, inner.as_tool("ask", "ask")],
    )


@pytest.mark.parametrize("kind", CALL_IDS)
async def test_any_call_id(kind: str, database: postgres.Server, tmp_path: Path) -> None:
    """One response lives, one dies when all but the last turn is done: it is not done again."""
    call_id = CALL_IDS[kind]
    points = [0, "commit tool ", "start model agent::1"]
    crashed = Crash(
        Served(functools.partial(calling, call_id)),
        *(database.url, SCHEMA, tmp_path / "effects", tmp_path / "plan", "go", "first"),
        points,
    )
    plan = crash(crashed)
    await resume_all(crashed, plan)
    effects = effects_of(crashed.effects)
    attempts = []
    for response_id in plan:
        left = await left_of(database.url, SCHEMA, response_id)
        check_log(left)
        check_effects(effects[response_id])
        assert left.status == "completed"
        outputs = [item["output"] for item in left.output if "output" in item]
        assert sorted(outputs) == ["a of True", "found"]
        attempts.append(left.attempts[-1])
    assert attempts == [1, 2, 2]
