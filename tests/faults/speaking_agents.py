"""Agents that hand over to each other, and say who they are: `front` to `expert`, that to `boss`.

A user's message `to NAME` makes whoever reads it hand over, if it can; anything else is answered
with the name of the agent and what it was told. `wait …` stops at the gate `waiting` first.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from agents import Agent, handoff

import longrun
from tests.faults.agents import gate_file
from tests.scripted_model import (
    Asked,
    Play,
    ScriptedModel,
    begun,
    called,
    closed,
    completed,
    delta,
    last_text,
    opened,
    usage,
)

AGENTS = "tests.faults.speaking_agents:agents"


def speaking(name: str, *targets: str) -> Play:
    async def play(asked: Asked) -> AsyncIterator[Any]:
        words = last_text(asked.items)
        wanted = words.removeprefix("to ")
        for event in begun():
            yield event
        spoken = (
            called(f"transfer_to_{wanted}", {}, f"call_{name}")
            if wanted in targets
            else [*opened(), delta(f"{name}: {words}"), *closed(f"{name}: {words}")]
        )
        output = []
        for event in spoken:
            if event.type == "response.output_text.delta" and words.startswith("wait"):
                await _gate()
            yield event
            if event.type == "response.output_item.done":
                output.append(event.item)
        yield completed(output, usage())

    return play


async def _gate() -> None:
    folder, current = Path(os.environ["GATES"]), longrun.current()
    gate_file(folder, current.response_id, "waiting", current.attempt).touch()
    while not (folder / "open waiting").exists():
        await asyncio.sleep(0.02)


def agents() -> list[Agent[Any]]:
    boss = Agent(name="boss", model=ScriptedModel(speaking("boss")))
    expert = Agent(
        name="expert",
        model=ScriptedModel(speaking("expert", "boss", "front")),
        handoffs=[handoff(boss)],
    )
    front = Agent(name="front", model=ScriptedModel(speaking("front", "expert")), handoffs=[expert])
    expert.handoffs.append(front)
    other = Agent(name="other", model=ScriptedModel(speaking("other", "expert")), handoffs=[expert])
    return [front, other]
