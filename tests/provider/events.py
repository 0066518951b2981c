"""A finished item as the events of a stream, as the Responses API sends it."""

from collections.abc import Iterator
from typing import Any

Event = dict[str, Any]

_STEPS = {
    "web_search_call": ("web_search_call", ("in_progress", "searching", "completed")),
    "file_search_call": ("file_search_call", ("in_progress", "searching", "completed")),
    "image_generation_call": ("image_generation_call", ("in_progress", "generating", "completed")),
    "mcp_list_tools": ("mcp_list_tools", ("in_progress", "completed")),
}
"""The events of hosted tools that have no deltas, by the item's type."""


def of_item(item: dict[str, Any], index: int) -> Iterator[Event]:
    """From `added` to `done`."""
    where = {"item_id": item["id"], "output_index": index}
    yield {"type": "response.output_item.added", "output_index": index, "item": _begun(item)}
    if item["type"] in _STEPS:
        name, steps = _STEPS[item["type"]]
        for step in steps:
            yield {"type": f"response.{name}.{step}", **where}
    elif item["type"] in _DELTAS:
        yield from _DELTAS[item["type"]](item, where)
    yield {"type": "response.output_item.done", "output_index": index, "item": item}


def pieces(text: str) -> list[str]:
    """A text as a model streams it: word by word."""
    if not text:
        return []
    words = text.split(" ")
    return [*(word + " " for word in words[:-1]), words[-1]]


def _begun(item: dict[str, Any]) -> dict[str, Any]:
    """The item as it is when it is added: empty, and under way."""
    begun = {**item, **{name: empty for name, empty in _EMPTY.items() if name in item}}
    if item["type"] == "reasoning":
        begun["summary"] = []
    if "status" in item:
        begun["status"] = "in_progress"
    return begun


_EMPTY: dict[str, Any] = {"content": [], "arguments": "", "input": "", "code": "", "result": None}


def _message(item: dict[str, Any], where: dict[str, Any]) -> Iterator[Event]:
    for place, part in enumerate(item["content"]):
        at = {**where, "content_index": place}
        refused = part["type"] == "refusal"
        kind, name = ("refusal", "refusal") if refused else ("output_text", "text")
        extra: Event = {} if refused else {"logprobs": []}
        empty = {**part, name: "", **({} if refused else {"annotations": []})}
        yield {"type": "response.content_part.added", **at, "part": empty}
        for piece in pieces(part[name]):
            yield {"type": f"response.{kind}.delta", **at, "delta": piece, **extra}
        for number, annotation in enumerate(part.get("annotations", ())):
            yield {
                "type": "response.output_text.annotation.added",
                **at,
                "annotation_index": number,
                "annotation": annotation,
            }
        yield {"type": f"response.{kind}.done", **at, name: part[name], **extra}
        yield {"type": "response.content_part.done", **at, "part": part}


def _reasoning(item: dict[str, Any], where: dict[str, Any]) -> Iterator[Event]:
    for place, part in enumerate(item["summary"]):
        at = {**where, "summary_index": place}
        kind = "response.reasoning_summary"
        yield {"type": f"{kind}_part.added", **at, "part": {**part, "text": ""}}
        for piece in pieces(part["text"]):
            yield {"type": f"{kind}_text.delta", **at, "delta": piece}
        yield {"type": f"{kind}_text.done", **at, "text": part["text"]}
        yield {"type": f"{kind}_part.done", **at, "part": part}


def _function_call(item: dict[str, Any], where: dict[str, Any]) -> Iterator[Event]:
    arguments = item["arguments"]
    kind = "response.function_call_arguments"
    for piece in pieces(arguments):
        yield {"type": f"{kind}.delta", **where, "delta": piece}
    yield {"type": f"{kind}.done", **where, "arguments": arguments, "name": item["name"]}


def _custom(item: dict[str, Any], where: dict[str, Any]) -> Iterator[Event]:
    kind = "response.custom_tool_call_input"
    for piece in pieces(item["input"]):
        yield {"type": f"{kind}.delta", **where, "delta": piece}
    yield {"type": f"{kind}.done", **where, "input": item["input"]}


def _code(item: dict[str, Any], where: dict[str, Any]) -> Iterator[Event]:
    kind = "response.code_interpreter_call"
    yield {"type": f"{kind}.in_progress", **where}
    for piece in pieces(item["code"]):
        yield {"type": f"{kind}_code.delta", **where, "delta": piece}
    yield {"type": f"{kind}_code.done", **where, "code": item["code"]}
    yield {"type": f"{kind}.interpreting", **where}
    yield {"type": f"{kind}.completed", **where}


def _mcp(item: dict[str, Any], where: dict[str, Any]) -> Iterator[Event]:
    yield {"type": "response.mcp_call.in_progress", **where}
    for piece in pieces(item["arguments"]):
        yield {"type": "response.mcp_call_arguments.delta", **where, "delta": piece}
    arguments = item["arguments"]
    yield {"type": "response.mcp_call_arguments.done", **where, "arguments": arguments}
    ended = "failed" if item["error"] else "completed"
    yield {"type": f"response.mcp_call.{ended}", **where}


_DELTAS = {
    "message": _message,
    "reasoning": _reasoning,
    "function_call": _function_call,
    "custom_tool_call": _custom,
    "code_interpreter_call": _code,
    "mcp_call": _mcp,
}
