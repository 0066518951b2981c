"""The agents of the provider of the tests, and more: one with a name that OpenAI's SDKs take for a
model of its, some that are made for each run, one of them slowly and one never, one that is a
handler, and those that read a lot."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from agents import Agent, ModelSettings, function_tool

import longrun
from longrun import Served
from tests.provider.agents import agents as of_provider
from tests.provider.agents import look

AGENTS = "tests.compacting.agents:agents"

SUMMARY = "The user likes blue, and the order is number 4711."


@function_tool
async def read(size: int) -> str:
    """Read a lot."""
    return "x" * size


def reading(family: str, model: Any) -> Agent[Any]:
    """An agent whose provider does not tell how many tokens its turns take."""
    settings = ModelSettings(include_usage=False)
    return Agent(name=f"{family}-reading", model=model, tools=[read, look], model_settings=settings)


def agents() -> list[Any]:
    found = {each.name: each for each in of_provider()}
    plain = found["chat-plain"]

    def made() -> Any:
        return plain

    async def slow() -> Any:
        await asyncio.sleep(0.7)
        return plain

    async def failing() -> Any:
        await asyncio.sleep(0.7)
        raise RuntimeError("it is not made")

    @longrun.agent(name="handling")
    async def handling(request: Any) -> AsyncIterator[str]:
        yield "handled"

    return [
        *found.values(),
        Served(found["responses-tools"], "gpt-test"),
        Served(made, "made"),
        Served(slow, "slow"),
        Served(failing, "failing"),
        handling,
        *(reading(each, found[f"{each}-plain"].model) for each in ("chat", "litellm")),
    ]
