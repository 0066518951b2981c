"""The items that the model gives, as the Responses API has them.

An element of a script is one of these; whatever else it has replaces fields of the item:

    {"text": "words"}                          a message (`"annotations": […]`)
    {"json": {…}}                              a message whose text is JSON
    {"refusal": "words"}                       a message that refuses
    {"reasoning": "words"}                     a summary; `"encrypted": true`, else as asked
    {"call": "tool", "arguments": {…}}         a function call; `"call_id"` for an odd one
    {"custom": "tool", "input": "…"}           a call of a custom tool
    {"web_search": "query"}, {"file_search": ["query"]}, {"code": "1"}, {"image": "prompt"}
    {"mcp": "tool", "server": "label", "arguments": {…}, "output": "…"}   (or `"error"`)
    {"mcp_tools": "label"}, {"approval": "tool", "server": "label", "arguments": {…}}
    {"computer": {"type": "screenshot"}}, {"shell": ["ls"]}, {"local_shell": ["ls"]}
    {"apply_patch": {"type": "create_file", …}}
    {"type": "…", …}                           any item as it is
"""

import json
from collections.abc import Callable
from typing import Any

from tests.provider.memory import Mint

PREFIXES = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "custom_tool_call": "ctc",
    "web_search_call": "ws",
    "file_search_call": "fs",
    "code_interpreter_call": "ci",
    "image_generation_call": "ig",
    "mcp_call": "mcp",
    "mcp_list_tools": "mcpl",
    "mcp_approval_request": "mcpr",
    "computer_call": "cu",
    "shell_call": "sh",
    "local_shell_call": "lsh",
    "apply_patch_call": "apc",
    "tool_search_call": "tsc",
    "compaction": "cmp",
}
"""What the ids of each type begin with."""

PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk"
    "YPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)
"""A picture of one pixel."""


def make(element: dict[str, Any], mint: Mint, encrypt: bool) -> dict[str, Any]:
    """The finished item of an element, with an id of its own.

    Args:
        encrypt: the request includes `reasoning.encrypted_content`.
    """
    if "type" in element:
        item = dict(element)
    else:
        name = next((each for each in _MAKERS if each in element), None)
        if name is None:
            raise ValueError(f"no such element: {element}")
        rest = {k: v for k, v in element.items() if k != name}
        item = _MAKERS[name](element[name], rest, mint)
        item.update(rest)
    if "id" not in item:
        item["id"] = mint.item(PREFIXES[item["type"]])
    if item["type"] == "reasoning":
        encrypted = item.pop("encrypted", encrypt)
        item["encrypted_content"] = mint.seal(item["id"]) if encrypted else None
    return item


def _message(part: dict[str, Any]) -> dict[str, Any]:
    return {"type": "message", "role": "assistant", "status": "completed", "content": [part]}


def _text(text: str, rest: dict[str, Any], mint: Mint) -> dict[str, Any]:
    annotations = rest.pop("annotations", [])
    return _message(
        {"type": "output_text", "text": text, "annotations": annotations, "logprobs": []}
    )


def _json(value: Any, rest: dict[str, Any], mint: Mint) -> dict[str, Any]:
    return _text(json.dumps(value), rest, mint)


def _refusal(text: str, rest: dict[str, Any], mint: Mint) -> dict[str, Any]:
    return _message({"type": "refusal", "refusal": text})


def _reasoning(text: str, rest: dict[str, Any], mint: Mint) -> dict[str, Any]:
    summary = [{"type": "summary_text", "text": text}] if text else []
    return {"type": "reasoning", "summary": summary}


def _call(name: str, rest: dict[str, Any], mint: Mint) -> dict[str, Any]:
    arguments = rest.pop("arguments", {})
    return {
        "type": "function_call",
        "status": "completed",
        "call_id": mint.call(),
        "name": name,
        "arguments": arguments if isinstance(arguments, str) else json.dumps(arguments),
    }


def _custom(name: str, rest: dict[str, Any], mint: Mint) -> dict[str, Any]:
    return {
        "type": "custom_tool_call",
        "call_id": mint.call(),
        "name": name,
        "input": "",
    }


