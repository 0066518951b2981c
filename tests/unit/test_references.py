"""Steps that refer to items: what was recorded is put in again, character by character."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from longrun.execution.replay.references import LONG, encode_referring, refer, resolve
from longrun.jsontext import dumps, loads
from longrun.pieces import at_once
from longrun.store.records import Step
from tests.journal_agents.outputs import long_outputs
from tests.unit import runs
from tests.unit.streams import request

ODD = "a\x00b\ud800c\U0001f600\u2028\r\n\\u0000é\"'" * 30


def step(value: Any, kind: str = "tool") -> Step:
    return Step("", kind, "call_1", "{}", dumps(value).decode())


def item(value: Any) -> str:
    return dumps(value).decode()


def referred(value: Any, items: dict[int, Any]) -> Step:
    """The step as it is stored; that it comes back is asserted."""
    texts = {index: item(each) for index, each in items.items()}
    whole = step(value)
    stored = refer(whole, texts)
    json.loads(stored.result)
    assert resolve([stored], texts) == [whole]
    assert stored._replace(result="") == whole._replace(result="")
    # A model's turn is encoded so, without being a whole text first.
    turn = whole._replace(kind="model", result=at_once(encode_referring(value, texts)))
    [again] = resolve([turn], texts)
    assert dumps(loads(again.result)) == dumps(loads(whole.result))
    assert refer(turn, texts) == turn or not turn.result.startswith('{"pieces"')
    return stored


words = st.text(st.characters(), min_size=1, max_size=12)
strings = st.one_of(words, words.map(lambda text: text * LONG), st.just(ODD))
values = st.recursive(
    st.one_of(strings, st.none(), st.integers(), st.floats(allow_nan=False)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(words, inner, max_size=4)),
    max_leaves=12,
)


@st.composite
def recorded(draw: st.DrawFn) -> tuple[Any, dict[int, Any]]:
    """A result and items that have many strings in common."""
    pool = draw(st.lists(strings, min_size=1, max_size=5))
    shared = st.one_of(values, st.sampled_from(pool), st.lists(st.sampled_from(pool), max_size=4))
    indexes = draw(st.lists(st.integers(0, 10**6), max_size=4, unique=True))
    return (
        {"output": draw(shared), "error": False, "more": draw(shared)},
        {index: {"id": "x", "output": draw(shared)} for index in indexes},
    )


@given(recorded())
@example(({"output": ODD}, {3: {"output": ODD}}))
@example(({"output": "y" * LONG, "error": [ODD]}, {3: {"output": "y" * LONG}}))
@example(({"output": 2**70, "error": "y" * LONG}, {3: {"output": "y" * LONG}}))
def test_what_was_recorded_comes_back(given: tuple[Any, dict[int, Any]]) -> None:
    referred(*given)


@pytest.mark.parametrize("text", ["x" * 1_000_000, ODD * 100, json.dumps({"a": "b" * 10_000})])
def test_a_tools_text_is_in_its_item_alone(text: str) -> None:
    stored = referred(
        {"output": {"json": text}, "error": False},
        {7: {"id": "fco_1", "type": "function_call_output", "output": text}},
    )
    assert len(stored.result) < 120


@pytest.mark.parametrize("unit", ["x", "é\u2028", "\U0001f600", 'a"\n', "é\ud800"])
def test_a_turn_of_any_length_is_in_its_items_alone(unit: str) -> None:
    text = unit * 200_000
    output = [{"type": "message", "content": [{"text": text}]}]
    items = {4: item({**output[0], "id": "msg_1"})}
    encoded = at_once(encode_referring({"response": {"output": output}}, items))
    assert len(encoded) < 200
    turn = step({}, kind="model")._replace(result=encoded)
    [whole] = resolve([turn], items)
    assert loads(whole.result) == {"response": {"output": output}}


@pytest.mark.parametrize("alike", [True, False])
def test_a_turn_of_many_items_refers_to_each_of_them(alike: bool) -> None:
    texts = [("the same" if alike else f"{number:05}") + "word " * 100 for number in range(3000)]
    output = [{"type": "message", "content": [{"text": text}]} for text in texts]
    items = {index: item({"id": f"msg_{index}", **each}) for index, each in enumerate(output)}
    value = {"response": {"output": output}}
    encoded = at_once(encode_referring(value, items))
    assert len(encoded) < 3000 * 100
    [again] = resolve([step({}, kind="model")._replace(result=encoded)], items)
    assert loads(again.result) == value


def test_parts_of_rich_outputs_and_items_told_twice() -> None:
    picture, text = f"data:image/png;base64,{'A' * 5000}", "words " * 500
    output = [{"type": "input_image", "image_url": picture}, {"type": "input_text", "text": text}]
    stored = referred(
        {
            "raw_item": {"type": "custom_tool_call_output", "output": output},
            "output": {
                "list": [{"ToolOutputImage": {"image_url": picture, "detail": "low"}}, {"t": text}]
            },
        },
        {0: {"id": "cto_1", "output": output}},
    )
    assert len(stored.result) < 600


def test_a_turn_refers_to_all_of_its_items() -> None:
    thought, said, asked = "think " * 400, "say " * 400, json.dumps({"query": "ask " * 400})
    output = [
        {"type": "reasoning", "id": "rs_1", "summary": [{"text": thought}, {"text": thought}]},
        {"type": "message", "id": "msg_1", "content": [{"text": said}, {"text": said[:-1]}]},
        {"type": "function_call", "call_id": "call_1", "arguments": asked},
        {"type": "function_call", "call_id": "call_2", "arguments": "{}"},
    ]
    items = {index + 4: {**each, "id": f"our_{index}"} for index, each in enumerate(output)}
    stored = referred({"response": {"id": "resp_1", "output": output}, "indexes": [4, 5, 6]}, items)
    assert len(stored.result) < 1000


def test_what_an_item_says_otherwise_stays_with_the_step() -> None:
    """`str()` of a dict, a text that a guardrail changed, one that merely begins the same."""
    output = {"a": "b" * 1000}
    for shown in (str(output), "b" * 999, "b" * 1001, ["b" * 500, "b" * 500]):
        stored = referred({"output": {"json": output}}, {0: {"output": shown}})
        assert stored == step({"output": {"json": output}})


def test_short_ones_and_other_kinds_stay_as_they_are() -> None:
    items = {0: item({"output": "x" * 10_000})}
    short = step({"output": {"json": "x" * (LONG - 1)}})
    session = step(["x" * 10_000], kind="session")
    looks_alike = step({"pieces": ["[", [0, 11, 10_002], "]"]}, kind="session")
    for each in (short, session, looks_alike):
        assert refer(each, items) == each
        assert resolve([each], items) == [each]


def test_looking_for_what_is_not_there_has_an_end() -> None:
    """What comes after much that was looked for in vain stays with the step."""
    there = "there " * 100
    missing = [f"{number} {'x' * 300}" for number in range(4)]
    items = {n: {"output": f"{n} words " * 300_000, "more": there} for n in range(4)}
    assert referred([*missing, there], items) == step([*missing, there])
    assert referred([there, *missing], items) != step([there, *missing])


def test_an_item_that_is_gone_is_an_error() -> None:
    stored = refer(step({"output": "x" * 1000}), {3: item({"output": "x" * 1000})})
    with pytest.raises(KeyError):
        resolve([stored], {})


def told(commits: runs.Commits) -> list[bytes]:
    """What a response says, without its ids: a turn that is asked again has others."""
    output = runs.check(commits).output
    kept = [{k: v for k, v in item.items() if k not in ("id", "call_id")} for item in output]
    return sorted(map(dumps, kept))


def results(commits: runs.Commits) -> list[bytes]:
    """What was recorded, but for the indexes of a turn's items, which a takeover moves."""
    steps = resolve(commits.committed_steps, dict(commits.committed_items))
    found = [loads(step.result) for step in steps]
    return sorted(dumps(result.get("response", result)) for result in found)


@pytest.mark.parametrize("shown_as", ["function_call", "mcp_call"])
async def test_a_run_that_dies_at_any_commit_gives_the_same(shown_as: runs.ServerTools) -> None:
    given = request()
    whole = await runs.run(long_outputs(), given, server_tools=shown_as)
    # The arguments of an `mcp_call` are in no item yet when its turn is recorded.
    short = {"tool", "model"} if shown_as == "function_call" else {"tool"}
    sizes = [len(step.result) for step in whole.committed_steps if step.kind in short]
    assert sum(sizes) < 0.5 * sum(len(text) for _, text in whole.committed_items)
    for commit in range(1, len(whole.entries)):
        commits = whole.died_after(commit)
        await runs.take_over(long_outputs(), given, commits, server_tools=shown_as)
        assert told(commits) == told(whole)
        assert results(commits) == results(whole)
