"""A scripted model: a full Responses event sequence for each turn, with no model behind it.

It keeps no state. Which turn it is in, it reads from its input, so a run that another replica takes
over continues with the same words and the same calls.
"""

import asyncio
import hashlib
import itertools
import json
import re
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast, get_args

from agents import Model, ModelResponse, ModelSettings, ModelTracing, Tool, Usage
from agents.agent_output import AgentOutputSchemaBase
from agents.handoffs import Handoff
from agents.items import TResponseInputItem, TResponseStreamEvent
from openai.types import responses as api
from openai.types.responses.response_prompt_param import ResponsePromptParam
from openai.types.responses.response_usage import InputTokensDetails, OutputTokensDetails
from pydantic import BaseModel

TOKENS_PER_SECOND = 25.0

Event = TypeVar("Event", bound=BaseModel)
Events = AsyncIterator[TResponseStreamEvent]


@dataclass(frozen=True, slots=True)
class Say:
    """A message of the script, and how many seconds its text takes to stream."""

    text: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Call:
    """A function call of the script. The calls of one turn run in parallel."""

    tool: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Seen:
    """What a script decides by: the last user message, and the tool results since then."""

    question: str
    results: dict[str, str]
    """Output by name of the tool."""
    key: str
    """Derived from all user messages: a question asked twice in a conversation has two keys."""
    words: int
    """Of the whole input, for the usage."""
    earlier: tuple[str, ...] = ()
    """The user messages before the last."""


Script = Callable[[Seen], list[Say | Call]]


def tokens(text: str) -> list[str]:
    """Pieces as a tokenizer would make them: short words whole, long ones in parts."""
    return re.findall(r"\s*\S{1,10}", text)


def read(given: str | list[TResponseInputItem]) -> Seen:
    """Read from a model's input what the user asked last and which tools have answered."""
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    questions: list[str] = []
    names: dict[str, str] = {}
    results: dict[str, str] = {}
    words = 0
    for item in cast("list[dict[str, Any]]", items):
        text = _text(item.get("output" if "output" in item else "content"))
        words += len(text.split())
        if item.get("role") == "user":
            questions.append(text)
            results = {}
        elif item.get("type") == "function_call":
            names[item["call_id"]] = item["name"]
        elif item.get("type") == "function_call_output":
            results[names.get(item["call_id"], "")] = text
    last = questions[-1] if questions else ""
    return Seen(last, results, _digest(*questions), words, tuple(questions[:-1]))


