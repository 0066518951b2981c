"""What a request asks for that its agent cannot give: a tool that is not there, or there twice."""

from dataclasses import replace
from typing import Any

import pytest
from agents import Agent, FunctionTool, HostedMCPTool, WebSearchTool, function_tool, handoff
from agents.mcp import MCPServerStdio

from longrun.errors import BadRequest
from longrun.execution.agreement import check_agreement
from tests.journal_agents.models import agent, says
from tests.unit import runs
from tests.unit.streams import request


@function_tool
async def look() -> str:
    """Look."""
    return "found"


MINE = [{"type": "function", "name": "mine", "parameters": {"type": "object"}}]


def choice(kind: str, name: str | None = None, **more: Any) -> dict[str, Any]:
    return {"type": kind, **more} if name is None else {"type": kind, "name": name, **more}


def allowed(*tools: dict[str, Any]) -> dict[str, Any]:
    return {"type": "allowed_tools", "mode": "auto", "tools": list(tools)}


MCP: Any = {"type": "mcp", "server_label": "wiki", "server_url": "https://wiki.example"}

OTHER: Agent[Any] = Agent("other", tools=[WebSearchTool()])

ASKED: Agent[Any] = Agent("asked", tools=[look, HostedMCPTool(MCP)], handoffs=[OTHER])


@pytest.mark.parametrize(
    ("chosen", "there"),
    [
        (choice("function", "look"), True),
        (choice("function", "mine"), True),
        (choice("function", "transfer_to_other"), True),
        (choice("function", "lok"), False),
        (choice("custom", "lok"), False),
        (choice("mcp", server_label="wiki"), True),
        (choice("mcp", server_label="wick"), False),
        (choice("web_search"), False),
        (choice("computer_use_preview"), False),
        (choice("of_next_year"), True),
        ("required", True),
        (allowed(choice("function", "look"), choice("function", "mine")), True),
        (allowed(choice("function", "look"), choice("function", "lok")), False),
        (allowed(choice("file_search")), False),
    ],
)
def test_a_tool_that_is_chosen_is_there(chosen: Any, there: bool) -> None:
    asked = request(tools=MINE, tool_choice=chosen)
    if there:
        check_agreement(ASKED, asked)
        return
    with pytest.raises(BadRequest) as refused:
        check_agreement(ASKED, asked)
    place = "[1]" if len(chosen.get("tools", ())) == 2 else "[0]"
    of_allowed = chosen["type"] == "allowed_tools"
    assert refused.value.param == (f"tool_choice.tools{place}" if of_allowed else "tool_choice")
    assert refused.value.code == "tool_not_found"
    last = chosen["tools"][-1] if of_allowed else chosen
    assert str(last.get("name") or last.get("server_label") or last["type"]) in str(refused.value)


@pytest.mark.parametrize("kind", ["web_search", "web_search_preview"])
def test_what_continues_another_response_may_be_for_who_was_handed_to(kind: str) -> None:
    asked = request(tool_choice=choice(kind))
    check_agreement(ASKED, replace(asked, previous_id="resp_1"))
    check_agreement(ASKED, replace(asked, conversation_id="conv_1"))
    with pytest.raises(BadRequest):
        check_agreement(ASKED, asked)


def test_what_is_not_known_yet_is_not_refused() -> None:
    asked = request(tool_choice=choice("function", "lok"))
    check_agreement(lambda: ASKED, asked)
    server = MCPServerStdio({"command": "none"})
    check_agreement(Agent("asked", mcp_servers=[server]), asked)


@pytest.mark.parametrize("name", ["look", "transfer_to_other", "go"])
def test_a_request_s_tool_has_a_name_of_its_own(name: str) -> None:
    asked = request(tools=[{**MINE[0], "name": name}])
    found = Agent("asked", tools=[look], handoffs=[OTHER, handoff(OTHER, tool_name_override="go")])
    with pytest.raises(BadRequest, match=f"'asked' already has a tool '{name}'") as refused:
        check_agreement(found, asked)
    assert (refused.value.param, refused.value.code) == ("tools", "tool_name_taken")
    off = FunctionTool(name, "", {}, look.on_invoke_tool, is_enabled=False)
    check_agreement(Agent("asked", tools=[off]), asked)


async def output_of(served: Any, chosen: Any) -> dict[str, Any]:
    response = runs.check(await runs.run(served, request(tool_choice=chosen))).response
    assert response is not None
    return response


@pytest.mark.parametrize("made", [False, True], ids=["dynamic tool", "made for the run"])
async def test_what_is_known_in_the_run_alone_fails_it_in_words(made: bool) -> None:
    off = FunctionTool("lok", "", {}, look.on_invoke_tool, is_enabled=lambda *_: False)
    served = agent("agent", [says("never")], tools=[look] if made else [look, off])
    response = await output_of((lambda: served) if made else served, choice("function", "lok"))
    assert response["status"] == "failed"
    assert "Tool choice 'lok' not found" in response["error"]["message"]
