"""Runs that wait for approvals, and those that go on from them, wherever their replica dies."""

import json
from typing import Any

import pytest
from agents import Agent, ShellTool, function_tool

from longrun import ids
from longrun.errors import LongrunError
from longrun.execution import run_states
from longrun.execution.approving import GoesOn
from longrun.execution.parameters import context_of_run
from longrun.execution.parked import FORMAT, unreadable
from longrun.history.approvals import Answer, answers_to
from longrun.jsontext import loads
from longrun.protocol import RunRequest
from longrun.store.records import Parked
from tests.unit import runs
from tests.unit.runs import Commits, Played, kinds
from tests.unit.streams import call, hosted, message, request, turn


def agent(done: list[str], *turns: Any, **given: Any) -> Agent[Any]:
    @function_tool(needs_approval=True)
    async def risky(what: str) -> str:
        """Do it."""
        done.append(what)
        return f"did {what}"

    @function_tool
    async def safe() -> str:
        """Do it."""
        done.append("safe")
        return "ok"

    tools = [risky, safe]
    return Agent(name="agent", model=Played(*turns), **{"tools": tools, **given})


def two_calls() -> Any:
    return turn(
        call("risky", '{"what": "a"}', call_id="a"),
        call("safe", "{}", call_id="s", index=1),
        call("risky", '{"what": "b"}', call_id="b", index=2),
    )


def parked_in(commits: Commits) -> Parked:
    [ending] = [entry.ending for entry in commits.entries if entry.ending]
    assert ending.parked is not None
    return ending.parked


def going_on(asked: RunRequest, commits: Commits, *answers: Answer) -> tuple[RunRequest, GoesOn]:
    """The request that brings these answers, and what its run goes on from."""
    parked = parked_in(commits)
    brought = [
        {
            "type": "mcp_approval_response",
            "approval_request_id": ids.item_id(asked.response_id, index, "mcp_approval_request"),
            "approve": each.approve,
            "reason": each.reason,
        }
        for index, each in zip(parked.requests, answers, strict=False)
    ]
    later = request(input=brought)
    given = answers_to(brought, asked.response_id)
    state = loads(parked.state)
    return later, GoesOn(state, context_of_run(asked), given, asked.response_id, [])


@pytest.mark.parametrize("display", ["mcp_call", "function_call"])
async def test_wherever_its_replica_dies_nothing_that_is_recorded_is_done_again(
    display: runs.ServerTools,
) -> None:
    asked, done = request(), list[str]()
    first = await runs.run(agent(done, two_calls()), asked, server_tools=display)
    assert done == ["safe"]
    runs.check(first)
    later, goes_on = going_on(asked, first, Answer(True), Answer(False, "too dear"))
    done.clear()
    turns = [turn(call("safe", "{}", call_id="t")), turn(message("ok"))]
    whole = await runs.run(agent(done, *turns), later, server_tools=display, goes_on=goes_on)
    assert done == ["a", "safe"]
    expected = shown(runs.check(whole).output)
    assert expected[0][1] == "did a"
    assert "too dear" in str(expected[1][1])
    for commit in range(1, len(whole.entries)):
        commits = whole.died_after(commit)
        recorded = {step.key for step in commits.committed_steps if step.kind == "tool"}
        done.clear()
        left = turns[sum(step.key != "" for step in commits.turns) :]
        await runs.take_over(
            agent(done, *left), later, commits, server_tools=display, goes_on=goes_on
        )
        stream = runs.check(commits)
        assert shown(stream.output) == expected, commit
        assert sorted(done) == sorted({"a": "a", "t": "safe"}[k] for k in {"a", "t"} - recorded)


def shown(output: list[Any]) -> list[tuple[str, Any]]:
    """What became of the calls of a response, and what it said."""
    found = []
    for item in output:
        if item["type"] == "mcp_call":
            found.append((item["name"], item["output"] or str(item["error"])))
        elif item["type"] == "function_call_output":
            found.append(("", item["output"]))
        elif item["type"] == "message":
            found.append(("message", item["content"][0]["text"]))
    return [(name if name == "message" else "", said) for name, said in found]


async def test_what_it_began_with_and_the_application_s_context_are_not_in_what_is_parked() -> None:
    secret = "the-secret-of-the-context"
    asked = request(input=[{"role": "user", "content": "what-was-said"}])
    commits = await runs.run(
        agent([], two_calls()), asked, context=lambda: {"password": secret, "pool": object()}
    )
    parked = parked_in(commits)
    assert secret not in parked.state
    assert "what-was-said" not in parked.state
    assert "RunState" in parked.written_by
    assert unreadable(parked.format, parked.written_by) is None
    assert parked.format == FORMAT
    later, goes_on = going_on(asked, commits, Answer(True), Answer(True))
    seen = agent([], turn(message("ok")))
    again = await runs.run(seen, later, goes_on=goes_on, context=lambda: {"password": "new"})
    assert runs.check(again).output[-1]["type"] == "message"
    assert isinstance(seen.model, Played)
    [items] = seen.model.asked
    assert items[0]["content"] == "what-was-said"


@pytest.mark.parametrize("change", [{"tools": []}, {"name": "another"}], ids=["tool", "agent"])
async def test_an_agent_that_was_changed_fails_in_words(change: dict[str, Any]) -> None:
    asked = request()
    commits = await runs.run(agent([], two_calls()), asked)
    later, goes_on = going_on(asked, commits, Answer(True), Answer(True))
    other = agent([], turn(message("ok")))
    for name, value in change.items():
        setattr(other, name, value)
    ended = await runs.run(other, later, goes_on=goes_on)
    stream = runs.check(ended)
    assert stream.types[-1] == "response.failed"
    said = stream.events[-1]["response"]["error"]["message"]
    assert said == run_states.NO_LONGER_FITS


async def test_a_call_of_a_shell_is_shown_again_with_what_came_of_it() -> None:
    def deleted(*_: Any) -> str:
        return "gone"

    shell = ShellTool(executor=deleted, needs_approval=True)
    raw = {
        "type": "shell_call",
        "id": "sh_1",
        "call_id": "c",
        "status": "completed",
        "action": {"commands": ["rm"], "timeout_ms": None, "max_output_length": None},
    }
    asked = request()
    first = await runs.run(agent([], turn(hosted(raw)), tools=[shell]), asked)
    [item] = runs.check(first).output
    assert (item["type"], item["name"]) == ("mcp_approval_request", "shell")
    assert json.loads(item["arguments"])["commands"] == ["rm"]
    later, goes_on = going_on(asked, first, Answer(True))
    then = agent([], turn(message("ok")), tools=[shell])
    again = await runs.run(then, later, goes_on=goes_on)
    assert kinds(runs.check(again).output) == ["shell_call", "shell_call_output", "message"]


def test_a_later_format_is_not_read() -> None:
    assert unreadable(FORMAT + 1, "openai-agents 0.24.0, RunState 1.21")
    assert unreadable(FORMAT, "openai-agents 99, RunState 99.0")
    assert unreadable(FORMAT, "a handler") is None


async def test_two_calls_that_cannot_be_told_apart_fail_in_words() -> None:
    asked = request()
    commits = await runs.run(agent([], two_calls()), asked)
    _, goes_on = going_on(asked, commits, Answer(True))
    state = await run_states.restored(
        agent([]), {"original_input": [], **goes_on.state["run_state"]}, None
    )
    interruptions = state.get_interruptions()
    state._current_step.interruptions.append(interruptions[0])  # type: ignore[union-attr]
    with pytest.raises(LongrunError, match="told apart"):
        run_states.answer(state, {0: Answer(True)})
