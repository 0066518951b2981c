"""Items of hosted tools: their own events pass, at our index and with our id."""

from typing import Any

import pytest
from openai.types.responses import ResponseFunctionShellToolCallOutput

from tests.unit.streams import (
    CREATED,
    FAKE,
    Assembly,
    JSONObject,
    Streamed,
    assembled,
    completed,
    hosted,
    interleaved,
    message,
    turn,
)

WEB = hosted(
    {
        "type": "web_search_call",
        "id": "ws_1",
        "status": "completed",
        "action": {"type": "search", "query": "tea", "queries": ["tea"]},
    },
    "web_search_call.in_progress",
    "web_search_call.searching",
    "web_search_call.completed",
)
FILES = hosted(
    {
        "type": "file_search_call",
        "id": "fs_1",
        "status": "completed",
        "queries": ["tea"],
        "results": [{"file_id": "f", "filename": "tea.md", "score": 0.5, "text": "Tea."}],
    },
    "file_search_call.in_progress",
    "file_search_call.searching",
    "file_search_call.completed",
    queries=[],
    results=None,
)
CODE = hosted(
    {
        "type": "code_interpreter_call",
        "id": "ci_1",
        "status": "completed",
        "code": "print(1)",
        "container_id": "cntr_1",
        "outputs": [{"type": "logs", "logs": "1\n"}],
    },
    "code_interpreter_call.in_progress",
    {"type": "code_interpreter_call_code.delta", "delta": "print"},
    {"type": "code_interpreter_call_code.delta", "delta": "(1)"},
    {"type": "code_interpreter_call_code.done", "code": "print(1)"},
    "code_interpreter_call.interpreting",
    "code_interpreter_call.completed",
    code="",
    outputs=None,
)
IMAGE = hosted(
    {"type": "image_generation_call", "id": "ig_1", "status": "completed", "result": "iVBORw0K"},
    "image_generation_call.in_progress",
    "image_generation_call.generating",
    {
        "type": "image_generation_call.partial_image",
        "partial_image_b64": "iVBO",
        "partial_image_index": 0,
    },
    "image_generation_call.completed",
    result=None,
)
MCP = hosted(
    {
        "type": "mcp_call",
        "id": "mcp_1",
        "status": "completed",
        "name": "search",
        "server_label": "docs",
        "arguments": '{"q":"tea"}',
        "output": "found",
        "error": None,
        "approval_request_id": None,
    },
    "mcp_call.in_progress",
    {"type": "mcp_call_arguments.delta", "delta": '{"q":"tea"}'},
    {"type": "mcp_call_arguments.done", "arguments": '{"q":"tea"}'},
    "mcp_call.completed",
    arguments="",
    output=None,
)
MCP_FAILED = hosted(
    {
        "type": "mcp_call",
        "id": "mcp_2",
        "status": "failed",
        "name": "search",
        "server_label": "docs",
        "arguments": "{}",
        "error": {"type": "mcp_protocol_error", "code": -32601, "message": "no such tool"},
    },
    "mcp_call.in_progress",
    "mcp_call.failed",
)
MCP_TOOLS = hosted(
    {
        "type": "mcp_list_tools",
        "id": "mcpl_1",
        "server_label": "docs",
        "tools": [{"name": "search", "input_schema": {"type": "object"}}],
    },
    "mcp_list_tools.in_progress",
    "mcp_list_tools.completed",
    tools=[],
)
MCP_APPROVAL = hosted(
    {
        "type": "mcp_approval_request",
        "id": "mcpr_1",
        "arguments": "{}",
        "name": "delete",
        "server_label": "docs",
    }
)
COMPUTER = hosted(
    {
        "type": "computer_call",
        "id": "cu_1",
        "call_id": "call_cu",
        "action": {"type": "click", "button": "left", "x": 1, "y": 2},
        "pending_safety_checks": [],
        "status": "completed",
    }
)
SHELL = hosted(
    {
        "type": "shell_call",
        "id": "sh_1",
        "call_id": "call_sh",
        "action": {"commands": ["ls"], "max_output_length": None, "timeout_ms": None},
        "environment": {"type": "local"},
        "status": "completed",
    },
    {"type": "shell_call_command.added", "command": "", "command_index": 0},
    {"type": "shell_call_command.delta", "delta": "ls", "command_index": 0},
    {"type": "shell_call_command.done", "command": "ls", "command_index": 0},
)
LOCAL_SHELL = hosted(
    {
        "type": "local_shell_call",
        "id": "lsh_1",
        "call_id": "call_lsh",
        "action": {"type": "exec", "command": ["ls"], "env": {}},
        "status": "completed",
    }
)
PATCH = hosted(
    {
        "type": "apply_patch_call",
        "id": "apc_1",
        "call_id": "call_apc",
        "operation": {"type": "delete_file", "path": "a"},
        "status": "completed",
    }
)
COMPACTION = hosted(
    {"type": "compaction", "id": "cmp_1", "encrypted_content": "gAAA"}, "compaction.compacting"
)
TOOL_SEARCH = hosted(
    {
        "type": "tool_search_call",
        "id": "ts_1",
        "call_id": None,
        "arguments": {"q": "tea"},
        "execution": "server",
        "status": "completed",
    }
)

