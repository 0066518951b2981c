"""The strict oracle: what a client may rely on in the stream of one response.

Written from the contract and from openai's `ResponseStreamState`, not from the assembler: every
event is validated against openai's own types, fed to its accumulation (which raises on a wrong
sequence), and followed by a small state machine with the rules that openai does not check.
"""

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from openai import omit
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import Response, ResponseOutputItem, ResponseStreamEvent
from pydantic import TypeAdapter

from longrun.jsontext import loads

JSONObject = dict[str, Any]


def _by_type(union: Any) -> dict[str, TypeAdapter[Any]]:
    """The members of a union of openai, by the `type` that tells them apart.

    They allow what the union allows, with errors that one can read.
    """
    members = get_args(get_args(union)[0])
    return {
        get_args(member.model_fields["type"].annotation)[0]: TypeAdapter(member)
        for member in members
    }


WIRE = _by_type(ResponseStreamEvent)
ITEMS = _by_type(ResponseOutputItem)
RESPONSE: TypeAdapter[Any] = TypeAdapter(Response)
TYPES = frozenset(WIRE)
BEGINNING = re.compile(rb'\{"type":"([a-z_.]+)","sequence_number":(\d+)[,}]')
LIFECYCLE = {"response.created", "response.queued", "response.in_progress"}
TERMINAL = {"response.completed", "response.failed", "response.incomplete"}

HOSTED_SERVERS = {"docs"}
"""The labels of those that the tests have."""

TEXTS = {
    # events: (index, part type, key of the text)
    "response.output_text": ("content_index", "output_text", "text"),
    "response.refusal": ("content_index", "refusal", "refusal"),
    "response.reasoning_text": ("content_index", "reasoning_text", "text"),
    "response.reasoning_summary_text": ("summary_index", "summary_text", "text"),
}
PARTS = {
    "response.content_part": "content_index",
    "response.reasoning_summary_part": "summary_index",
}
CALLS = {
    "response.function_call_arguments": ("function_call", "arguments"),
    "response.custom_tool_call_input": ("custom_tool_call", "input"),
    "response.mcp_call_arguments": ("mcp_call", "arguments"),
    "response.code_interpreter_call_code": ("code_interpreter_call", "code"),
}
ITEM_OF = {
    "response.output_text": {"message"},
    "response.refusal": {"message"},
    "response.content_part": {"message", "reasoning"},
    "response.reasoning_text": {"reasoning"},
    "response.reasoning_summary_text": {"reasoning"},
    "response.reasoning_summary_part": {"reasoning"},
    "response.shell_call_command": {"shell_call"},
    "response.shell_call_output_content": {"shell_call_output"},
} | {events: {kind} for events, (kind, _) in CALLS.items()}
"""Which items an event may be about; of `response.<item>.<what>` the item itself."""


@dataclass
class Part:
    type: str
    text: str = ""
    said: str | None = None
    done: JSONObject | None = None


@dataclass
class Item:
    added: JSONObject
    parts: dict[tuple[str, int], Part] = field(default_factory=dict)
    call: str = ""
    call_done: str | None = None
    progress: list[str] = field(default_factory=list)
    done: JSONObject | None = None

    @property
    def type(self) -> str:
        return str(self.added["type"])

    @property
    def is_server_call(self) -> bool:
        """Whether it is a call that the server executes, and not one that a hosted MCP server
        does, behind the model."""
        return self.type == "mcp_call" and self.added["server_label"] not in HOSTED_SERVERS


@dataclass
class Stream:
    """A stream that passed.

    Attributes:
        events: all events, decoded.
        items: every item that was added, by output index.
        response: the final snapshot; None while the stream has not ended.
        sdk: what openai's `responses.stream()` makes of it.
    """

    events: list[JSONObject]
    items: list[Item]
    response: JSONObject | None
    sdk: Any

    @property
    def types(self) -> list[str]:
        return [event["type"] for event in self.events]

    @property
    def output(self) -> list[JSONObject]:
        assert self.response is not None
        return list(self.response["output"])

    def of(self, *kinds: str) -> list[JSONObject]:
        return [event for event in self.events if event["type"] in kinds]


