"""Handlers that stop at gates, one of which asks for what it is told meanwhile."""

from collections.abc import AsyncIterator

import longrun
from tests.faults.agents import Plan, gate
from tests.scripted import note_effect


async def worked(plan: Plan, name: str) -> str:
    note_effect("tool", name)
    await gate(plan, f"in {name}")
    return name


@longrun.agent(name="listener", steerable=True)
async def listener(request: longrun.HandlerRequest, steps: longrun.Steps) -> AsyncIterator[str]:
    plan = Plan.of(request.input)
    for name in ("a", "b"):
        await steps.step(f"work {name}", worked, plan, name)
        for message in await longrun.steered():
            yield f"Heard {message['content']}. "
    await steps.step("work c", worked, plan, "c")
    yield "Done."


@longrun.agent(name="deaf")
async def deaf(request: longrun.HandlerRequest) -> AsyncIterator[str]:
    await longrun.step("work a", worked, Plan.of(request.input), "a")
    yield "Done."
