"""Whether an agent can give what a request asks for: an output type, its own tools, others."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Final

from agents import Agent, Handoff, Tool

from longrun import schemas
from longrun.errors import BadRequest
from longrun.execution.output import schema_of
from longrun.execution.replay import sdk
from longrun.protocol import RunRequest

_FAMILIES: Final = {
    "computer_use": "computer",
    "computer_use_preview": "computer",
    "web_search_preview": "web_search",
    "web_search_preview_2025_03_11": "web_search",
}
"""Names of hosted tools that mean another one's."""

_HOSTED: Final = frozenset(
    {
        "apply_patch",
        "code_interpreter",
        "computer",
        "file_search",
        "image_generation",
        "local_shell",
        "shell",
        "web_search",
    }
)


def check_agreement(agent: Any, request: RunRequest) -> None:
    """Whether an agent, and those that it hands off to, can give what a request asks for.

    Of a function that makes it, and of its MCP servers' tools, that is known in the run; what a
    handler has is its own affair.

    Raises:
        BadRequest: it cannot; says why.
    """
    if not isinstance(agent, Agent):
        return
    check_output_type(agent, request.parameters)
    continues = request.previous_id is not None or request.conversation_id is not None
    # After a handoff it is another one that begins what continues that.
    begin = list(_reached(agent)) if continues and agent.handoffs else [agent]
    _check_tools(begin, request.parameters)


def check_begins(agent: Agent[Any], parameters: Mapping[str, Any]) -> None:
    """The same of the agent that begins a run, where it is another than the one that is asked for,
    or was made for it.

    Raises:
        BadRequest: it cannot; says why.
    """
    check_output_type(agent, parameters)
    _check_tools([agent], parameters)


def _check_tools(begin: Collection[Agent[Any]], parameters: Mapping[str, Any]) -> None:
    """Whether the tools that a request brings have names of their own, and the one that it chooses
    is there.

    Args:
        begin: the agents of which one begins the run.
    """
    given = {tool["name"]: place for place, tool in enumerate(parameters.get("tools") or ())}
    if given and len(begin) == 1:
        [agent] = begin
        for name in _names_of(agent):
            if name in given:
                raise BadRequest(
                    f"tools: the agent {agent.name!r} already has a tool {name!r}.",
                    param="tools",
                    code="tool_name_taken",
                )
    choice = parameters.get("tool_choice")
    if choice is None or any(agent.mcp_servers for agent in begin):
        return
    tools = [tool for agent in begin for tool in agent.tools]
    names = {name for agent in begin for name in _handoffs_of(agent)}
    check_choice(choice, tools, names | given.keys())


def check_choice(choice: Any, tools: Iterable[Tool], names: Collection[str]) -> None:
    """Whether what a request chooses is there.

    Args:
        tools: of the agent.
        names: of what there is besides: the request's own tools, handoffs.

    Raises:
        BadRequest: it is not; names it.
    """
    tools = list(tools)
    for param, wanted in _chosen(choice):
        if not is_there(wanted, tools, names):
            raise BadRequest(
                f"Tool choice {_said(wanted)} not found: neither the agent nor the request has "
                "such a tool.",
                param=param,
                code="tool_not_found",
            )


def is_there(wanted: Mapping[str, Any], tools: Iterable[Tool], names: Collection[str]) -> bool:
    """Whether a tool that is chosen, by its type and name, is among these, as far as is known: of
    types that are new nothing is."""
    kind = str(wanted.get("type"))
    if kind in ("function", "custom"):
        found = wanted.get("name")
        return found in names or any(tool.name == found for tool in tools)
    if kind == "mcp":
        labels = {getattr(tool, "tool_config", {}).get("server_label") for tool in tools}
        return wanted.get("server_label") in labels
    family = _FAMILIES.get(kind, kind)
    return family not in _HOSTED or any(
        _FAMILIES.get(tool.name, tool.name) == family for tool in tools
    )


def _chosen(choice: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The tools that a choice names, each with its parameter."""
    if not isinstance(choice, dict):
        return
    if choice.get("type") != "allowed_tools":
        yield "tool_choice", choice
        return
    for place, tool in enumerate(choice["tools"]):
        yield f"tool_choice.tools[{place}]", tool


def _said(wanted: Mapping[str, Any]) -> str:
    name = wanted.get("name") or wanted.get("server_label")
    return repr(wanted["type"] if name is None else str(name)[:200])


def _names_of(agent: Agent[Any]) -> Iterator[str]:
    """What the tools of an agent are called that its models call by name, its handoffs too."""
    yield from (tool.name for tool in agent.tools if getattr(tool, "is_enabled", True) is not False)
    yield from _handoffs_of(agent)


def _handoffs_of(agent: Agent[Any]) -> Iterator[str]:
    for each in agent.handoffs:
        yield Handoff.default_tool_name(each) if isinstance(each, Agent) else each.tool_name


def check_output_type(agent: Agent[Any], parameters: Mapping[str, Any]) -> None:
    """Whether a schema that a request asks for is that of the agent's own output type, if it has
    one.

    Raises:
        BadRequest: it is another.
    """
    wanted = (parameters.get("text") or {}).get("format") or {}
    if wanted.get("type") != "json_schema":
        return
    for each in _reached(agent):
        own = schema_of(each)
        if own is not None and not schemas.alike(own, wanted["schema"]):
            raise BadRequest(
                f"text.format: the agent {each.name!r} has its own output type, with a different "
                "schema.",
                param="text.format",
                code="output_type_conflict",
            )


def _reached(agent: Agent[Any]) -> Iterator[Agent[Any]]:
    """An agent and all that it may hand off to, as far as is known before the run."""
    seen: set[int] = set()
    waiting: list[Any] = [agent]
    while waiting:
        each = waiting.pop()
        found = each if isinstance(each, Agent) else sdk.target_of(each)
        if found is not None and id(found) not in seen:
            seen.add(id(found))
            yield found
            waiting += found.handoffs
