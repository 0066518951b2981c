"""The one model of all tests: it plays a script, streamed or not, and has no network behind it.

A script is an async generator: given what the model is asked, it yields the events of one turn, as
openai's objects or as dicts as a provider sends them. What it waits for (a pause, a gate, an effect
that is written down) or raises happens between two events. The functions below make the events of
messages and calls, with the placeholders for ids that real adapters leave behind.
"""

import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from agents.items import ModelResponse
from agents.models.interface import Model
from agents.usage import Usage
from openai.types import responses as api
from openai.types.responses.response_usage import InputTokensDetails, OutputTokensDetails

from tests.unit.streams import FAKE, raw


@dataclass(frozen=True, slots=True)
class Asked:
    """What a model is asked.

    Attributes:
        items: the input.
        streamed: whether the events are read one by one, and not only the last one's response.
    """

    items: str | list[Any]
    streamed: bool = True


Play = Callable[[Asked], AsyncIterator[Any]]


class ScriptedModel(Model):
    """Plays a script."""

    def __init__(self, play: Play) -> None:
        self.play = play

    async def get_response(
        self, system_instructions: Any, input: Any, *args: Any, **kw: Any
    ) -> ModelResponse:
        last = None
        async for event in self.play(Asked(input, streamed=False)):
            last = event
        response = (raw(last) if isinstance(last, dict) else last).response
        spent = response.usage
        usage = Usage(requests=1)
        if spent is not None:
            usage.input_tokens, usage.output_tokens = spent.input_tokens, spent.output_tokens
            usage.total_tokens = spent.total_tokens
            usage.input_tokens_details = spent.input_tokens_details
            usage.output_tokens_details = spent.output_tokens_details
        return ModelResponse(output=response.output, usage=usage, response_id=response.id)

    def stream_response(
        self, system_instructions: Any, input: Any, *args: Any, **kw: Any
    ) -> AsyncIterator[Any]:
        # The script itself: a generator around it would cost the benchmarks something.
        return self.play(Asked(input))


def last_text(items: str | list[Any]) -> str:
    """What the user said last."""
    if isinstance(items, str):
        return items
    content = [item["content"] for item in items if item.get("role") == "user"][-1]
    if isinstance(content, str):
        return content
    return next((part["text"] for part in content if isinstance(part.get("text"), str)), "")


# -- a turn's events ----------------------------------------------------------------------


def usage() -> api.ResponseUsage:
    return api.ResponseUsage(
        input_tokens=10,
        input_tokens_details=InputTokensDetails(cached_tokens=1, cache_write_tokens=0),
        output_tokens=5,
        output_tokens_details=OutputTokensDetails(reasoning_tokens=2),
        total_tokens=15,
    )


def begun() -> list[Any]:
    """The first two events of a turn."""
    response = _response([], None)
    return [
        api.ResponseCreatedEvent(type="response.created", sequence_number=0, response=response),
        api.ResponseInProgressEvent(
            type="response.in_progress", sequence_number=0, response=response
        ),
    ]


def completed(
    output: Sequence[Any], spent: api.ResponseUsage | None = None
) -> api.ResponseCompletedEvent:
    """The last event of a turn, with its items."""
    return api.ResponseCompletedEvent(
        type="response.completed", sequence_number=0, response=_response(list(output), spent)
    )


def opened(place: int = 0) -> list[Any]:
    """A message begins."""
    part = api.ResponseOutputText(annotations=[], text="", type="output_text", logprobs=[])
    return [
        api.ResponseOutputItemAddedEvent(
            type="response.output_item.added",
            item=_message("in_progress"),
            output_index=place,
            sequence_number=0,
        ),
        api.ResponseContentPartAddedEvent(
            type="response.content_part.added", part=part, **_where(place)
        ),
    ]


def delta(text: str, place: int = 0) -> api.ResponseTextDeltaEvent:
    """More of a message's text."""
    return api.ResponseTextDeltaEvent(
        type="response.output_text.delta", delta=text, logprobs=[], **_where(place)
    )


def closed(text: str, place: int = 0) -> list[Any]:
    """A message ends; the last of these events has it whole."""
    part = api.ResponseOutputText(annotations=[], text=text, type="output_text", logprobs=[])
    where = _where(place)
    return [
        api.ResponseTextDoneEvent(
            type="response.output_text.done", text=text, logprobs=[], **where
        ),
        api.ResponseContentPartDoneEvent(type="response.content_part.done", part=part, **where),
        api.ResponseOutputItemDoneEvent(
            type="response.output_item.done",
            item=_message("completed", part),
            output_index=place,
            sequence_number=0,
        ),
    ]


def called(name: str, arguments: Any, call_id: str, place: int = 0) -> Iterator[Any]:
    """A function call; the last of these events has it whole."""
    call = api.ResponseFunctionToolCall(
        id=FAKE,
        call_id=call_id,
        name=name,
        arguments=json.dumps(arguments),
        type="function_call",
    )
    at: dict[str, Any] = {"output_index": place, "sequence_number": 0}
    kind = "response.function_call_arguments"
    yield api.ResponseOutputItemAddedEvent(
        type="response.output_item.added", item=call.model_copy(update={"arguments": ""}), **at
    )
    yield api.ResponseFunctionCallArgumentsDeltaEvent(
        type=f"{kind}.delta", delta=call.arguments, item_id=FAKE, **at
    )
    yield api.ResponseFunctionCallArgumentsDoneEvent(
        type=f"{kind}.done", arguments=call.arguments, name=name, item_id=FAKE, **at
    )
    yield api.ResponseOutputItemDoneEvent(type="response.output_item.done", item=call, **at)


def _message(status: Any, *parts: api.ResponseOutputText) -> api.ResponseOutputMessage:
    return api.ResponseOutputMessage(
        id=FAKE, content=list(parts), role="assistant", status=status, type="message"
    )


@cache
def _where(place: int) -> dict[str, Any]:
    return {"item_id": FAKE, "output_index": place, "content_index": 0, "sequence_number": 0}


def _response(output: list[Any], spent: api.ResponseUsage | None) -> api.Response:
    return api.Response(
        id=FAKE,
        created_at=0,
        model="scripted",
        object="response",
        output=output,
        parallel_tool_calls=True,
        tool_choice="auto",
        tools=[],
        usage=spent,
    )
