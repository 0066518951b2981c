"""Turns known beforehand: what the SDK would make of them, and a run that begins behind them."""

import importlib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from agents import (
    Agent,
    FunctionTool,
    ItemHelpers,
    MessageOutputItem,
    ModelResponse,
    ReasoningItem,
    RunConfig,
    RunHooks,
    RunResultStreaming,
    ToolCallItem,
    ToolCallOutputItem,
)
from agents.items import RunItem
from agents.lifecycle import AgentHooksBase, RunHooksBase
from openai.types.responses import (
    Response,
    ResponseFunctionToolCall,
    ResponseOutputMessage,
    ResponseReasoningItem,
)

from longrun.execution.replay.sdk.models import model_of
from longrun.execution.replay.sdk.names import RUN_ITEMS, RUN_LOOP, RUN_STEPS

_TOLD_OF_TURNS: Final = ("on_llm_start", "on_llm_end", "on_tool_start", "on_tool_end")


@dataclass(frozen=True, slots=True)
class DoneTurn:
    """A turn that called function tools, and after which another one comes.

    Attributes:
        response: what its model gave.
        items: what the SDK makes of it.
        outputs: the output items of its tools, as models are given them.
        used: the names of its tools.
    """

    response: Response
    items: list[RunItem]
    outputs: list[Any]
    used: list[str]


def runs_alone(agent: Agent[Any], config: RunConfig, hooks: RunHooks[Any] | None) -> bool:
    """Whether turns of an agent, between the first and the last, call nothing of the
    application's but models and tools; and lead to no other agent.

    Args:
        hooks: the application's.
    """
    settings = model_of(agent, config)[1]
    return (
        type(agent) is Agent
        and not agent.handoffs
        and not agent.mcp_servers
        and not agent.input_guardrails
        and not callable(agent.instructions)
        and not callable(agent.prompt)
        and not callable(agent.tool_use_behavior)
        and not _hears(agent.hooks, AgentHooksBase)
        and not _hears(hooks, RunHooksBase)
        and not any(callable(getattr(tool, "is_enabled", None)) for tool in agent.tools)
        and not config.input_guardrails
        and config.call_model_input_filter is None
        and config.reasoning_item_id_policy is None
        and config.tool_execution is None
        and not settings.preserve_raw_usage
    )


def _hears(hooks: Any, kind: type) -> bool:
    """Whether hooks do anything when they are told of a turn, or of a tool."""
    if hooks is None:
        return False
    return not isinstance(hooks, kind) or any(
        inspect.getattr_static(hooks, name) is not inspect.getattr_static(kind, name)
        for name in _TOLD_OF_TURNS
    )


def is_plain(tool: Any) -> bool:
    """Whether a call of a tool comes to what the tool gives, and to nothing else."""
    return (
        type(tool) is FunctionTool
        and not tool._is_agent_tool
        and tool.is_enabled is True
        and tool.needs_approval is False
        and not tool.tool_input_guardrails
        and not tool.tool_output_guardrails
        and tool.custom_data_extractor is None
        and tool.allowed_callers is None
        and not tool.defer_loading
        and tool.output_json_schema is None
        and tool._output_type_adapter is None
        and tool._tool_namespace is None
    )


def done_turn(
    agent: Agent[Any],
    response: Response,
    called: Sequence[tuple[FunctionTool, ResponseFunctionToolCall, Any]],
) -> DoneTurn | None:
    """A turn of an agent that `runs_alone`; None if it gave more than messages, reasoning and
    calls of such tools.

    Args:
        called: each tool that `is_plain`, its call, and what it gave.
    """
    tools = {call.call_id: tool for tool, call, _ in called}
    items: list[RunItem] = []
    for item in response.output:
        if type(item) is ResponseOutputMessage:
            items.append(MessageOutputItem(agent, item))
        elif type(item) is ResponseReasoningItem:
            items.append(ReasoningItem(agent, item))
        elif type(item) is ResponseFunctionToolCall and (tool := tools.get(item.call_id)):
            if item.namespace is not None or item.caller is not None:
                return None
            items.append(
                ToolCallItem(
                    agent,
                    item,
                    description=tool.description,
                    title=tool._mcp_title,
                    tool_origin=_origin_of(tool),
                )
            )
        else:
            return None
    outputs: list[Any] = []
    for tool, call, output in called:
        outputs.append(ItemHelpers.tool_call_output_item(call, output))
        items.append(
            ToolCallOutputItem(agent, outputs[-1], output=output, tool_origin=_origin_of(tool))
        )
    if not called or len(tools) != len(called):
        return None
    return DoneTurn(response, items, outputs, [call.name for _, call, _ in called])


def _origin_of(tool: FunctionTool) -> Any:
    tools: Any = importlib.import_module("agents.tool")
    return tools.get_function_tool_origin(tool)


def next_input(begins: list[Any], done: Sequence[DoneTurn]) -> list[Any]:
    """What the model is asked behind these turns of a run.

    Args:
        begins: the input of the run.
    """
    run_loop: Any = importlib.import_module(RUN_LOOP)
    items: Any = importlib.import_module(RUN_ITEMS)
    generated = [item for turn in done for item in turn.items]
    asked = run_loop._prepare_turn_input_items(begins, generated, None)
    return list(items.deduplicate_input_items_preferring_latest(asked))


def begin_behind(result: RunResultStreaming, agent: Agent[Any], done: Sequence[DoneTurn]) -> None:
    """Let a run begin behind these turns, as if it had done them. It must not have had its first
    moment yet: the SDK takes from its state where it stands when its loop begins."""
    steps: Any = importlib.import_module(RUN_STEPS)
    usage: Any = importlib.import_module("agents.usage")
    items = [item for turn in done for item in turn.items]
    for item in items:
        if isinstance(item, ToolCallItem):
            result.context_wrapper._mark_tool_invocation_executed(item.raw_item)
        elif isinstance(item, ToolCallOutputItem):
            result.context_wrapper._mark_tool_call_completed(item.raw_item)
    responses = []
    for turn in done:
        given = turn.response
        used = usage._response_usage_to_usage(given.usage) if given.usage else usage.Usage()
        result.context_wrapper.usage.add(used)
        responses.append(ModelResponse(given.output, used, given.id))
    state = result._state
    assert state is not None
    state._current_turn = result.current_turn = len(done)
    state._generated_items = list(items)
    state._session_items = list(items)
    state._model_responses = list(responses)
    state._current_step = steps.NextStepRunAgain()
    result.new_items = list(items)
    result._model_input_items = list(items)
    result.raw_responses = responses
    result._tool_use_tracker_snapshot = {agent.name: [name for turn in done for name in turn.used]}
    state.set_tool_use_tracker_snapshot(result._tool_use_tracker_snapshot)
