"""Calls that the server executes: one `mcp_call` each, from the model's first word to the end of
its tool (contract, "Response object")."""

import asyncio
import json
from typing import Any

import pytest
from agents import (
    Agent,
    RunContextWrapper,
    ToolGuardrailFunctionOutput,
    ToolOutputImage,
    ToolOutputText,
    function_tool,
    tool_input_guardrail,
    tool_output_guardrail,
)
from agents.agent import StopAtTools
from pydantic import BaseModel

from longrun.pending import lines
from longrun.protocol import RunRequest
from tests.unit import oracle, runs
from tests.unit.runs import Commits, Played, kinds
from tests.unit.streams import (
    CREATED,
    Assembly,
    JSONObject,
    call,
    completed,
    message,
    output_of,
    request,
    turn,
)

ADDED = "response.output_item.added"
DONE = "response.output_item.done"
THEIRS = {"type": "function", "name": "theirs", "parameters": {"type": "object"}}


@function_tool
async def search(q: str) -> str:
    """Search."""
    return f"found {q}"


async def played(*turns: Any, asked: RunRequest | None = None, **more: Any) -> oracle.Stream:
    agent = Agent(name="agent", model=Played(*turns), **{"tools": [search], **more})
    return runs.check(await runs.run(agent, asked, server_tools="mcp_call"))


def assembly(*client_tools: str) -> Assembly:
    return Assembly(client_tools=client_tools)


def ended(stream: oracle.Stream) -> list[tuple[str, Any]]:
    """The calls in the order in which they ended, and how."""
    return [
        (event["item"]["name"], event["item"]["status"])
        for event in stream.of(DONE)
        if event["item"]["type"] == "mcp_call"
    ]


