"""Whole runs of the real SDK: its stream, through the run, makes one response.

Calls are shown with their outputs as pairs here; as `mcp_call` items in test_server_calls.
"""

import asyncio
import functools
import gc
import itertools
import json
from typing import Any

import pytest
from agents import (
    Agent,
    GuardrailFunctionOutput,
    ModelSettings,
    RunContextWrapper,
    SQLiteSession,
    ToolOutputImage,
    ToolOutputText,
    WebSearchTool,
    function_tool,
    handoff,
    input_guardrail,
    output_guardrail,
)
from agents.agent import StopAtTools
from agents.extensions.handoff_filters import remove_all_tools
from pydantic import BaseModel

from longrun.settings import Settings
from tests.scripted import agents as scripted_agents
from tests.unit import chat, oracle, runs
from tests.unit.runs import Played, kinds
from tests.unit.streams import (
    CREATED,
    FAKE,
    call,
    completed,
    hosted,
    message,
    reasoning,
    refusal_part,
    request,
    response,
    turn,
    usage,
)


@function_tool
async def search(q: str) -> str:
    """Search."""
    return f"found {q}"


def agent(*turns: Any, **more: Any) -> Agent[Any]:
    return Agent(name="agent", model=Played(*turns), **{"tools": [search], **more})


async def output_of(*turns: Any, **more: Any) -> oracle.Stream:
    return runs.check(await run(agent(*turns, **more)))


run = functools.partial(runs.run, server_tools="function_call")


