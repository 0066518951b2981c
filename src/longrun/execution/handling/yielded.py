"""What a handler yields, as the raw events of a model's stream that the assembler knows."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, get_args

from openai import BaseModel
from openai.types.responses import (
    Response,
    ResponseCompletedEvent,
    ResponseContentPartAddedEvent,
    ResponseMcpCallArgumentsDeltaEvent,
    ResponseMcpCallArgumentsDoneEvent,
    ResponseMcpCallCompletedEvent,
    ResponseMcpCallFailedEvent,
    ResponseMcpCallInProgressEvent,
    ResponseOutputItemAddedEvent,
    ResponseOutputItemDoneEvent,
    ResponseOutputMessage,
    ResponseOutputText,
    ResponseStreamEvent,
    ResponseTextDeltaEvent,
)

from longrun.assembly.gathered import Gathered
from longrun.assembly.kinds import WITH_CALL_ID, is_output
from longrun.history.faces import PLACEHOLDER_ID
from longrun.jsontext import dumps, loads

_EVENTS: Final = {
    get_args(event.model_fields["type"].annotation)[0]: event
    for event in get_args(get_args(ResponseStreamEvent)[0])
}

_EVENT: Final = "response."

YIELDS: Final = (
    "text, an item or an event of the Responses API (a dict or an object of openai), or a Response"
)


class NotYieldable(TypeError):
    """A handler yielded what is no part of a response."""


class Yielded:
    """Makes raw events of what one section of a handler yields.

    Args:
        name: of the handler.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._next_index = 0
        self._text: ResponseOutputMessage | None = None
        self._said = Gathered()

    def events(self, given: Any) -> Iterator[Any]:
        """The raw events for one thing that was yielded.

        Raises:
            NotYieldable: it is none of `YIELDS`.
        """
        if isinstance(given, str):
            yield from self._delta(given)
            return
        yield from self.close()
        if isinstance(given, Response):
            yield completed(given)
        elif isinstance(given, BaseModel) and str(getattr(given, "type", "")).startswith(_EVENT):
            yield given
        elif isinstance(given, Mapping) and str(given.get("type", "")).startswith(_EVENT):
            yield _event(given)
        else:
            yield from self._item(given)

    def close(self) -> Iterator[Any]:
        """The message of which the last text was is at its end."""
        if self._text is None:
            return
        message, self._text = self._text, None
        whole = _text_part(self._said.getvalue())
        self._said = Gathered()
        done = message.model_copy(update={"content": [whole], "status": "completed"})
        yield _made(ResponseOutputItemDoneEvent, output_index=self._next_index - 1, item=done)

    def _delta(self, text: str) -> Iterator[Any]:
        if self._text is None:
            if not text:
                return
            index = self._take_index()
            self._text = ResponseOutputMessage.construct(
                id=PLACEHOLDER_ID,
                type="message",
                role="assistant",
                status="in_progress",
                content=[],
            )
            yield _made(ResponseOutputItemAddedEvent, output_index=index, item=self._text)
            part = _text_part("")
            yield _made(ResponseContentPartAddedEvent, **self._place(), part=part)
        self._said.write(text)
        yield _made(ResponseTextDeltaEvent, **self._place(), delta=text, logprobs=[])

    def _place(self) -> dict[str, Any]:
        index = self._next_index - 1
        return {"output_index": index, "item_id": PLACEHOLDER_ID, "content_index": 0}

    def _item(self, given: Any) -> Iterator[Any]:
        item = given.to_dict() if isinstance(given, BaseModel) else given
        if not isinstance(item, Mapping) or not isinstance(item.get("type"), str):
            raise NotYieldable(f"a handler yielded {type(given).__name__}: expected {YIELDS}")
        index = self._take_index()
        item = {"id": PLACEHOLDER_ID, **item}
        if item["type"] == "message":
            item = _whole_message(item)
        elif item["type"] == "mcp_call":
            item = _whole_call(item, self._name)
            yield from _events_of_call(item, index)
        yield _made(ResponseOutputItemDoneEvent, output_index=index, item=item)

    def _take_index(self) -> int:
        self._next_index += 1
        return self._next_index - 1


