"""The numbers of a run's steps, and which of them a fork begins with."""

import json
from typing import Any

import pytest

from longrun.errors import BadRequest
from longrun.execution.forking import COPIED, Course, parted
from longrun.store.forks import Recorded
from longrun.store.records import Step


def call(name: str, call_id: str, kind: str = "function_call") -> dict[str, Any]:
    return {"type": kind, "name": name, "call_id": call_id, "arguments": "{}"}


def turn(number: int, *output: dict[str, Any], at: float = 0.0, **asked: str) -> Recorded:
    result = {
        "response": {"output": list(output), "usage": {"input_tokens": 5}},
        "indexes": [],
        "calls": {each["call_id"]: [number, None] for each in output if "call_id" in each},
    }
    fingerprint = json.dumps({"agent": "agent", **asked})
    return Recorded(Step("", "model", str(number), fingerprint, json.dumps(result)), at)


def tool(call_id: str, scope: str = "", at: float = 0.0) -> Recorded:
    return Recorded(Step(scope, "tool", call_id, '{"tool":"look"}', "{}"), at)


def course(*recorded: Recorded, items: Any = None, client_tools: Any = ()) -> Course:
    return Course(recorded, items or {}, set(client_tools))


def taken(of: Course, number: int) -> set[tuple[str, str, str]]:
    own, copied = parted(of.fork(number).steps)
    assert own == []
    return {(step.scope, step.kind, step.key) for step in copied}


RUN = (
    turn(0, call("look", "a"), call("ask", "b"), call("look", "c"), at=1),
    tool("a", at=2),
    tool("in", "/b", at=2),
    tool("c", at=3),
    tool("law", "/guardrail in 1", at=1),
    turn(1, at=4),
    tool("law", "/guardrail out 1", at=5),
)


def test_numbers_stay_whatever_ends_first() -> None:
    live = course(*RUN[:1], *RUN[3:4])
    assert [(s.step, s.name, s.finished) for s in live.steps] == [
        (1, "agent", True),
        (2, "look", False),
        (3, "ask", False),
        (4, "look", True),
    ]
    assert [s.finished for s in course(*RUN).steps] == [True] * 5


def test_what_is_behind_is_not_taken_along() -> None:
    found = course(*RUN)
    begun = {("", "model", "0"), ("/guardrail in 1", "tool", "law")}
    assert taken(found, 0) == set()
    assert taken(found, 1) == begun
    assert taken(found, 2) == begun | {("", "tool", "a")}
    assert taken(found, 3) == begun | {("", "tool", "a"), ("/b", "tool", "in")}
    assert len(taken(found, 5)) == len(RUN)
    assert found.fork(5).turn == 1


def test_nothing_of_usage_is_taken_along() -> None:
    [step, *_] = course(*RUN).fork(1).steps
    assert step.scope == COPIED
    assert json.loads(step.result)["response"]["usage"] is None


def test_calls_that_others_execute_have_no_number() -> None:
    answered = {"type": "shell_call_output", "call_id": "s"}
    found = course(
        turn(0, call("theirs", "a"), call("", "s", "shell_call"), answered),
        client_tools=["theirs"],
    )
    assert [s.kind for s in found.steps] == ["model"]


def test_what_was_passed_already_stands_for_what_was_copied() -> None:
    copied = turn(0)._replace(step=turn(0).step._replace(scope=COPIED, result="{}"))
    assert [s.name for s in course(copied, turn(0)).steps] == ["agent"]


@pytest.mark.parametrize(
    ("recorded", "step", "code"),
    [
        ([*RUN], 6, "step_not_found"),
        ([], 1, "step_not_found"),
        ([*RUN[:1]], 2, "step_not_finished"),
        ([*RUN, Recorded(Step("", "session", "get 1", "{}", "[]"), 0)], 1, "fork_with_session"),
        ([turn(0, steered="taken")], 1, "fork_of_steered"),
    ],
)
def test_what_cannot_be_forked(recorded: list[Recorded], step: int, code: str) -> None:
    with pytest.raises(BadRequest) as raised:
        course(*recorded).fork(step)
    assert raised.value.code == code


def test_handlers_have_no_numbers() -> None:
    of_handler = Recorded(Step("", "tool", "pay#1", '{"step":"step"}', "{}"), 0.0)
    with pytest.raises(BadRequest) as raised:
        course(of_handler)
    assert raised.value.code == "fork_of_handler"


def test_a_step_that_refers_to_what_is_gone_is_the_end() -> None:
    refers = turn(1)
    refers = refers._replace(step=refers.step._replace(result='{"pieces":["{",[7,0,3],"}"]}'))
    assert len(course(turn(0), refers).steps) == 1