class TestRuns:
    async def test_a_text(self) -> None:
        stream = await output_of(turn(message("Hello.")))
        assert kinds(stream.output) == ["message"]

    async def test_tools_over_several_turns(self) -> None:
        stream = await output_of(
            turn(reasoning("Hm."), message("Let me see.", index=1), call(index=2)),
            turn(call(call_id="call_2")),
            turn(message("Tea.")),
        )
        assert kinds(stream.output) == [
            "reasoning",
            "message",
            "function_call",
            "function_call_output",
            "function_call",
            "function_call_output",
            "message",
        ]
        assert stream.output[3]["output"] == "found tea"
        assert stream.response is not None
        assert stream.response["usage"] == usage(30, 15)

    async def test_the_output_of_a_finished_tool_does_not_wait_for_its_siblings(self) -> None:
        quick_is_out = asyncio.Event()

        @function_tool
        async def slow() -> str:
            """Wait until the other's output is committed."""
            await quick_is_out.wait()
            return "slow"

        @function_tool
        async def quick() -> str:
            """Be done."""
            return "quick"

        model = Played(
            turn(call("slow", "{}", call_id="s"), call("quick", "{}", call_id="q", index=1)),
            turn(message("ok")),
        )
        two = Agent(name="agent", model=model, tools=[slow, quick])
        running = asyncio.create_task(run(two))
        while not any(b"function_call_output" in line for line in _lines_of(running)):
            await asyncio.sleep(0)
        quick_is_out.set()
        stream = runs.check(await running)
        outputs = [i["output"] for i in stream.output if i["type"] == "function_call_output"]
        assert outputs == ["quick", "slow"]

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

        @function_tool
        def data() -> dict[str, Any]:
            """Give an object."""
            return {"a": [1, None]}

        asked = [call(name, "{}", call_id=name, index=i) for i, name in enumerate(TOOLS)]
        stream = await output_of(
            turn(*asked), turn(message("ok")), tools=[picture, odd, data, search]
        )
        shown = {i["call_id"]: i["output"] for i in stream.output if i.get("output") is not None}
        assert [part["type"] for part in shown["picture"]] == ["input_text", "input_image"]
        assert shown["odd"] == "a\x00b\ud800c\U0001f600\n"
        assert shown["data"] == "{'a': [1, None]}"
        assert "error" in shown["search"].lower()

    async def test_a_handoff(self) -> None:
        writer = Agent(name="writer", model=Played(turn(message("I write.", id=FAKE))))
        stream = await output_of(
            turn(message("Over to you.", id=FAKE), call("transfer_to_writer", "{}", index=1)),
            handoffs=[writer],
        )
        assert kinds(stream.output) == [
            "message",
            "function_call",
            "function_call_output",
            "message",
        ]

    @pytest.mark.parametrize("both", [False, True], ids=["one", "two at once"])
    async def test_a_handoff_whose_filter_hides_it_from_the_next_agent(self, both: bool) -> None:
        """Its call stayed open to the end of the run, and was no part of what it had given."""
        writer = Agent(name="writer", model=Played(turn(message("I write.", id=FAKE))))
        other = Agent(name="other", model=Played())
        asked = [call("transfer_to_writer", "{}", index=0)]
        asked += [call("transfer_to_other", "{}", call_id="call_2", index=1)] if both else []
        stream = await output_of(
            turn(*asked), handoffs=[handoff(writer, input_filter=remove_all_tools), other]
        )
        assert kinds(stream.output) == [
            *["function_call"] * len(asked),
            *["function_call_output"] * len(asked),
            "message",
        ]
        given = {item["call_id"]: str(item["output"]) for item in stream.output if "output" in item}
        assert json.loads(given["call_1"]) == {"assistant": "writer"}

    async def test_an_agent_as_a_tool(self) -> None:
        inner = Agent(name="inner", model=Played(turn(message("from inside"))))
        inner_tool = inner.as_tool("ask", "Ask the inner agent.")
        stream = await output_of(
            turn(call("ask", '{"input": "?"}')), turn(message("ok")), tools=[inner_tool]
        )
        assert kinds(stream.output) == ["function_call", "function_call_output", "message"]
        assert stream.output[1]["output"] == "from inside"

    async def test_hosted_items(self) -> None:
        searched = hosted(
            {
                "type": "web_search_call",
                "id": "ws_1",
                "status": "completed",
                "action": {"type": "search", "query": "tea"},
            },
            "web_search_call.searching",
        )
        stream = await output_of(turn(searched, message("Tea.", index=1)), tools=[WebSearchTool()])
        assert kinds(stream.output) == ["web_search_call", "message"]
        assert "response.web_search_call.searching" in stream.types

    async def test_a_refusal(self) -> None:
        """The SDK then raises; the answer was given all the same, and once."""
        stream = await output_of(turn(message(refusal_part("No."))))
        assert stream.types[-1] == "response.completed"
        assert [item["content"] for item in stream.output] == [[refusal_part("No.")]]

    async def test_a_model_that_tells_the_end_only(self) -> None:
        stream = await output_of([completed(call())], [completed(message("ok"))])
        assert kinds(stream.output) == ["function_call", "function_call_output", "message"]

    async def test_a_model_whose_response_is_empty(self) -> None:
        """The SDK puts the streamed items into it."""
        told, asked = message("ok"), call()
        stream = await output_of(
            [CREATED, *asked.events, completed()], [CREATED, *told.events, completed()]
        )
        assert kinds(stream.output) == ["function_call", "function_call_output", "message"]

    async def test_a_model_behind_chat_completions(self) -> None:
        first = await chat.events_of(
            [
                chat.chunk({"reasoning_content": "Hm."}),
                chat.chunk({"content": "Let me see."}),
                chat.chunk(chat.tool(0, id="a", name="search", arguments='{"q":')),
                chat.chunk(chat.tool(1, id="b", name="search", arguments='{"q":"milk"}')),
                chat.chunk(chat.tool(0, arguments='"tea"}')),
                *chat.last("tool_calls"),
            ]
        )
        second = await chat.events_of([chat.chunk({"content": "Tea."}), *chat.last()])
        stream = await output_of(first, second)
        assert FAKE not in str(stream.events)
        assert [item.get("output") for item in stream.output if item.get("output")] == [
            "found tea",
            "found milk",
        ]

    async def test_the_scripted_model_of_the_other_tests(self) -> None:
        script = {"turns": [[["echo", {"text": "a"}], ["echo", {"text": "b"}]]], "deltas": 50}
        [scripted, _] = scripted_agents()
        commits = await run(scripted, request(input=json.dumps(script)))
        stream = runs.check(commits)
        assert kinds(stream.output) == [
            "function_call",
            "function_call",
            "function_call_output",
            "function_call_output",
            "message",
        ]

    async def test_structured_output(self) -> None:
        stream = await output_of(turn(message('{"leaves": 3}')), output_type=Tea)
        assert kinds(stream.output) == ["message"]

    async def test_stop_at_a_tool(self) -> None:
        stream = await output_of(
            turn(call()), tool_use_behavior=StopAtTools(stop_at_tool_names=["search"])
        )
        assert kinds(stream.output) == ["function_call", "function_call_output"]

    async def test_a_tool_of_the_client_ends_the_run(self) -> None:
        tool = {"type": "function", "name": "theirs", "parameters": {"type": "object"}}
        asked = request(tools=[tool])
        played = agent(turn(call(), call("theirs", "{}", call_id="c2", index=1)))
        stream = runs.check(await run(played, asked))
        assert stream.types[-1] == "response.completed"
        assert kinds(stream.output) == [
            "function_call",
            "function_call",
            "function_call_output",
        ]


