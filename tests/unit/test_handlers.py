"""Handlers: what they may yield, and what a takeover finds of their steps, at every commit."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from openai.types.responses import Response, ResponseFunctionToolCall
from pydantic import BaseModel

import longrun
from longrun.errors import ConfigurationError
from longrun.execution.handling.handler import Handler
from longrun.execution.registry import Registry, agents_of
from tests.unit import runs, streams
from tests.unit.runs import Commits

Make = Callable[[list[str]], Handler]


def handler(function: Any) -> Handler:
    return longrun.agent(name="agent")(function)


def texts(commits: Commits) -> list[str]:
    output = runs.check(commits).response["output"]
    return [item["content"][0]["text"] for item in output if item["type"] == "message"]


def outputs(commits: Commits) -> list[Any]:
    """What clients see of the calls that were executed here."""
    output = runs.check(commits).response["output"]
    assert all(item["type"] in ("message", "mcp_call") for item in output)
    return [(item["name"], item["output"]) for item in output if item["type"] == "mcp_call"]


async def answered(function: Any, **request: Any) -> Commits:
    commits = await runs.run(handler(function), streams.request(**request))
    runs.check(commits)
    return commits


class TestYields:
    async def test_texts_in_a_row_are_one_message(self) -> None:
        async def answer(request: longrun.HandlerRequest) -> AsyncIterator[Any]:
            assert request.model == "agent"
            for word in request.text.split():
                yield f"{word} "

        commits = await answered(answer, input="one two three")
        assert texts(commits) == ["one two three "]
        stream = runs.check(commits)
        deltas = [event["delta"] for event in stream.of("response.output_text.delta")]
        assert deltas == ["one ", "two ", "three "]
        assert stream.response["status"] == "completed"

    async def test_items_events_and_whole_responses(self) -> None:
        turn = streams.turn(streams.message("from a model", id="msg_of_theirs"))
        call = {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"}

        async def answer(request: Any) -> AsyncIterator[Any]:
            yield "before"
            for event in turn:
                yield event
            yield {**call, "call_id": "a"}
            yield ResponseFunctionToolCall(**{**call, "call_id": "b"})
            yield Response.construct(**streams.completed(streams.message("whole"))["response"])
            yield "after"

        tools = [{"type": "function", "name": "look", "parameters": {"type": "object"}}]
        commits = await answered(answer, tools=tools)
        assert texts(commits) == ["before", "from a model", "whole", "after"]
        output = runs.check(commits).response["output"]
        assert [item["call_id"] for item in output if "call_id" in item] == ["a", "b"]
        assert "msg_of_theirs" not in str(output)
        assert runs.check(commits).response["usage"]["output_tokens"] >= 4

    @pytest.mark.parametrize(
        "given", [None, 7, {"no": "type"}, {"type": "response.of_no_kind"}, object(), ["text"]]
    )
    async def test_what_is_no_part_of_a_response_fails_the_run(
        self, given: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def answer(request: Any) -> AsyncIterator[Any]:
            yield "so far"
            yield given

        response = runs.check(await runs.run(handler(answer), streams.request())).response
        assert response["status"] == "failed"
        assert response["error"]["message"] == "The agent failed."
        assert "a handler yielded" in caplog.text

    @pytest.mark.parametrize(
        ("given", "shown"),
        [
            ({"output": "found"}, {"output": "found"}),
            ({"output": {"a": 1}, "arguments": '{"b":2}'}, {"output": '{"a":1}'}),
            ({}, {"output": ""}),
            ({"error": "lost"}, {"status": "failed", "output": None}),
            ({"server_label": "wiki", "id": "mcp_theirs"}, {"server_label": "wiki"}),
        ],
    )
    async def test_a_call_that_it_has_made_itself(self, given: Any, shown: Any) -> None:
        """As `runs.check` wants it of calls that the server executes."""

        async def answer(request: Any) -> AsyncIterator[Any]:
            yield "before"
            yield {"type": "mcp_call", "name": "look", **given}
            yield "after"

        stream = runs.check(await answered(answer))
        call = stream.response["output"][1]
        expected = {"name": "look", "server_label": "agent", "status": "completed", **shown}
        assert {key: call[key] for key in expected} == expected
        assert call["arguments"] == given.get("arguments", "{}")
        assert stream.of("response.mcp_call_arguments.done")

    @pytest.mark.parametrize("content", ["said", [{"type": "output_text", "text": "said"}]])
    async def test_a_message_may_have_the_shape_of_an_input(self, content: Any) -> None:
        async def answer(request: Any) -> AsyncIterator[Any]:
            yield {"type": "message", "content": content}

        commits = await answered(answer)
        assert texts(commits) == ["said"]
        assert runs.check(commits).response["output"][0]["role"] == "assistant"

    async def test_nothing_at_all_is_an_empty_answer(self) -> None:
        async def answer(request: Any) -> AsyncIterator[Any]:
            return
            yield

        assert runs.check(await answered(answer)).response["output"] == []

    async def test_what_it_is_given(self) -> None:
        seen: list[longrun.HandlerRequest] = []

        async def answer(request: longrun.HandlerRequest, steps: longrun.Steps) -> Any:
            seen.append(request)
            assert longrun.current().response_id
            yield ""

        items = [
            {"role": "user", "content": [{"type": "input_text", "text": "a"}]},
            {"role": "assistant", "content": "b"},
        ]
        await answered(answer, input=items, instructions="Be brief.", temperature=0.5)
        [request] = seen
        assert request.text == "a"
        assert request.input[0] == {"role": "developer", "content": "Be brief."}
        assert request.parameters["temperature"] == 0.5


class Weather(BaseModel):
    degrees: float


@dataclass
class Effects:
    """What really happened, over all attempts."""

    done: list[str]

    async def look(self, place: str) -> dict[str, Any]:
        self.done.append(f"look {place}")
        return {"place": place, "degrees": 20}

    def measure(self) -> Weather:
        self.done.append(f"measure {longrun.current().idempotency_key}")
        return Weather(degrees=21.5)

    async def refuse(self) -> None:
        self.done.append("refuse")
        raise ValueError("not today")

    async def turn(self, text: str) -> AsyncIterator[Any]:
        self.done.append(f"ask {text}")
        for event in streams.turn(streams.message(text)):
            yield streams.raw(event)

    async def play(self, told: list[Any]) -> AsyncIterator[Any]:
        self.done.append("ask")
        for event in told:
            yield streams.raw(event)


def stepping(effects: Effects) -> Handler:
    async def answer(request: Any, steps: longrun.Steps) -> AsyncIterator[Any]:
        yield "I look. "
        found = await steps.step("look", effects.look, "Oslo")
        yield f"It has {found['degrees']}. "
        again = await longrun.step("look", effects.look, place="Rome")
        measured = await longrun.step("measure", effects.measure, returns=Weather)
        assert isinstance(measured, Weather)
        yield f"{again['place']}: {measured.degrees}."

    return handler(answer)


def streaming_on(effects: Effects) -> Handler:
    async def answer(request: Any, steps: longrun.Steps) -> AsyncIterator[Any]:
        async for event in steps.stream("first", effects.turn, "The first turn."):
            yield event
        yield "between"
        async for event in longrun.stream("second", effects.turn, "The second turn."):
            yield event
        await steps.step("last", effects.look, "Bern")

    return handler(answer)


def streaming_into_text(effects: Effects) -> Handler:
    async def answer(request: Any, steps: longrun.Steps) -> AsyncIterator[Any]:
        async for event in steps.stream("only", effects.turn, "The only turn."):
            if event.type == "response.output_text.delta":
                yield event.delta.upper()
        await steps.step("look", effects.look, "Oslo")
        yield "the end"

    return handler(answer)


def calling_tools(effects: Effects) -> Handler:
    async def answer(request: Any, steps: longrun.Steps) -> AsyncIterator[Any]:
        told = streams.turn(streams.call(call_id="a"), streams.call(call_id="b", index=1))
        async for event in steps.stream("turn", effects.play, told):
            yield event
        for call_id in ("a", "b"):
            found = await steps.step("look", effects.look, call_id)
            output = {"type": "function_call_output", "call_id": call_id, "output": found["place"]}
            yield output
        own = {"type": "function_call", "call_id": "c", "name": "own", "arguments": "{}"}
        yield own
        yield {"type": "function_call_output", "call_id": "c", "output": "c"}
        await steps.step("look", effects.look, "the end")
        yield "done"

    return handler(answer)


def at_the_same_time(effects: Effects) -> Handler:
    async def answer(request: Any, steps: longrun.Steps) -> AsyncIterator[Any]:
        yield "both: "
        found = await asyncio.gather(
            *(steps.step("look", effects.look, place) for place in ("A", "B", "C"))
        )
        yield ", ".join(each["place"] for each in found)

    return handler(answer)


def catching(effects: Effects) -> Handler:
    async def answer(request: Any, steps: longrun.Steps) -> AsyncIterator[Any]:
        try:
            await steps.step("refuse", effects.refuse)
        except longrun.StepFailed as error:
            yield str(error)
        await steps.step("look", effects.look, "Oslo")
        yield "done"

    return handler(answer)


CASES = {
    "steps": (stepping, ["I look. ", "It has 20. ", "Rome: 21.5."]),
    "streams": (streaming_on, ["The first turn.", "between", "The second turn."]),
    "streams made text": (streaming_into_text, ["THE ONLY TURN.", "the end"]),
    "parallel": (at_the_same_time, ["both: ", "A, B, C"]),
    "tools": (calling_tools, ["done"]),
    "failing": (catching, ["ValueError: not today", "done"]),
}


class TestTakeover:
    @pytest.mark.parametrize("case", CASES)
    async def test_after_every_commit(self, case: str) -> None:
        make, said = CASES[case]
        asked = streams.request()
        first = Effects([])
        whole = await runs.run(make(first), asked)
        assert texts(whole) == said
        assert len(whole.entries) > 3
        if case == "tools":
            assert outputs(whole) == [("search", "a"), ("search", "b"), ("own", "c")]
        for commits in range(1, len(whole.entries)):
            died = whole.died_after(commits)
            if any(entry.ending for entry in died.entries):
                break
            recorded = len([s for s in died.committed_steps if not s.key.startswith("section")])
            second = Effects([])
            await runs.take_over(make(second), asked, died)
            assert texts(died) == said, commits
            assert outputs(died) == outputs(whole), commits
            # What had been recorded was not done again, and all else was, once.
            assert len(second.done) == len(first.done) - recorded, (commits, second.done)
            usage = runs.check(died).response["usage"]
            assert usage == runs.check(whole).response["usage"]

    async def test_a_step_that_was_under_way_has_the_same_idempotency_key(self) -> None:
        asked, effects = streams.request(), Effects([])
        whole = await runs.run(stepping(effects), asked)
        again = Effects([])
        await runs.take_over(stepping(again), asked, whole.died_after(2))
        keys = [done for done in effects.done + again.done if done.startswith("measure")]
        assert keys == [f"measure {asked.response_id}/measure#1"] * 2

    async def test_at_most_once(self) -> None:
        asked, effects = streams.request(), Effects([])

        async def answer(request: Any, steps: longrun.Steps) -> AsyncIterator[Any]:
            try:
                yield str(await steps.step("pay", effects.look, "x", at_most_once=True))
            except longrun.StepFailed as error:
                yield str(error)

        whole = await runs.run(handler(answer), asked)
        starts = [
            n
            for n, entry in enumerate(whole.entries)
            if any(step.kind == "start" for step in entry.steps)
        ]
        died = whole.died_after(starts[0] + 1)
        await runs.take_over(handler(answer), asked, died)
        assert effects.done == ["look x"]
        assert texts(died) == [
            "step 'pay' was interrupted, and its outcome is unknown: it was not done again"
        ]

    async def test_code_that_has_changed_fails_the_run(self) -> None:
        asked, effects = streams.request(), Effects([])
        whole = await runs.run(stepping(effects), asked)

        async def changed(request: Any) -> AsyncIterator[Any]:
            yield "something else"

        died = whole.died_after(len(whole.entries) - 1)
        await runs.take_over(handler(changed), asked, died)
        response = runs.check(died).response
        assert response["status"] == "failed"
        assert "code was changed" in response["error"]["message"]

    async def test_sleep_is_for_what_is_left(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = streams.request()

        async def answer(request: Any) -> AsyncIterator[Any]:
            yield "tired"
            await longrun.sleep(0.05)
            yield "awake"

        whole = await runs.run(handler(answer), asked)
        died = whole.died_after(len(whole.entries) - 1)
        slept: list[float] = []
        real = asyncio.sleep

        async def noted(seconds: float, *more: Any) -> None:
            slept.append(seconds)
            await real(0)

        monkeypatch.setattr("longrun.execution.handling.steps.asyncio.sleep", noted)
        await runs.take_over(handler(answer), asked, died)
        assert [seconds for seconds in slept if seconds > 0] == []
        assert texts(died) == ["tired", "awake"]


class TestSteps:
    @pytest.mark.parametrize("gives", [object(), {1, 2}, Weather(degrees=1)])
    async def test_what_cannot_be_recorded(
        self, gives: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def answer(request: Any, steps: longrun.Steps) -> AsyncIterator[Any]:
            yield str(await steps.step("odd", lambda: gives))

        response = runs.check(await runs.run(handler(answer), streams.request())).response
        assert response["status"] == "failed"
        assert "step 'odd' gave" in caplog.text
        assert "cannot be recorded" in caplog.text

    async def test_one_that_nobody_catches_fails_the_run(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def answer(request: Any, steps: longrun.Steps) -> AsyncIterator[Any]:
            await steps.step("exit", exiting)
            yield "never"

        def exiting() -> None:
            raise SystemExit(3)

        response = runs.check(await runs.run(handler(answer), streams.request())).response
        assert (response["status"], response["output"]) == ("failed", [])
        assert "SystemExit" in caplog.text

    async def test_outside_a_handler(self) -> None:
        with pytest.raises(LookupError, match="outside a handler"):
            await longrun.step("a", print)
        with pytest.raises(LookupError, match="outside a handler"):
            await longrun.sleep(1)

    async def test_a_stopped_run_ends(self) -> None:
        async def answer(request: Any) -> AsyncIterator[Any]:
            yield "word"
            await asyncio.Event().wait()

        async with asyncio.timeout(10):
            commits = await runs.run(handler(answer), streams.request(), cancel_after=4)
        assert not any(entry.ending for entry in commits.entries)


class TestServing:
    def test_beside_agents(self) -> None:
        async def answer(request: Any) -> AsyncIterator[Any]:
            yield ""

        served = agents_of([handler(answer)], "agents")
        assert Registry(served).names() == ["agent"]
        assert Registry(served).agents() == []

    @pytest.mark.parametrize("what", ["a plain function", "a coroutine", "three arguments", "none"])
    def test_what_is_no_handler(self, what: str) -> None:
        async def coroutine(request: Any) -> None: ...

        async def three(a: Any, b: Any, c: Any) -> AsyncIterator[Any]:
            yield ""

        async def none() -> AsyncIterator[Any]:
            yield ""

        functions = {
            "a plain function": print,
            "a coroutine": coroutine,
            "three arguments": three,
            "none": none,
        }
        with pytest.raises(ConfigurationError, match=r"async generators|expected one argument"):
            handler(functions[what])
