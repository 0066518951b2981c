"""Any history, whatever is missing of it, is made one that its provider takes.

The provider is that of the tests (`tests/provider`), which refuses what real ones refuse: it gives
turns, of which some items are lost, and is given the rest.
"""

from collections.abc import Callable, Sequence
from typing import Any

from agents.models.chatcmpl_converter import Converter
from hypothesis import given, settings
from hypothesis import strategies as st

from longrun import ids
from longrun.assembly.assembler import Assembler
from longrun.execution.replay.border import Border
from longrun.history.continuation import Stored, context_of, told
from longrun.history.faces import Origin
from longrun.history.targets import for_target
from longrun.jsontext import loads
from tests.provider import items, messages, refusals
from tests.provider.memory import Memory, Mint
from tests.provider.script import ANSWERED
from tests.unit.streams import raw, response

OPENAI = Origin("responses", "api.openai.com/v1")
OTHER = Origin("responses", "other.example/v1")
CHAT = Origin("chat", "deepseek.example")

Item = dict[str, Any]

ELEMENTS: list[Item] = [
    {"text": "words"},
    {"refusal": "no"},
    {"reasoning": "hm"},
    {"reasoning": "sealed", "encrypted": True},
    {"call": "look", "arguments": {"word": "cat"}},
    {"custom": "write", "input": "x"},
    {"shell": ["ls"]},
    {"local_shell": ["ls"]},
    {"apply_patch": {"type": "delete_file", "path": "a"}},
    {"computer": {"type": "screenshot"}},
    {"approval": "look"},
    {"web_search": "cats"},
    {"file_search": ["cats"]},
    {"code": "1"},
    {"image": "cat"},
    {"mcp": "look"},
    {"mcp_tools": "server"},
]


def answer_to(call: Item) -> Item:
    """What a tool gives, as the Agents SDK has it."""
    kind = ANSWERED[call["type"]]
    if kind == "mcp_approval_response":
        return {"type": kind, "approval_request_id": call["id"], "approve": True}
    outputs: dict[str, Any] = {
        "computer_call_output": {"type": "computer_screenshot", "image_url": "data:,"},
        "shell_call_output": [{"stdout": "", "stderr": "", "outcome": {"type": "timeout"}}],
    }
    made = {"type": kind, "call_id": call["call_id"], "output": outputs.get(kind, "found")}
    more: Item = {"status": "completed"} if kind == "apply_patch_call_output" else {}
    return {**made, **more, **({"shell_output": []} if kind == "shell_call_output" else {})}


class Past:
    """What a provider gave in earlier responses, and how it is stored."""

    def __init__(self) -> None:
        self.memory = Memory(Mint("any"))
        self.stored: list[list[Stored]] = []

    def respond(self, turns: Sequence[Sequence[Item]]) -> None:
        """A response of some turns, with all calls answered."""
        response_id = ids.new_response_id()
        assembler = Assembler(response_id, {})
        assembler.origin = str(OPENAI)
        kept: list[Stored] = []
        for turn in turns:
            output = [items.make(dict(element), self.memory.mint, False) for element in turn]
            self.memory.give(output, store=True)
            done = {"type": "response.completed", "response": response(output)}
            assembler.raw_event(raw(done))
            for item in output:
                if item["type"] in ANSWERED and item["type"] != "mcp_approval_request":
                    assembler.tool_output(answer_to(item))
        emission = assembler.collect()
        for index, text in emission.items:
            kept.append(Stored(loads(text), emission.models.get(index)))
        self.stored.append(kept)


def sent(stored: Stored, way: str) -> Item:
    """How a client sends an item back."""
    item = stored.item
    if way == "reference":
        return {"type": "item_reference", "id": item["id"]}
    if way == "whole":
        return {**item, "parsed_arguments": None, "status": item.get("status")}
    return {key: value for key, value in item.items() if key != "id"}


@st.composite
def histories(draw: Callable[..., Any]) -> tuple[Past, list[Any], list[Item]]:
    """What a provider gave, and what of it comes back: what is continued, and what is sent."""
    past = Past()
    turn = st.lists(st.sampled_from(ELEMENTS), min_size=1, max_size=4)
    for turns in draw(st.lists(st.lists(turn, min_size=1, max_size=3), min_size=1, max_size=3)):
        past.respond(turns)
    before, own = [], []
    user = {"role": "user", "content": "go on"}
    for stored in past.stored:
        kept = [each for each in stored if draw(st.sampled_from([True, True, True, False]))]
        if draw(st.booleans()):
            before.append(([user], kept))
        else:
            way = draw(st.sampled_from(["reference", "whole", "bare"]))
            own += [user, *(sent(each, way) for each in kept)]
    own += [answer_to(_shown(each)) for each in _unanswered(before) if draw(st.booleans())]
    return past, before, [*own, user]


