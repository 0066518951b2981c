"""The names that are taken hold of: which, whether the installed SDK has them, how one is replaced.

What is replaced, and why there: `run_loop` looks up a turn's model by the global name `get_model`,
and its handoffs by `get_handoffs`. These are the places that hold for every agent of a run,
handoffs and cycles included, without an object of the user being changed: `RunConfig.model` would
override every agent and change implicit settings, `model_provider` is not asked for agents that
carry a `Model`. `tool_execution._invoke_function_tool_with_metadata` is the same for function
tools, MCP's too; wrapping a tool's `on_invoke_tool` instead would bypass a callable
`needs_approval`. The other local tools (shell, computer, …) each have an action class, and
guardrails a method. `run_loop` asks models through two functions that are given a time limit; the
time that we take must not count in it. Between two turns it waits until the events of the first are
taken: that is where a run is given what its client says meanwhile. What a handoff gave it streams
only as far as the handoff's input filter leaves it for the next agent. Agents of one name it puts
in an order by a text of all that they have, which it makes of each agent, twice in every run,
whether or not there is another of its name.
"""

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import requires, version
from typing import Any, Final

from longrun.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Name:
    """A name of the SDK's: `owner` is a module, or `module:class`; of what is called, the
    parameters that we give or read."""

    owner: str
    name: str
    parameters: frozenset[str] = frozenset()

    def __str__(self) -> str:
        called = f"({', '.join(sorted(self.parameters))})" if self.parameters else ""
        return f"{self.owner}.{self.name}{called}".replace(":", ".")


def _name(owner: str, name: str, *parameters: str) -> Name:
    return Name(owner, name, frozenset(parameters))


RUN_LOOP: Final = "agents.run_internal.run_loop"
_TOOL_EXECUTION: Final = "agents.run_internal.tool_execution"
_ACTIONS: Final = "agents.run_internal.tool_actions"
RUN_STEPS: Final = "agents.run_internal.run_steps"
RUN_ITEMS: Final = "agents.run_internal.items"
_TURN_RESOLUTION: Final = "agents.run_internal.turn_resolution"

TURNS: Final = "agents.run_internal.turn_preparation"
GET_MODEL: Final = _name(RUN_LOOP, "get_model", "agent", "run_config")
GET_HANDOFFS: Final = _name(RUN_LOOP, "get_handoffs", "agent", "context_wrapper")
BETWEEN_TURNS: Final = _name(
    RUN_LOOP, "_wait_for_streamed_turn_events_and_stop_if_cancelled", "streamed_result"
)
EXECUTE_HANDOFFS: Final = _name(
    _TURN_RESOLUTION, "execute_handoffs", "new_step_items", "run_config"
)
INVOKE_TOOL: Final = _name(
    _TOOL_EXECUTION,
    "_invoke_function_tool_with_metadata",
    *("function_tool", "context", "arguments"),
)
TOOL_FAILURES: Final = tuple(
    _name(
        owner,
        "maybe_invoke_function_tool_failure_error_function",
        *("function_tool", "error"),
    )
    for owner in ("agents.tool", _TOOL_EXECUTION)
)
TIMED_REQUESTS: Final = (
    _name(RUN_LOOP, "stream_response_with_retry", "get_retry_advice", "timeout"),
    _name(RUN_LOOP, "get_response_with_retry", "get_retry_advice", "timeout"),
)
GUARDRAILS: Final = (
    _name("agents:InputGuardrail", "run", "agent", "input", "context"),
    _name("agents:OutputGuardrail", "run", "context", "agent", "agent_output"),
    _name("agents:ToolInputGuardrail", "run", "data"),
    _name("agents:ToolOutputGuardrail", "run", "data"),
)
LIST_MCP_TOOLS: Final = _name(
    "agents.mcp.util:MCPUtil", "_list_tools_with_span", "server", "run_context", "agent"
)
INVOKE_MCP_TOOL: Final = _name(
    "agents.mcp.util:MCPUtil", "invoke_mcp_tool", "server", "tool", "context", "input_json"
)
AGENT_RANK: Final = _name(
    "agents._run_state_agent_identity",
    "_agent_identity_sort_key",
    *("agent", "root_agent", "original_index"),
)
CHAT_STREAM: Final = _name(
    "agents.models.chatcmpl_stream_handler:ChatCmplStreamHandler",
    "handle_stream",
    *("response", "stream"),
)
ACTIONS: Final = (
    _name(f"{_ACTIONS}:ComputerAction", "execute", "action", "config", "tool_output_committer"),
    *(
        _name(f"{_ACTIONS}:{action}", "execute", "call", "config", "tool_output_committer")
        for action in ("LocalShellAction", "ShellAction", "CustomToolAction", "ApplyPatchAction")
    ),
)

