"""A server made from a template: one function for plain answers, one for streams."""

from collections.abc import AsyncGenerator
from typing import Any

from agents import Agent, Runner
from mlflow.genai.agent_server import invoke, stream
from mlflow.types.responses import (
    ResponsesAgentRequest,
    ResponsesAgentResponse,
    ResponsesAgentStreamEvent,
)

from tests.handlers.models import model

agent: Agent[Any] = Agent(name="Assistant", instructions="Be kind.", model=model)


@invoke()
async def invoke_handler(request: ResponsesAgentRequest) -> ResponsesAgentResponse:
    result = await Runner.run(agent, input=[item.model_dump() for item in request.input])
    return ResponsesAgentResponse(output=[item.to_input_item() for item in result.new_items])


@stream()
async def stream_handler(
    request: ResponsesAgentRequest,
) -> AsyncGenerator[ResponsesAgentStreamEvent, None]:
    result = Runner.run_streamed(agent, input=[item.model_dump() for item in request.input])
    async for event in result.stream_events():
        if event.type == "raw_response_event":
            yield ResponsesAgentStreamEvent(**event.data.model_dump())
