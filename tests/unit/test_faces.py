"""How an item's model gave it, beside what clients see: only what differs is stored."""

import json
from typing import Any

import pytest

from longrun.history.faces import NO_FACE, PLACEHOLDER_ID, Face, Origin
from tests.unit.streams import FAKE, Assembly, call, message, reasoning, turn

OPENAI = str(Origin("responses", "api.openai.com/v1"))


def stored(given: dict[str, Any], **differs: Any) -> dict[str, Any] | None:
    shown = {**given, "id": "msg_ours", "status": "completed", **differs}
    shown.pop("provider_data", None)
    text = Face.of(shown, given, OPENAI).text()
    return None if text is None else json.loads(text)


def test_the_id_of_the_provider() -> None:
    given = {"type": "message", "id": "msg_theirs", "role": "assistant", "content": []}
    assert stored(given) == {"from": OPENAI, "set": {"id": "msg_theirs"}}


def test_what_clients_do_not_see_and_a_call_id_of_the_adapter_s() -> None:
    given = {
        "type": "function_call",
        "id": PLACEHOLDER_ID,
        "call_id": "call_0",
        "name": "f",
        "arguments": "{}",
        "provider_data": {"model": "gemini"},
    }
    expected = {"call_id": "call_0", "provider_data": {"model": "gemini"}}
    assert stored(given, call_id="call_ours") == {"from": OPENAI, "set": expected}


def test_what_it_says_is_stored_once() -> None:
    """Ours has lists that clients iterate over without asking."""
    text = {"type": "output_text", "text": "said"}
    given = {"type": "message", "id": "m", "role": "assistant", "content": [text]}
    face = stored(given, content=[{**text, "annotations": [], "logprobs": []}])
    assert "said" not in json.dumps(face)


def test_nothing_where_nothing_differs() -> None:
    given = {"type": "function_call_output", "call_id": "c", "output": "1"}
    assert stored(given) is None
    assert Face.read(None) is NO_FACE
    assert stored({**given, "id": PLACEHOLDER_ID}) is None


@pytest.mark.parametrize(
    "face",
    [
        Face(OPENAI, {"id": "msg_1"}),
        Face(OPENAI, {"id": "msg_1", "call_id": "\ud800\x00"}, behind=True),
        Face(None, {"id": "lsh_1"}),
    ],
)
def test_it_is_read_as_it_was_written(face: Face) -> None:
    assert Face.read(face.text()) == face


class TestAssembler:
    def faces(self, assembly: Assembly) -> list[Face]:
        return [Face.read(assembly.models.get(index)) for index, _ in assembly.items]

    def test_a_turn_of_reasoning_and_messages(self) -> None:
        assembly = Assembly()
        assembly.assembler.origin = OPENAI
        said = message("hi", index=1, id="msg_theirs")
        more = message("more", index=2, id="msg_other")
        assembly.feed(*turn(reasoning("hm", id="rs_theirs"), said, more))
        assert self.faces(assembly) == [
            Face(OPENAI, {"id": "rs_theirs"}),
            Face(OPENAI, {"id": "msg_theirs"}, behind=True),
            Face(OPENAI, {"id": "msg_other"}),
        ]

    def test_what_the_provider_added_is_not_for_clients(self) -> None:
        assembly = Assembly()
        said = message("hi", id=FAKE)
        for event in said.events:
            if "item" in event:
                event["item"] = {**event["item"], "provider_data": {"model": "deepseek"}}
        assembly.feed(*turn(said))
        assert b"provider_data" not in b"".join(assembly.lines)
        [face] = self.faces(assembly)
        assert face.given == {"provider_data": {"model": "deepseek"}}

    def test_the_call_id_of_a_turn_that_was_asked_again_is_the_given_one(self) -> None:
        assembly = Assembly()
        assembly.assembler.take_over([], [], {0: call(call_id="c").item})
        assembly.feed(*turn(call(call_id="c", id=FAKE)))
        assert json.loads(assembly.items[0][1])["call_id"] == "c_2"
        assert self.faces(assembly)[0].given == {"call_id": "c"}
