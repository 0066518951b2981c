"""A run that dies at any commit and is taken over: one response all the same."""

import itertools
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from agents import Agent

from longrun.jsontext import loads
from longrun.protocol import RunRequest
from tests.scripted import agents, by_input, echo
from tests.scripted_model import Asked, ScriptedModel
from tests.unit import oracle, runs
from tests.unit.runs import Played, kinds
from tests.unit.streams import (
    JSONObject,
    call,
    custom_call,
    hosted,
    message,
    reasoning,
    refusal_part,
    request,
    turn,
)

SCRIPT: JSONObject = {
    "turns": [
        [["echo", {"text": "a"}], ["echo", {"text": "b"}]],
        [["echo", {"text": "c"}]],
    ],
    "deltas": 4,
}
WHOLE = [
    "function_call",
    "function_call",
    "function_call_output",
    "function_call_output",
    "function_call",
    "function_call_output",
    "message",
]

RICH = turn(
    reasoning("First, tea.", content=["Boil it."]),
    message("one", refusal_part("two"), index=1),
    custom_call(index=2),
    hosted(
        {
            "type": "code_interpreter_call",
            "id": "ci_1",
            "status": "completed",
            "code": "print(1)",
            "container_id": "c",
            "outputs": None,
        },
        {"type": "code_interpreter_call_code.delta", "delta": "print("},
        {"type": "code_interpreter_call_code.delta", "delta": "1)"},
        {"type": "code_interpreter_call_code.done", "code": "print(1)"},
        index=3,
        code="",
    ),
    call("nothing", index=4),
)
"""Each kind of item that is streamed piece by piece."""

AS_CALLS = ["mcp_call", "mcp_call", "mcp_call", "message"]

_call_ids = itertools.count()


class Counting(ScriptedModel):
    """Counts its turns. Like OpenAI's models it never gives the same call id twice."""

    def __init__(self, *, new_call_ids: bool = True) -> None:
        super().__init__(self._counted)
        self.turns = 0
        self._new_call_ids = new_call_ids

    async def _counted(self, asked: Asked) -> AsyncIterator[Any]:
        self.turns += 1
        new: dict[str, str] = {}
        async for event in by_input(asked):
            items = [event.item] if hasattr(event, "item") else []
            items += event.response.output if hasattr(event, "response") else []
            for item in items:
                if (
                    self._new_call_ids
                    and item.type == "function_call"
                    and item.call_id not in (new.values())
                ):
                    item.call_id = new.setdefault(item.call_id, f"call_new_{next(_call_ids)}")
            yield event


def scripted(**how: bool) -> tuple[Agent[Any], Counting]:
    model = Counting(**how)
    return agents()[0].clone(model=model), model


def asked() -> RunRequest:
    return request(input=json.dumps(SCRIPT))