def output_of(given: Any) -> dict[str, Any] | None:
    """An item that says what a call has led to; None for anything else."""
    item = given.to_dict() if isinstance(given, BaseModel) else given
    if isinstance(item, Mapping) and is_output({"type": item.get("type")}):
        return dict(item)
    return None


_ANSWERED_ELSEWHERE: Final = frozenset({"mcp_approval_request", *WITH_CALL_ID})
"""Types of items that a client answers, if a response ends with them."""


def last_text(output: Iterable[str]) -> str | None:
    """The text that an output (JSON texts, in order) comes to; empty if it says nothing. None if
    it ends with what the client answers, or the model refused."""
    items = [loads(text) for text in output]
    if items and items[-1]["type"] in _ANSWERED_ELSEWHERE:
        return None
    parts = next((i["content"] for i in reversed(items) if i["type"] == "message"), ())
    if any(part.get("type") == "refusal" for part in parts):
        return None
    return "".join(part["text"] for part in parts if part.get("type") == "output_text")


def replayed_events(response: Response, name: str) -> list[Any]:
    """A recorded stream again: its items whole, as one delta each, and its end.

    Args:
        name: of the handler.
    """
    told = Yielded(name)
    events: list[Any] = []
    for item in response.output or ():
        text = getattr(item, "type", "") == "message" and "".join(
            getattr(part, "text", "") or ""
            for part in item.content or ()  # type: ignore[union-attr]
        )
        if text:
            events += told.events(text)
            events += told.close()
        else:
            events += told.events(item)
    return [*events, completed(response)]


def _whole_message(item: dict[str, Any]) -> dict[str, Any]:
    """A message in the shape that an output item has; one may be yielded in that of an input."""
    content = item.get("content") or []
    if isinstance(content, str):
        content = [{"type": "output_text", "text": content}]
    return {"role": "assistant", **item, "content": content}


def _whole_call(item: dict[str, Any], name: str) -> dict[str, Any]:
    """A call that has been executed, in the shape that clients expect of it."""
    error, output = item.get("error"), item.get("output")
    if isinstance(error, str):
        content = [{"type": "text", "text": error}]
        error = {"type": "mcp_tool_execution_error", "content": content}
    if error is None and not isinstance(output, str):
        output = "" if output is None else dumps(output).decode()
    return {
        "server_label": name,
        "name": "",
        "approval_request_id": None,
        **item,
        "arguments": item.get("arguments") or "{}",
        "output": output if error is None else None,
        "error": error,
        "status": "completed" if error is None else "failed",
    }


def _events_of_call(item: dict[str, Any], index: int) -> Iterator[Any]:
    """How a call gets on, up to its `done`."""
    place = {"output_index": index, "item_id": item["id"]}
    begun = {**item, "arguments": "", "output": None, "error": None, "status": "in_progress"}
    yield _made(ResponseOutputItemAddedEvent, output_index=index, item=begun)
    arguments = item["arguments"]
    yield _made(ResponseMcpCallArgumentsDeltaEvent, **place, delta=arguments)
    yield _made(ResponseMcpCallArgumentsDoneEvent, **place, arguments=arguments)
    yield _made(ResponseMcpCallInProgressEvent, **place)
    failed = item["status"] == "failed"
    yield _made(ResponseMcpCallFailedEvent if failed else ResponseMcpCallCompletedEvent, **place)


def _text_part(text: str) -> ResponseOutputText:
    return ResponseOutputText.construct(type="output_text", text=text, annotations=[], logprobs=[])


def completed(response: Response) -> Any:
    """The event that ends a model's turn."""
    return _made(ResponseCompletedEvent, response=response)


def _made(kind: Any, **fields: Any) -> Any:
    event_type = get_args(kind.model_fields["type"].annotation)[0]
    return kind.construct(type=event_type, sequence_number=0, **fields)


def _event(given: Mapping[str, Any]) -> Any:
    kind = _EVENTS.get(given["type"])
    if kind is None:
        raise NotYieldable(f"a handler yielded an event {given['type']!r}, which does not exist")
    return kind.construct(**{"sequence_number": 0, **given})
