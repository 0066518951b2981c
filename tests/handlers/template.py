"""A server made from a template: one function for plain answers, one for streams."""

from collections.abc import AsyncGenerator
from typing import Any

from agents import Agent, Runner

import longrun
from tests.handlers.models import model

agent: Agent[Any] = Agent(name="Assistant", instructions="Be kind.", model=model)


@longrun.agent(name="assistant")
async def stream_handler(
    request: longrun.HandlerRequest,
) -> AsyncGenerator[Any, None]:
    result = Runner.run_streamed(agent, input=request.input)
    async for event in result.stream_events():
        if event.type == "raw_response_event":
            yield event.data
