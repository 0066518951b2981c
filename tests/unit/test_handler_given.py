"""What a handler gets of what agents get: the application's context and hooks, `text.format`."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from agents import RunConfig, RunHooks

import longrun
from longrun.app import create_app
from longrun.execution.current import Current
from longrun.execution.handling.handler import Handler
from longrun.settings import Settings
from tests.unit import runs, streams
from tests.unit.runs import Commits


def handler(function: Any) -> Handler:
    return longrun.agent(name="agent")(function)


def response_of(commits: Commits) -> dict[str, Any]:
    response = runs.check(commits).response
    assert response is not None
    return response


class TestContext:
    async def test_is_made_for_the_run_and_left_with_it(self) -> None:
        events: list[str] = []

        @contextlib.asynccontextmanager
        async def context(run: Current) -> AsyncIterator[str]:
            events.append("entered")
            yield f"pool of {run.principal}"
            events.append("left")

        async def answer(request: longrun.HandlerRequest) -> AsyncIterator[Any]:
            assert events == ["entered"]
            yield request.context

        asked = streams.request()
        response = response_of(await runs.run(handler(answer), asked, context=context))
        assert response["output"][0]["content"][0]["text"] == f"pool of {asked.principal}"
        assert events == ["entered", "left"]

    async def test_one_that_cannot_be_made_fails_its_run(self) -> None:
        def context() -> Any:
            raise RuntimeError("secret")

        response = response_of(await runs.run(handler(answering), context=context))
        assert response["error"]["message"] == "The agent failed."

    async def test_a_session_is_not_made(self) -> None:
        def session() -> Any:
            raise AssertionError("a handler has no session")

        response = response_of(await runs.run(handler(answering), session=session))
        assert response["status"] == "completed"


async def answering(request: longrun.HandlerRequest) -> AsyncIterator[Any]:
    yield "an answer"


class Noting(RunHooks[Any]):
    """Notes what it is told, and how much was used by then."""

    def __init__(self, raises_at: str = "") -> None:
        self.told: list[Any] = []
        self._raises_at = raises_at

    def _note(self, context: Any, *what: Any) -> None:
        assert context.context == "the context"
        self.told.append(what)
        if what[0] == self._raises_at:
            raise RuntimeError("secret")

    async def on_agent_start(self, context: Any, agent: Any) -> None:
        self._note(context, "start", agent.name)

    async def on_agent_end(self, context: Any, agent: Any, output: Any) -> None:
        self._note(context, "end", agent.name, output, context.usage.output_tokens)

    async def on_tool_start(self, context: Any, agent: Any, tool: Any) -> None:
        self._note(context, "step", tool.name, context.tool_call_id)

    async def on_tool_end(self, context: Any, agent: Any, tool: Any, result: Any) -> None:
        self._note(context, "stepped", tool.name, result)

    async def on_llm_start(self, context: Any, agent: Any, system: Any, items: Any) -> None:
        self._note(context, "ask", items)

    async def on_llm_end(self, context: Any, agent: Any, response: Any) -> None:
        self._note(context, "asked", response.output[0].content[0].text)


async def stepping(request: Any, steps: longrun.Steps) -> AsyncIterator[Any]:
    async for event in steps.stream("ask", asked, input=[{"role": "user", "content": "hi"}]):
        yield event
    await steps.step("look", lambda: "found")
    try:
        await steps.step("look", refused)
    except longrun.StepFailed:
        yield "the end"


async def asked(input: Any) -> AsyncIterator[Any]:
    for event in streams.turn(streams.message("a turn")):
        yield streams.raw(event)


def refused() -> None:
    raise ValueError("not today")


TOLD: list[Any] = [
    ("start", "agent"),
    ("ask", [{"role": "user", "content": "hi"}]),
    ("asked", "a turn"),
    ("step", "look", "look#1"),
    ("stepped", "look", "found"),
    ("step", "look", "look#2"),
    ("stepped", "look", "ValueError: not today"),
]


class TestHooks:
    async def test_are_told_of_all_that_there_is(self) -> None:
        hooks = Noting()
        given: Any = {"context": lambda: "the context"}
        commits = await runs.run(handler(stepping), hooks=hooks, **given)
        used = response_of(commits)["usage"]["output_tokens"]
        whole = [*TOLD, ("end", "agent", "the end", used)]
        assert hooks.told == whole
        assert used > 0

        again = Noting()
        died = commits.died_after(len(commits.entries) - 1)
        await runs.take_over(handler(stepping), streams.request(), died, hooks=again, **given)
        assert again.told == whole

    @pytest.mark.parametrize("at", ["start", "ask", "asked", "step", "stepped", "end"])
    async def test_one_that_raises_fails_its_run_and_what_was_done_is_recorded(
        self, at: str
    ) -> None:
        hooks = Noting(raises_at=at)
        commits = await runs.run(
            handler(stepping), hooks=lambda: hooks, context=lambda: "the context"
        )
        assert response_of(commits)["error"]["message"] == "The agent failed."
        keys = [step.key for step in commits.committed_steps]
        done = {"start": 0, "ask": 0, "asked": 1, "step": 1, "stepped": 2, "end": 3}
        assert [key for key in keys if "#" in key] == ["ask#1", "look#1", "look#2"][: done[at]]


SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


def wanted(*, strict: bool = True) -> dict[str, Any]:
    schema = {"type": "json_schema", "name": "a", "schema": SCHEMA, "strict": strict}
    return {"format": schema}


class TestFormat:
    @pytest.mark.parametrize(
        ("said", "text", "status"),
        [
            (['{"a"', ": 1}"], wanted(), "completed"),
            (['{"a": "no"}'], wanted(), "failed"),
            (['{"a": "no"}'], wanted(strict=False), "completed"),
            (["prose"], wanted(strict=False), "failed"),
            (["prose"], {"format": {"type": "json_object"}}, "failed"),
            (["[1]"], {"format": {"type": "json_object"}}, "completed"),
            ([], wanted(), "failed"),
            (["prose"], {"format": {"type": "text"}}, "completed"),
        ],
    )
    async def test_the_last_text_is_checked(
        self, said: list[str], text: dict[str, Any], status: str
    ) -> None:
        async def answer(request: longrun.HandlerRequest, steps: longrun.Steps) -> Any:
            yield "this first."
            yield {"type": "function_call", "call_id": "c", "name": "n", "arguments": "{}"}
            yield {"type": "function_call_output", "call_id": "c", "output": "found"}
            await steps.step("look", lambda: None)
            if not said:
                yield {"type": "message", "content": []}
            for each in said:
                yield each

        asked = streams.request(text=text)
        commits = await runs.run(handler(answer), asked)
        response = response_of(commits)
        assert response["status"] == status
        if status == "failed":
            assert "text.format" in response["error"]["message"]
        # So it is by an attempt that only passes what was said.
        died = commits.died_after(len(commits.entries) - 1)
        await runs.take_over(handler(answer), asked, died)
        assert response_of(died)["status"] == status

    async def test_one_that_does_not_fit_is_no_alarm(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Clients can ask for it of any agent, as often as they like."""

        async def answer(request: longrun.HandlerRequest, steps: longrun.Steps) -> Any:
            yield "prose"

        await runs.run(handler(answer), streams.request(text=wanted()))
        [record] = [each for each in caplog.records if "failed in" in each.getMessage()]
        assert record.levelname == "WARNING"
        assert record.getMessage().endswith("OutputMismatch")
        assert record.exc_info is None

    @pytest.mark.parametrize(
        "last",
        [
            {"type": "function_call", "call_id": "c", "name": "mine", "arguments": "{}"},
            {"type": "message", "content": [{"type": "refusal", "refusal": "No."}]},
        ],
    )
    async def test_what_is_no_answer_is_not(self, last: Any) -> None:
        async def answer(request: longrun.HandlerRequest) -> AsyncIterator[Any]:
            yield "prose"
            yield last

        tools = [{"type": "function", "name": "mine", "parameters": {"type": "object"}}]
        asked = streams.request(text=wanted(), tools=tools)
        assert response_of(await runs.run(handler(answer), asked))["status"] == "completed"


def test_what_handlers_do_not_get_is_said(caplog: pytest.LogCaptureFixture) -> None:
    given: dict[str, Any] = {"run_config": RunConfig(), "session": lambda run: None}
    create_app([handler(answering)], Settings(), **given)
    for name in given:
        assert f"{name} is for the Agents SDK's Runner: the handlers agent do not" in caplog.text
    caplog.clear()
    create_app([handler(answering)], Settings(), hooks=Noting(), context=lambda: None)
    assert "do not get it" not in caplog.text
