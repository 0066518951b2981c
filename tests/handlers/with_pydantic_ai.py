"""An agent of pydantic-ai, whose tool is a step."""

import os
from collections.abc import AsyncIterator
from typing import Any

from openai import AsyncOpenAI
from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, TextPart, UserPromptPart
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

import longrun
from tests.scripted import note_effect

client = AsyncOpenAI(base_url=os.environ["PROVIDER_URL"], api_key="sk-provider", max_retries=0)
model = OpenAIChatModel("any", provider=OpenAIProvider(openai_client=client))
agent = Agent(model)


@agent.tool_plain
async def look(word: str) -> str:
    """Look a word up."""
    return str(await longrun.step("look", looked_up, word))


def looked_up(word: str) -> str:
    note_effect("tool", f"look {word}")
    return f"found {word}"


def history_of(items: list[dict[str, Any]]) -> list[ModelMessage]:
    """What was said before, as pydantic-ai has it."""
    history: list[ModelMessage] = []
    for item in items:
        text = item.get("content")
        if isinstance(text, list):
            text = "".join(part.get("text", "") for part in text)
        if item.get("role") == "user":
            history.append(ModelRequest([UserPromptPart(text or "")]))
        elif item.get("role") == "assistant":
            history.append(ModelResponse([TextPart(text or "")]))
    return history


@longrun.agent(name="pydantic-ai")
async def answer(request: longrun.HandlerRequest) -> AsyncIterator[Any]:
    history = history_of(request.input[:-1])
    async with agent.run_stream(request.text, message_history=history) as result:
        async for text in result.stream_text(delta=True):
            yield text
