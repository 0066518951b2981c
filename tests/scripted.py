"""Agents on scripted models: deterministic, and told by their input what to do.

The input's last user message is a JSON object (see `Script`); anything else is answered with
itself. A model is stateless: which turn it is in, it reads from the items that it is given.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

from agents import Agent, function_tool
from agents.items import ModelResponse
from agents.models.interface import Model
from agents.usage import Usage
from openai.types.responses import (
    Response,
    ResponseCompletedEvent,
    ResponseContentPartAddedEvent,
    ResponseContentPartDoneEvent,
    ResponseCreatedEvent,
    ResponseFunctionCallArgumentsDeltaEvent,
    ResponseFunctionCallArgumentsDoneEvent,
    ResponseFunctionToolCall,
    ResponseInProgressEvent,
    ResponseOutputItemAddedEvent,
    ResponseOutputItemDoneEvent,
    ResponseOutputMessage,
    ResponseOutputText,
    ResponseTextDeltaEvent,
    ResponseTextDoneEvent,
    ResponseUsage,
)
from openai.types.responses.response_usage import InputTokensDetails, OutputTokensDetails


@dataclass(frozen=True)
class Script:
    """What a run does.

    Attributes:
        turns: the turns before the last: each a list of tool calls `[name, arguments]`, made in
            parallel, and of texts, which are messages.
        deltas: how many deltas the final text has.
        delta: the text of each; `{n}` is its number.
        pause: seconds between deltas.
        fail: the model raises after so many deltas.
        hold: seconds after the last delta.
        show: the final text is what the model was given: its input items, as JSON.
    """

    turns: tuple[tuple[tuple[str, dict[str, Any]] | str, ...], ...] = ()
    deltas: int = 3
    delta: str = "word{n} "
    pause: float = 0.0
    fail: int | None = None
    hold: float = 0.0
    show: bool = False

    @classmethod
    def of(cls, items: str | list[Any]) -> tuple["Script", int]:
        """The script in the last user message, and how many turns were taken since."""
        if isinstance(items, str):
            items = [{"role": "user", "content": items}]
        last = max(i for i, item in enumerate(items) if item.get("role") == "user")
        content = items[last]["content"]
        text = content if isinstance(content, str) else content[0]["text"]
        answered = sum(1 for item in items[last + 1 :] if item.get("type") == "function_call")
        try:
            given = json.loads(text)
        except ValueError:
            given = {"deltas": 1, "delta": text}
        if not isinstance(given, dict):
            given = {"deltas": 1, "delta": text}
        script = cls(**{k: v for k, v in given.items() if k in cls.__dataclass_fields__})
        turn = 0
        for items in script.turns:
            calls = sum(not isinstance(item, str) for item in items)
            if answered < calls:
                break
            answered -= calls
            turn += 1
        return script, turn

    def text(self) -> str:
        return "".join(self.delta.replace("{n}", str(n)) for n in range(self.deltas))


def usage() -> ResponseUsage:
    return ResponseUsage(
        input_tokens=10,
        input_tokens_details=InputTokensDetails(cached_tokens=1, cache_write_tokens=0),
        output_tokens=5,
        output_tokens_details=OutputTokensDetails(reasoning_tokens=2),
        total_tokens=15,
    )


class ScriptedModel(Model):
    """Streams what the script says, with the placeholders that real adapters leave behind."""

    async def get_response(
        self, system_instructions: Any, input: Any, *args: Any, **kw: Any
    ) -> ModelResponse:
        response = None
        async for event in self.stream_response(system_instructions, input, *args, **kw):
            if isinstance(event, ResponseCompletedEvent):
                response = event.response
        assert response is not None
        return ModelResponse(output=response.output, usage=Usage(requests=1), response_id="r")

    async def stream_response(
        self, system_instructions: Any, input: Any, *args: Any, **kw: Any
    ) -> AsyncIterator[Any]:
        script, turn = Script.of(input)
        if script.show:
            script = replace(script, deltas=1, delta=json.dumps(input))
        note_effect("model", str(turn))
        numbers = iter(range(10_000_000))
        yield ResponseCreatedEvent(
            type="response.created", sequence_number=next(numbers), response=_response([])
        )
        yield ResponseInProgressEvent(
            type="response.in_progress", sequence_number=next(numbers), response=_response([])
        )
        output: list[Any] = []
        if turn < len(script.turns):
            for place, item in enumerate(script.turns[turn]):
                if isinstance(item, str):
                    said = Script(deltas=1, delta=item)
                    async for event in self._text_events(said, numbers, output, place):
                        yield event
                    continue
                name, arguments = item
                call = ResponseFunctionToolCall(
                    id="__fake_id__",
                    call_id=f"call_{turn}_{place}",
                    name=name,
                    arguments=json.dumps(arguments),
                    type="function_call",
                )
                output.append(call)
                for event in _call_events(call, place, numbers):
                    yield event
        else:
            async for event in self._text_events(script, numbers, output):
                yield event
        yield ResponseCompletedEvent(
            type="response.completed", sequence_number=next(numbers), response=_response(output)
        )

    async def _text_events(
        self, script: Script, numbers: Any, output: list[Any], place: int = 0
    ) -> AsyncIterator[Any]:
        empty = ResponseOutputMessage(
            id="__fake_id__", content=[], role="assistant", status="in_progress", type="message"
        )
        yield ResponseOutputItemAddedEvent(
            type="response.output_item.added",
            item=empty,
            output_index=place,
            sequence_number=next(numbers),
        )
        part = ResponseOutputText(annotations=[], text="", type="output_text", logprobs=[])
        where: dict[str, Any] = {
            "item_id": "__fake_id__",
            "output_index": place,
            "content_index": 0,
        }
        yield ResponseContentPartAddedEvent(
            type="response.content_part.added", part=part, sequence_number=next(numbers), **where
        )
        for n in range(script.deltas):
            if script.fail is not None and n >= script.fail:
                raise RuntimeError("secret internal text of the model's failure")
            yield ResponseTextDeltaEvent(
                type="response.output_text.delta",
                delta=script.delta.replace("{n}", str(n)),
                logprobs=[],
                sequence_number=next(numbers),
                **where,
            )
            if script.pause:
                await asyncio.sleep(script.pause)
            elif n % 100 == 99:
                await asyncio.sleep(0)
        await asyncio.sleep(script.hold)
        text = script.text()
        yield ResponseTextDoneEvent(
            type="response.output_text.done",
            text=text,
            logprobs=[],
            sequence_number=next(numbers),
            **where,
        )
        part = ResponseOutputText(annotations=[], text=text, type="output_text", logprobs=[])
        yield ResponseContentPartDoneEvent(
            type="response.content_part.done", part=part, sequence_number=next(numbers), **where
        )
        message = ResponseOutputMessage(
            id="__fake_id__", content=[part], role="assistant", status="completed", type="message"
        )
        output.append(message)
        yield ResponseOutputItemDoneEvent(
            type="response.output_item.done",
            item=message,
            output_index=place,
            sequence_number=next(numbers),
        )


def _call_events(call: ResponseFunctionToolCall, place: int, numbers: Any) -> list[Any]:
    where: dict[str, Any] = {"item_id": "__fake_id__", "output_index": place}
    return [
        ResponseOutputItemAddedEvent(
            type="response.output_item.added",
            output_index=place,
            sequence_number=next(numbers),
            item=call.model_copy(update={"arguments": ""}),
        ),
        ResponseFunctionCallArgumentsDeltaEvent(
            type="response.function_call_arguments.delta",
            delta=call.arguments,
            sequence_number=next(numbers),
            **where,
        ),
        ResponseFunctionCallArgumentsDoneEvent(
            type="response.function_call_arguments.done",
            arguments=call.arguments,
            name=call.name,
            sequence_number=next(numbers),
            **where,
        ),
        ResponseOutputItemDoneEvent(
            type="response.output_item.done",
            item=call,
            output_index=place,
            sequence_number=next(numbers),
        ),
    ]


def _response(output: list[Any]) -> Response:
    return Response(
        id="__fake_id__",
        created_at=0,
        model="scripted",
        object="response",
        output=output,
        parallel_tool_calls=True,
        tool_choice="auto",
        tools=[],
        usage=usage() if output else None,
    )


def note_effect(kind: str, what: str) -> None:
    """Count an effect in the file that EFFECTS names: a line, appended at once, by any process."""
    path = os.environ.get("EFFECTS")
    if path:
        with open(path, "a") as file:
            file.write(f"{kind} {what}\n")


@function_tool
async def echo(text: str, pause: float = 0.0) -> str:
    """Give back a text, after a pause."""
    note_effect("tool", text)
    await asyncio.sleep(pause)
    return f"echo: {text}"


@function_tool
async def big(size: int) -> str:
    """Give a text of so many characters."""
    return "x" * size


@function_tool
async def odd(kind: str) -> str:
    """Give a text that JSON encoders or databases stumble over."""
    return {
        "nul": "a\x00b",
        "surrogate": "a\ud800b",
        "emoji": "a\U0001f600b",
        "lines": "a\nb\r\n\u2028c",
    }[kind]


@function_tool(failure_error_function=None)
async def broken() -> str:
    """Raise."""
    raise RuntimeError("secret internal text of the tool's failure")


def agents() -> list[Agent[Any]]:
    """`scripted` has all tools; `chain` hands off to `scripted` at once."""
    tools: list[Any] = [echo, big, odd, broken]
    scripted = Agent(name="scripted", model=ScriptedModel(), tools=tools)
    chain = Agent(name="chain", model=ScriptedModel(), handoffs=[scripted], tools=tools)
    return [scripted, chain]
