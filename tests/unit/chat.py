"""Streams of Chat Completions, through the adapter of the Agents SDK."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

from agents.models.chatcmpl_stream_handler import ChatCmplStreamHandler
from openai.types.chat import ChatCompletionChunk
from openai.types.responses import Response

from tests.unit.streams import FAKE, JSONObject

USAGE: JSONObject = {
    "prompt_tokens": 10,
    "completion_tokens": 5,
    "total_tokens": 15,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 3},
}


def chunk(delta: JSONObject | None = None, **choice: Any) -> JSONObject:
    """One chunk of choice 0."""
    return {"choices": [{"index": 0, "delta": delta or {}, "finish_reason": None, **choice}]}


def tool(
    index: int, *, id: str | None = None, name: str | None = None, arguments: str | None = None
) -> JSONObject:
    """A piece of a tool call."""
    function = {"name": name, "arguments": arguments}
    return {"tool_calls": [{"index": index, "id": id, "type": "function", "function": function}]}


def last(reason: str = "stop", **more: Any) -> list[JSONObject]:
    return [chunk({}, finish_reason=reason), {"choices": [], "usage": USAGE, **more}]


async def events_of(chunks: Sequence[JSONObject]) -> list[Any]:
    """What the SDK's adapter makes of a provider's chunks: raw events of the Responses API."""

    async def stream() -> AsyncIterator[ChatCompletionChunk]:
        for each in chunks:
            whole = {
                "id": "chatcmpl-1",
                "created": 0,
                "model": "m",
                "object": "chat.completion.chunk",
                "usage": None,
                **each,
            }
            yield ChatCompletionChunk.model_validate(whole)

    response = Response(
        id=FAKE,
        created_at=0,
        model="m",
        object="response",
        output=[],
        parallel_tool_calls=True,
        tool_choice="auto",
        tools=[],
    )
    given: Any = stream()
    handled = ChatCmplStreamHandler.handle_stream(response, given)
    return [event.model_copy(deep=True) async for event in handled]