HISTORIES: Final = (
    _name("agents.run_state", "_clone_original_input", "original_input"),
    _name(RUN_LOOP, "_ensure_stream_event_item_occurrence_key", "item"),
    _name(RUN_LOOP, "_STREAM_EVENT_ITEM_OCCURRENCE_KEY"),
    *(
        _name(owner, "_to_dump_compatible", "obj")
        for owner in (
            "agents.items",
            "agents.models.openai_chatcompletions",
            "agents.models.openai_responses",
        )
    ),
    _name(_TURN_RESOLUTION, "process_model_response", "agent", "response"),
    _name(
        _TURN_RESOLUTION,
        "_register_tool_call_items",
        *("context_wrapper", "items", "validate_invocations"),
    ),
    _name(
        _TURN_RESOLUTION,
        "_dedupe_processed_response_invocations",
        *("processed_response", "context_wrapper", "existing_items"),
    ),
    _name(
        _TURN_RESOLUTION,
        "_dedupe_tool_call_items",
        *("existing_items", "new_items", "skipped_raw_item_ids"),
    ),
    _name(_TURN_RESOLUTION, "collect_mcp_list_tools_metadata", "items"),
    _name(
        _TURN_RESOLUTION,
        "_collect_program_parent_state",
        *("items", "server_manages_conversation"),
    ),
    _name(RUN_LOOP, "run_items_to_input_items", "run_items", "reasoning_item_id_policy"),
    _name(RUN_LOOP, "prepare_model_input_items", "caller_items", "generated_items"),
    _name(RUN_LOOP, "deduplicate_input_items_preferring_latest", "items"),
    _name(RUN_ITEMS, "_dedupe_key", "item"),
    _name("agents:RunContextWrapper", "_mark_tool_call_completed", "raw_item"),
)
"""What `histories.py` stands in for, and what it reads: only in the versions that it is written
for."""

