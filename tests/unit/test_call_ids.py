"""Call ids: whatever models give, each call has one of its own inside, and the model gets back what
it gave."""

import asyncio
import dataclasses
import functools
import json
from collections import defaultdict
from typing import Any

import pytest
from agents import Agent, Runner, function_tool

import longrun
from longrun.execution.replay.call_ids import CallIds, TurnIds
from longrun.execution.replay.results import recorded_call_ids
from longrun.execution.replay.scope import Scope, key_of
from longrun.jsontext import dumps, loads
from longrun.store.records import Step
from tests.unit import oracle, runs
from tests.unit.runs import Played
from tests.unit.streams import (
    CREATED,
    Streamed,
    call,
    completed,
    custom_call,
    message,
    raw,
    request,
    turn,
)

GIVEN: dict[str, tuple[Any, Any, Any]] = {
    "counted": ("call_0", "call_1", "call_0"),
    "same": ("call", "call", "call"),
    "name": ("pay", "pay", "pay"),
    "empty": ("", "", ""),
    "none": (None, None, None),
    "number": (1, 1, 2),
    "long": ("s" * 6000, "t" * 6000, "s" * 6000),
    "nul": ("a\x00", "b\x00", "a\x00"),
    "spaces": ("call 1", "call 2", "call 3"),
    "kimi": ("functions.pay:0", "functions.pay:1", "functions.pay:2"),
    "surrogate": ("a\ud800", "b\ud800", "a\ud800"),
    "in the context": ("call_before", "call_b", "call_before"),
}
"""What models give for two calls at once and another one in the next turn."""

CONTEXT: list[dict[str, Any]] = [
    {"role": "user", "content": "before"},
    {"type": "function_call", "call_id": "call_before", "name": "pay", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "call_before", "output": "paid"},
    {"role": "user", "content": "go"},
]

WORDS = ("tea", "milk", "rice")


class Till:
    """The tool `pay`: notes under which idempotency key it was called for what."""

    def __init__(self) -> None:
        self.keys: defaultdict[str, list[str]] = defaultdict(list)
        self.tool = function_tool(self.pay, name_override="pay")

    async def pay(self, what: str) -> str:
        """Pay for something."""
        self.keys[what].append(str(longrun.current().idempotency_key))
        await asyncio.sleep(0)
        return f"paid {what}"


def paying(what: str, call_id: Any, index: int = 0) -> Streamed:
    return call("pay", json.dumps({"what": what}), call_id=call_id, index=index, id=f"fc_{what}")


def turns(kind: str) -> list[Any]:
    first, second, third = GIVEN[kind]
    return [
        turn(paying("tea", first), paying("milk", second, index=1)),
        turn(paying("rice", third)),
        turn(message("Done.")),
    ]


def left(kind: str, commits: runs.Commits) -> list[Any]:
    """The turns that are not recorded."""
    return turns(kind)[len(commits.turns) :]


def agent(till: Till, *turns: Any) -> Agent[Any]:
    return Agent(name="agent", model=Played(*turns), tools=[till.tool])


run = functools.partial(runs.run, server_tools="function_call")
take_over = functools.partial(runs.take_over, server_tools="function_call")


def shown(stream: oracle.Stream) -> list[str]:
    """The call ids that clients see, of calls, whose outputs have to be there."""
    ids = [item["call_id"] for item in stream.output if item["type"] == "function_call"]
    outputs = {
        item["call_id"]: item["output"]
        for item in stream.output
        if item["type"] == "function_call_output"
    }
    assert [outputs[each] for each in ids] == [f"paid {word}" for word in WORDS]
    return ids