class TestAssembler:
    def test_one_call_and_all_its_events(self) -> None:
        stream = assembly().feed(*turn(call())).started().tool_output(output_of()).end()
        assert stream.types[2:] == [
            "response.output_item.added",
            *["response.mcp_call_arguments.delta"] * 3,
            "response.mcp_call_arguments.done",
            "response.mcp_call.in_progress",
            "response.mcp_call.completed",
            "response.output_item.done",
            "response.completed",
        ]
        (item,) = stream.output
        assert {key: value for key, value in item.items() if key != "id"} == {
            "type": "mcp_call",
            "server_label": "agent",
            "name": "search",
            "arguments": '{"q": "tea"}',
            "approval_request_id": None,
            "output": "found",
            "error": None,
            "status": "completed",
        }

    def test_an_item_is_open_and_not_yet_handed_over_while_its_tool_runs(self) -> None:
        made = assembly().feed(*turn(call())).started()
        assert made.items == []
        assert made.so_far().items[0].done is None
        made.tool_output(output_of())
        assert [index for index, _ in made.items] == [0]

    def test_each_of_parallel_calls_ends_when_its_tool_does(self) -> None:
        two = turn(call(), call("fetch", call_id="call_2", index=1))
        made = assembly().feed(*two).tool_output(output_of("call_2"))
        assert [index for index, _ in made.items] == [1]
        stream = made.tool_output(output_of("call_1")).end()
        assert ended(stream) == [("fetch", "completed"), ("search", "completed")]
        assert [item["name"] for item in stream.output] == ["search", "fetch"]

    def test_the_client_s_are_its_own_to_execute(self) -> None:
        two = turn(call(), call("theirs", call_id="call_2", index=1))
        stream = assembly("theirs").feed(*two).tool_output(output_of()).end()
        assert kinds(stream.output) == ["mcp_call", "function_call"]
        assert stream.output[1]["call_id"] == "call_2"

    def test_an_output_that_is_told_twice_ends_it_once(self) -> None:
        made = assembly().feed(*turn(call())).tool_output(output_of())
        stream = made.tool_output(output_of()).end()
        assert kinds(stream.output) == ["mcp_call"]

    def test_a_call_id_that_comes_again_in_a_later_turn(self) -> None:
        made = assembly()
        for number in range(3):
            made.feed(*turn(call())).tool_output(output_of(output=f"found {number}"))
        stream = made.end()
        assert [item["output"] for item in stream.output] == ["found 0", "found 1", "found 2"]

    def test_a_call_id_that_comes_again_before_it_was_answered(self) -> None:
        made = assembly().feed(*turn(call()), *turn(call("fetch")))
        stream = made.tool_output(output_of()).end()
        assert ended(stream) == [("fetch", "completed"), ("search", "incomplete")]

    def test_how_the_model_gave_it_is_kept_beside_it(self) -> None:
        made = assembly()
        made.assembler.origin = "responses somewhere"
        made.feed(*turn(call()))
        made.assembler.origin = "responses elsewhere"
        made.tool_output(output_of())
        assert json.loads(made.models[0]) == {
            "from": "responses somewhere",
            "set": {"call_id": "call_1", "id": "fc_1"},
        }

    @pytest.mark.parametrize("output", ["words", [{"type": "input_text", "text": "words"}]])
    def test_a_failure_says_how_in_its_error(self, output: Any) -> None:
        made = assembly().feed(*turn(call())).started().failed()
        (item,) = made.tool_output(output_of(output=output)).end().output
        (part,) = item["error"]["content"]
        assert item["error"]["type"] == "mcp_tool_execution_error"
        assert "words" in part["text"]

    def test_a_failure_without_an_output(self) -> None:
        stream = assembly().feed(*turn(call())).started().failed().end("failed")
        (item,) = stream.output
        assert item["error"]["content"] == [{"type": "text", "text": "The tool failed."}]

    def test_what_is_never_answered_is_closed_and_does_not_stay(self) -> None:
        stream = assembly().feed(*turn(call())).started().end("cancelled")
        assert stream.output == []
        assert stream.items[0].done is not None
        assert stream.items[0].done["arguments"] == '{"q": "tea"}'

    def test_what_the_model_never_finished(self) -> None:
        stream = assembly().feed(CREATED, *call().events[:3]).end("failed")
        assert stream.output == []
        assert stream.items[0].done is not None
        assert '{"q": "tea"}'.startswith(stream.items[0].done["arguments"])

    def test_of_a_model_request_that_is_tried_again_nothing_is_left_open(self) -> None:
        made = assembly().feed(CREATED, *call().events, *turn(call()))
        stream = made.tool_output(output_of()).end()
        assert ended(stream) == [("search", "incomplete"), ("search", "completed")]
        assert len(stream.output) == 1

    @pytest.mark.parametrize("name", ["search", "theirs"])
    def test_a_name_that_comes_late(self, name: str) -> None:
        """Nothing is shown until it is known who executes it."""
        told = call(name)
        told.events[0]["item"]["name"] = ""
        made = assembly("theirs").feed(CREATED, *told.events[:-1])
        assert made.so_far().items == []
        made.feed(told.events[-1], completed(told)).tool_output(output_of())
        assert kinds(made.end().output)[0] == ("mcp_call" if name == "search" else "function_call")

    def test_a_model_that_tells_the_end_only(self) -> None:
        stream = assembly().feed(completed(call())).tool_output(output_of()).end()
        assert kinds(stream.output) == ["mcp_call"]

    def test_it_is_labelled_with_the_agent_that_makes_it(self) -> None:
        made = assembly().feed(*turn(call()))
        made.assembler.next_agent("other")
        made.tool_output(output_of()).feed(*turn(call(call_id="call_2")))
        stream = made.tool_output(output_of("call_2")).end()
        assert [item["server_label"] for item in stream.output] == ["agent", "other"]


