"""What of a request a run acts upon, in the SDK's terms."""

import copy
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from agents import Agent, FunctionTool, ModelSettings
from openai.types.shared import Reasoning

from longrun.history.continuation import context_of, told
from longrun.parameters import PARAMETERS, Parameter
from longrun.protocol import Context, RunRequest
from longrun.settings import Settings

NO_OUTPUTS: Final[Mapping[str, Any]] = MappingProxyType({})


def model_settings(parameters: dict[str, Any]) -> ModelSettings | None:
    """The settings that the request gave, to override those of the agents of the run."""
    given: dict[str, Any] = {}
    for each in PARAMETERS:
        value = _value_of(each, parameters)
        # Asking for none is not asking: it would bring the rest of what goes with them.
        if each.setting and value is not None and (each.name, value) != ("top_logprobs", 0):
            given[each.setting] = value
    if parameters.get("reasoning"):
        # Not validated: models learn new efforts before the types do. Names with an underscore
        # would be arguments of `construct`.
        fields = {k: v for k, v in parameters["reasoning"].items() if not k.startswith("_")}
        given["reasoning"] = Reasoning.construct(**fields)
    choice = parameters.get("tool_choice")
    if isinstance(choice, str) and choice != "auto":
        given["tool_choice"] = choice
    elif isinstance(choice, dict) and choice.get("type") == "function":
        given["tool_choice"] = choice.get("name")
    elif isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        given["tool_choice"] = choice.get("mode", "auto")
    return ModelSettings(**given) if given else None


def _value_of(parameter: Parameter, parameters: dict[str, Any]) -> Any:
    value = parameters.get(parameter.whole)
    _, _, part = parameter.name.partition(".")
    return value.get(part) if part and value is not None else value


def context_of_run(request: RunRequest) -> Context:
    """What a run of the request begins with."""
    return request.context or context_of((), request.input, {})


def input_items(request: RunRequest, items: list[Any] | None = None) -> list[Any]:
    """The run's input. `instructions` go before it, for this run alone.

    Args:
        items: the context's, where they were told already.
    """
    if items is None:
        items = told(context_of_run(request))
    instructions = request.parameters.get("instructions")
    if not instructions:
        return items
    return [{"role": "developer", "content": instructions}, *items]


def with_client_tools(
    agent: Agent[Any], parameters: Mapping[str, Any], outputs: Mapping[str, Any] = NO_OUTPUTS
) -> Agent[Any]:
    """The agent, also knowing the client's own function tools.

    A call of one ends the run: it asks for an approval that is never given here, so the SDK
    stops with the call unanswered, and the client answers it in a next request.

    Args:
        outputs: by call id, what the client has given: in a run that goes on, which waited for it
            beside other approvals.
    """
    made = [_client_tool(tool, outputs) for tool in parameters.get("tools") or ()]
    if not made:
        return agent
    extended = copy.copy(agent)
    extended.tools = [*agent.tools, *made]
    return extended


def client_tools(parameters: dict[str, Any], settings: Settings) -> frozenset[str] | None:
    """The names of the tools that the client executes; None where the calls of all tools are to be
    shown alike (LONGRUN_SERVER_TOOLS)."""
    if settings.server_tools == "function_call":
        return None
    return frozenset(tool["name"] for tool in parameters.get("tools") or ())


def _client_tool(tool: dict[str, Any], outputs: Mapping[str, Any]) -> FunctionTool:
    async def given(context: Any, arguments: str) -> Any:
        if not outputs:
            raise AssertionError("a client's tool is not executed here")
        return outputs[context.tool_call_id]

    made = FunctionTool(
        name=tool["name"],
        description=tool.get("description") or "",
        params_json_schema=tool.get("parameters") or {"type": "object", "properties": {}},
        on_invoke_tool=given,
        strict_json_schema=False,
        needs_approval=True,
    )
    # Only now: at its making, the SDK would expand the schema's references, up to 100,000 of them,
    # and raise for what cannot be strict. Both were looked at when the request came.
    made.strict_json_schema = bool(tool.get("strict", False))
    return made
