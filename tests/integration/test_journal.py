"""The step journal: every crash point of everything that a run can do."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agents import SQLiteSession

from tests import postgres
from tests.crashing import (
    Crash,
    check_effects,
    check_log,
    crash,
    effects_of,
    left_of,
    resume_all,
)
from tests.journal_agents import SCENARIOS, outside

SCHEMA = "journal"
THINNED = {"rich outputs": 3}
"""Of these, every n-th crash point: they have many that are alike."""

FAILS = {"a tool that raises", "a guardrail that trips"}
USER_CODE_ANEW = "changing instructions"

OUTPUT_DIFFERS = {"at most once", "a tool that raises"}
"""Of these the output is not the same from each crash point: a tool that was begun is not run
again; and the SDK stops the siblings of a tool that raises, which a replay does at once."""


@pytest.fixture(autouse=True)
def files() -> Iterator[None]:
    with outside.files():
        yield


@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_every_crash_point(
    scenario: str, database: postgres.Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One response lives, one dies after its first effect, one after its second, and so on."""
    served, given = SCENARIOS[scenario]
    files = (tmp_path / "effects", tmp_path / "plan")
    crashed = Crash(
        served, database.url, SCHEMA, *files, given, "first", step=THINNED.get(scenario, 1)
    )
    plan = crash(crashed)
    with caplog.at_level(logging.WARNING, "longrun"):
        await resume_all(crashed, plan)
    normal = await left_of(crashed.url, SCHEMA, next(iter(plan)))
    assert normal.status == ("failed" if scenario in FAILS else "completed")
    died = await check_all(crashed, plan, same_output=scenario not in OUTPUT_DIFFERS)
    assert died >= 0.6 * len(plan)
    if scenario != USER_CODE_ANEW:
        assert "replay of step" not in caplog.text
    if served.session is not None:
        await check_sessions(list(plan))
    if scenario == "MCP":
        check_mcp(effects_of(crashed.effects))


async def test_every_crash_point_with_calls_shown_as_pairs(
    database: postgres.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LONGRUN_SERVER_TOOLS", "function_call")
    served, given = SCENARIOS["parallel tools"]
    files = (tmp_path / "effects", tmp_path / "plan")
    crashed = Crash(served, database.url, SCHEMA, *files, given, "first")
    plan = crash(crashed)
    await resume_all(crashed, plan)
    assert await check_all(crashed, plan) >= 0.6 * len(plan)
    normal = await left_of(crashed.url, SCHEMA, next(iter(plan)))
    assert "function_call_output" in [item["type"] for item in normal.output]


async def check_all(crashed: Crash, plan: dict[str, Any], *, same_output: bool = True) -> int:
    """Each ended as the one that lived. Returns how many were taken over."""
    effects = effects_of(crashed.effects)
    normal = await left_of(crashed.url, crashed.schema, next(iter(plan)))
    complete = check_log(normal).response
    assert complete is not None
    died = 0
    for response_id, point in plan.items():
        left = await left_of(crashed.url, crashed.schema, response_id)
        try:
            response = check_log(left).response
            assert response is not None
            check_effects(effects[response_id])
            assert left.status == normal.status
            assert response["usage"] == complete["usage"]
            if same_output:
                assert left.outline == normal.outline
        except AssertionError as error:
            error.add_note(f"died after effect {point} of")
            error.add_note("\n".join(effects[response_id]))
            raise
        died += left.attempts[-1] > 1
    return died


async def check_sessions(response_ids: list[str]) -> None:
    """Each session holds what that of the response that lived holds, once."""
    held = []
    for response_id in response_ids:
        path = outside.SESSIONS / response_id
        session = SQLiteSession(response_id, path)
        held.append(await session.get_items())
        session.close()
    assert len(held[0]) > 4
    assert all(items == held[0] for items in held)


def check_mcp(effects: dict[str, list[str]]) -> None:
    """A call is repeated only for responses that died while it was under way."""
    done = outside.MCP_EFFECTS.read_text().splitlines()
    for what, asked, answered in (
        ("1+2", "first commit model agent::0", "first commit tool /call_1"),
        ("3+4", "first commit model agent::1", "first commit tool /call_3"),
    ):
        unsure = sum(asked in lines and answered not in lines for lines in effects.values())
        assert len(effects) <= done.count(what) <= len(effects) + unsure


async def test_crashes_of_the_second_attempt(database: postgres.Server, tmp_path: Path) -> None:
    """Three attempts: each of some crash points of the first with some of the second."""
    served, given = SCENARIOS["handoffs"]
    first = Crash(
        served,
        database.url,
        SCHEMA,
        tmp_path / "effects",
        tmp_path / "plan",
        given,
        "first",
        step=4,
        repeat=8,
    )
    plan = crash(first)
    unfinished = [id_ for id_ in plan if (await left_of(first.url, SCHEMA, id_)).attempts]
    over = {response_id: 1 + 4 * (n % 8) for n, response_id in enumerate(unfinished)}
    crash(first._replace(process="second", over=over))
    await resume_all(first, plan, "third")
    await check_all(first, plan)
    attempts = [(await left_of(first.url, SCHEMA, id_)).attempts[-1] for id_ in plan]
    assert attempts.count(3) > 0.3 * len(plan)


async def test_real_process_exits(database: postgres.Server, tmp_path: Path) -> None:
    """One process a crash point, which ends it at once: the same."""
    served, given = SCENARIOS["parallel tools"]
    lives = Crash(
        served,
        database.url,
        SCHEMA,
        tmp_path / "effects",
        tmp_path / "plan",
        given,
        "first",
        points=[0],
    )
    plan = crash(lives)
    for point in range(2, 27, 4):
        plan |= crash(lives._replace(points=[point], exits=True))
    await resume_all(lives, plan)
    assert await check_all(lives, plan) >= 5