def _web_search(query: str, rest: dict[str, Any], mint: Mint) -> dict[str, Any]:
    action = {"type": "search", "query": query, "queries": [query]}
    return {"type": "web_search_call", "status": "completed", "action": action}


def _file_search(queries: list[str], rest: dict[str, Any], mint: Mint) -> dict[str, Any]:
    return {
        "type": "file_search_call",
        "status": "completed",
        "queries": queries,
        "results": None,
    }


def _code(code: str, rest: dict[str, Any], mint: Mint) -> dict[str, Any]:
    return {
        "type": "code_interpreter_call",
        "status": "completed",
        "code": code,
        "container_id": mint.item("cntr"),
        "outputs": None,
    }


def _image(prompt: str, rest: dict[str, Any], mint: Mint) -> dict[str, Any]:
    return {
        "type": "image_generation_call",
        "status": "completed",
        "result": PIXEL,
        "revised_prompt": prompt,
        "output_format": "png",
        "quality": "low",
        "size": "1024x1024",
        "background": "opaque",
    }


def _mcp(name: str, rest: dict[str, Any], mint: Mint) -> dict[str, Any]:
    said = rest.pop("error", None)
    content = [{"type": "text", "text": said}]
    error = {"type": "mcp_tool_execution_error", "content": content} if said else None
    return {
        "type": "mcp_call",
        "status": "failed" if error else "completed",
        "server_label": rest.pop("server", "server"),
        "name": name,
        "arguments": json.dumps(rest.pop("arguments", {})),
        "output": None if error else rest.pop("output", "done"),
        "error": error,
        "approval_request_id": None,
    }


def _mcp_tools(label: str, rest: dict[str, Any], mint: Mint) -> dict[str, Any]:
    tool = {
        "name": "look",
        "description": "Look something up.",
        "input_schema": {"type": "object", "properties": {}},
        "annotations": None,
    }
    return {"type": "mcp_list_tools", "server_label": label, "tools": [tool], "error": None}


def _approval(name: str, rest: dict[str, Any], mint: Mint) -> dict[str, Any]:
    return {
        "type": "mcp_approval_request",
        "server_label": rest.pop("server", "server"),
        "name": name,
        "arguments": json.dumps(rest.pop("arguments", {})),
    }


def _computer(action: dict[str, Any], rest: dict[str, Any], mint: Mint) -> dict[str, Any]:
    return {
        "type": "computer_call",
        "status": "completed",
        "call_id": mint.call(),
        "action": action,
        "pending_safety_checks": [],
    }


def _shell(commands: list[str], rest: dict[str, Any], mint: Mint) -> dict[str, Any]:
    action = {"commands": commands, "timeout_ms": 10_000, "max_output_length": 10_000}
    return {
        "type": "shell_call",
        "status": "completed",
        "call_id": mint.call(),
        "action": action,
        "environment": None,
    }


def _local_shell(command: list[str], rest: dict[str, Any], mint: Mint) -> dict[str, Any]:
    action = {"type": "exec", "command": command, "env": {}}
    return {
        "type": "local_shell_call",
        "status": "completed",
        "call_id": mint.call(),
        "action": action,
    }


def _apply_patch(operation: dict[str, Any], rest: dict[str, Any], mint: Mint) -> dict[str, Any]:
    return {
        "type": "apply_patch_call",
        "status": "completed",
        "call_id": mint.call(),
        "operation": operation,
    }


_MAKERS: dict[str, Callable[[Any, dict[str, Any], Mint], dict[str, Any]]] = {
    "text": _text,
    "json": _json,
    "refusal": _refusal,
    "reasoning": _reasoning,
    "call": _call,
    "custom": _custom,
    "web_search": _web_search,
    "file_search": _file_search,
    "code": _code,
    "image": _image,
    "mcp": _mcp,
    "mcp_tools": _mcp_tools,
    "approval": _approval,
    "computer": _computer,
    "shell": _shell,
    "local_shell": _local_shell,
    "apply_patch": _apply_patch,
}
