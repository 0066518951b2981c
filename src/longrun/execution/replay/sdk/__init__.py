"""All that longrun takes of the Agents SDK beyond what the SDK documents, and nothing else.

Some names are replaced (`wrap`), others are read; nothing outside this folder knows a private one.
They may change with any version, so the SDK is pinned to a tested range and all of them are
checked at start.
"""

from longrun.execution.replay.sdk.actions import (
    call_of,
    commit_output,
    guarded,
    replace_output,
    tool_of,
)
from longrun.execution.replay.sdk.models import (
    MODEL_PARAMETERS,
    counted_by_provider,
    first_turn,
    is_at_openai,
    model_of,
    named,
    origin_of,
    replaced,
    with_settings,
)
from longrun.execution.replay.sdk.names import (
    ACTIONS,
    BETWEEN_TURNS,
    CHAT_STREAM,
    GET_HANDOFFS,
    GET_MODEL,
    GUARDRAILS,
    INVOKE_MCP_TOOL,
    INVOKE_TOOL,
    LIST_MCP_TOOLS,
    NAMES,
    TIMED_REQUESTS,
    TOOL_FAILURES,
    Name,
    check,
    owner_of,
    wrap,
)
from longrun.execution.replay.sdk.runs import (
    agents_behind,
    cancellation_of,
    last_text,
    loop_task,
    put_in,
    target_of,
    targets_of,
    with_callback,
)
from longrun.execution.replay.sdk.servers import (
    is_mcp_timeout,
    mcp_server_name,
    probe_mcp_server,
)
from longrun.execution.replay.sdk.tools import (
    declared_json,
    is_agent_tool,
    is_error,
    output_item,
    tool_result,
)

__all__ = [
    "ACTIONS",
    "BETWEEN_TURNS",
    "CHAT_STREAM",
    "GET_HANDOFFS",
    "GET_MODEL",
    "GUARDRAILS",
    "INVOKE_MCP_TOOL",
    "INVOKE_TOOL",
    "LIST_MCP_TOOLS",
    "MODEL_PARAMETERS",
    "NAMES",
    "TIMED_REQUESTS",
    "TOOL_FAILURES",
    "Name",
    "agents_behind",
    "call_of",
    "cancellation_of",
    "check",
    "commit_output",
    "counted_by_provider",
    "declared_json",
    "first_turn",
    "guarded",
    "is_agent_tool",
    "is_at_openai",
    "is_error",
    "is_mcp_timeout",
    "last_text",
    "loop_task",
    "mcp_server_name",
    "model_of",
    "named",
    "origin_of",
    "output_item",
    "owner_of",
    "probe_mcp_server",
    "put_in",
    "replace_output",
    "replaced",
    "target_of",
    "targets_of",
    "tool_of",
    "tool_result",
    "with_callback",
    "with_settings",
    "wrap",
]
