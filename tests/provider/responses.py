"""`POST /v1/responses` of the provider: plain and as a stream."""

import json
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.provider import events, items, refusals, script, shapes
from tests.provider.memory import Asked, Memory
from tests.provider.script import Script, Turn
from tests.provider.shapes import Refused

_ECHOED = (
    "instructions",
    "max_output_tokens",
    "max_tool_calls",
    "metadata",
    "parallel_tool_calls",
    "previous_response_id",
    "prompt_cache_key",
    "reasoning",
    "safety_identifier",
    "service_tier",
    "temperature",
    "text",
    "tool_choice",
    "tools",
    "top_p",
    "truncation",
    "user",
)


_COUNTED = frozenset(
    {
        *("conversation", "input", "instructions", "model", "parallel_tool_calls", "personality"),
        *("previous_response_id", "reasoning", "text", "tool_choice", "tools", "truncation"),
    }
)
"""What a request to count may have: `openai.types.responses.input_token_count_params`."""


@dataclass
class Answer:
    """What a request gets: a response with its output, and how its turn ends."""

    response: dict[str, Any]
    output: list[dict[str, Any]]
    turn: Turn
    usage: dict[str, Any] = field(default_factory=dict)

    def finished(self) -> dict[str, Any]:
        """The response as it is at the end."""
        status = self.turn.end if self.turn.end in ("incomplete", "failed") else "completed"
        response = {
            **self.response,
            "status": status,
            "output": [] if status == "failed" else self.output,
            "usage": None if status == "failed" else self.usage,
        }
        if status == "incomplete":
            response["incomplete_details"] = {"reason": self.turn.reason}
        if status == "failed":
            response["error"] = {"code": "server_error", "message": FAILED}
        return response

    def events(self) -> Iterator[dict[str, Any]]:
        """The events of its stream, to the terminal one, unnumbered."""
        for kind in ("created", "in_progress"):
            yield {"type": f"response.{kind}", "response": self.response}
        for index, item in enumerate(self.output):
            yield from events.of_item(item, index)
        finished = self.finished()
        yield {"type": f"response.{finished['status']}", "response": finished}


FAILED = "The model failed to generate a response."


def answer(body: dict[str, Any], memory: Memory, asked: Asked) -> Answer:
    """Take the turn that a request asks for.

    Raises:
        Refused: what the request says is not taken.
    """
    context = _context(body, memory)
    told, turn = script.of_items(context)
    shapes.check_schema((body.get("text") or {}).get("format"), "text.format.schema")
    turn = turn or Turn((_last(told, body, context),))
    encrypt = "reasoning.encrypted_content" in (body.get("include") or ())
    output = [items.make(element, memory.mint, encrypt) for element in turn.items]
    if turn.end == "incomplete" and output:
        output[-1] = {**output[-1], **({"status": "incomplete"} if "status" in output[-1] else {})}
    store = body.get("store") is not False
    response = _response(body, memory)
    if turn.end in ("completed", "incomplete"):
        memory.give(output, store)
    if store and turn.end == "completed":
        memory.contexts[response["id"]] = [*context, *output]
    asked.output, asked.usage = output, _usage(context, output)
    return Answer(response, output, turn, asked.usage)


def count(body: dict[str, Any], memory: Memory) -> dict[str, Any]:
    """`POST /v1/responses/input_tokens`: as usage tells it, and a hundred for each tool.

    Raises:
        Refused: what the request says is not taken.
    """
    unknown = body.keys() - _COUNTED
    if unknown:
        raise Refused(f"Unknown parameter: '{min(unknown)}'.", min(unknown), "unknown_parameter")
    tokens = _usage(_context(body, memory), [])["input_tokens"]
    tokens += 100 * len(body.get("tools") or ()) + 10 * bool(body.get("instructions"))
    return {"object": "response.input_tokens", "input_tokens": tokens}


async def frames(given: Answer) -> AsyncIterator[bytes]:
    """The events as frames of SSE."""
    for number, event in enumerate(given.events()):
        event["sequence_number"] = number
        yield f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()


def error_frame() -> bytes:
    """The `error` event of a stream: flat, as its type in `openai` has it, and with the `error`
    object that the clients of OpenAI look for."""
    error = {
        "code": "server_error",
        "message": "The server had an error while processing your request.",
        "param": None,
    }
    nested = {"type": "server_error", **error}
    event = {"type": "error", **error, "error": nested, "sequence_number": 0}
    return f"event: error\ndata: {json.dumps(event)}\n\n".encode()


def _context(body: dict[str, Any], memory: Memory) -> list[dict[str, Any]]:
    given = body.get("input")
    if given is None or given == []:
        raise Refused("Missing required parameter: 'input'.", "input", "missing_required_parameter")
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    before: list[dict[str, Any]] = []
    previous = body.get("previous_response_id")
    if previous is not None:
        if previous not in memory.contexts:
            raise Refused(
                f"Previous response with id '{previous}' not found.",
                "previous_response_id",
                "previous_response_not_found",
            )
        before = memory.contexts[previous]
    for place, tool in enumerate(body.get("tools") or ()):
        if tool.get("type") in ("function", "custom"):
            shapes.check_name(tool.get("name", ""), f"tools[{place}].name")
    return refusals.check(given, before, memory)


def _last(told: Script, body: dict[str, Any], context: list[dict[str, Any]]) -> dict[str, Any]:
    """The element after all turns."""
    if told.show:
        return {"text": json.dumps(context)}
    wanted = (body.get("text") or {}).get("format") or {}
    if wanted.get("type") == "json_schema" and told.then is None:
        return {"json": script.instance(wanted["schema"])}
    return {"text": told.then if told.then is not None else "done"}


def _response(body: dict[str, Any], memory: Memory) -> dict[str, Any]:
    defaults = {
        "instructions": None,
        "metadata": {},
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
    }
    echoed = {name: body[name] for name in _ECHOED if body.get(name) is not None}
    return {
        "id": memory.mint.item("resp"),
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "model": f"{body.get('model')}-2026-08-01",
        "output": [],
        "usage": None,
        "store": body.get("store") is not False,
        **defaults,
        **echoed,
    }


def _usage(context: list[dict[str, Any]], output: list[dict[str, Any]]) -> dict[str, Any]:
    """Ten tokens an input item, one of them cached; five an output item, all of them reasoning
    where it is."""
    given, made = 10 * len(context), 5 * len(output)
    reasoned = 5 * sum(1 for item in output if item["type"] == "reasoning")
    return {
        "input_tokens": given,
        "input_tokens_details": {"cached_tokens": len(context), "cache_write_tokens": 0},
        "output_tokens": made,
        "output_tokens_details": {"reasoning_tokens": reasoned},
        "total_tokens": given + made,
    }