@pytest.mark.parametrize("shown", ["mcp_call", "function_call"])
class TestEveryCommit:
    @pytest.mark.parametrize("slowness", [0, 5], ids=["at once", "merged"])
    async def test_the_log_stays_one_response(self, shown: runs.ServerTools, slowness: int) -> None:
        given = asked()
        commits = runs.Commits(slowness=slowness)
        whole = await runs.run(scripted()[0], given, server_tools=shown, commits=commits)
        said = [line for line in whole.lines if b'"type":"response.output_text.delta"' in line]
        assert len(said) == 4 if slowness == 0 else len(said) < 4
        assert len(whole.turns) == 3
        for commit in range(1, len(whole.entries)):
            commits = whole.died_after(commit)
            finished, before = len(commits.turns), len(commits.lines)
            agent, model = scripted()
            await runs.take_over(agent, given, commits, server_tools=shown)
            stream = runs.check(commits)
            assert model.turns == 3 - finished, "a finished turn was asked again, or not finished"
            assert kinds(stream.output) == (AS_CALLS if shown == "mcp_call" else WHOLE)
            assert [i["output"] for i in stream.output if "output" in i] == [
                f"echo: {text}" for text in "abc"
            ]
            assert stream.response is not None
            assert stream.response["usage"]["input_tokens"] == 30
            news = stream.events[before:]
            [again] = [event for event in news if event["type"] == "response.in_progress"]
            assert [i for i in again["response"]["output"] if i in stream.output] == [
                loads(text)
                for _, text in sorted(whole.died_after(commit).committed_items)
                if loads(text) in stream.output
            ], "the items so far come with the new attempt"
            closed = news[: news.index(again)]
            assert {event["type"] for event in closed} <= {
                "response.output_text.done",
                "response.content_part.done",
                "response.output_item.done",
            }, "what was left open is closed first"

    async def test_died_twice(self, shown: runs.ServerTools) -> None:
        given = asked()
        whole = await runs.run(scripted()[0], given, server_tools=shown)
        for first in range(2, len(whole.entries), 4):
            once = whole.died_after(first)
            await runs.take_over(scripted()[0], given, once, server_tools=shown)
            for second in range(first + 1, len(once.entries), 3):
                twice = once.died_after(second)
                finished = len(twice.turns)
                agent, model = scripted()
                await runs.take_over(agent, given, twice, attempt=3, server_tools=shown)
                stream = runs.check(twice)
                assert kinds(stream.output) == (AS_CALLS if shown == "mcp_call" else WHOLE)
                assert model.turns == 3 - finished

    async def test_a_model_that_gives_the_same_call_ids_again(
        self, shown: runs.ServerTools
    ) -> None:
        """As Kimi's does ("functions.search:0"): openai's client raises on a call id that it has
        seen finished at another index."""
        given = asked()
        whole = await runs.run(scripted(new_call_ids=False)[0], given, server_tools=shown)
        for commit in range(1, len(whole.entries)):
            commits = whole.died_after(commit)
            again = scripted(new_call_ids=False)[0]
            await runs.take_over(again, given, commits, server_tools=shown)
            runs.check(commits)


class TestWhatIsSaidAgain:
    async def test_a_client_that_goes_by_the_last_in_progress_shows_what_is_stored(self) -> None:
        """A message that is finished, in a turn that is not, is said again; twice, even."""
        asking = turn(message("Let me look."), call("echo", '{"text": "a"}', index=1))
        answer, given = message("Done."), request()
        whole = await runs.run(played(asking, turn(answer)), given)
        text = "Let me look.Done."
        assert oracle.shown(whole_events(whole)) == text
        for first in range(1, len(whole.entries)):
            once = whole.died_after(first)
            await take_over(given, once, asking, turn(answer))
            assert oracle.shown(whole_events(once)) == text
            for second in range(first + 1, len(once.entries), 4):
                twice = once.died_after(second)
                await take_over(given, twice, asking, turn(answer), attempt=3)
                events = whole_events(twice)
                assert oracle.shown(events) == text
                assert "".join(map(oracle.text_of, events[-1]["response"]["output"])) == text


def whole_events(commits: runs.Commits) -> list[JSONObject]:
    return runs.check(commits).events


async def take_over(
    given: RunRequest, commits: runs.Commits, *turns: list[JSONObject], attempt: int = 2
) -> None:
    """The next attempt, whose model has only the turns left that are not recorded."""
    await runs.take_over(played(*turns[len(commits.turns) :]), given, commits, attempt=attempt)


def played(*turns: list[JSONObject]) -> Agent[Any]:
    return Agent(name="agent", model=Played(*turns), tools=[echo])


class TestWhatWasLeftOpen:
    """Every event of a rich turn may be the last of its attempt."""

    async def test_is_closed_with_what_was_streamed_of_it(self) -> None:
        given = request()
        whole = await runs.run(Agent(name="agent", model=Played(RICH)), given)
        last = max(n for n, e in enumerate(whole.entries) if not e.ending and not e.steps)
        for commit in range(1, last):
            commits = whole.died_after(commit)
            again = Agent(name="agent", model=Played(turn(message("Anew."))))
            await runs.take_over(again, given, commits)
            stream = runs.check(commits)
            assert [item["content"][0]["text"] for item in stream.output] == ["Anew."]