def _text(content: Any) -> str:
    if isinstance(content, list):
        return " ".join(part.get("text", "") for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


class ScriptedModel(Model):
    """Plays a script, a turn at a time.

    Args:
        name: the model's name in its responses.
        script: what to say or call next, given what was seen so far.
        pauses: stream at a human pace; without, as fast as it is taken.
    """

    def __init__(self, name: str, script: Script, *, pauses: bool) -> None:
        self._name = name
        self._script = script
        self._pauses = pauses

    async def stream_response(
        self,
        system_instructions: str | None,
        input: str | list[TResponseInputItem],  # noqa: A002
        model_settings: ModelSettings,
        tools: list[Tool],
        output_schema: AgentOutputSchemaBase | None,
        handoffs: list[Handoff],
        tracing: ModelTracing,
        *,
        previous_response_id: str | None = None,
        conversation_id: str | None = None,
        prompt: ResponsePromptParam | None = None,
    ) -> Events:
        seen = read(input)
        turn = _Turn(self._name, seen, pauses=self._pauses)
        async for event in turn.events(self._script(seen)):
            yield event

    async def get_response(self, *args: Any, **kwargs: Any) -> ModelResponse:
        """One turn as one answer, which takes as long as its stream would."""
        async for event in self.stream_response(*args, **kwargs):
            last = event
        response = cast("api.ResponseCompletedEvent", last).response
        spent = cast("api.ResponseUsage", response.usage)
        usage = Usage(
            requests=1,
            input_tokens=spent.input_tokens,
            output_tokens=spent.output_tokens,
            total_tokens=spent.total_tokens,
        )
        return ModelResponse(output=response.output, usage=usage, response_id=response.id)


class _Turn:
    """The events of one turn, from `response.created` to `response.completed`."""

    def __init__(self, model: str, seen: Seen, *, pauses: bool) -> None:
        self._model = model
        self._seen = seen
        self._pauses = pauses
        self._id = f"{seen.key}{len(seen.results):02x}"
        self._numbers = itertools.count()
        self._created = int(time.time())
        self._output: list[api.ResponseOutputItem] = []
        self._spent = 0

    async def events(self, steps: list[Say | Call]) -> Events:
        yield self._event(api.ResponseCreatedEvent, response=self._response("in_progress"))
        yield self._event(api.ResponseInProgressEvent, response=self._response("in_progress"))
        for step in steps:
            emitted = self._message(step) if isinstance(step, Say) else self._call(step)
            async for event in emitted:
                yield event
        yield self._event(api.ResponseCompletedEvent, response=self._response("completed"))

    async def _message(self, say: Say) -> Events:
        index = len(self._output)
        item_id = f"msg_{self._id}{index:02x}"
        at = {"item_id": item_id, "output_index": index, "content_index": 0}
        item = api.ResponseOutputMessage(
            id=item_id, type="message", role="assistant", status="in_progress", content=[]
        )
        part = api.ResponseOutputText(type="output_text", text=say.text, annotations=[])
        empty = part.model_copy(update={"text": ""})
        yield self._event(api.ResponseOutputItemAddedEvent, item=item, output_index=index)
        yield self._event(api.ResponseContentPartAddedEvent, **at, part=empty)
        async for piece in self._paced(tokens(say.text), say.seconds):
            yield self._event(api.ResponseTextDeltaEvent, **at, delta=piece, logprobs=[])
        yield self._event(api.ResponseTextDoneEvent, **at, text=say.text, logprobs=[])
        yield self._event(api.ResponseContentPartDoneEvent, **at, part=part)
        yield self._done(item.model_copy(update={"content": [part], "status": "completed"}))

    async def _call(self, call: Call) -> Events:
        index = len(self._output)
        item_id = f"fc_{self._id}{index:02x}"
        at = {"item_id": item_id, "output_index": index}
        arguments = json.dumps(call.arguments, ensure_ascii=False)
        item = api.ResponseFunctionToolCall(
            id=item_id,
            type="function_call",
            # Never the same id twice in a conversation: the SDK would not run the second one.
            call_id=f"call_{self._id}{index:02x}",
            name=call.tool,
            arguments="",
            status="in_progress",
        )
        yield self._event(api.ResponseOutputItemAddedEvent, item=item, output_index=index)
        pieces = tokens(arguments)
        async for piece in self._paced(pieces, len(pieces) / TOKENS_PER_SECOND):
            yield self._event(api.ResponseFunctionCallArgumentsDeltaEvent, **at, delta=piece)
        yield self._event(api.ResponseFunctionCallArgumentsDoneEvent, **at, arguments=arguments)
        yield self._done(item.model_copy(update={"arguments": arguments, "status": "completed"}))

    async def _paced(self, pieces: list[str], seconds: float) -> AsyncIterator[str]:
        """Spread pieces evenly over the time, by the clock, so that lateness does not add up."""
        now = asyncio.get_running_loop().time
        start = now()
        for count, piece in enumerate(pieces, 1):
            self._spent += 1
            yield piece
            if self._pauses:
                due = start + seconds * count / len(pieces)
                await asyncio.sleep(max(0.0, due - now()))
            elif count % 16 == 0:
                # Full speed, but other tasks get their turn, as beside a model on a network.
                await asyncio.sleep(0)

    def _done(self, item: api.ResponseOutputItem) -> api.ResponseOutputItemDoneEvent:
        self._output.append(item)
        index = len(self._output) - 1
        return self._event(api.ResponseOutputItemDoneEvent, item=item, output_index=index)

    def _event(self, kind: type[Event], **fields: Any) -> Event:
        (name,) = get_args(kind.model_fields["type"].annotation)
        return kind(type=name, sequence_number=next(self._numbers), **fields)

    def _response(self, status: Literal["in_progress", "completed"]) -> api.Response:
        return api.Response(
            id=f"resp_{self._id}",
            object="response",
            created_at=self._created,
            status=status,
            model=self._model,
            output=list(self._output),
            parallel_tool_calls=True,
            tool_choice="auto",
            tools=[],
            usage=self._usage() if status == "completed" else None,
        )

    def _usage(self) -> api.ResponseUsage:
        return api.ResponseUsage(
            input_tokens=self._seen.words,
            input_tokens_details=InputTokensDetails(cached_tokens=0, cache_write_tokens=0),
            output_tokens=self._spent,
            output_tokens_details=OutputTokensDetails(reasoning_tokens=0),
            total_tokens=self._seen.words + self._spent,
        )
