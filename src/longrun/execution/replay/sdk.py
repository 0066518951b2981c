"""All that longrun takes of the Agents SDK beyond what the SDK documents, and nothing else.

Some names are replaced (`wrap`), others are read; no other module of ours knows a private one.
They may change with any version, so the SDK is pinned to a tested range and all of them are
checked at start.

What is replaced, and why there: `run_loop` looks up a turn's model by the global name `get_model`,
and its handoffs by `get_handoffs`. These are the places that hold for every agent of a run,
handoffs and cycles included, without an object of the user being changed: `RunConfig.model` would
override every agent and change implicit settings, `model_provider` is not asked for agents that
carry a `Model`. `tool_execution._invoke_function_tool_with_metadata` is the same for function
tools, MCP's too; wrapping a tool's `on_invoke_tool` instead would bypass a callable
`needs_approval`. The other local tools (shell, computer, …) each have an action class, and
guardrails a method. `run_loop` asks models through two functions that are given a time limit; the
time that we take must not count in it. Between two turns it waits until the events of the first are
taken: that is where a run is given what its client says meanwhile.
"""

import asyncio
import copy
import dataclasses
import functools
import importlib
import inspect
import sys
import types
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import requires, version
from typing import Any, Final

from agents import (
    Agent,
    FunctionTool,
    Handoff,
    ItemHelpers,
    MessageOutputItem,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    RunConfig,
    RunContextWrapper,
    RunResultStreaming,
    UserError,
)
from agents.mcp import MCPServer
from agents.models.chatcmpl_converter import Converter
from agents.models.chatcmpl_helpers import ChatCmplHelpers
from agents.models.interface import Model
from agents.result import RunResultBase
from pydantic_core import to_json

from longrun.errors import ConfigurationError
from longrun.history.faces import API, Origin


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


_RUN_LOOP: Final = "agents.run_internal.run_loop"
_TOOL_EXECUTION: Final = "agents.run_internal.tool_execution"
_ACTIONS: Final = "agents.run_internal.tool_actions"
_CALLS: Final = "agents.run_internal.run_steps"