ALL = [
    WEB,
    FILES,
    CODE,
    IMAGE,
    MCP,
    MCP_FAILED,
    MCP_TOOLS,
    MCP_APPROVAL,
    COMPUTER,
    SHELL,
    LOCAL_SHELL,
    PATCH,
    COMPACTION,
    TOOL_SEARCH,
]
HELD = [TOOL_SEARCH]
"""Without a call id, and of a type that may have one: shown at their end."""


def name(value: Any) -> str:
    return str(value.item["type"]) if isinstance(value, Streamed) else ""


@pytest.mark.parametrize("tool", ALL, ids=name)
class TestEach:
    def test_its_events_pass(self, tool: Streamed) -> None:
        stream = assembled(turn(tool, message("done", index=1)))
        told = [event["type"] for event in tool.events]
        if tool in HELD:
            told = [told[0], told[-1]]
        assert stream.types[2 : 2 + len(told)] == told
        assert {**stream.output[0], "id": ""} == {**tool.item, "id": ""}

    def test_its_fields_pass(self, tool: Streamed) -> None:
        stream = assembled(turn(tool))
        ours = {"sequence_number", "output_index", "item_id", "item", "response"}
        told = [event for event in tool.events if "item" not in event]
        shown = [e for e in stream.events[3:-2] if tool not in HELD]
        assert [_bare(event, ours) for event in shown] == [
            _bare(event, ours) for event in (told if tool not in HELD else [])
        ]

    def test_beside_a_text(self, tool: Streamed) -> None:
        told = message("at the same time", index=1)
        stream = assembled([CREATED, *interleaved(tool, told), completed(tool, told)])
        assert {item["type"] for item in stream.output} == {tool.item["type"], "message"}

    def test_told_at_the_end_only(self, tool: Streamed) -> None:
        for events in ([completed(tool)], [tool.events[-1], completed()]):
            stream = assembled([CREATED, *events])
            assert {**stream.output[0], "id": ""} == {**tool.item, "id": ""}

    def test_without_its_added(self, tool: Streamed) -> None:
        stream = assembled([CREATED, *tool.events[1:], completed(tool)])
        assert len(stream.items) == len(stream.output) == 1

    def test_with_the_same_fake_id_as_others(self, tool: Streamed) -> None:
        fake = hosted({**tool.item, "id": FAKE})
        stream = assembled(turn(fake), [CREATED, completed(message("a", id=FAKE))])
        assert FAKE not in str(stream.events)

    def test_left_open(self, tool: Streamed) -> None:
        stream = Assembly().feed(CREATED, *tool.events[:-1]).end("failed")
        assert stream.output == []
        left = stream.items[0].done if stream.items else None
        expected = {"image_generation_call": "failed", "apply_patch_call": "in_progress"}
        if left is not None and "status" in tool.item:
            assert left["status"] == expected.get(left["type"], "incomplete")

    def test_left_open_by_the_stream_and_finished_by_the_response(self, tool: Streamed) -> None:
        stream = assembled([CREATED, *tool.events[:-1], completed(tool)])
        assert {**stream.output[0], "id": ""} == {**tool.item, "id": ""}


def test_all_at_once() -> None:
    for place, tool in enumerate(ALL):
        tool.index = place
    placed = [
        Streamed([{**event, "output_index": tool.index} for event in tool.events], tool.item)
        for tool in ALL
    ]
    stream = assembled([CREATED, *interleaved(*placed), completed(*placed)])
    assert len(stream.output) == len(ALL)


def test_hosted_shell_output() -> None:
    shell_output: JSONObject = {
        "type": "shell_call_output",
        "id": "sho_1",
        "call_id": "call_sh",
        "status": "completed",
        "max_output_length": 100,
        "output": [
            {"stdout": "a\n", "stderr": "", "outcome": {"type": "exit", "exit_code": 0}},
        ],
    }
    printed = hosted(
        shell_output,
        {
            "type": "shell_call_output_content.delta",
            "command_index": 0,
            "delta": {"stdout": "a\n"},
        },
        {
            "type": "shell_call_output_content.done",
            "command_index": 0,
            "output": shell_output["output"],
        },
        output=[],
    )
    stream = assembled(turn(SHELL, hosted_at(printed, 1)))
    assert stream.output[1]["output"] == shell_output["output"]


def test_a_shell_whose_command_failed_has_given_all_of_its_output() -> None:
    """The SDK's status for it, `failed`, is none of openai's type."""
    output: JSONObject = {
        "type": "shell_call_output",
        "call_id": "call_sh",
        "status": "failed",
        "output": [
            {"stdout": "", "stderr": "no", "outcome": {"type": "exit", "exit_code": 1}},
        ],
    }
    assembly = Assembly().feed(*turn(SHELL)).tool_output(output)
    stream = assembly.feed(*turn(message("ok"))).end()
    ResponseFunctionShellToolCallOutput.model_validate(stream.output[1])
    assert stream.output[1]["output"] == output["output"]


def hosted_at(item: Streamed, index: int) -> Streamed:
    events = [{**event, "output_index": index} for event in item.events]
    return Streamed(events, item.item, index)


def _bare(event: JSONObject, without: set[str]) -> JSONObject:
    return {key: value for key, value in event.items() if key not in without}
