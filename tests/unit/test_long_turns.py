"""A turn with very many items ends in pieces, between which everybody else has their turn."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from agents import Agent

from longrun import pieces
from longrun.assembly.assembler import Assembler
from longrun.execution.replay.references import resolve
from longrun.execution.replay.results import decode_response
from longrun.jsontext import loads
from tests.scripted import echo
from tests.scripted_model import Asked, ScriptedModel, begun, called, closed, completed, opened
from tests.unit import runs
from tests.unit.runs import Commits
from tests.unit.streams import request

ITEMS = 300
TEXTS = [f"{number:05} " + "word " * 60 for number in range(ITEMS)]


def many(*, streamed: bool) -> Agent[Any]:
    """An agent whose model says many messages, one after the other or all at once."""

    async def say(asked: Asked) -> AsyncIterator[Any]:
        for event in begun():
            yield event
        items = []
        for place, text in enumerate(TEXTS):
            *closing, done = closed(text, place)
            items.append(done.item)
            for event in (*opened(place), *closing, done) if streamed else ():
                yield event
        yield completed(items)

    return Agent(name="agent", model=ScriptedModel(say))


@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "all at once"])
async def test_the_loop_turns_while_a_turn_ends(
    streamed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a piece that is as short as can be there is a turn of the loop for each item, a few
    times over; however long an item takes, none is done together with all the others."""
    monkeypatch.setattr(pieces, "LONGEST", 0.0)
    turned, ends, ended = 0, asyncio.Event(), asyncio.Event()
    agent = many(streamed=streamed)
    say = agent.model.play  # type: ignore[union-attr]

    async def until_its_end(asked: Asked) -> AsyncIterator[Any]:
        async for event in say(asked):
            if event.type == "response.completed":
                ends.set()
            yield event

    agent.model.play = until_its_end  # type: ignore[union-attr]

    async def turns() -> None:
        nonlocal turned
        await ends.wait()
        while not ended.is_set():
            turned += 1
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        group.create_task(turns())
        commits = await runs.run(agent, request())
        ended.set()
    assert turned > 4 * ITEMS
    runs.check(commits)
    said = [loads(item)["content"][0]["text"] for _, item in commits.committed_items]
    assert said == TEXTS


@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "all at once"])
async def test_a_turn_that_ends_in_pieces_is_recorded_whole(
    streamed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its step comes with the last of its items, refers to them, and has nothing twice."""
    monkeypatch.setattr(pieces, "LONGEST", 0.0)
    commits = await runs.run(many(streamed=streamed), request())
    [step] = commits.turns
    [whole] = resolve([step], dict(commits.committed_items))
    response, indexes = decode_response(whole.result)
    assert indexes == list(range(ITEMS))
    assert [item.content[0].text for item in response.output] == TEXTS  # type: ignore[union-attr]
    assert len(step.result) < sum(map(len, TEXTS))
    before = [bool(entry.steps) for entry in commits.entries if entry.items or entry.steps]
    assert before.index(True) == len(before) - 1


async def test_a_replica_may_die_between_two_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written of a turn that is not recorded does not stay, as if it had been streamed;
    the turn is asked again."""
    monkeypatch.setattr(pieces, "LONGEST", 0.0)
    asked, agent = request(), many(streamed=False)
    first = await runs.run(agent, asked)
    with_items = [n for n, entry in enumerate(first.entries) if entry.items]
    assert len(with_items) > 4
    for died_after in (with_items[1], with_items[len(with_items) // 2]):
        left = first.died_after(died_after)
        await runs.take_over(agent, asked, left)
        runs.check(left)
        output = loads(left.lines[-1])["response"]["output"]
        assert [item["content"][0]["text"] for item in output] == TEXTS


async def test_of_many_calls_each_looks_at_its_own_item(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tools of a turn may all end at once: what is looked at then grows with them, and not
    with their square."""
    looked = 0
    items_of = Assembler.turn_items.fget
    assert items_of is not None

    def counted(self: Assembler) -> dict[int, str]:
        nonlocal looked
        found: dict[int, str] = items_of(self)
        looked += len(self.turn_indexes)
        return found

    monkeypatch.setattr(Assembler, "turn_items", property(counted))

    async def say(asked: Asked) -> AsyncIterator[Any]:
        for event in begun():
            yield event
        items = []
        if len(asked.items) > 1:
            yield completed([closed("done")[-1].item])
            return
        for place in range(50):
            *events, done = called("echo", {"text": str(place)}, f"call_{place}", place)
            items.append(done.item)
            for event in (*events, done):
                yield event
        yield completed(items)

    commits: Commits = await runs.run(
        Agent(name="agent", model=ScriptedModel(say), tools=[echo]), request()
    )
    runs.check(commits)
    ended = loads(commits.lines[-1])["response"]["output"]
    assert [item["output"] for item in ended[:-1]] == [f"echo: {n}" for n in range(50)]
    assert json.loads(commits.turns[0].result)["indexes"] == list(range(50))
    assert looked < 4 * 50