NAMES: Final = (
    GET_MODEL,
    _name(TURNS, "get_model", "agent", "run_config"),
    _name(TURNS, "get_model_settings", "agent", "run_config"),
    _name(TURNS, "get_output_schema", "agent"),
    _name(TURNS, "get_handoffs", "agent", "context_wrapper"),
    _name(
        "agents:OpenAIResponsesModel",
        "_build_response_create_kwargs",
        *("system_instructions", "input", "model_settings", "tools", "output_schema", "handoffs"),
    ),
    _name("agents:OpenAIResponsesModel", "_get_client"),
    GET_HANDOFFS,
    EXECUTE_HANDOFFS,
    BETWEEN_TURNS,
    INVOKE_TOOL,
    *TOOL_FAILURES,
    *TIMED_REQUESTS,
    *GUARDRAILS,
    *ACTIONS,
    LIST_MCP_TOOLS,
    INVOKE_MCP_TOOL,
    CHAT_STREAM,
    AGENT_RANK,
    _name("agents.mcp._logging", "get_mcp_server_log_name", "name"),
    _name("agents.mcp._compat", "is_mcp_timeout_error", "error"),
    _name("agents:FunctionTool", "_agent_instance"),
    _name("agents:FunctionTool", "_is_agent_tool"),
    _name("agents:FunctionTool", "output_json_schema"),
    _name("agents:FunctionTool", "_output_type_adapter"),
    _name("agents:Handoff", "_agent_ref"),
    _name("agents.tool", "_FunctionToolInvocationResult", "output", "is_sdk_generated_error"),
    _name("agents.tool:_FunctionToolInvocationResult", "is_sdk_generated_error"),
    _name("agents.tool_context:ToolContext", "tool_call"),
    _name("agents.tool_context:ToolContext", "tool_call_id"),
    _name("agents.tool_context:ToolContext", "tool_arguments"),
    _name("agents.tool_context:ToolContext", "run_config"),
    _name(
        "agents:ItemHelpers",
        "tool_call_output_item",
        *("tool_call", "output", "output_json_schema", "output_type_adapter"),
    ),
    _name("agents:RunResultStreaming", "run_loop_task"),
    _name("agents:RunResultStreaming", "_state"),
    *(
        _name("agents.run_state:RunState", field)
        for field in (
            *("_pending_input", "_current_turn", "_generated_items", "_session_items"),
            *("_model_responses", "_current_step", "set_tool_use_tracker_snapshot"),
        )
    ),
    _name("agents:RunResultStreaming", "_model_input_items"),
    _name("agents:RunResultStreaming", "_tool_use_tracker_snapshot"),
    _name(
        RUN_LOOP,
        "_prepare_turn_input_items",
        *("caller_input", "generated_items", "reasoning_item_id_policy"),
    ),
    _name(RUN_ITEMS, "deduplicate_input_items_preferring_latest", "items"),
    _name(RUN_STEPS, "NextStepRunAgain"),
    _name("agents.usage", "_response_usage_to_usage", "response_usage"),
    _name("agents.tool", "get_function_tool_origin", "function_tool"),
    _name("agents:RunContextWrapper", "_mark_tool_invocation_executed", "raw_item"),
    _name("agents:RunContextWrapper", "_mark_tool_call_completed", "raw_item"),
    _name("agents:FunctionTool", "_tool_namespace"),
    _name("agents:FunctionTool", "_mcp_title"),
    _name("agents.usage", "serialize_usage", "usage"),
    _name("agents.usage", "deserialize_usage", "usage_data"),
    _name(
        "agents.models.interface:Model",
        "stream_response",
        *("system_instructions", "input", "model_settings", "tools", "output_schema", "handoffs"),
    ),
    _name("agents.models.interface:Model", "_cleanup_on_run_end", "owner"),
    _name("agents.models.interface:Model", "get_retry_advice", "request"),
    _name("agents.models.chatcmpl_helpers:ChatCmplHelpers", "is_openai", "client"),
    _name("agents:OpenAIChatCompletionsModel", "_get_client"),
    *(
        _name(f"{RUN_STEPS}:{call}", field)
        for call, tool in (
            ("ToolRunComputerAction", "computer_tool"),
            ("ToolRunLocalShellCall", "local_shell_tool"),
            ("ToolRunShellCall", "shell_tool"),
            ("ToolRunCustom", "custom_tool"),
            ("ToolRunApplyPatchCall", "apply_patch_tool"),
        )
        for field in ("tool_call", tool)
    ),
    _name("agents:ModelSettings", "timeout"),
    _name("agents:ApplyPatchTool", "editor"),
    _name("agents:ShellTool", "executor"),
    _name("agents:LocalShellTool", "executor"),
    _name("agents:CustomTool", "on_invoke_tool"),
)
"""Everything that is replaced or read."""


def check() -> None:
    """Whether the installed SDK has all of them.

    Raises:
        ConfigurationError: names what is missing, and the range of versions that has it.
    """
    missing = [str(name) for name in NAMES if not is_there(name)]
    if missing:
        tested = next(r for r in requires("longrun") or () if r.startswith("openai-agents"))
        raise ConfigurationError(
            f"openai-agents {version('openai-agents')} has no {', '.join(missing)}: "
            f"install a version that longrun is tested with ({tested})"
        )


def is_there(name: Name) -> bool:
    owner = owner_of(name)
    found = getattr(owner, name.name, None)
    if found is None:
        return name.name in getattr(owner, "__dataclass_fields__", ())
    if not name.parameters:
        return True
    return name.parameters <= set(inspect.signature(found).parameters)


def owner_of(name: Name) -> Any:
    module, _, kind = name.owner.partition(":")
    try:
        owner = importlib.import_module(module)
    except ImportError:
        return None
    return getattr(owner, kind, None) if kind else owner


def wrap(name: Name, wrapped: Callable[[Any], Any]) -> None:
    """Replace what the SDK has under this name by what `wrapped` makes of it."""
    owner = owner_of(name)
    setattr(owner, name.name, wrapped(getattr(owner, name.name)))