class TestWhateverModelsGive:
    @pytest.mark.parametrize("kind", GIVEN)
    async def test_each_call_is_its_own_and_the_model_gets_what_it_gave(self, kind: str) -> None:
        till = Till()
        model = Played(*turns(kind))
        paying = Agent(name="agent", model=model, tools=[till.tool])
        ids = shown(runs.check(await run(paying, request(input=CONTEXT))))
        assert len({*ids, "call_before"}) == 4
        assert all(len(each) <= 64 and each.isascii() and each.isprintable() for each in ids)
        assert [len(till.keys[word]) for word in WORDS] == [1, 1, 1]
        assert len({key for keys in till.keys.values() for key in keys}) == 3
        back = [item.get("call_id") for item in model.asked[-1]][len(CONTEXT) :]
        given = [
            theirs if isinstance(theirs, str) and theirs else ours
            for theirs, ours in zip(GIVEN[kind], ids, strict=True)
        ]
        assert back == [*given[:2], *given[:2], given[2], given[2]]

    @pytest.mark.parametrize("kind", ["counted", "same", "none", "long"])
    async def test_and_every_attempt_has_the_same(self, kind: str) -> None:
        """One dies after each commit, the next one too: an idempotency key is of one payment."""
        given = request(input=CONTEXT)
        whole = await run(agent(Till(), *turns(kind)), given)
        for first in range(1, len(whole.entries), 2):
            till = Till()
            once = whole.died_after(first)
            await take_over(agent(till, *left(kind, once)), given, once)
            ids = shown(runs.check(once))
            assert {s.key for s in once.committed_steps if s.kind == "tool"} == set(ids)
            for second in range(first + 1, len(once.entries), 5):
                twice = once.died_after(second)
                known = {step.key for step in twice.committed_steps if step.kind == "tool"}
                again = Till()
                await take_over(agent(again, *left(kind, twice)), given, twice, attempt=3)
                later = shown(runs.check(twice))
                for place, word in enumerate(WORDS):
                    if place < (0, 2, 3)[min(2, len(once.died_after(second).turns))]:
                        assert later[place] == ids[place], "of a turn that was recorded"
                    keys = {key.rpartition("/")[2] for key in again.keys[word]}
                    assert keys <= {later[place]} - known, "once, and under the id that is shown"

    @pytest.mark.parametrize("kind", GIVEN)
    async def test_a_turn_is_recorded_as_the_model_gave_it(self, kind: str) -> None:
        commits = await run(agent(Till(), *turns(kind)), request(input=CONTEXT))
        first = loads(commits.turns[0].result)["response"]["output"]
        assert [item["call_id"] for item in first] == [
            each if isinstance(each, str) and each else None for each in GIVEN[kind][:2]
        ]


class TestReleasedVersions:
    """Their steps are keyed by what the model gave; ours too where that stays as it is."""

    async def test_what_they_recorded_is_found(self) -> None:
        """Of a run whose ids the released version took, odd ones too, nothing is done again, and
        what is has the idempotency key that it had there."""
        given = request(input="go")
        whole = as_released(await run(agent(Till(), *turns("spaces")), given))
        for commit in range(1, len(whole.entries)):
            commits, till = whole.died_after(commit), Till()
            found = commits.committed_steps
            recorded = len(commits.turns)
            await take_over(agent(till, *left("spaces", commits)), given, commits)
            shown(runs.check(commits))
            done = {step.key for step in found if step.kind == "tool"}
            for place, (word, released) in enumerate(zip(WORDS, GIVEN["spaces"], strict=True)):
                if key_of(released) in done:
                    assert till.keys[word] == []
                elif place < (0, 2, 3)[min(2, recorded)]:
                    assert till.keys[word] == [f"{given.response_id}/{key_of(released)}"]
                else:
                    assert len(till.keys[word]) == 1

    async def test_usual_ids_are_recorded_as_they_do(self) -> None:
        """So that replicas of both versions may execute a run by turns."""
        tools = [turn(paying("tea", "call_a"), paying("milk", "call_b", index=1))]
        commits = await run(agent(Till(), *tools, turn(message("Done."))))
        [first, *_] = commits.turns
        assert loads(first.result).keys() == {"response", "indexes"}
        assert loads(first.fingerprint).keys() == {"agent", "input_digest"}
        assert {s.key for s in commits.committed_steps if s.kind == "tool"} == {"call_a", "call_b"}

    async def test_a_turn_with_minted_ids_is_refused_by_them(self) -> None:
        """They compare all that a fingerprint says, and fail the run rather than pay twice."""
        commits = await run(agent(Till(), *turns("counted")), request(input="go"))
        marks = [loads(step.fingerprint).get("call_ids") for step in commits.turns]
        assert marks == [None, "minted", None]


