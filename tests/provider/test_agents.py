"""The agents of `agents.py` with the Agents SDK alone: what they are sent is never refused.

What fails in longrun with one of these is longrun's."""

from typing import Any

import pytest
from agents import Agent, ModelBehaviorError, RunConfig, Runner
from openai import AsyncOpenAI, BadRequestError
from pydantic import ValidationError

from tests.provider import agents as served
from tests.provider.agents import LOOK, script, turns_of
from tests.provider.server import Provider

NAMES = [
    *(
        f"{family}-{kind}"
        for family in served.FAMILIES
        for kind in ("plain", "tools", "handoff", "nested", "structured", "reasoning")
    ),
    *("responses-encrypted", "responses-hosted", "responses-local"),
    *(f"litellm-ids-{kind}" for kind in ("signed", "long", "nul", "spaces")),
]


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("name", NAMES)
async def test_two_turns(
    openai_client: AsyncOpenAI, provider: Provider, name: str, stream: bool
) -> None:
    by_name: dict[str, Agent[Any]] = {a.name: a for a in served.agents(openai_client)}
    config = RunConfig(tracing_disabled=True)
    history: list[Any] = []
    for _ in range(2):
        history.append({"role": "user", "content": script(*turns_of(name))})
        if stream:
            result: Any = Runner.run_streamed(by_name[name], history, run_config=config)
            async for _event in result.stream_events():
                pass
        else:
            result = await Runner.run(by_name[name], history, run_config=config)
        history = result.to_input_list()
    assert provider.refused == []
    assert result.final_output is not None


@pytest.mark.parametrize("kind", ["counted", "same", "name", "empty", "none"])
async def test_call_ids_that_the_sdk_alone_cannot_do(openai_client: AsyncOpenAI, kind: str) -> None:
    """Why longrun has to make them unique before the SDK sees them."""
    agent = next(a for a in served.agents(openai_client) if a.name == f"litellm-ids-{kind}")
    other = {**LOOK, "arguments": {"word": "dog"}}
    with pytest.raises((ModelBehaviorError, BadRequestError, ValidationError)):
        await Runner.run(agent, script([LOOK], [other]), run_config=RunConfig())


def test_all_agents_have_names_of_their_own(openai_client: AsyncOpenAI) -> None:
    names = [agent.name for agent in served.agents(openai_client)]
    assert len(names) == len(set(names))
    assert set(NAMES) <= set(names)
