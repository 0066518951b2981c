"""Handlers that wait for approvals: what is done before is not done again, whatever is answered."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

import pytest

import longrun
from longrun.execution.handling.approvals import Waited
from longrun.execution.handling.handler import Handler
from longrun.execution.replay.references import resolve
from longrun.history.approvals import Answer
from longrun.jsontext import loads
from longrun.protocol import RunRequest
from tests.unit import runs, streams
from tests.unit.runs import Commits

YES, NO = Answer(True), Answer(False, "not today")

ITEM = "mcp_approval_request"


def handler(function: Any) -> Handler:
    return longrun.agent(name="agent")(function)


class Exchange:
    """Responses of one handler, each with the answers to what the one before it asked."""

    def __init__(self, function: Any, **request: Any) -> None:
        self.handler = handler(function)
        self.began = streams.request(**request)
        self.asked: list[RunRequest] = []
        self.commits: list[Commits] = []

    async def begin(self) -> dict[str, Any]:
        return await self._took(self.began, await runs.run(self.handler, self.began))

    async def answer(self, answers: Mapping[str, Answer], *, dies: bool = False) -> dict[str, Any]:
        """Answer, by the names of the approvals.

        Args:
            dies: the response dies after each commit in turn, and is taken over.
        """
        asked, waited = streams.request(), await self.waited(answers)
        commits = await runs.run(self.handler, asked, waited=waited)
        whole = output_of(commits)
        for count in range(1, len(commits.entries)) if dies else ():
            died = commits.died_after(count)
            if any(entry.ending for entry in died.entries):
                break
            await runs.take_over(self.handler, asked, died, waited=waited)
            assert said(output_of(died)) == said(whole), count
        return await self._took(asked, commits)

    async def _took(self, asked: RunRequest, commits: Commits) -> dict[str, Any]:
        runs.check(commits)
        self.asked.append(asked)
        self.commits.append(commits)
        response = runs.check(commits).response
        assert response is not None
        return response

    async def waited(self, answers: Mapping[str, Answer]) -> Waited:
        """As `read_waited` reads it."""
        ending = self.commits[-1].entries[-1].ending
        assert ending is not None
        assert ending.parked is not None
        state = loads(ending.parked.state)["handler"]
        assert state["earlier"] == [asked.response_id for asked in self.asked]
        items = dict(self.commits[-1].committed_items)
        assert sorted(map(int, state["waits"])) == sorted(ending.parked.requests)
        names = {key: loads(items[int(n)])["name"] for n, key in state["waits"].items()}
        steps = [
            step
            for commits in self.commits
            for step in resolve(commits.committed_steps, dict(commits.committed_items))
        ]
        given = {key: answers[name] for key, name in names.items() if name in answers}
        return Waited(self.began, state["earlier"], steps, given)


def output_of(commits: Commits) -> list[Any]:
    response = runs.check(commits).response
    assert response is not None
    assert response["status"] == "completed", response["error"]
    return list(response["output"])


def said(output: list[Any]) -> list[str]:
    """Texts, and the names of what is asked."""
    return [each["name"] if each["type"] == ITEM else each["content"][0]["text"] for each in output]


class Paying:
    """A handler that looks something up, asks, and pays."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def do(self, what: str) -> str:
        self.done.append(what)
        return what

    async def answer(self, request: Any, steps: longrun.Steps) -> AsyncIterator[Any]:
        yield "I look. "
        found = await steps.step("look", self.do, f"found {request.text}")
        async for event in steps.stream("ask", self.turn):
            yield event
        yield f"{found}. "
        answer = await longrun.wait_for(longrun.Approval("pay", {"to": found}))
        if not answer:
            yield f"Refused: {answer.reason}"
            return
        yield await steps.step("pay", self.do, "paid")
        both = await asyncio.gather(
            longrun.wait_for(longrun.Approval("mail")),
            self.reading(steps),
            longrun.wait_for(longrun.Approval("print")),
        )
        yield f" {both[0].granted} {both[1]} {both[2].granted}"

    async def reading(self, steps: longrun.Steps) -> str:
        await steps.step("read", self.do, "read")
        return str(await steps.step("read", self.do, "read on"))

    async def turn(self) -> AsyncIterator[Any]:
        self.done.append("ask")
        for event in streams.turn(streams.message("A turn.")):
            yield streams.raw(event)


