"""A handler that tells of a call that it has made by itself as an `mcp_call`; and then goes on with
models of the Agents SDK, as do agents of it."""

import os
from collections.abc import AsyncIterator
from typing import Any

from agents import Agent, OpenAIChatCompletionsModel, OpenAIResponsesModel, Runner
from openai import AsyncOpenAI

import longrun

client = AsyncOpenAI(base_url=os.environ["PROVIDER_URL"], api_key="sk-provider", max_retries=0)

by_api: dict[str, Agent[Any]] = {
    "responses": Agent("sdk-responses", model=OpenAIResponsesModel("any", client)),
    "chat": Agent("sdk-chat", model=OpenAIChatCompletionsModel("any", client)),
}


@longrun.agent(name="caller")
async def caller(request: longrun.HandlerRequest) -> AsyncIterator[Any]:
    api = longrun.current().metadata.get("api")
    if api is None:
        yield {
            "type": "mcp_call",
            "name": "look",
            "arguments": '{"word": "owls"}',
            "output": "found owls",
        }
        yield "Looked."
        return
    result = Runner.run_streamed(by_api[api], input=request.input)  # type: ignore[arg-type]
    async for event in result.stream_events():
        if event.type == "raw_response_event":
            yield event.data
