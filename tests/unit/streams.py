"""Raw event streams of model turns, as providers send them and openai's client hands them on."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from openai._models import construct_type_unchecked
from openai.types.responses import ResponseStreamEvent

from longrun.assembly.assembler import Assembler
from longrun.http.requests import CreateResponse
from longrun.pending import lines
from longrun.protocol import RunRequest, Status
from tests.unit import oracle

JSONObject = dict[str, Any]

FAKE = "__fake_id__"


def raw(event: JSONObject) -> Any:
    """An event as openai's client makes it of a provider's JSON: nothing of it is checked."""
    return construct_type_unchecked(
        value={"sequence_number": 0, **event}, type_=ResponseStreamEvent
    )


def request(**body: Any) -> RunRequest:
    """A request for a run, with the document that the server makes of it."""
    parsed = CreateResponse.parse({"model": "agent", "input": "hi", **body})
    return parsed.run_request("", "agent", None)


class Assembly:
    """An assembler under watch: what it queues is taken after every call, as the run does it.

    Args:
        client_tools: as the assembler's; None: calls and outputs are shown as pairs.
    """

    def __init__(self, *, client_tools: Collection[str] | None = None, **body: Any) -> None:
        self.request = request(**body)
        self.lines: list[bytes] = []
        self.items: list[tuple[int, str]] = []
        self.models: dict[int, str] = {}
        self.assembler = Assembler(
            self.request.response_id, self.request.document, client_tools=client_tools
        )
        self.assembler.next_agent("agent")
        self.assembler.lifecycle("in_progress")
        self.take()

    def take(self) -> None:
        emission = self.assembler.collect()
        told = lines(emission.events, len(self.lines))
        dones = sum(b'"type":"response.output_item.done"' in line[:40] for line in told)
        assert len(emission.items) <= dones, "an item without its `done` in the same commit"
        self.lines += told
        self.items += emission.items
        self.models.update(emission.models)

    def feed(self, *events: JSONObject) -> "Assembly":
        for event in events:
            self.assembler.raw_event(raw(event))
            self.take()
        return self

    def feed_objects(self, events: Iterable[Any]) -> "Assembly":
        for event in events:
            self.assembler.raw_event(event)
            self.take()
        return self

    def tool_output(self, item: Any) -> "Assembly":
        self.assembler.tool_output(item)
        self.take()
        return self

    def started(self, call_id: str = "call_1") -> "Assembly":
        self.assembler.tool_started(call_id)
        self.take()
        return self

    def failed(self, call_id: str = "call_1") -> "Assembly":
        self.assembler.tool_failed(call_id)
        return self

    def local_message(self, item: Any) -> "Assembly":
        self.assembler.local_message(item)
        self.take()
        return self

    def end(
        self,
        status: Status = "completed",
        error: JSONObject | None = None,
        *,
        contradicts: bool = False,
    ) -> oracle.Stream:
        self.assembler.end(status, error, 1_700_000_000)
        self.take()
        stream = oracle.check(self.lines, self.items, contradicts=contradicts)
        assert stream.response is not None
        assert stream.response["status"] == status
        assert stream.response["id"] == self.request.response_id
        return stream

    def so_far(self, *, contradicts: bool = False) -> oracle.Stream:
        return oracle.check(self.lines, self.items, contradicts=contradicts, ended=False)


def assembled(*turns: Sequence[JSONObject], contradicts: bool = False) -> oracle.Stream:
    """One completed response of some turns."""
    assembly = Assembly()
    for turn in turns:
        assembly.feed(*turn)
    return assembly.end(contradicts=contradicts)


# -- items --------------------------------------------------------------------------------


@dataclass
class Streamed:
    """One item of a turn: all its events, and as it is in the end."""

    events: list[JSONObject]
    item: JSONObject
    index: int = 0
    shown: bool = field(default=True, kw_only=True)


def text_part(text: str, **more: Any) -> JSONObject:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": [], **more}


def refusal_part(text: str) -> JSONObject:
    return {"type": "refusal", "refusal": text}


def pieces(text: str, count: int = 3) -> list[str]:
    """A text in about so many pieces."""
    step = max(1, -(-len(text) // count))
    return [text[i : i + step] for i in range(0, len(text), step)]


def message(*parts: str | JSONObject, index: int = 0, id: str = "msg_1") -> Streamed:
    """A message, with every event that OpenAI sends of one."""
    content = [text_part(part) if isinstance(part, str) else part for part in parts]
    empty = {"id": id, "type": "message", "role": "assistant", "content": []}
    events = [_added({**empty, "status": "in_progress"}, index)]
    for place, part in enumerate(content):
        where = {"item_id": id, "output_index": index, "content_index": place}
        key = "refusal" if part["type"] == "refusal" else "text"
        name = "refusal" if part["type"] == "refusal" else "output_text"
        extra = {"logprobs": []} if key == "text" else {}
        blank = refusal_part("") if key == "refusal" else text_part("")
        events.append({"type": "response.content_part.added", "part": blank, **where})
        events += [
            {"type": f"response.{name}.delta", "delta": piece, **extra, **where}
            for piece in pieces(part[key])
        ]
        events.append({"type": f"response.{name}.done", key: part[key], **extra, **where})
        events.append({"type": "response.content_part.done", "part": part, **where})
    item = {**empty, "content": content, "status": "completed"}
    return Streamed([*events, _done(item, index)], item, index)


def reasoning(
    *summaries: str, content: Sequence[str] = (), index: int = 0, id: str = "rs_1"
) -> Streamed:
    """A reasoning item with summaries and, perhaps, reasoning text."""
    events = [_added({"id": id, "type": "reasoning", "summary": []}, index)]
    for place, text in enumerate(summaries):
        where = {"item_id": id, "output_index": index, "summary_index": place}
        name = "response.reasoning_summary"
        part = {"type": "summary_text", "text": text}
        events.append({"type": f"{name}_part.added", "part": {**part, "text": ""}, **where})
        events += [{"type": f"{name}_text.delta", "delta": p, **where} for p in pieces(text)]
        events.append({"type": f"{name}_text.done", "text": text, **where})
        events.append({"type": f"{name}_part.done", "part": part, **where})
    for place, text in enumerate(content):
        where = {"item_id": id, "output_index": index, "content_index": place}
        part = {"type": "reasoning_text", "text": text}
        blank = {**part, "text": ""}
        events.append({"type": "response.content_part.added", "part": blank, **where})
        events += [
            {"type": "response.reasoning_text.delta", "delta": p, **where} for p in pieces(text)
        ]
        events.append({"type": "response.reasoning_text.done", "text": text, **where})
        events.append({"type": "response.content_part.done", "part": part, **where})
    item: JSONObject = {
        "id": id,
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": text} for text in summaries],
    }
    if content:
        item["content"] = [{"type": "reasoning_text", "text": text} for text in content]
    return Streamed([*events, _done(item, index)], item, index)


def call(
    name: str = "search",
    arguments: str = '{"q": "tea"}',
    *,
    call_id: str = "call_1",
    index: int = 0,
    id: str = "fc_1",
) -> Streamed:
    """A function call."""
    where = {"item_id": id, "output_index": index}
    item = {
        "id": id,
        "type": "function_call",
        "call_id": call_id,
        "name": name,
        "arguments": arguments,
        "status": "completed",
    }
    events = [
        _added({**item, "arguments": "", "status": "in_progress"}, index),
        *(
            {"type": "response.function_call_arguments.delta", "delta": piece, **where}
            for piece in pieces(arguments)
        ),
        {
            "type": "response.function_call_arguments.done",
            "arguments": arguments,
            "name": name,
            **where,
        },
        _done(item, index),
    ]
    return Streamed(events, item, index)


def custom_call(
    name: str = "run", given: str = "print(1)", *, call_id: str = "ctc_call", index: int = 0
) -> Streamed:
    """A custom tool's call: free text instead of JSON."""
    where = {"item_id": "ctc_1", "output_index": index}
    item = {
        "id": "ctc_1",
        "type": "custom_tool_call",
        "call_id": call_id,
        "name": name,
        "input": given,
    }
    kind = "response.custom_tool_call_input"
    events = [
        _added({**item, "input": ""}, index),
        *({"type": f"{kind}.delta", "delta": piece, **where} for piece in pieces(given)),
        {"type": f"{kind}.done", "input": given, **where},
        _done(item, index),
    ]
    return Streamed(events, item, index)