async def test_one_after_another_and_several_at_once() -> None:
    paying = Paying()
    exchange = Exchange(paying.answer, input="this")
    first = await exchange.begin()
    assert said(first["output"]) == ["I look. ", "A turn.", "found this. ", "pay"]
    request = first["output"][-1]
    assert (request["type"], request["server_label"]) == (ITEM, "agent")
    assert loads(request["arguments"]) == {"to": "found this"}
    assert first["usage"]["output_tokens"] > 0

    second = await exchange.answer({"pay": YES})
    assert said(second["output"]) == ["paid", "mail", "print"]
    assert second["usage"]["output_tokens"] == 0
    third = await exchange.answer({"print": NO})
    assert said(third["output"]) == ["mail"]
    last = await exchange.answer({"mail": YES})
    assert said(last["output"]) == [" True read on False"]
    assert paying.done == ["found this", "ask", "paid", "read", "read on"]


@pytest.mark.parametrize("given", [YES, NO])
async def test_a_response_that_goes_on_and_is_taken_over(given: Answer) -> None:
    exchange = Exchange(Paying().answer)
    await exchange.begin()
    response = await exchange.answer({"pay": given}, dies=True)
    assert ("Refused: not today" in said(response["output"])) is (not given.approve)
    if given.approve:
        await exchange.answer({"print": YES, "mail": NO}, dies=True)


async def test_code_that_has_changed_meanwhile() -> None:
    exchange = Exchange(Paying().answer)
    await exchange.begin()

    async def asks_other(request: Any, steps: longrun.Steps) -> AsyncIterator[Any]:
        await steps.step("look", print)
        await steps.wait_for(longrun.Approval("pay", {"to": "another"}))
        yield "never"

    async def asks_nothing(request: Any) -> AsyncIterator[Any]:
        yield "nothing"

    async def asks_no_more(request: Any, steps: longrun.Steps) -> AsyncIterator[Any]:
        async for event in Paying().answer(request, steps):
            yield event

    waited = await exchange.waited({"pay": YES})
    for function in (asks_other, asks_nothing):
        commits = await runs.run(handler(function), streams.request(), waited=waited)
        response = runs.check(commits).response
        assert response is not None
        assert response["status"] == "failed"
        assert "code was changed" in response["error"]["message"]
    more = replace(waited, answers={**waited.answers, "gone": YES})
    commits = await runs.run(handler(asks_no_more), streams.request(), waited=more)
    assert commits.entries[-1].ending is not None


async def test_in_a_group_and_where_exceptions_are_caught() -> None:
    async def answer(request: Any, steps: longrun.Steps) -> AsyncIterator[Any]:
        try:
            async with asyncio.TaskGroup() as group:
                one = group.create_task(steps.wait_for(longrun.Approval("a")))
                two = group.create_task(steps.wait_for(longrun.Approval("b")))
        except Exception:
            yield "never"
        yield f"{one.result().granted} {two.result().granted}"

    exchange = Exchange(answer)
    assert said((await exchange.begin())["output"]) == ["a", "b"]
    assert said((await exchange.answer({"a": YES, "b": NO}))["output"]) == ["True False"]


async def test_where_nothing_can_wait() -> None:
    async def answer(request: Any, steps: longrun.Steps) -> AsyncIterator[Any]:
        await steps.wait_for(longrun.Approval("pay"))
        yield "never"

    asked = replace(streams.request(), stored=False)
    response = runs.check(await runs.run(handler(answer), asked)).response
    assert response is not None
    assert "'pay' needs an approval" in response["error"]["message"]
    with pytest.raises(LookupError, match="outside a handler"):
        await longrun.wait_for(longrun.Approval("pay"))


async def test_within_a_stream(caplog: pytest.LogCaptureFixture) -> None:
    async def answer(request: Any, steps: longrun.Steps) -> AsyncIterator[Any]:
        async for event in steps.stream("ask", Paying().turn):
            yield event
            if event.type == "response.completed":
                await steps.wait_for(longrun.Approval("pay"))

    async with asyncio.timeout(10):
        response = runs.check(await runs.run(handler(answer), streams.request())).response
    assert response is not None
    assert response["status"] == "failed"
    assert "wait_for within a stream" in caplog.text
