"""The context of a response: what came before it, what its request brought, and without holes."""

import json
from typing import Any

from longrun import ids
from longrun.history.continuation import Stored, context_of, lost_reference, told, wanted
from longrun.history.faces import Face
from longrun.history.mending import mended, unmade
from longrun.protocol import Context

RESPONSE = ids.new_response_id()
USER = {"role": "user", "content": "hello"}
CALL = {"type": "function_call", "id": "fc_1", "call_id": "c", "name": "f", "arguments": "{}"}
ANSWER = {"type": "function_call_output", "call_id": "c", "output": "1"}


def item_id(index: int, kind: str = "message") -> str:
    return ids.item_id(RESPONSE, index, kind)


def stored(item: dict[str, Any], index: int = 0, model: str | None = None) -> Stored:
    kind = item.get("type", "message")
    return Stored({**item, "id": item_id(index, kind), "status": "completed"}, model)


def continued(given: list[Any], output: list[Any], new: list[Any]) -> list[Any]:
    made = [stored(item, place) for place, item in enumerate(output)]
    return told(context_of([(given, made)], new, {}))


def message(text: str) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]
    return {"type": "message", "role": "assistant", "content": content}


def test_it_is_the_previous_input_then_output_then_the_new_input() -> None:
    new = {"role": "user", "content": "and then?"}
    items = continued([USER], [message("hi")], [new])
    assert items[0] == USER
    assert items[1]["content"] == message("hi")["content"]
    assert items[2] == new


def test_what_nobody_answered_is_left_out_of_every_kind() -> None:
    kinds = ("function_call", "custom_tool_call", "shell_call", "local_shell_call")
    kinds += ("computer_call", "apply_patch_call", "mcp_approval_request", "program")
    for kind in kinds:
        assert continued([USER], [{"type": kind, "call_id": "c"}], []) == [USER]


def test_a_call_that_the_client_answers_now_stays() -> None:
    call, answer = continued([], [CALL], [ANSWER])
    assert call["call_id"] == answer["call_id"] == "c"


def test_what_a_user_says_before_the_outputs_comes_behind_them() -> None:
    """A message that was put into a response when its client had still to answer its calls."""
    calls = [
        {"type": "function_call", "call_id": id_, "name": "f", "arguments": ""} for id_ in "ab"
    ]
    outputs = [{"type": "function_call_output", "call_id": id_, "output": ""} for id_ in "ab"]
    said = [{"role": "user", "content": text} for text in ("one", "two", "three")]
    given = [*calls, said[0], outputs[0], said[1], outputs[1], said[2]]
    assert mended(given) == [*calls, *outputs, *said]
    unanswered = [*calls[:1], *said]
    assert mended(unanswered) == said


def test_an_output_before_its_call_is_left_out_with_it() -> None:
    assert continued([ANSWER], [CALL], [USER]) == [USER]


def test_a_call_that_is_answered_twice_keeps_the_first_answer() -> None:
    other = {**ANSWER, "output": "2"}
    assert continued([], [CALL, ANSWER], [other, USER])[1]["output"] == "1"


def test_call_ids_that_come_again_are_told_apart() -> None:
    """The Agents SDK takes two calls with one id for one."""
    call = {key: value for key, value in CALL.items() if key != "id"}
    items = continued([call, ANSWER, call, {**ANSWER, "output": "2"}], [], [])
    assert [item["call_id"] for item in items] == ["c", "c", "c_2", "c_2"]
    assert [item.get("output") for item in items] == [None, "1", None, "2"]


SAID = stored(message("hi"), 3, Face("responses x", {"id": "msg_theirs"}).text())
FOUND = {item_id(3): SAID}
SHOWN = {
    "type": "mcp_call",
    "server_label": "agent",
    "name": "f",
    "arguments": "{}",
    "output": "1",
    "error": None,
}


