"""The input of a response that continues another."""

from typing import Any

from longrun.history.continuation import context_of, mended

USER = {"role": "user", "content": "hello"}
CALL = {"type": "function_call", "id": "fc_1", "call_id": "c", "name": "f", "arguments": "{}"}
ANSWER = {"type": "function_call_output", "call_id": "c", "output": "1"}


def continued(given: list[Any], output: list[Any], new: list[Any]) -> list[Any]:
    return mended([*context_of([(given, output)]), *new])


def message(text: str) -> dict[str, object]:
    content = [{"type": "output_text", "text": text}]
    return {"type": "message", "id": "msg_1", "status": "completed", "content": content}


def test_it_is_the_previous_input_then_output_then_the_new_input() -> None:
    new = {"role": "user", "content": "and then?"}
    items = continued([USER], [message("hi")], [new])
    assert items[0] == USER
    assert items[1]["content"] == message("hi")["content"]
    assert items[2] == new


def test_ids_of_ours_do_not_go_to_a_model_that_never_gave_them() -> None:
    [item] = continued([], [message("hi")], [])
    assert "id" not in item
    assert "status" not in item


def test_a_call_that_nobody_answered_is_left_out() -> None:
    assert continued([USER], [CALL], []) == [USER]


def test_a_call_that_the_client_answers_now_stays() -> None:
    call, answer = continued([], [CALL], [ANSWER])
    assert call["call_id"] == answer["call_id"] == "c"


def test_reasoning_stays_only_with_its_encrypted_content() -> None:
    bare = {"type": "reasoning", "id": "rs_1", "summary": []}
    kept = {**bare, "encrypted_content": "…"}
    assert continued([], [bare, kept], []) == [kept]