def check(
    lines: Sequence[bytes],
    items: Sequence[tuple[int, str]],
    *,
    contradicts: bool = False,
    ended: bool = True,
    dropped: Collection[int] = (),
) -> Stream:
    """Check a whole stream.

    Args:
        lines: its events, as the assembler encoded them.
        items: the items that the assembler handed over as finished.
        contradicts: the model said one text in its deltas and another one at the end, so they
            cannot add up; all else is still checked.
        ended: whether the stream has its terminal event.
        dropped: indexes of items of a turn that a dead attempt did not finish; only the items
            that it left open can still be closed as `incomplete`.
    """
    follower = _Follower(contradicts, dropped)
    for number, line in enumerate(lines):
        follower.take(number, line)
    return follower.finish([(index, loads(text)) for index, text in items], ended)


class _Follower:
    def __init__(self, contradicts: bool, dropped: Collection[int]) -> None:
        self.contradicts = contradicts
        self.dropped = dropped
        self.events: list[JSONObject] = []
        self.items: list[Item] = []
        self.ids: set[str] = set()
        self.call_ids: dict[str, set[str]] = {"calls": set(), "outputs": set()}
        self.withdrawn: set[int] = set()
        self.response: JSONObject | None = None
        self.response_id = ""
        self.sdk: ResponseStreamState[Any] = ResponseStreamState(input_tools=omit, text_format=omit)

    def take(self, number: int, line: bytes) -> None:
        assert not any(raw in line for raw in (b"\n", b"\r", b"\0")), "not one line"
        beginning = BEGINNING.match(line)
        assert beginning, line[:80]
        event = json.loads(line)
        assert (event["type"], event["sequence_number"]) == (beginning[1].decode(), number)
        assert self.response is None, "an event after the terminal one"
        assert event["type"] in TYPES
        clean = _without_surrogates(event)
        if "output_item" in event["type"]:
            ITEMS[event["item"]["type"]].validate_python(clean["item"])
        valid = WIRE[event["type"]].validate_python(clean)
        self.sdk.handle_event(valid)
        self.events.append(event)
        self.follow(event)

    def follow(self, event: JSONObject) -> None:
        kind = event["type"]
        if kind in LIFECYCLE | TERMINAL:
            self.lifecycle(kind, event["response"])
        elif kind == "response.output_item.added":
            self.added(event)
        elif "output_index" in event:
            item = self.items[event["output_index"]]
            assert item.done is None, f"{kind} of an item that is done"
            if "item_id" in event:
                assert event["item_id"] == item.added["id"]
            if kind == "response.output_item.done":
                self.done(item, event["item"])
            else:
                self.of_item(item, kind, event)
        else:
            assert kind.startswith("response.audio"), f"{kind} without a place"

    def lifecycle(self, kind: str, response: JSONObject) -> None:
        first = not self.events[:-1]
        assert (kind == "response.created") == first
        self.response_id = self.response_id or response["id"]
        assert response["id"] == self.response_id
        if kind == "response.in_progress" and self.items:
            self.taken_over(response["output"])
            return
        assert response["output"] == [
            item.done
            for index, item in enumerate(self.items)
            if item.done and item.done in response["output"] and index not in self.withdrawn
        ], "a snapshot's output is done items, in order, and none that was withdrawn"
        if kind in TERMINAL:
            self.response = response

    def taken_over(self, output: list[JSONObject]) -> None:
        """The items so far, each at its output index; those that do not stay closed and empty,
        and calls whose tools run as they are."""
        for index, (item, told) in enumerate(zip(self.items, output, strict=True)):
            if item.is_server_call and item.done is None:
                assert item.call_done is not None, "a call runs before it is whole"
                assert told == {**item.added, "arguments": item.call_done}
                continue
            assert item.done is not None, "a takeover closes what was left open"
            if told != item.done or index in self.withdrawn:
                status = UNFINISHED.get(item.type, ["incomplete"])[0]
                assert told == {**item.added, "status": status}
                self.withdrawn.add(index)

    def added(self, event: JSONObject) -> None:
        item = event["item"]
        assert event["output_index"] == len(self.items), "output indexes grow by one"
        assert item["id"] not in self.ids, "item ids are unique"
        assert "fake" not in item["id"]
        self.ids.add(item["id"])
        if item.get("call_id") is not None:
            which = "outputs" if item["type"].endswith("_output") else "calls"
            assert item["call_id"] not in self.call_ids[which], "a call id is used once"
            self.call_ids[which].add(item["call_id"])
            if which == "outputs":
                assert item["call_id"] in self.call_ids["calls"], "an output without its call"
        assert item.get("content") in (None, []) or item["type"] != "message"
        if item["type"].endswith("_output") and item.get("output"):
            assert item["output"] == {"type": item["output"]["type"]}, "`done` brings the output"
        self.items.append(Item(item))

    def of_item(self, item: Item, kind: str, event: JSONObject) -> None:
        events, _, what = kind.rpartition(".")
        assert item.type in ITEM_OF.get(events, {events.removeprefix("response.")}) or (
            kind == "response.output_text.annotation.added" and item.type == "message"
        ), f"{kind} of a {item.type}"
        if events in PARTS:
            self.part(item, PARTS[events], what, event)
        elif events in TEXTS:
            index, part_type, key = TEXTS[events]
            part = item.parts[index, event[index]]
            assert part.type == part_type, f"{kind} of a part {part.type}"
            assert part.said is None, f"{kind} after the text's end"
            if what == "delta":
                part.text += event["delta"]
            else:
                part.said = event[key]
        elif events in CALLS:
            assert item.call_done is None, f"{kind} after the call's end"
            if what == "delta":
                item.call += event["delta"]
            else:
                item.call_done = event[CALLS[events][1]]
        elif item.is_server_call:
            assert item.call_done is not None, "a call runs before it is whole"
            item.progress.append(what)
        elif kind == "response.output_text.annotation.added":
            assert item.parts["content_index", event["content_index"]].done is None

    def part(self, item: Item, index: str, what: str, event: JSONObject) -> None:
        place = (index, event[index])
        if what == "added":
            assert event[index] == len([1 for other, _ in item.parts if other == index])
            part = Part(event["part"]["type"])
            assert not event["part"].get("text")
            assert not event["part"].get("refusal")
            item.parts[place] = part
            return
        part = item.parts[place]
        assert part.done is None
        assert part.type == event["part"]["type"]
        assert part.said is not None, "a part done before its text"
        part.done = event["part"]

    def done(self, item: Item, done: JSONObject) -> None:
        for key in ("id", "type", "call_id"):
            assert done.get(key) == item.added.get(key), f"`done` has another {key} than `added`"
        item.done = done
        assert done.get("status") != "in_progress" or item.type == "apply_patch_call"
        for part in item.parts.values():
            assert part.done is not None, "a part is left open"
        if item.is_server_call:
            self.server_call_done(item, done)
        if self.contradicts:
            return
        shown = {
            (index, place): raw
            for key, index in (("summary", "summary_index"), ("content", "content_index"))
            for place, raw in enumerate(done.get(key) or ())
            if item.type in ("message", "reasoning")
        }
        assert set(item.parts) == set(shown), "the parts that were streamed are those of the item"
        for place, part in item.parts.items():
            key = "refusal" if part.type == "refusal" else "text"
            assert part.done is not None
            assert (shown[place]["type"], part.done["type"]) == (part.type, part.type)
            assert part.text == part.said == part.done[key] == shown[place][key]
        for kind, key in CALLS.values():
            if item.type != kind:
                continue
            whole = done.get(key) or ""
            if kind in ("function_call", "custom_tool_call"):
                assert item.call == whole, "the deltas do not add up to the call"
                assert item.call_done in (None, whole)
            elif item.call or item.call_done is not None:
                assert item.call == whole

    def server_call_done(self, item: Item, done: JSONObject) -> None:
        """Its events tell how it got on, and how it ended: with an output, an error, or neither."""
        ends = ("arguments", "output", "error", "status")
        assert {k: v for k, v in done.items() if k not in ends} == {
            k: v for k, v in item.added.items() if k not in ends
        }
        assert item.added["status"] == "in_progress"
        assert (isinstance(done["output"], str), isinstance(done["error"], dict)) == (
            done["status"] == "completed",
            done["status"] == "failed",
        )
        if done["status"] == "incomplete":
            assert item.progress in ([], ["in_progress"])
            return
        assert item.progress == ["in_progress", done["status"]]
        assert done["arguments"] == item.call_done

    def finish(self, items: list[tuple[int, JSONObject]], ended: bool) -> Stream:
        assert (self.response is not None) == ended
        if self.response is not None:
            for index, item in enumerate(self.items):
                assert item.done is not None, f"a {item.type} is left open"
                assert (item.done in self.response["output"]) == (index in dict(items)), (
                    "what was handed over, and no other item, is the output"
                )
                assert (
                    index in dict(items)
                    or index in self.dropped
                    or (
                        item.done.get("status")
                        in (None, *UNFINISHED.get(item.type, ["incomplete"]))
                    )
                ), "left out of the output, but not `incomplete`"
            assert len({index for index, _ in items}) == len(items)
            assert self.response["output"] == [item for _, item in sorted(items, key=_index)]
            for index, _ in items:
                item = self.items[index]
                assert item.type not in ("function_call", "custom_tool_call") or (
                    item.call_done is not None
                ), "a finished call without the end of its arguments"
            RESPONSE.validate_python(_without_surrogates(self.response))
            if self.events[-1]["type"] == "response.completed":
                self.sdk_agrees()
        for index, item in items:
            assert self.items[index].done == item, "handed over is another than the one done"
        return Stream(self.events, self.items, self.response, self.sdk)

    def sdk_agrees(self) -> None:
        assert self.response is not None
        completed = self.sdk._completed_response
        assert completed is not None
        assert [item.id for item in completed.output] == [i["id"] for i in self.response["output"]]
        if self.contradicts:
            return
        accumulated = self.sdk._output_items
        for index, item in enumerate(self.items):
            assert item.done is not None
            if item.type == "message":
                texts = [p.text for p in accumulated[index].content if p.type == "output_text"]
                whole = [p["text"] for p in item.done["content"] if p["type"] == "output_text"]
                assert texts == [_without_surrogates(text) for text in whole]
            elif item.type == "function_call":
                whole = _without_surrogates(item.done["arguments"])
                assert accumulated[index].arguments == whole