def as_released(commits: runs.Commits) -> runs.Commits:
    """What a version without the border would have committed of a run with odd call ids."""
    given = {k: v for step in commits.turns for k, v in recorded_call_ids(step.result)[1].items()}

    def text(said: str) -> str:
        for minted, odd in given.items():
            said = said.replace(minted, str(odd))
        return said

    def released(step: Step) -> Step:
        key = key_of(text(step.key)) if step.kind == "tool" else step.key
        told = {k: v for k, v in loads(step.fingerprint).items() if k != "call_ids"}
        result = {k: v for k, v in loads(step.result).items() if k != "call_ids"}
        kept = dumps(told).decode(), dumps(result).decode()
        return Step(step.scope, step.kind, key, *kept)

    entries = [
        dataclasses.replace(
            entry,
            events=[text(event.decode()).encode() for event in entry.events],
            items=[(index, text(item)) for index, item in entry.items],
            steps=[released(step) for step in entry.steps],
        )
        for entry in commits.entries
    ]
    return runs.Commits(entries=entries)


class TestNestedRuns:
    async def test_have_their_own_calls_of_the_same_name(self) -> None:
        """Streamed or not."""
        till = Till()
        inner = Agent(
            name="inner",
            model=Played(
                turn(paying("tea", "call_0"), paying("milk", "call_0", index=1)),
                turn(paying("rice", "call_0")),
                turn(message("Paid.")),
            ),
            tools=[till.tool],
        )
        outer = Agent(
            name="agent",
            model=Played(
                turn(call("ask", '{"input": "go"}', call_id="call_0")), turn(message("Done."))
            ),
            tools=[inner.as_tool("ask", "ask")],
        )
        runs.check(await run(outer))
        keys = [key for keys in till.keys.values() for key in keys]
        assert len(set(keys)) == 3
        model: Any = inner.model
        given = [item["call_id"] for item in model.asked[-1] if "call_id" in item]
        assert given == ["call_0"] * 6