class TestRuns:
    async def test_tools(self) -> None:
        stream = await played(
            turn(message("Let me see."), call(index=1), call(call_id="c2", index=2)),
            turn(message("Tea.")),
        )
        assert kinds(stream.output) == ["message", "mcp_call", "mcp_call", "message"]
        assert [item["output"] for item in stream.output[1:3]] == ["found tea"] * 2

    async def test_a_tool_starts_before_it_ends(self) -> None:
        begun = asyncio.Event()

        @function_tool
        async def waits() -> str:
            """Wait until it is seen to run."""
            async with asyncio.timeout(10):
                await begun.wait()
            return "ok"

        commits = Commits()
        agent = Agent(
            name="agent",
            model=Played(turn(call("waits", "{}")), turn(message("ok"))),
            tools=[waits],
        )
        running = asyncio.create_task(runs.run(agent, commits=commits, server_tools="mcp_call"))
        while not any(b'"response.mcp_call.in_progress"' in line for line in commits.lines):
            await asyncio.sleep(0)
        assert not any(b'"response.mcp_call.completed"' in line for line in commits.lines)
        begun.set()
        assert kinds(runs.check(await running).output) == ["mcp_call", "message"]

    @pytest.mark.parametrize("declared", [False, True])
    async def test_the_end_of_a_tool_does_not_wait_for_its_siblings(self, declared: bool) -> None:
        quick_is_out = asyncio.Event()

        @function_tool
        async def slow() -> str:
            """Wait until the other's output is committed."""
            async with asyncio.timeout(10):
                await quick_is_out.wait()
            return "slow"

        @function_tool(**({"output_type": Tea} if declared else {}))
        async def quick() -> Any:
            """Be done."""
            return Tea(leaves=3)

        agent = Agent(
            name="agent",
            model=Played(
                turn(call("slow", "{}", call_id="s"), call("quick", "{}", call_id="q", index=1)),
                turn(message("ok")),
            ),
            tools=[slow, quick],
        )
        commits = Commits()
        running = asyncio.create_task(runs.run(agent, commits=commits, server_tools="mcp_call"))
        while not any(b'"response.mcp_call.completed"' in line for line in commits.lines):
            await asyncio.sleep(0)
        quick_is_out.set()
        stream = runs.check(await running)
        assert ended(stream) == [("quick", "completed"), ("slow", "completed")]
        assert stream.output[1]["output"] == ('{"leaves":3}' if declared else "leaves=3")

    async def test_a_tool_of_the_client_ends_the_run(self) -> None:
        two = turn(call(), call("theirs", "{}", call_id="c2", index=1))
        stream = await played(two, asked=request(tools=[THEIRS]))
        assert stream.types[-1] == "response.completed"
        assert kinds(stream.output) == ["mcp_call", "function_call"]

    async def test_outputs_of_every_kind(self) -> None:
        @function_tool
        def picture() -> list[Any]:
            """Show a picture."""
            return [
                ToolOutputText(text="a picture"),
                ToolOutputImage(image_url="data:image/png;base64,iVBORw0KGgo="),
            ]

        @function_tool
        def odd() -> str:
            """Say something that encoders stumble over."""
            return "a\x00b\ud800c\U0001f600\n"

        two = turn(call("picture", "{}"), call("odd", "{}", call_id="c2", index=1))
        stream = await played(two, turn(message("ok")), tools=[picture, odd])
        shown = [item["output"] for item in stream.output if item["type"] == "mcp_call"]
        assert [part["type"] for part in json.loads(shown[0])] == ["input_text", "input_image"]
        assert shown[1] == "a\x00b\ud800c\U0001f600\n"

    async def test_a_handoff_is_of_the_agent_that_hands_over(self) -> None:
        model = Played(turn(call(call_id="call_2")), turn(message("I write.")))
        writer = Agent(name="writer", model=model, tools=[search])
        stream = await played(turn(call("transfer_to_writer", "{}")), handoffs=[writer])
        assert kinds(stream.output) == ["mcp_call", "mcp_call", "message"]
        assert [item["server_label"] for item in stream.output[:2]] == ["agent", "writer"]
        assert json.loads(stream.output[0]["output"]) == {"assistant": "writer"}

    async def test_of_several_handoffs_those_that_are_ignored_end_too(self) -> None:
        two = [Agent(name=name, model=Played(turn(message("Yes?")))) for name in ("one", "two")]
        calls = [
            call(f"transfer_to_{a.name}", "{}", call_id=a.name, index=i) for i, a in enumerate(two)
        ]
        stream = await played(turn(*calls), handoffs=two)
        assert kinds(stream.output) == ["mcp_call", "mcp_call", "message"]
        assert [item["status"] for item in stream.output] == ["completed"] * 3

    async def test_an_agent_as_a_tool(self) -> None:
        inner = Agent(
            name="inner",
            model=Played(turn(call(call_id="inside")), turn(message("from inside"))),
            tools=[search],
        )
        asks = turn(call("ask", '{"input": "?"}'))
        stream = await played(asks, turn(message("ok")), tools=[inner.as_tool("ask", "Ask it.")])
        assert kinds(stream.output) == ["mcp_call", "message"]
        assert stream.output[0]["output"] == "from inside"
        assert "response.mcp_call.in_progress" in stream.types

    async def test_a_tool_that_fails(self) -> None:
        """What the SDK tells the model of it is what its error says."""

        @function_tool
        def broken() -> str:
            """Raise."""
            raise RuntimeError("secret")

        two = turn(call(), call("broken", "{}", call_id="b", index=1))
        stream = await played(two, turn(message("ok")), tools=[search, broken])
        assert [item["status"] for item in stream.output] == ["completed", "failed", "completed"]
        said = stream.output[1]["error"]["content"][0]["text"]
        assert said.startswith("An error occurred while running the tool.")
        assert "secret" not in str(stream.events)

    async def test_a_tool_that_raises_ends_with_its_run(self) -> None:
        @function_tool(failure_error_function=None)
        def broken() -> str:
            """Raise."""
            raise RuntimeError("secret")

        two = turn(call("broken", "{}"), call("nap", "{}", call_id="n", index=1))
        stream = await played(two, tools=[broken, nap])
        assert stream.types[-1] == "response.failed"
        assert "secret" not in str(stream.events)
        assert [(item["name"], item["status"]) for item in stream.output] == [("broken", "failed")]
        assert sorted(ended(stream)) == [("broken", "failed"), ("nap", "incomplete")]

    async def test_a_tool_that_does_not_exist(self) -> None:
        stream = await played(turn(call("nothing", "{}")))
        assert stream.types[-1] == "response.failed"
        assert ended(stream) == [("nothing", "incomplete")]

    async def test_a_tool_that_waits_for_an_approval_never_runs(self) -> None:
        @function_tool(needs_approval=True)
        def risky() -> str:
            """Do it."""
            return "done"

        stream = await played(turn(call("risky", "{}")), tools=[risky])
        assert ended(stream) == [("risky", "incomplete")]
        assert kinds(stream.output) == ["mcp_approval_request"]

    async def test_stop_at_a_tool(self) -> None:
        stop = StopAtTools(stop_at_tool_names=["search"])
        stream = await played(turn(call()), tool_use_behavior=stop)
        assert kinds(stream.output) == ["mcp_call"]

    @pytest.mark.parametrize("raises", [True, False])
    @pytest.mark.parametrize("when", ["before", "after"])
    async def test_a_guardrail_of_the_tool(self, when: str, raises: bool) -> None:
        refusal = ToolGuardrailFunctionOutput.raise_exception
        said = refusal() if raises else ToolGuardrailFunctionOutput.reject_content("not for you")

        @tool_input_guardrail
        def before(data: Any) -> ToolGuardrailFunctionOutput:
            return said

        @tool_output_guardrail
        def after(data: Any) -> ToolGuardrailFunctionOutput:
            return said

        guards: Any = (
            {"tool_input_guardrails": [before]}
            if when == "before"
            else {"tool_output_guardrails": [after]}
        )
        guarded = function_tool(**guards)(secret)
        stream = await played(turn(call("secret", "{}")), turn(message("ok")), tools=[guarded])
        assert "classified" not in str(stream.events)
        if raises:
            assert ended(stream) == [("secret", "incomplete")]
        else:
            assert [item.get("output") for item in stream.output] == ["not for you", None]