def shown(events: Sequence[JSONObject]) -> str:
    """The text that a client shows before the terminal event, which holds the stored one.

    The rule that it follows: `output` of each event that has a response replaces what it had, by
    position; deltas are added at their output index.
    """
    texts: dict[int, str] = {}
    for event in events:
        if event["type"] in LIFECYCLE:
            texts = dict(enumerate(map(text_of, event["response"]["output"])))
        elif event["type"] == "response.output_text.delta":
            index = event["output_index"]
            texts[index] = texts.get(index, "") + event["delta"]
    return "".join(texts[index] for index in sorted(texts))


def text_of(item: JSONObject) -> str:
    """What a message says."""
    if item["type"] != "message":
        return ""
    return "".join(part["text"] for part in item["content"] if part["type"] == "output_text")


UNFINISHED = {"image_generation_call": ["failed"], "apply_patch_call": ["in_progress"]}
"""Types that have no status `incomplete`, and what stands for it."""


def _index(item: tuple[int, JSONObject]) -> int:
    return item[0]


def _without_surrogates(value: Any) -> Any:
    """Lone surrogates, which are legal in JSON, are refused by pydantic's `str`."""
    if isinstance(value, str):
        return re.sub("[\ud800-\udfff]", "\ufffd", value)
    if isinstance(value, dict):
        return {key: _without_surrogates(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_without_surrogates(v) for v in value]
    return value
