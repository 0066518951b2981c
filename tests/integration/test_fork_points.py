"""Forks of everything that a run can do, from each of its steps, and at every crash point."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from longrun.execution.forking import course_of, parted
from longrun.store.forks import Forks, Numbered
from tests import postgres
from tests.crashing import (
    Crash,
    Left,
    Served,
    asked,
    check_effects,
    check_log,
    crash,
    effects_of,
    finish,
    forked,
    left_of,
    living,
    named,
    resume_all,
)
from tests.journal_agents import SCENARIOS, outside

SCHEMA = "fork_points"

FORKED = (
    "plain",
    "sequential tools",
    "parallel tools",
    "handoffs",
    "agents as tools",
    "agents as tools, streamed",
    "agents as tools, failing",
    "guardrails",
    "structured output",
    "rich outputs",
    "shell, custom, patch, computer",
    "local shell",
    "stop on first tool",
    "stop at tools",
    "at most once",
    "changing instructions",
    "previous response",
)


@pytest.fixture(autouse=True)
def files() -> Iterator[None]:
    with outside.files():
        yield


class Made(NamedTuple):
    """A source, its steps, and one fork from each of them."""

    source: str
    steps: list[Numbered]
    forks: list[str]


async def made_of(served: Served, given: Any, url: str, effects: Path, **body: Any) -> Made:
    async with living(served, url, SCHEMA, effects) as app:
        source = asked(given)
        await app.parts.admission.submit(source)
        await finish(app, [source.response_id])
        found = await Forks(app.parts.database).source(source.response_id, "")
        assert found is not None
        steps = course_of(found).steps
        assert [step.step for step in steps] == list(range(1, len(steps) + 1))
        requests = [
            await forked(app, source.response_id, step.step, **body)
            for step in steps
            if step.finished
        ]
        for request in requests:
            await app.parts.admission.submit(request)
        forks = [request.response_id for request in requests]
        await finish(app, forks)
        return Made(source.response_id, steps, forks)


def check_not_again(left: Left, effects: list[str]) -> None:
    """Nothing of what a fork began with was done again. Behind its own input the scripts begin
    anew, with the same names."""
    _, copied = parted(left.steps)
    assert copied
    inputs = [n for n, line in enumerate(effects) if line.endswith(" commit input 1")]
    until = inputs[0] if inputs else len(effects)
    check_effects([*(f"source commit {named(step)}" for step in copied), *effects[:until]])
    check_effects(effects[until:])


@pytest.mark.parametrize("scenario", FORKED)
async def test_from_each_step(scenario: str, database: postgres.Server, tmp_path: Path) -> None:
    served, given = SCENARIOS[scenario]
    made = await made_of(served, given, database.url, tmp_path / "effects")
    normal = await left_of(database.url, SCHEMA, made.source)
    effects = effects_of(tmp_path / "effects")
    for response_id, step in zip(made.forks, made.steps, strict=True):
        left = await left_of(database.url, SCHEMA, response_id)
        try:
            check_log(left)
            check_not_again(left, effects[response_id])
            assert left.status == normal.status
            assert left.outline == normal.outline
            # What it has used is what it asked itself.
            asked_itself = sum(" end model " in line for line in effects[response_id])
            if scenario != "changing instructions":
                assert left.document["usage"]["output_tokens"] == 5 * asked_itself
        except AssertionError as error:
            error.add_note(f"step {step}\n" + "\n".join(effects[response_id]))
            raise


@pytest.mark.parametrize(
    ("scenario", "step", "given"),
    [
        ("parallel tools", 3, "and now this"),
        ("handoffs", 5, None),
        ("agents as tools", 1, "and now this"),
    ],
    ids=["parallel tools", "handoffs", "agents as tools"],
)
async def test_every_crash_point(
    scenario: str, step: int, given: str | None, database: postgres.Server, tmp_path: Path
) -> None:
    served, before = SCENARIOS[scenario]
    made = await made_of(served, before, database.url, tmp_path / "source")
    files = (tmp_path / "effects", tmp_path / "plan")
    fork = (made.source, step)
    crashed = Crash(served, database.url, SCHEMA, *files, given, "first", step=2, fork=fork)
    plan = crash(crashed)
    await resume_all(crashed, plan)
    effects = effects_of(crashed.effects)
    normal = await left_of(database.url, SCHEMA, next(iter(plan)))
    assert normal.status == "completed"
    died = 0
    for response_id, point in plan.items():
        left = await left_of(database.url, SCHEMA, response_id)
        try:
            check_log(left)
            check_not_again(left, effects[response_id])
            assert left.status == normal.status
            assert left.outline == normal.outline
            assert left.document["usage"] == normal.document["usage"]
        except AssertionError as error:
            error.add_note(f"died after effect {point} of\n" + "\n".join(effects[response_id]))
            raise
        died += left.attempts[-1] > 1
    assert died >= 0.6 * len(plan)