class Tea(BaseModel):
    leaves: int


def secret(context: RunContextWrapper[Any]) -> str:
    """Tell it."""
    return "classified"


@function_tool
async def nap() -> str:
    """Sleep until it is cancelled."""
    await asyncio.sleep(60)
    return "rested"


class TestTakeover:
    async def test_a_call_goes_on_being_open_and_ends_once(self) -> None:
        """Two parallel tools; the replica dies at every commit."""
        given = request()
        first = turn(message("Let me see."), call(call_id="a", index=1), call(call_id="b", index=2))
        whole = await runs.run(_agent(first, turn(message("ok"))), given, server_tools="mcp_call")
        seen_open = 0
        for commit in range(1, len(whole.entries)):
            commits = whole.died_after(commit)
            turns = [first, turn(message("ok"))][len(commits.turns) :]
            await runs.take_over(_agent(*turns), given, commits, server_tools="mcp_call")
            stream = runs.check(commits)
            assert kinds(stream.output) == ["message", "mcp_call", "mcp_call", "message"]
            assert [item["output"] for item in stream.output[1:3]] == ["found tea"] * 2
            kept = {item["id"] for item in stream.output}
            started = [e["item_id"] for e in stream.of("response.mcp_call.in_progress")]
            assert sorted(started) == sorted(kept.intersection(started)), "a tool starts once"
            faces = [face for entry in commits.entries for face in entry.models.values()]
            given_ids = [json.loads(face)["set"].get("call_id") for face in faces]
            assert [call_id for call_id in given_ids if call_id][-2:] == ["a", "b"]
            if len(whole.died_after(commit).turns) == 1:
                added = [event["item"]["type"] for event in stream.of(ADDED)]
                assert added.count("mcp_call") == 2, "a call of the first attempt comes anew"
                seen_open += 1
        assert seen_open > 2

    @pytest.mark.parametrize("first", ["mcp_call", "function_call"])
    async def test_the_setting_may_change_between_two_attempts(
        self, first: runs.ServerTools
    ) -> None:
        second: runs.ServerTools = "function_call" if first == "mcp_call" else "mcp_call"
        given = request()
        turns = [turn(call(call_id="a")), turn(call(call_id="b")), turn(message("ok"))]
        whole = await runs.run(_agent(*turns), given, server_tools=first)
        for commit in range(1, len(whole.entries)):
            commits = whole.died_after(commit)
            rest = _agent(*turns[len(commits.turns) :])
            await runs.take_over(rest, given, commits, server_tools=second)
            stream = runs.check(commits)
            outputs = [item["output"] for item in stream.output if "output" in item]
            assert outputs == ["found tea"] * 2

    async def test_a_response_that_only_ends_leaves_no_call_open(self) -> None:
        given = request()
        whole = await runs.run(
            _agent(turn(call()), turn(message("ok"))), given, server_tools="mcp_call"
        )
        commit = next(n for n, entry in enumerate(whole.entries, 1) if entry.steps)
        position = await runs.position(given, whole.died_after(commit))
        position.assembler.end("cancelled", None, None)
        told = whole.died_after(commit).lines
        told += lines(position.assembler.collect().events, len(told))
        assert ended(oracle.check(told, [])) == [("search", "incomplete")]


def _agent(*turns: list[JSONObject]) -> Agent[Any]:
    return Agent(name="agent", model=Played(*turns), tools=[search])
