"""`POST /v1/chat/completions` of the provider: plain and as a stream of chunks."""

import json
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

from tests.provider import events, items, messages, script, shapes
from tests.provider.memory import Asked, Memory
from tests.provider.script import Script, Turn

REASONS = frozenset({"reasoning_content"})
"""DeepSeek's field for reasoning, which it takes back as well."""


@dataclass
class Completion:
    """What a request gets."""

    head: dict[str, Any]
    message: dict[str, Any]
    turn: Turn
    finish_reason: str
    usage: dict[str, Any]
    wants_usage: bool

    def whole(self) -> dict[str, Any]:
        """The answer to a request without `stream`."""
        choice = {
            "index": 0,
            "message": {"content": None, "refusal": None, "annotations": [], **self.message},
            "logprobs": None,
            "finish_reason": self.finish_reason,
        }
        head = {**self.head, "object": "chat.completion"}
        return {**head, "choices": [choice], "usage": self.usage}

    def chunks(self) -> Iterator[dict[str, Any]]:
        """The chunks of a stream; usage only where it was asked for, as OpenAI's."""
        yield self._chunk({"role": "assistant", "content": "", "refusal": None})
        for name in ("reasoning_content", "content", "refusal"):
            for piece in events.pieces(self.message.get(name) or ""):
                yield self._chunk({name: piece})
        for index, call in enumerate(self.message.get("tool_calls") or ()):
            function = call["function"]
            begun = {**call, "function": {"name": function["name"], "arguments": ""}}
            yield self._chunk({"tool_calls": [{"index": index, **begun}]})
            for piece in events.pieces(function["arguments"]):
                delta = {"index": index, "function": {"arguments": piece}}
                yield self._chunk({"tool_calls": [delta]})
        yield self._chunk({}, self.finish_reason)
        if self.wants_usage:
            yield {**self.head, "choices": [], "usage": self.usage}

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        usage = {"usage": None} if self.wants_usage else {}
        return {**self.head, "choices": [choice], **usage}


def answer(body: dict[str, Any], memory: Memory, asked: Asked) -> Completion:
    """Take the turn that a request asks for.

    Raises:
        Refused: what the request says is not taken.
    """
    given = body.get("messages") or []
    messages.check(given, REASONS)
    for place, tool in enumerate(body.get("tools") or ()):
        shapes.check_name(tool["function"]["name"], f"tools[{place}].function.name")
    wanted = (body.get("response_format") or {}).get("json_schema")
    shapes.check_schema({"type": "json_schema", **wanted} if wanted else None, "response_format")
    told, turn = script.of_messages(given)
    turn = turn or Turn((_last(told, wanted, given),))
    output = [items.make(element, memory.mint, False) for element in turn.items]
    message = _message(output)
    asked.output, asked.usage = [message], _usage(given, output)
    head = {
        "id": memory.mint.item("chatcmpl").replace("_", "-"),
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": f"{body.get('model')}-2026-08-01",
        "service_tier": "default",
        "system_fingerprint": None,
    }
    wants_usage = bool((body.get("stream_options") or {}).get("include_usage"))
    return Completion(head, message, turn, _reason(turn, message), asked.usage, wants_usage)


async def frames(given: Completion) -> AsyncIterator[bytes]:
    """The chunks as frames of SSE."""
    for chunk in given.chunks():
        yield f"data: {json.dumps(chunk)}\n\n".encode()
    if given.turn.end != "silence":
        yield b"data: [DONE]\n\n"


def error_frame() -> bytes:
    """How an error in the middle of a stream looks."""
    message = "The server had an error while processing your request."
    error = {"message": message, "type": "server_error", "param": None, "code": "server_error"}
    return f"data: {json.dumps({'error': error})}\n\n".encode()


def _message(output: list[dict[str, Any]]) -> dict[str, Any]:
    """The items as one message; hosted ones, which this API has not, are left out."""
    message: dict[str, Any] = {"role": "assistant"}
    for item in output:
        if item["type"] == "message":
            for part in item["content"]:
                name = "refusal" if part["type"] == "refusal" else "content"
                message[name] = message.get(name, "") + part.get("text", part.get("refusal", ""))
        elif item["type"] == "reasoning":
            text = "".join(part["text"] for part in item["summary"])
            message["reasoning_content"] = message.get("reasoning_content", "") + text
        elif item["type"] == "function_call":
            function = {"name": item["name"], "arguments": item["arguments"]}
            call = {"id": item["call_id"], "type": "function", "function": function}
            message.setdefault("tool_calls", []).append(call)
    return message


def _last(
    told: Script, wanted: dict[str, Any] | None, given: list[dict[str, Any]]
) -> dict[str, Any]:
    """The element after all turns."""
    if told.show:
        return {"text": json.dumps(given)}
    if wanted and told.then is None:
        return {"json": script.instance(wanted["schema"])}
    return {"text": told.then if told.then is not None else "done"}


def _reason(turn: Turn, message: dict[str, Any]) -> str:
    if turn.end == "incomplete":
        return "length" if turn.reason == "max_output_tokens" else "content_filter"
    return "tool_calls" if message.get("tool_calls") else "stop"


def _usage(given: list[dict[str, Any]], output: list[dict[str, Any]]) -> dict[str, Any]:
    """Ten tokens a message, one of them cached; five an item, all of them reasoning where it is."""
    prompt, made = 10 * len(given), 5 * len(output)
    reasoned = 5 * sum(1 for item in output if item["type"] == "reasoning")
    return {
        "prompt_tokens": prompt,
        "prompt_tokens_details": {"cached_tokens": len(given), "audio_tokens": 0},
        "completion_tokens": made,
        "completion_tokens_details": {"reasoning_tokens": reasoned, "audio_tokens": 0},
        "total_tokens": prompt + made,
    }