def _shown(stored: Stored) -> Item:
    return {"call_id": "none", **stored.item}


def _unanswered(before: Sequence[tuple[list[Item], list[Stored]]]) -> list[Stored]:
    """Calls that the client may answer."""
    return [each for _, output in before for each in output if each.item["type"] in ANSWERED]


def going_out(history: tuple[Past, list[Any], list[Item]], target: Origin) -> list[Item]:
    past, before, own = history
    found = {each.item["id"]: each for stored in past.stored for each in stored}
    context = context_of(before, own, found)
    made = told(context)
    border = Border(context, made)
    out = border.going_out(made, target)
    calls = border.calls.get(str(target), {})
    return [
        {**item, "call_id": calls[item["call_id"]]} if item.get("call_id") in calls else item
        for item in out
    ]


@given(histories())
@settings(max_examples=300, deadline=None, print_blob=True, derandomize=True)
def test_its_provider_takes_it(history: tuple[Past, list[Any], list[Item]]) -> None:
    out = going_out(history, OPENAI)
    refusals.check(out, [], history[0].memory)
    assert sum(item.get("content") == "go on" for item in out) == len(history[0].stored) + 1


@given(histories())
@settings(max_examples=200, deadline=None, print_blob=True, derandomize=True)
def test_another_provider_takes_it(history: tuple[Past, list[Any], list[Item]]) -> None:
    past, before, own = history
    # Whose sealed reasoning it is, nobody can tell that a client sends without our id.
    own = [item for item in own if "id" in item or not item.get("encrypted_content")]
    out = going_out((past, before, own), OTHER)
    refusals.check(out, [], Memory(Mint("other")))
    assert sum(item.get("content") == "go on" for item in out) == len(history[0].stored) + 1


@given(histories())
@settings(max_examples=200, deadline=None, print_blob=True, derandomize=True)
def test_chat_completions_takes_it(history: tuple[Past, list[Any], list[Item]]) -> None:
    out = going_out(history, CHAT)
    made: list[Any] = Converter.items_to_messages(out, model="deepseek")
    messages.check(made, frozenset({"reasoning_content"}))
    said = [message for message in made if message.get("content") == "go on"]
    assert len(said) == len(history[0].stored) + 1


@given(histories(), st.lists(st.sampled_from(ELEMENTS[:6] + ELEMENTS[-2:]), max_size=6))
@settings(max_examples=200, deadline=None, print_blob=True, derandomize=True)
def test_what_a_run_adds_stays_as_if_all_were_looked_at(
    history: tuple[Past, list[Any], list[Item]], added: list[Item]
) -> None:
    """Of a long run nearly all items stay as they are, and so are not looked at one by one."""
    past, before, own = history
    found = {each.item["id"]: each for stored in past.stored for each in stored}
    context = context_of(before, own, found)
    made = told(context)
    border = Border(context, made)
    mint = Mint("any")
    output = [items.make(dict(element), mint, False) for element in added]
    for n, item in enumerate(output):
        border.came_in([item], str((OPENAI, OTHER)[n % 3 == 2]))
    said = [[item, *([answer_to(item)] if item["type"] in ANSWERED else [])] for item in output]
    all_ = [*made, *(item for one in said for item in one)]
    for target in (OPENAI, OTHER, Origin("other", "own"), CHAT):
        whole = for_target([border._known(item) for item in all_], target)
        assert border.going_out(all_, target) == whole


def test_whether_reasoning_stays_depends_on_what_a_run_adds_behind_it() -> None:
    """It is a client's, and stays where a model's message is behind it."""
    reasoning = {"type": "reasoning", "id": "rs_theirs", "summary": [], "encrypted_content": "x"}
    said = {"type": "message", "role": "assistant", "content": "hm", "id": "msg_theirs"}
    border = Border(context_of([], [], {}), [])
    assert border.going_out([reasoning, said, said], OPENAI) == [reasoning, said, said]
    asked = {"role": "user", "content": "hm"}
    assert border.going_out([reasoning, asked, said], OPENAI) == [asked, said]