def hosted(
    item: JSONObject, *progress: str | JSONObject, index: int = 0, **at_first: Any
) -> Streamed:
    """An item of a hosted tool: `progress` are its own events, `response.` left out."""
    where = {"item_id": item.get("id", "x_1"), "output_index": index}
    first = {**item, **at_first}
    if "status" in item:
        first["status"] = "in_progress"
    between: list[JSONObject] = []
    for each in progress:
        event = {"type": each} if isinstance(each, str) else each
        between.append({**event, **where, "type": f"response.{event['type']}"})
    return Streamed([_added(first, index), *between, _done(item, index)], item, index)


def output_of(call_id: str = "call_1", output: Any = "found") -> JSONObject:
    """A tool's result, as the SDK has it."""
    return {"type": "function_call_output", "call_id": call_id, "output": output}


def _added(item: JSONObject, index: int) -> JSONObject:
    return {"type": "response.output_item.added", "output_index": index, "item": item}


def _done(item: JSONObject, index: int) -> JSONObject:
    return {"type": "response.output_item.done", "output_index": index, "item": item}


# -- turns --------------------------------------------------------------------------------


def usage(input_tokens: int = 10, output_tokens: int = 5, **more: int) -> JSONObject:
    return {
        "input_tokens": input_tokens,
        "input_tokens_details": {
            "cached_tokens": more.get("cached", 0),
            "cache_write_tokens": more.get("wrote", 0),
        },
        "output_tokens": output_tokens,
        "output_tokens_details": {"reasoning_tokens": more.get("reasoned", 0)},
        "total_tokens": input_tokens + output_tokens,
    }


def response(
    output: Sequence[JSONObject] = (), given: JSONObject | None = None, **more: Any
) -> JSONObject:
    """The model's own Response object."""
    return {
        "id": "resp_of_the_model",
        "object": "response",
        "created_at": 0,
        "model": "some-model",
        "output": list(output),
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": given,
        **more,
    }


CREATED: JSONObject = {"type": "response.created", "response": response()}
IN_PROGRESS: JSONObject = {"type": "response.in_progress", "response": response()}


def completed(*items: Streamed | JSONObject, given: JSONObject | None = None) -> JSONObject:
    output = [item.item if isinstance(item, Streamed) else item for item in items]
    return {"type": "response.completed", "response": response(output, given or usage())}


def turn(*items: Streamed, given: JSONObject | None = None) -> list[JSONObject]:
    """A whole turn, its items one after the other."""
    events = [event for item in items for event in item.events]
    return [CREATED, IN_PROGRESS, *events, completed(*items, given=given)]


def interleaved(*items: Streamed) -> list[JSONObject]:
    """The events of items that the model makes at the same time, one of each in turn."""
    rows: list[Iterator[JSONObject]] = [iter(item.events) for item in items]
    events: list[JSONObject] = []
    while rows:
        for row in list(rows):
            event = next(row, None)
            if event is None:
                rows.remove(row)
            else:
                events.append(event)
    return events
