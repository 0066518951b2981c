"""A snapshot says what a whole replay up to there says, from the end of the log alone."""

import json
import random
from collections.abc import Sequence
from typing import Any

import pytest
from agents import Agent

from longrun.assembly.snapshot import Snapshot
from longrun.jsontext import Encoded, dumps, loads
from tests.unit import runs
from tests.unit.runs import Played
from tests.unit.streams import JSONObject, request
from tests.unit.test_recovery import RICH, SCRIPT, scripted

KEYS = {
    "response.output_text.delta": ("content", "content_index", "text"),
    "response.refusal.delta": ("content", "content_index", "refusal"),
    "response.reasoning_text.delta": ("content", "content_index", "text"),
    "response.reasoning_summary_text.delta": ("summary", "summary_index", "text"),
}
LISTS = {
    "response.content_part.added": ("content", "content_index"),
    "response.reasoning_summary_part.added": ("summary", "summary_index"),
}
WHOLE = {
    "response.function_call_arguments.delta": "arguments",
    "response.mcp_call_arguments.delta": "arguments",
    "response.custom_tool_call_input.delta": "input",
    "response.code_interpreter_call_code.delta": "code",
}


def replayed(events: Sequence[JSONObject], output: Sequence[Any] = ()) -> list[Any]:
    """What a client has that adds up all of these events."""
    items: list[Any] = json.loads(json.dumps(output))
    for event in json.loads(json.dumps(events)):
        kind = event["type"]
        if "response" in event:
            items = event["response"]["output"]
        elif kind == "response.output_item.added":
            assert event["output_index"] == len(items)
            items.append(event["item"])
        elif kind == "response.output_item.done":
            items[event["output_index"]] = event["item"]
        elif kind in LISTS:
            key, index = LISTS[kind]
            parts = items[event["output_index"]].setdefault(key, [])
            assert event[index] == len(parts)
            parts.append(event["part"])
        elif kind in KEYS:
            key, index, text = KEYS[kind]
            items[event["output_index"]][key][event[index]][text] += event["delta"]
        elif kind in WHOLE:
            items[event["output_index"]][WHOLE[kind]] += event["delta"]
        elif kind == "response.output_text.annotation.added":
            part = items[event["output_index"]]["content"][event["content_index"]]
            part["annotations"].append(event["annotation"])
    return items


def snapshot(
    lines: Sequence[bytes], finished: dict[int, str], sizes: Sequence[int]
) -> tuple[list[Any], int]:
    """The output of a snapshot that takes pages of these sizes, and how many events it took."""
    found, rest = Snapshot(finished), list(lines)
    for size in sizes:
        found.take(b"\n".join(rest[-size:]))
        del rest[-size:]
        if found.is_complete or not rest:
            break
    assert found.is_complete
    output = [loads(each.text) if isinstance(each, Encoded) else each for each in found.output]
    return output, len(lines) - len(rest)


def check(commits: runs.Commits) -> None:
    """At every commit, whatever the pages and however old what the store has."""
    chance = random.Random(len(commits.lines))
    for entries in range(1, len(commits.entries)):
        known = commits.died_after(entries)
        if known.entries[-1].ending:
            break
        lines = known.lines
        events = [loads(line) for line in lines]
        whole = replayed(events)
        earlier = commits.died_after(chance.randint(1, entries))
        for finished in ({}, dict(known.committed_items), dict(earlier.committed_items)):
            sizes = [chance.choice((1, 2, 7, 40)) for _ in lines]
            output, _ = snapshot(lines, finished, sizes)
            assert output == whole
        rest = [loads(line) for line in commits.lines[len(lines) :]]
        assert replayed(rest, whole) == replayed([loads(line) for line in commits.lines])


async def test_every_commit_of_a_rich_turn() -> None:
    check(await runs.run(Agent(name="agent", model=Played(RICH)), request()))


@pytest.mark.parametrize("shown", ["mcp_call", "function_call"])
async def test_every_commit_of_tools_and_takeovers(shown: runs.ServerTools) -> None:
    given = request(input=json.dumps(SCRIPT))
    whole = await runs.run(scripted()[0], given, server_tools=shown)
    check(whole)
    for died in range(1, len(whole.entries), 3):
        commits = whole.died_after(died)
        await runs.take_over(scripted()[0], given, commits, server_tools=shown)
        check(commits)


def added(index: int, **item: Any) -> bytes:
    shown = {"type": "message", "id": f"msg_{index}", "role": "assistant", "content": [], **item}
    return dumps({"type": "response.output_item.added", "output_index": index, "item": shown})


def delta(index: int, text: str) -> bytes:
    said = {"output_index": index, "content_index": 0, "delta": text}
    return dumps({"type": "response.output_text.delta", **said})


def done(index: int, text: str) -> bytes:
    item = {"type": "message", "id": f"msg_{index}", "content": [{"type": "output_text"}]}
    return dumps({"type": "response.output_item.done", "output_index": index, "item": item})


CREATED = dumps({"type": "response.created", "response": {"output": []}})


def test_of_a_long_log_only_the_end_is_read() -> None:
    finished = {index: json.dumps({"id": f"msg_{index}"}) for index in range(999)}
    old = [line for index in range(999) for line in (added(index), done(index, "old"))]
    lines = [CREATED, *old, added(999), delta(999, "a"), delta(999, "b")]
    output, read = snapshot(lines, finished, [10] * len(lines))
    assert (len(output), read) == (1000, 10)
    assert output[-1]["content"][0]["text"] == "ab"


def test_an_item_that_is_silent_while_an_earlier_one_goes_on_is_found() -> None:
    """The second was added, and then only the first says anything."""
    spoken = [delta(0, ".") for _ in range(100)]
    output, read = snapshot([CREATED, added(0), added(1), *spoken], {}, [10] * 20)
    assert [item["id"] for item in output] == ["msg_0", "msg_1"]
    assert output[0]["content"][0]["text"] == "." * 100
    assert read == 103


def test_an_annotation_is_kept() -> None:
    note = {"type": "url_citation", "url": "u", "title": "t", "start_index": 0, "end_index": 1}
    told = {"output_index": 0, "content_index": 0, "annotation_index": 0, "annotation": note}
    event = dumps({"type": "response.output_text.annotation.added", **told})
    output, _ = snapshot([CREATED, added(0), delta(0, "a"), event, delta(0, "b")], {}, [2] * 9)
    assert output[0]["content"] == [
        {"type": "output_text", "text": "ab", "annotations": [note], "logprobs": []}
    ]


def test_what_has_no_items_yet_is_empty() -> None:
    output, _ = snapshot(
        [CREATED, dumps({"type": "response.queued", "response": {"output": []}})], {}, [1]
    )
    assert output == []