class Tea(BaseModel):
    leaves: int


TOOLS = ("picture", "odd", "data", "search")


def _lines_of(running: "asyncio.Task[runs.Commits]") -> list[bytes]:
    """What a run that is under way has committed so far."""
    frame: Any = running.get_coro()
    commits = frame.cr_frame.f_locals.get("commits") if frame.cr_frame else None
    return commits.lines if commits is not None else []


class TestEnds:
    async def test_a_model_that_fails_in_the_middle(self) -> None:
        told = message("Hello, world.")
        stream = await output_of([CREATED, *told.events[:4], RuntimeError("secret")])
        assert stream.types[-1] == "response.failed"
        assert stream.response is not None
        assert stream.response["error"] == {"code": "server_error", "message": "The agent failed."}
        assert "secret" not in str(stream.events)
        assert stream.output == []

    async def test_a_model_that_fails_by_itself(self) -> None:
        failed = {"type": "response.failed", "response": response(status="failed")}
        assert (await output_of([CREATED, failed])).types[-1] == "response.failed"
        error = {"type": "error", "message": "secret", "code": "x", "param": None}
        stream = await output_of([CREATED, error])
        assert stream.types[-1] == "response.failed"
        assert "secret" not in str(stream.events)

    async def test_an_incomplete_answer(self) -> None:
        told = message("half a sen")
        told.item["status"] = "incomplete"
        details = {"reason": "max_output_tokens"}
        last = response([told.item], usage(), status="incomplete", incomplete_details=details)
        for events in (told.events, []):
            stream = await output_of(
                [CREATED, *events, {"type": "response.incomplete", "response": last}]
            )
            assert stream.types[-1] == "response.incomplete"
            assert stream.response is not None
            assert stream.response["incomplete_details"] == details
            assert stream.response["usage"] == usage()
            assert kinds(stream.output) == ["message"]

    async def test_too_many_turns(self) -> None:
        played = agent(*[turn(call(call_id=f"c{n}", id=FAKE)) for n in range(200)])
        stream = runs.check(await run(played))
        assert stream.types[-1] == "response.failed"
        assert stream.response is not None
        assert str(Settings().max_turns) in stream.response["error"]["message"]
        assert len(stream.output) == 2 * Settings().max_turns

    async def test_a_tool_that_raises(self) -> None:
        @function_tool(failure_error_function=None)
        def broken() -> str:
            """Raise."""
            raise RuntimeError("secret")

        stream = await output_of(
            turn(call(), call("broken", "{}", call_id="b", index=1)), tools=[search, broken]
        )
        assert stream.types[-1] == "response.failed"
        assert "secret" not in str(stream.events)

    async def test_a_tool_that_does_not_exist(self) -> None:
        stream = await output_of(turn(call("nothing", "{}")))
        assert stream.types[-1] == "response.failed"

    @pytest.mark.parametrize("trips", [True, False])
    async def test_an_output_guardrail(self, trips: bool) -> None:
        @output_guardrail
        async def after(
            context: RunContextWrapper[Any], agent: Agent[Any], given: Any
        ) -> GuardrailFunctionOutput:
            return GuardrailFunctionOutput(None, trips)

        stream = await output_of(turn(message("Hello.")), output_guardrails=[after])
        assert stream.response is not None
        assert (stream.response["error"] is not None) == trips
        assert kinds(stream.output) == ([] if trips else ["message"])
        assert "Hello." in str(stream.events), "it was streamed before it was refused"

    @pytest.mark.parametrize("when", ["at once", "in the middle", "at the end", "never"])
    @pytest.mark.parametrize("fails", ["trips", "raises"])
    async def test_an_input_guardrail(self, when: str, fails: str) -> None:
        """It runs beside the model. The SDK stops reading the model's events once it trips, and
        then waits for the model's turn: which must not wait for its events to be read."""
        told = turn(message("Hello, world."))
        go = asyncio.Event()
        if when == "at once":
            go.set()

        @input_guardrail
        async def beside(
            context: RunContextWrapper[Any], agent: Agent[Any], given: Any
        ) -> GuardrailFunctionOutput:
            await go.wait()
            if fails == "raises" and when != "never":
                raise RuntimeError("secret")
            return GuardrailFunctionOutput(None, when != "never")

        class Watched(Played):
            async def stream_response(self, *args: Any, **kwargs: Any) -> Any:
                count = 0
                async for event in super().stream_response(*args, **kwargs):
                    count += 1
                    if count == {"in the middle": 5, "at the end": len(told) - 1}.get(when, 2):
                        go.set()
                    yield event

        guarded = Agent(name="agent", model=Watched(told), input_guardrails=[beside])
        async with asyncio.timeout(5):
            stream = runs.check(await runs.run(guarded))
        assert stream.response is not None
        error = stream.response["error"]
        expected = {"never": None, "trips": "invalid_prompt", "raises": "server_error"}
        assert (error and error["code"]) == expected.get(when, expected[fails])
        assert "secret" not in str(stream.events)

    async def test_abandoned_at_any_moment(self) -> None:
        """The log is a prefix of a stream, nothing more is written, and asyncio has nothing to
        complain of: that a task failed, and nobody asked why."""
        complaints: list[Any] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        for stop, later in itertools.product(range(3, 30), range(0, 24, 3)):
            turns = turn(reasoning("Hm."), call(index=1)), turn(message("Hello, world."))
            played = Agent(name="agent", model=Played(*turns, pause=20), tools=[search])
            commits = await runs.run(played, cancel_after=stop, later=later)
            runs.check(commits, ended=b'"response.completed"' in commits.lines[-1])
        gc.collect()
        await asyncio.sleep(0)
        assert complaints == []