class TestItemsOfOurs:
    """What a client sends back, in any of the ways, is the item that is stored."""

    def context(self, item: dict[str, Any]) -> Context:
        return context_of([], [item], FOUND)

    def test_a_reference(self) -> None:
        reference = {"type": "item_reference", "id": item_id(3)}
        assert wanted([reference]) == {item_id(3)}
        made = self.context(reference)
        assert made.items == [SAID.item]
        assert made.models == {item_id(3): SAID.model}

    def test_the_whole_item_whatever_the_client_s_sdk_added(self) -> None:
        content = [{"type": "output_text", "text": "hi", "parsed": {"a": 1}}]
        whole = {"role": "assistant", "content": content, "id": item_id(3), "phase": None}
        assert self.context(whole).items == [SAID.item]

    def test_a_call_whose_arguments_the_client_has_written_anew(self) -> None:
        """As pydantic-ai does, which leaves out the output: that can be read here."""
        id_ = f"mcp_{item_id(5).partition('_')[2]}"
        shown = {**SHOWN, "id": id_, "arguments": '{"a": 1}'}
        found = {id_: Stored(shown, Face(None, {"call_id": "c"}).text())}
        for arguments, kept in (('{"a":1}', True), ('{"a":2}', False), ("{", False)):
            sent = {**SHOWN, "id": id_, "arguments": arguments, "output": None}
            assert (context_of([], [sent], found).items == [shown]) == kept

    def test_one_that_the_client_has_changed_is_the_client_s(self) -> None:
        made = self.context({**message("redacted"), "id": item_id(3)})
        assert made.items == [message("redacted")]
        assert made.models == {}

    def test_one_that_is_gone_is_the_client_s_own(self) -> None:
        assert self.context({**message("hi"), "id": item_id(4)}).items == [message("hi")]

    def test_a_reference_to_nothing(self) -> None:
        reference = {"type": "item_reference", "id": "msg_nobody_s"}
        assert lost_reference([USER, reference], FOUND) == (1, "msg_nobody_s")
        assert self.context(reference).items == [], "it was deleted after the request came"

    def test_what_comes_twice_is_said_once(self) -> None:
        whole = {**SAID.item}
        made = context_of([([], [SAID])], [whole, USER], FOUND)
        assert [item.get("id") for item in told(made)] == [item_id(3), None]


class TestServerCalls:
    """A call that the server executed is one item for clients, a call and an output for models."""

    face = Face("chat x", {"call_id": "call_0", "id": "fc_theirs"})

    def pair(self, **more: Any) -> list[dict[str, Any]]:
        made = stored({**SHOWN, **more}, 0, self.face.text())
        return told(context_of([([], [made])], [], {}))

    def test_it_goes_back_as_a_pair(self) -> None:
        call, output = self.pair()
        assert call["type"] == "function_call"
        assert (call["name"], call["arguments"]) == ("f", "{}")
        assert call["call_id"] == output["call_id"]
        assert len(call["call_id"]) <= 40
        assert output["output"] == "1"

    def test_one_that_failed(self) -> None:
        content = [{"type": "text", "text": "oh"}]
        _, output = self.pair(output=None, error={"type": "x", "content": content})
        assert output["output"] == "oh"

    def test_one_that_never_ended_is_left_out(self) -> None:
        assert self.pair(output=None) == []

    def bare(self, *items: dict[str, Any]) -> list[dict[str, Any]]:
        return told(context_of([], items, {}))

    def test_one_without_an_id_goes_back_as_a_pair_too(self) -> None:
        call, output = self.bare(SHOWN)
        assert (call["name"], call["arguments"], output["output"]) == ("f", "{}", "1")
        assert call["call_id"] == output["call_id"]
        assert len(call["call_id"]) <= 40
        assert "id" not in call
        assert self.bare(SHOWN)[0]["call_id"] == call["call_id"], "the same at every look"

    def test_two_without_ids_that_ask_the_same_are_two_calls(self) -> None:
        made = self.bare(SHOWN, {**SHOWN, "output": "2"})
        assert [item.get("output") for item in made] == [None, "1", None, "2"]
        first, second = made[0]["call_id"], made[2]["call_id"]
        assert [item["call_id"] for item in made] == [first, first, second, second]
        assert first != second

    def test_one_without_an_id_that_never_ended_is_left_out(self) -> None:
        assert self.bare({**SHOWN, "output": None}) == []

    def test_one_whose_response_is_gone_is_the_client_s_own(self) -> None:
        gone = {**SHOWN, "id": f"mcp_{item_id(4).partition('_')[2]}"}
        assert [item["type"] for item in self.bare(gone)] == [CALL["type"], ANSWER["type"]]

    def test_an_output_of_parts_is_one_again(self) -> None:
        parts = [{"type": "input_text", "text": "a"}, {"type": "input_image", "image_url": "b"}]
        assert self.pair(output=json.dumps(parts, separators=(",", ":")))[1]["output"] == parts
        for other in ('[{"type": "x"}]', '[{"', "[]", '[{"a":1}]'):
            assert self.pair(output=other)[1]["output"] == other

    def test_a_hosted_one_stays_what_it_is(self) -> None:
        made = stored(SHOWN, 0, Face("responses x", {"id": "mcp_theirs"}).text())
        [item] = told(context_of([([], [made])], [], {}))
        assert item["type"] == "mcp_call"


def test_an_output_for_a_call_that_nobody_made() -> None:
    assert unmade([USER, ANSWER], 2) == (1, ("function_call", "c"))
    assert unmade([USER, ANSWER], 0) is None
    assert unmade([CALL, ANSWER], 1) is None
    assert unmade([CALL, ANSWER, ANSWER], 2) is None
