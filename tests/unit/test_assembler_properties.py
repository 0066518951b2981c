"""Whatever models stream, the strict oracle holds."""

import asyncio
import copy
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from longrun.jsontext import loads
from tests.unit import chat
from tests.unit.streams import (
    CREATED,
    FAKE,
    IN_PROGRESS,
    Assembly,
    JSONObject,
    Streamed,
    call,
    completed,
    custom_call,
    hosted,
    message,
    output_of,
    reasoning,
    refusal_part,
    response,
    text_part,
    usage,
)

thorough = settings(
    max_examples=150,
    deadline=None,
    print_blob=True,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

odd_text = st.text(st.characters(exclude_categories=()), max_size=12)
"""Lone surrogates and NUL included: models and tools emit both."""

some_text = st.text(st.characters(exclude_categories=()), min_size=1, max_size=12)


@st.composite
def messages(draw: Callable[..., Any]) -> Streamed:
    texts = draw(st.lists(some_text, min_size=1, max_size=3)) if draw(st.booleans()) else None
    parts = [
        text_part(text) if draw(st.booleans()) else refusal_part(text)
        for text in texts or [draw(odd_text)]
    ]
    return message(*parts)


@st.composite
def reasonings(draw: Callable[..., Any]) -> Streamed:
    summaries = draw(st.lists(some_text, max_size=3))
    return reasoning(*summaries, content=draw(st.lists(some_text, max_size=2)))


@st.composite
def calls(draw: Callable[..., Any]) -> Streamed:
    if draw(st.booleans()):
        return custom_call(given=draw(odd_text))
    return call(draw(st.sampled_from(["search", "theirs"])), draw(odd_text))


@st.composite
def hosted_items(draw: Callable[..., Any]) -> Streamed:
    if draw(st.booleans()):
        item: JSONObject = {
            "type": "web_search_call",
            "id": "ws_1",
            "status": "completed",
            "action": {"type": "search", "query": draw(odd_text)},
        }
        return hosted(item, "web_search_call.in_progress", "web_search_call.searching")
    code = draw(some_text)
    item = {
        "type": "code_interpreter_call",
        "id": "ci_1",
        "status": "completed",
        "code": code,
        "container_id": "c",
        "outputs": None,
    }
    kind = "code_interpreter_call_code"
    return hosted(
        item,
        {"type": f"{kind}.delta", "delta": code[: len(code) // 2]},
        {"type": f"{kind}.delta", "delta": code[len(code) // 2 :]},
        {"type": f"{kind}.done", "code": code},
        code="",
    )


items = st.one_of(messages(), reasonings(), calls(), hosted_items())

DROPS = (
    "output_item.added",
    "output_item.done",
    "_part.added",
    "_part.done",
    ("_text.done", "refusal.done", "arguments.done", "input.done", "code.done"),
    ".delta",
    (".in_progress", ".searching"),
)


@dataclass
class Sloppiness:
    """How a model deviates from what OpenAI's send.

    `ids`: "own", "fake" or "changing". `indexes`: "right", "gaps" or "same".
    """

    ids: str
    indexes: str
    parts_odd: bool
    late_call_ids: bool
    no_ids: bool
    nulls: bool
    doubled: bool
    unknown: bool
    drops: list[Any]
    fewer_deltas: bool


def sloppiness() -> st.SearchStrategy[Sloppiness]:
    rarely = st.sampled_from([False, False, False, True])
    return st.builds(
        Sloppiness,
        ids=st.sampled_from(["own", "fake", "changing"]),
        indexes=st.sampled_from(["right", "right", "gaps", "same"]),
        parts_odd=rarely,
        late_call_ids=rarely,
        no_ids=rarely,
        nulls=rarely,
        doubled=rarely,
        unknown=rarely,
        drops=st.lists(st.sampled_from(DROPS), max_size=3, unique=True),
        fewer_deltas=rarely,
    )


def deviate(item: Streamed, how: Sloppiness, number: int, chance: random.Random) -> Streamed:
    """The item as such a model streams it."""
    final = copy.deepcopy(item.item)
    final["id"] = f"id_{number}" if how.ids == "own" else FAKE
    index = {"right": number, "gaps": 3 * number + 2, "same": 0}[how.indexes]
    events: list[JSONObject] = []
    cut_short: set[Any] = set()
    for event in copy.deepcopy(item.events):
        kind: str = event["type"]
        event["output_index"] = index
        if any(kind.endswith(drop) for drop in how.drops):
            continue
        text = (event.get("content_index"), event.get("summary_index"))
        cut = how.fewer_deltas and kind.endswith(".delta")
        if cut and (text in cut_short or chance.random() < 0.3):
            cut_short.add(text)
            continue
        _rename(event, how, final, chance)
        events.append(event)
        if how.doubled and not kind.endswith(".delta") and chance.random() < 0.5:
            events.append(copy.deepcopy(event))
        if how.nulls and kind.endswith(".delta") and chance.random() < 0.3:
            events.append({**event, "delta": None})
        if how.unknown and chance.random() < 0.3:
            events.append({"type": "response.brand_new.thing", "output_index": index})
    return Streamed(events, final, index)


def _rename(event: JSONObject, how: Sloppiness, final: JSONObject, chance: random.Random) -> None:
    changing = f"changing_{chance.random()}"
    name = changing if how.ids == "changing" else final["id"]
    if "item" in event:
        event["item"]["id"] = name
        if event["type"].endswith("added") and how.late_call_ids and "call_id" in event["item"]:
            event["item"]["call_id"] = chance.choice(["", None])
        elif "call_id" in final:
            event["item"]["call_id"] = final["call_id"]
    if "item_id" in event:
        event["item_id"] = name
        if how.no_ids:
            del event["item_id"]
    for index in ("content_index", "summary_index"):
        if index in event and how.parts_odd:
            event[index] = 2 * event[index] + 1
    if how.nulls and event.get("logprobs") == []:
        event["logprobs"] = None


def _lost_parts(item: Streamed, left: Streamed) -> bool:
    """Whether nothing is left of some parts of an item, and something of others."""

    def parts(events: list[JSONObject]) -> int:
        keys = ("content_index", "summary_index")
        return len({(k, event[k]) for event in events for k in keys if k in event})

    return 0 < parts(left.events) < parts(item.events)


def merged(streamed: list[Streamed], chance: random.Random) -> list[JSONObject]:
    """The events of items that are made at the same time, in some order."""
    rows = [list(item.events) for item in streamed]
    events = []
    while rows := [row for row in rows if row]:
        events.append(chance.choice(rows).pop(0))
    return events


@dataclass
class Turn:
    events: list[JSONObject]
    items: list[JSONObject]
    contradicts: bool


@st.composite
def turns(draw: Callable[..., Any], first_call: int = 0) -> Turn:
    """One model turn, however sloppy.

    It contradicts itself only where items cannot be told apart: then texts need not add up.
    """
    made = draw(st.lists(items, max_size=4))
    how = draw(sloppiness())
    chance = draw(st.randoms(use_true_random=False))
    for number, item in enumerate(made):
        if "call_id" in item.item:
            item.item["call_id"] = f"call_{first_call}_{number}"
    streamed = [deviate(item, how, number, chance) for number, item in enumerate(made)]
    together = draw(st.booleans())
    events = merged(streamed, chance) if together else [e for s in streamed for e in s.events]
    told = draw(st.sampled_from(["all", "all", "none", "some"]))
    output = [
        s.item for s in streamed if told == "all" or (told == "some" and chance.random() < 0.5)
    ]
    head = draw(st.sampled_from([[], [CREATED], [CREATED, IN_PROGRESS]]))
    last = {"type": "response.completed", "response": response(output, usage())}
    alike = len({item.item["type"] for item in made}) < len(made)
    # Without `added`, what was streamed has no id that the told ones could be known by.
    unnamed = told == "some" and "output_item.added" in how.drops
    doubtful = how.indexes == "same" or how.ids != "own" or how.no_ids or unnamed
    contradicts = (alike and doubtful) or any(
        _lost_parts(item, left) for item, left in zip(made, streamed, strict=True)
    )
    return Turn(
        [*head, *events, last], [s.item for s in streamed] if told == "all" else [], contradicts
    )


ends = st.sampled_from(["completed", "failed", "cancelled"])


@given(st.data())
@thorough
def test_any_run(data: Any) -> None:
    """Turns, tool results early, late and twice, requests tried again, an end anywhere; with the
    server's calls shown either way."""
    client_tools = data.draw(st.sampled_from([None, ["theirs"]]), label="client tools")
    assembly, contradicts = Assembly(client_tools=client_tools), False
    for number in range(data.draw(st.integers(1, 3), label="turns")):
        if data.draw(st.sampled_from([False, False, True]), label="tried again"):
            tried = data.draw(turns(first_call=100 + number))
            cut = data.draw(st.integers(0, len(tried.events) - 1))
            assembly.feed(CREATED, *tried.events[:cut], CREATED)
            contradicts |= tried.contradicts
        taken = data.draw(turns(first_call=number))
        contradicts |= taken.contradicts
        assembly.feed(*taken.events)
        finished = [
            item["call_id"]
            for item in (loads(text) for _, text in assembly.items)
            if item.get("call_id") and not item["type"].endswith("_output")
        ]
        finished += assembly.assembler.turn_calls
        answers = data.draw(st.lists(st.sampled_from(finished), max_size=6)) if finished else []
        for call_id in answers:
            what = data.draw(st.sampled_from(["starts", "fails", "ends", "ends"]))
            if what == "starts":
                assembly.started(call_id)
            elif what == "fails":
                assembly.failed(call_id)
            else:
                assembly.tool_output(output_of(call_id, data.draw(odd_text)))
        for item in taken.items:
            if item["type"] == "message" and not taken.contradicts:
                before = len(assembly.items)
                assembly.local_message(item)
                assert len(assembly.items) == before, "a model's message was shown twice"
    if data.draw(st.booleans(), label="cut"):
        last = data.draw(turns(first_call=50))
        contradicts |= last.contradicts
        assembly.feed(CREATED, *last.events[: data.draw(st.integers(0, len(last.events) - 1))])
    assembly.end(data.draw(ends), contradicts=contradicts)


@given(turns())
@thorough
def test_the_output_is_what_the_model_told_in_the_end(taken: Turn) -> None:
    stream = Assembly().feed(*taken.events).end(contradicts=taken.contradicts)
    if not taken.items or taken.contradicts:
        return
    assert sorted(map(_bare, stream.output)) == sorted(map(_bare, taken.items))


@given(turns())
@thorough
def test_the_server_s_calls_are_what_the_model_told_too(taken: Turn) -> None:
    assembly = Assembly(client_tools=["theirs"]).feed(*taken.events)
    assert all(item["type"] != "mcp_call" for item in map(loads, dict(assembly.items).values()))
    for call_id in assembly.assembler.turn_calls:
        assembly.tool_output(output_of(call_id, f"for {call_id}"))
    stream = assembly.end(contradicts=taken.contradicts)
    if not taken.items or taken.contradicts:
        return
    told = [
        _bare({"name": i["name"], "arguments": i["arguments"], "output": f"for {i['call_id']}"})
        for i in taken.items
        if i["type"] == "function_call" and i["name"] != "theirs"
    ]
    assert sorted(told) == sorted(
        _bare({key: item[key] for key in ("name", "arguments", "output")})
        for item in stream.output
        if item["type"] == "mcp_call"
    )
    assert len(stream.output) == len(taken.items)


def _bare(item: JSONObject) -> str:
    return json.dumps({k: v for k, v in item.items() if k not in ("id", "status")}, sort_keys=True)


# -- the SDK's own adapter ----------------------------------------------------------------


@st.composite
def chunks(draw: Callable[..., Any]) -> list[JSONObject]:
    """A stream of Chat Completions: text, reasoning, refusal and parallel tool calls, mixed."""
    pieces: list[JSONObject] = []
    tools: list[int] = []
    for _ in range(draw(st.integers(0, 12))):
        kind = draw(
            st.sampled_from(["content", "reasoning_content", "reasoning", "refusal", "tool"])
        )
        if kind != "tool":
            pieces.append(chat.chunk({kind: draw(st.text(max_size=5))}))
        elif tools and draw(st.booleans()):
            chosen = draw(st.sampled_from(tools))
            pieces.append(chat.chunk(chat.tool(chosen, arguments=draw(st.text(max_size=5)))))
        else:
            tools.append(len(tools))
            begun = chat.tool(
                tools[-1],
                id=f"call_{tools[-1]}",
                name="search",
                arguments=draw(st.text(max_size=5)),
            )
            pieces.append(chat.chunk(begun))
    reason = draw(st.sampled_from(["stop", "tool_calls", "length", "content_filter"]))
    return [*pieces, *chat.last(reason)]


@given(chunks())
@thorough
def test_any_stream_of_chat_completions(given_chunks: list[JSONObject]) -> None:
    events = asyncio.run(chat.events_of(given_chunks))
    stream = Assembly().feed_objects(events).end()
    assert FAKE not in str(stream.events)
    final = events[-1].response.output if events else []
    assert len(stream.output) == len(final)


def test_a_turn_of_everything_is_generated() -> None:
    """The generator is worth something: it makes right streams too."""
    exact = Sloppiness("own", "right", False, False, False, False, False, False, [], False)
    told = deviate(message("hello"), exact, 0, random.Random(0))
    assert [e["type"] for e in told.events] == [e["type"] for e in message("hello").events]
    stream = Assembly().feed(CREATED, *told.events, completed(told)).end()
    assert len(stream.output) == 1