class WatchedSession(SQLiteSession):
    """A session in memory that notes its end."""

    def __init__(self, ends: list[str], broken: bool = False) -> None:
        super().__init__("one")
        self.ends = ends
        self.broken = broken

    def close(self) -> None:
        super().close()
        self.ends.append("closed")
        if self.broken:
            raise RuntimeError("secret")


class LaterClosed(WatchedSession):
    """One that is closed by a coroutine, as those behind a network are."""

    async def close(self) -> None:  # type: ignore[override]
        super().close()


class TestSessions:
    """A session is made for each run, and ends with it."""

    @pytest.mark.parametrize("kind", [WatchedSession, LaterClosed])
    async def test_it_is_closed_when_the_run_ends(self, kind: type[WatchedSession]) -> None:
        ends: list[str] = []
        played = agent(turn(message("Hello.")))
        runs.check(await runs.run(played, session=lambda _: kind(ends)))
        assert ends == ["closed"]

    async def test_when_it_fails_or_is_abandoned_too(self) -> None:
        ends: list[str] = []
        failing = agent([*turn(message("Hello."))[:-1], RuntimeError("secret")])
        await runs.run(failing, session=lambda _: WatchedSession(ends))
        played = agent(turn(message("Hello.")))
        await runs.run(played, session=lambda _: WatchedSession(ends), cancel_after=4)
        assert ends == ["closed", "closed"]

    async def test_one_that_cannot_be_closed_fails_no_run(self) -> None:
        ends: list[str] = []
        played = agent(turn(message("Hello.")))
        commits = await runs.run(played, session=lambda _: WatchedSession(ends, broken=True))
        stream = runs.check(commits)
        assert stream.response is not None
        assert (ends, stream.response["status"]) == (["closed"], "completed")


class TestParameters:
    async def test_what_the_model_is_given(self) -> None:
        seen: list[ModelSettings] = []

        class Noting(Played):
            async def stream_response(self, *args: Any, **kwargs: Any) -> Any:
                seen.append(args[2])
                async for event in super().stream_response(*args, **kwargs):
                    yield event

        model = Noting(turn(message("ok")))
        asked = request(temperature=0.5, max_output_tokens=9, instructions="Be brief.")
        await runs.run(Agent(name="agent", model=model), asked)
        assert (seen[0].temperature, seen[0].max_tokens) == (0.5, 9)
        assert [item["content"] for item in model.asked[0]] == ["Be brief.", "hi"]