class TestTurns:
    """How the calls of one turn are told apart in its stream."""

    def ids(self) -> TurnIds:
        return CallIds("resp_1").turn(Scope(""), "0", "chat here")

    def told(self, *events: Any, ids: TurnIds | None = None) -> list[Any]:
        ids = ids or self.ids()
        found = []
        for event in map(raw, events):
            if event.type in ("response.output_item.added", "response.output_item.done"):
                found.append(ids.event(event).item.call_id)
            elif event.type == "response.completed":
                found.append([item.call_id for item in ids.event(event).response.output])
        return found

    def test_two_at_once_under_one_id(self) -> None:
        tea, milk = paying("tea", "c"), paying("milk", "c", index=1)
        told = self.told(*tea.events, *milk.events, completed(tea, milk))
        first, second = told[0], told[2]
        assert first != second
        assert told == [first, first, second, second, [first, second]]

    def test_in_turn_and_in_another_order_at_the_end(self) -> None:
        tea, milk = paying("tea", "c"), paying("milk", "c", index=1)
        added, done = [tea.events[0], milk.events[0]], [milk.events[-1], tea.events[-1]]
        first, second, *rest = self.told(*added, *done, completed(milk, tea))
        assert rest == [second, first, [second, first]]

    def test_the_same_payment_twice_under_one_id_is_two(self) -> None:
        one, other = paying("tea", "c"), paying("tea", "c", index=1)
        told = self.told(*one.events, *other.events, completed(one, other))
        assert told[-1][0] != told[-1][1]

    def test_done_that_is_said_twice_is_one(self) -> None:
        tea = paying("tea", "c")
        assert set(self.told(*tea.events, tea.events[-1])) == {"c"}

    def test_all_at_index_0(self) -> None:
        tea, milk = paying("tea", "c"), paying("milk", "c")
        told = self.told(tea.events[-1], milk.events[-1], completed(tea, milk))
        assert told[0] != told[1]
        assert told[2] == told[:2]

    def test_an_id_that_comes_late(self) -> None:
        """In `done`, or at the very end: what was shown under a minted one stays."""
        early, late = paying("tea", ""), paying("tea", "c")
        assert self.told(early.events[0], late.events[-1]) == ["", "c"]
        minted, [final] = self.told(early.events[-1], completed(late))
        assert minted == final != "c"

    def test_other_kinds(self) -> None:
        one, other = custom_call(), custom_call(index=1)
        told = self.told(*one.events, *other.events, completed(one, other))
        assert len({*told[-1]}) == 2

    def test_a_request_that_is_made_again_has_other_ids(self) -> None:
        """Clients saw the calls of the first, which broke off."""
        ids = CallIds("resp_1")
        tea = paying("tea", "c")
        first = self.told(tea.events[0], ids=ids.turn(Scope(""), "0", "chat here"))
        second = self.told(tea.events[0], ids=ids.turn(Scope(""), "0", "chat here"))
        assert first != second

    def test_what_the_model_gave_is_not_changed(self) -> None:
        ids = self.ids()
        tea = paying("tea", "c d")
        events = [raw(event) for event in [*tea.events, completed(tea)]]
        before = [event.to_dict() for event in events]
        for event in (events[0], events[-2], events[-1]):
            ids.event(event)
        assert [event.to_dict() for event in events] == before

    def test_an_end_without_output_passes(self) -> None:
        event = raw(CREATED | {"type": "response.completed"})
        assert self.ids().event(event) is event


class TestOtherProviders:
    def test_get_what_is_unique_not_what_another_gave(self) -> None:
        ids = CallIds("resp_1")
        minted = ids.turn(Scope(""), "0", "chat here").output([paying("tea", "c d").item])
        asked = [{"type": "function_call", "call_id": minted[0]["call_id"]}]
        assert ids.outgoing(Scope(""), "chat here", asked)[0]["call_id"] == "c d"
        assert ids.outgoing(Scope(""), "chat there", asked) == asked

    def test_what_earlier_responses_minted_is_brought(self) -> None:
        ids = CallIds("resp_2")
        ids.bring({"call_of_ours": "signed"}, "chat here")
        asked = [{"type": "function_call_output", "call_id": "call_of_ours", "output": "x"}]
        assert ids.outgoing(Scope(""), "chat here", asked)[0]["call_id"] == "signed"
        assert ids.outgoing(Scope(""), "chat there", asked) == asked


async def test_runs_of_user_code_are_its_own_affair() -> None:
    """A run that a tool starts by itself sees what its model gives."""
    seen: list[Any] = []

    @function_tool
    async def look(q: str) -> str:
        """Look."""
        seen.append(q)
        return "seen"

    model = Played(turn(call("look", '{"q": "a"}', call_id="c d")), turn(message("Done.")))
    own = Agent(name="own", model=model, tools=[look])

    @function_tool
    async def run_one() -> str:
        """Run."""
        await Runner.run(own, "go")
        return "ran"

    outer = Agent(
        name="agent",
        model=Played(turn(call("run_one", "{}")), turn(message("Done."))),
        tools=[run_one],
    )
    runs.check(await run(outer))
    assert seen == ["a"]
    assert [item["call_id"] for item in model.asked[-1] if "call_id" in item] == ["c d", "c d"]
