"""Agents for the benchmarks: a text at a given pace, from a model that costs next to nothing.

It makes an event for each delta, as every model has to, and reads no network and no JSON.

The input's last user message is a `Pace` as JSON; the bare application of `bare.py` takes the
same, so that both sides emit at the very same moments.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from agents import Agent
from agents.items import ModelResponse
from agents.models.interface import Model
from openai.types.responses import (
    Response,
    ResponseCompletedEvent,
    ResponseContentPartAddedEvent,
    ResponseContentPartDoneEvent,
    ResponseCreatedEvent,
    ResponseOutputItemAddedEvent,
    ResponseOutputItemDoneEvent,
    ResponseOutputMessage,
    ResponseOutputText,
    ResponseTextDeltaEvent,
    ResponseTextDoneEvent,
)

from tests.bench import gate

AGENTS = "tests.bench.agents:agents"
NAME = "paced"
YIELD_EVERY = 100
"""A model at full speed lets others run after so many deltas; a real one waits for its network."""


@dataclass(frozen=True)
class Pace:
    """When a stream emits what.

    Attributes:
        deltas: how many.
        gate: the file to wait for (`gate.py`); empty to begin at once.
        rate: deltas a second; 0 for full speed.
        phase: seconds by which this stream is behind the others, so that they do not all emit
            at the same moment.
        clock: each delta is the `time.monotonic_ns()` of its emission.
    """

    deltas: int
    gate: str = ""
    rate: float = 0.0
    phase: float = 0.0
    clock: bool = False

    @classmethod
    def parse(cls, text: str) -> Self:
        return cls(**json.loads(text))

    def as_text(self) -> str:
        return json.dumps(asdict(self))

    async def ticks(self) -> AsyncIterator[int]:
        """The number of each delta, at the moment when it is to be emitted."""
        start = await gate.opened(Path(self.gate)) if self.gate else time.monotonic()
        begin = start + self.phase
        await asyncio.sleep(max(0.0, begin - time.monotonic()))
        for number in range(self.deltas):
            if self.rate:
                wait = begin + number / self.rate - time.monotonic()
                if wait > 0:
                    await asyncio.sleep(wait)
            elif number % YIELD_EVERY == YIELD_EVERY - 1:
                await asyncio.sleep(0)
            yield number


class PacedModel(Model):
    """Streams one message at the pace that its input says."""

    async def get_response(self, *args: Any, **kwargs: Any) -> ModelResponse:
        raise NotImplementedError("benchmarks stream")

    async def stream_response(
        self, system_instructions: str | None, input: Any, *args: Any, **kwargs: Any
    ) -> AsyncIterator[Any]:
        pace = Pace.parse(_last_text(input))
        yield ResponseCreatedEvent(
            type="response.created", sequence_number=0, response=_response([])
        )
        for event in _opening():
            yield event
        text: list[str] = []
        async for _ in pace.ticks():
            words = f"{time.monotonic_ns()} " if pace.clock else "some words "
            text.append(words)
            yield _delta(words)
        message, closing = _closing("".join(text))
        for event in closing:
            yield event
        yield ResponseCompletedEvent(
            type="response.completed", sequence_number=0, response=_response([message])
        )


_WHERE: dict[str, Any] = {
    "item_id": "msg_1",
    "output_index": 0,
    "content_index": 0,
    "sequence_number": 0,
}


def _last_text(items: Any) -> str:
    if isinstance(items, str):
        return items
    content = items[-1]["content"]
    return str(content if isinstance(content, str) else content[0]["text"])


def _delta(text: str) -> ResponseTextDeltaEvent:
    return ResponseTextDeltaEvent(
        type="response.output_text.delta", delta=text, logprobs=[], **_WHERE
    )


def _part(text: str) -> ResponseOutputText:
    return ResponseOutputText(annotations=[], text=text, type="output_text", logprobs=[])


def _message(status: Any, *parts: ResponseOutputText) -> ResponseOutputMessage:
    return ResponseOutputMessage(
        id="msg_1", content=list(parts), role="assistant", status=status, type="message"
    )


def _opening() -> list[Any]:
    return [
        ResponseOutputItemAddedEvent(
            type="response.output_item.added",
            item=_message("in_progress"),
            output_index=0,
            sequence_number=0,
        ),
        ResponseContentPartAddedEvent(type="response.content_part.added", part=_part(""), **_WHERE),
    ]


def _closing(text: str) -> tuple[ResponseOutputMessage, list[Any]]:
    part = _part(text)
    message = _message("completed", part)
    return message, [
        ResponseTextDoneEvent(type="response.output_text.done", text=text, logprobs=[], **_WHERE),
        ResponseContentPartDoneEvent(type="response.content_part.done", part=part, **_WHERE),
        ResponseOutputItemDoneEvent(
            type="response.output_item.done", item=message, output_index=0, sequence_number=0
        ),
    ]


def _response(output: list[Any]) -> Response:
    return Response(
        id="resp_1",
        created_at=0,
        model="paced",
        object="response",
        output=output,
        parallel_tool_calls=True,
        tool_choice="auto",
        tools=[],
    )


def agents() -> list[Agent[Any]]:
    """One agent, `paced`."""
    return [Agent(name=NAME, model=PacedModel())]