_TURNS: Final = "agents.run_internal.turn_preparation"
GET_MODEL: Final = _name(_RUN_LOOP, "get_model", "agent", "run_config")
GET_HANDOFFS: Final = _name(_RUN_LOOP, "get_handoffs", "agent", "context_wrapper")
BETWEEN_TURNS: Final = _name(
    _RUN_LOOP, "_wait_for_streamed_turn_events_and_stop_if_cancelled", "streamed_result"
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
    _name(_RUN_LOOP, "stream_response_with_retry", "get_retry_advice", "timeout"),
    _name(_RUN_LOOP, "get_response_with_retry", "get_retry_advice", "timeout"),
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

NAMES: Final = (
    GET_MODEL,
    _name(_TURNS, "get_model", "agent", "run_config"),
    _name(_TURNS, "get_model_settings", "agent", "run_config"),
    _name(_TURNS, "get_output_schema", "agent"),
    _name(_TURNS, "get_handoffs", "agent", "context_wrapper"),
    _name(
        "agents:OpenAIResponsesModel",
        "_build_response_create_kwargs",
        *("system_instructions", "input", "model_settings", "tools", "output_schema", "handoffs"),
    ),
    _name("agents:OpenAIResponsesModel", "_get_client"),
    GET_HANDOFFS,
    BETWEEN_TURNS,
    INVOKE_TOOL,
    *TOOL_FAILURES,
    *TIMED_REQUESTS,
    *GUARDRAILS,
    *ACTIONS,
    LIST_MCP_TOOLS,
    INVOKE_MCP_TOOL,
    CHAT_STREAM,
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
    _name("agents.run_state:RunState", "_pending_input"),
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
        _name(f"{_CALLS}:{call}", field)
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
    missing = [str(name) for name in NAMES if not _is_there(name)]
    if missing:
        tested = next(r for r in requires("longrun") or () if r.startswith("openai-agents"))
        raise ConfigurationError(
            f"openai-agents {version('openai-agents')} has no {', '.join(missing)}: "
            f"install a version that longrun is tested with ({tested})"
        )


def _is_there(name: Name) -> bool:
    owner = _owner(name)
    found = getattr(owner, name.name, None)
    if found is None:
        return name.name in getattr(owner, "__dataclass_fields__", ())
    if not name.parameters:
        return True
    return name.parameters <= set(inspect.signature(found).parameters)


def _owner(name: Name) -> Any:
    module, _, kind = name.owner.partition(":")
    try:
        owner = importlib.import_module(module)
    except ImportError:
        return None
    return getattr(owner, kind, None) if kind else owner


def wrap(name: Name, wrapped: Callable[[Any], Any]) -> None:
    """Replace what the SDK has under this name by what `wrapped` makes of it."""
    owner = _owner(name)
    setattr(owner, name.name, wrapped(getattr(owner, name.name)))


# -- models, handoffs, runs -------------------------------------------------------------------

MODEL_PARAMETERS: Final = tuple(inspect.signature(Model.stream_response).parameters)[1:]
"""`get_response` is called with keywords, `stream_response` with positionals."""


def named(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """What a model was called with, by the names of `MODEL_PARAMETERS`."""
    return dict(zip(MODEL_PARAMETERS, args, strict=False)) | kwargs


def replaced(
    args: tuple[Any, ...], kwargs: dict[str, Any], changed: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a model was called with, other values in their places: users' models have names of
    their own for what is given by position."""
    by_name = zip(MODEL_PARAMETERS, args, strict=False)
    by_position = [changed.get(name, given) for name, given in by_name]
    rest = {name: value for name, value in changed.items() if name in kwargs}
    return (*by_position, *args[len(MODEL_PARAMETERS) :]), {**kwargs, **rest}


def model_of(agent: Agent[Any], config: RunConfig | None) -> tuple[Model, ModelSettings]:
    """The model that a run of an agent would ask, with the settings that it would have."""
    turns: Any = importlib.import_module(_TURNS)
    config = config or RunConfig()
    return turns.get_model(agent, config), turns.get_model_settings(agent, config)


def with_settings(config: RunConfig | None, settings: ModelSettings | None) -> RunConfig:
    """A configuration, with settings that win over its own."""
    config = config or RunConfig()
    own = config.model_settings
    both = settings if own is None else own.resolve(settings)
    return dataclasses.replace(config, model_settings=both)


async def first_turn(
    agent: Agent[Any], context: RunContextWrapper[Any], settings: ModelSettings
) -> dict[str, Any]:
    """What the model of an agent is asked in a first turn, but for the input, by the names of
    `Model.stream_response`."""
    turns: Any = importlib.import_module(_TURNS)
    return {
        "system_instructions": await agent.get_system_prompt(context),
        "model_settings": settings,
        "tools": await agent.get_all_tools(context),
        "output_schema": turns.get_output_schema(agent),
        "handoffs": await turns.get_handoffs(agent, context),
    }


_COUNTED: Final = frozenset(
    {
        *("input", "instructions", "model", "parallel_tool_calls", "reasoning", "text"),
        *("tool_choice", "tools", "truncation", "extra_headers", "extra_query"),
    }
)
"""What `input_tokens.count` takes of the arguments of `responses.create`."""


async def counted_by_provider(model: OpenAIResponsesModel, asked: Mapping[str, Any]) -> int:
    """How many tokens the provider of a model counts in what it would be asked. Raises what
    `openai` raises."""
    arguments = model._build_response_create_kwargs(**asked)
    given = {name: value for name, value in arguments.items() if name in _COUNTED}
    counted = await model._get_client().responses.input_tokens.count(**given)
    return counted.input_tokens


def is_at_openai(model: OpenAIChatCompletionsModel) -> bool:
    """Whether a model's client leads to OpenAI itself."""
    return ChatCmplHelpers.is_openai(model._get_client())


def last_text(result: RunResultBase) -> str | None:
    """The text of the message that a run ended with; None if it ended with something else."""
    item = result.new_items[-1] if result.new_items else None
    return ItemHelpers.text_message_output(item) if isinstance(item, MessageOutputItem) else None


def with_callback(handoff: Handoff[Any, Any], callback: Any) -> Handoff[Any, Any]:
    """A copy of a handoff that calls this instead."""
    copied = dataclasses.replace(handoff, on_invoke_handoff=callback)
    copied._agent_ref = handoff._agent_ref
    return copied


def put_in(result: RunResultStreaming, items: list[Any]) -> None:
    """Give a run more input between two of its turns: it goes in before the next one, after what
    the tools gave. As `RunState.add_input` does for a run that waits; for one that is live the SDK
    has nothing."""
    state = result._state
    assert state is not None
    state._pending_input.extend(items)


def target_of(handoff: Handoff[Any, Any]) -> Agent[Any] | None:
    """The agent that a handoff leads to; None if only its own function knows."""
    reference: Any = handoff._agent_ref
    return reference() if reference else None


def origin_of(model: Any) -> Origin:
    """Which provider a model asks, and by which API: what it gives is taken back there alone.

    A model that asks another one is taken for that; one whose module knows the converter to Chat
    Completions, for one of these.
    """
    api: API = "other"
    if isinstance(model, OpenAIResponsesModel):
        api = "responses"
    elif isinstance(model, OpenAIChatCompletionsModel) or _converts(type(model).__mro__):
        api = "chat"
    elif (inner := _inner_model(model)) is not None:
        return origin_of(inner)
    url = getattr(getattr(model, "_client", None), "base_url", None)
    url = url or getattr(model, "base_url", None)
    if url is not None:
        return Origin(api, str(url).partition("://")[2].rstrip("/") or str(url))
    # LiteLLM's `provider/model`, or a model of the user's own.
    name, slash, _ = str(getattr(model, "model", "")).partition("/")
    kind = f"{type(model).__module__}.{type(model).__qualname__}"
    return Origin(api, f"{kind} {name}" if slash else kind)


def targets_of(agent: Any) -> list[Any]:
    """The agents that this one hands over to, as far as can be known."""
    handoffs = [
        target_of(each) if isinstance(each, Handoff) else each
        for each in getattr(agent, "handoffs", ())
    ]
    return [found for found in handoffs if found is not None]


def agents_behind(agent: Any) -> list[Any]:
    """The agents that this one hands over to, as far as can be known, or has as tools."""
    tools = [getattr(tool, "_agent_instance", None) for tool in getattr(agent, "tools", ())]
    return [*targets_of(agent), *(found for found in tools if found is not None)]


@functools.cache
def _converts(kinds: tuple[type, ...]) -> bool:
    modules = (sys.modules.get(kind.__module__) for kind in kinds)
    return any(Converter in _values(module) for module in modules if module is not None)


def _values(module: Any) -> list[Any]:
    return [value for value in vars(module).values() if isinstance(value, type)]


def _inner_model(model: Any) -> Model | None:
    values = list(getattr(model, "__dict__", {}).values())
    return next((each for each in values if isinstance(each, Model) and each is not model), None)


def cancellation_of(result: RunResultStreaming) -> asyncio.CancelledError | None:
    """What cancelled the SDK's own work on a run, if anything did; its stream just ends then."""
    task = loop_task(result)
    if task is not None and task.cancelled():
        try:
            task.result()
        except asyncio.CancelledError as error:
            return error
    return None


def loop_task(result: RunResultStreaming) -> asyncio.Task[Any] | None:
    """The task in which the SDK drives a run."""
    return result.run_loop_task


# -- MCP servers ------------------------------------------------------------------------------


def mcp_server_name(server: MCPServer) -> str:
    """Its name, without the credentials that may be in a URL."""
    names: Any = importlib.import_module("agents.mcp._logging")
    return str(names.get_mcp_server_log_name(server.name))


async def probe_mcp_server(server: MCPServer) -> None:
    """Ask something of it that has no effect, and is not answered from a cache. Raises what
    anything may raise that is behind a connection."""
    session: Any = getattr(server, "session", None)
    if session is None:
        await server.list_tools()
    else:
        await session.list_tools()


def is_mcp_timeout(error: BaseException) -> bool:
    """Whether a server did not answer in time, which need not mean that it is gone."""
    compat: Any = importlib.import_module("agents.mcp._compat")
    return bool(compat.is_mcp_timeout_error(error))


# -- function tools ---------------------------------------------------------------------------


def is_agent_tool(tool: Any) -> bool:
    """Whether a tool is an agent, which is a run inside the run."""
    return bool(tool._is_agent_tool)


def declared_json(tool: Any, output: Any) -> str | None:
    """Of a tool with a declared type of output: the output as JSON, which that type reads again.
    None for a tool without, and for text, which is JSON then."""
    if getattr(tool, "output_json_schema", None) is None or isinstance(output, str):
        return None
    adapter = tool._output_type_adapter
    encoded: bytes = to_json(output) if adapter is None else adapter.dump_json(output)
    return encoded.decode()


def output_item(tool: FunctionTool, call: Any, output: Any) -> Any:
    """The output item of a tool that has ended. None where the SDK alone can tell: of a tool with
    a declared type of output, that gave something else (words of a guardrail's, say)."""
    try:
        return ItemHelpers.tool_call_output_item(
            call,
            output,
            output_json_schema=tool.output_json_schema,
            output_type_adapter=tool._output_type_adapter,
        )
    except UserError:
        return None


def tool_result(output: Any, *, is_error: bool = False) -> Any:
    """What the call of a function tool comes to. `is_error`: the SDK itself wrote the output."""
    result: Any = importlib.import_module("agents.tool")
    return result._FunctionToolInvocationResult(output, is_sdk_generated_error=is_error)


def is_error(result: Any) -> bool:
    return bool(result.is_sdk_generated_error)


# -- actions: shell, computer, custom, apply-patch tools --------------------------------------


def call_of(arguments: dict[str, Any]) -> Any:
    """The model's call, from what an action's `execute` was given."""
    return _run_of(arguments).tool_call


def tool_of(arguments: dict[str, Any]) -> Any:
    """The tool of an action."""
    run = _run_of(arguments)
    return getattr(run, _tool_field(run))


def commit_output(arguments: dict[str, Any], item: Any) -> None:
    """Tell the SDK of an action's output item, as the action itself would have."""
    committer = arguments.get("tool_output_committer")
    if committer is not None:
        committer(item)


def replace_output(item: Any, words: str) -> None:
    """Put words in place of what an action's item has as its output, but for a screenshot."""
    item.output = words
    raw = item.raw_item
    raw.pop("shell_output", None)
    if isinstance(raw.get("output"), str):
        raw["output"] = words
    elif isinstance(raw.get("output"), list):
        outcome = {"type": "exit", "exit_code": 0}
        raw["output"] = [{"stdout": words, "stderr": "", "outcome": outcome}]


def guarded(
    arguments: dict[str, Any], may_start: Callable[[], Awaitable[bool]], otherwise: str
) -> dict[str, Any]:
    """What an action was given, with an executor that asks first whether it may start."""

    def guard(execute: Callable[..., Any]) -> Callable[..., Any]:
        async def guarded_execute(*args: Any) -> Any:
            if not await may_start():
                return otherwise
            result = execute(*args)
            return await result if inspect.isawaitable(result) else result

        return guarded_execute

    tool = copy.copy(tool_of(arguments))
    if hasattr(tool, "editor"):
        names = ("create_file", "update_file", "delete_file")
        edits = {name: guard(getattr(tool.editor, name)) for name in names}
        tool.editor = types.SimpleNamespace(**edits)
    else:
        name = "executor" if hasattr(tool, "executor") else "on_invoke_tool"
        setattr(tool, name, guard(getattr(tool, name)))
    run = _run_of(arguments)
    return {**arguments, "call": dataclasses.replace(run, **{_tool_field(run): tool})}


def _run_of(arguments: dict[str, Any]) -> Any:
    return arguments["call"] if "call" in arguments else arguments["action"]


def _tool_field(run: Any) -> str:
    return next(field.name for field in dataclasses.fields(run) if field.name.endswith("_tool"))
