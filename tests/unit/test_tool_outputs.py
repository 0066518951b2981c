"""Whatever tools give: the model and the client get what the SDK alone would show, and a replay
gives the same again."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from agents import Agent, CustomTool, ItemHelpers, ShellTool, function_tool
from openai.types.responses import ResponseFunctionToolCall
from pydantic import BaseModel, Field

from longrun.execution.replay.references import resolve
from longrun.execution.replay.results import (
    decode_tool_output,
    encode_tool_output,
    shown_output,
)
from longrun.jsontext import dumps, loads
from tests.journal_agents.outputs import RICH
from tests.unit import runs
from tests.unit.runs import Commits, Played
from tests.unit.streams import call, hosted, message, request, turn

CALL = ResponseFunctionToolCall(call_id="c", name="give", arguments="{}", type="function_call")
LIMIT = 1 << 24


class Array:
    """Compares like numpy's: each element, and no truth in it."""

    def __init__(self, *values: int) -> None:
        self.values = values

    def __eq__(self, other: object) -> Any:
        return Array(*(value == other for value in self.values))

    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        raise ValueError("The truth value of an array is ambiguous.")

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[int]:
        return iter(self.values)

    def __str__(self) -> str:
        return f"[{' '.join(map(str, self.values))}]"


class Frame(Array):
    """Refuses comparison, like pandas' with another shape."""

    def __eq__(self, other: object) -> Any:
        raise TypeError("Can only compare identically-labeled objects")

    __hash__ = None  # type: ignore[assignment]


class Mute:
    def __str__(self) -> str:
        raise RuntimeError("secret")


class Word(str):
    def __str__(self) -> str:
        return "another word"


def containing_itself() -> list[Any]:
    found: list[Any] = [1]
    found.append(found)
    return found


def nested(levels: int) -> Any:
    found: Any = "deep"
    for _ in range(levels):
        found = [found]
    return found


ODD: dict[str, Callable[[], Any]] = {
    "array": lambda: Array(1, 2, 3),
    "frame": lambda: Frame(1, 2),
    "array in a list": lambda: [Array(1), 2],
    "array in a dict": lambda: {"a": Array(1)},
    "bytes": lambda: b"a\xff",
    "bytearray": lambda: bytearray(b"a"),
    "containing itself": containing_itself,
    "generator": lambda: (n for n in range(3)),
    "range": lambda: range(3),
    "str of its own": lambda: Word("a word"),
    "nan": lambda: float("nan"),
    "keys": lambda: {1: "a", None: "b"},
    "nested 200 levels": lambda: nested(200),
    "large": lambda: 2**70,
    "surrogates": lambda: ["a\ud800", {"\ud800": "\x00"}],
}
RICHLY: dict[str, Callable[[], Any]] = {
    name: (lambda value=value: value) for name, value in RICH.items()
}


def shown(output: Any) -> Any:
    """By the SDK alone."""
    return json.loads(json.dumps(ItemHelpers.tool_call_output_item(CALL, output)["output"]))


def giving(output: Any) -> Agent[Any]:
    @function_tool(failure_error_function=None)
    async def give() -> Any:
        """Give it."""
        return output

    model = Played(turn(call("give", "{}")), turn(message("done")))
    return Agent(name="agent", model=model, tools=[give])


def outputs(commits: Commits) -> list[Any]:
    items = [loads(item) for _, item in commits.committed_items]
    return [
        item["output"] if item.get("error") is None else item["error"]["content"][0]["text"]
        for item in items
        if "output" in item
    ]


def status(commits: Commits) -> str:
    [ending] = [entry.ending for entry in commits.entries if entry.ending]
    return ending.status


@pytest.mark.parametrize("kind", ODD)
async def test_it_is_shown_as_by_the_sdk_alone_and_again_at_a_replay(kind: str) -> None:
    output = ODD[kind]()
    asked = request()
    commits = await runs.run(giving(output), asked)
    assert status(commits) == "completed"
    assert outputs(commits) == [shown(output)]
    steps = resolve(commits.committed_steps, dict(commits.committed_items))
    [step] = [step for step in steps if step.kind == "tool"]
    recorded = decode_tool_output(loads(step.result)["output"])
    assert shown(recorded) == shown(output)


class Place(BaseModel):
    city: str = Field(serialization_alias="City")
    degrees: float


@dataclass
class Point:
    x: int


@pytest.mark.parametrize("output", [Place(city="Rome", degrees=2.5), Point(3)])
async def test_one_of_a_declared_type_comes_back_at_a_replay(output: Any) -> None:
    @function_tool(output_type=type(output))
    async def give() -> Any:
        """Give it."""
        return output

    def agent(*turns: Any) -> Agent[Any]:
        return Agent(name="agent", model=Played(*turns), tools=[give])

    asked = request()
    done = turn(message("done"))
    first = await runs.run(agent(turn(call("give", "{}")), done), asked)
    kinds = [{step.kind for step in entry.steps} for entry in first.entries]
    again = first.died_after(kinds.index({"tool"}) + 1)
    await runs.take_over(agent(done), asked, again)
    assert status(again) == "completed"
    assert outputs(again) == outputs(first)


@pytest.mark.parametrize("make", [*ODD.values(), *RICHLY.values()], ids=[*ODD, *RICHLY])
def test_it_is_recorded(make: Callable[[], Any]) -> None:
    output = make()
    again = decode_tool_output(loads(dumps(encode_tool_output(output))))
    assert shown(again) == shown(output)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (Mute, "RuntimeError"),
        (lambda: nested(100_000), "RecursionError"),
        (lambda: 10**5000, "ValueError"),
    ],
)
async def test_what_cannot_be_shown_is_replaced_in_words(
    make: Callable[[], Any], error: str
) -> None:
    commits = await runs.run(giving(make()))
    assert status(commits) == "completed"
    words = f"The tool's output could not be shown: its str() raised {error}."
    assert outputs(commits) == [words]
    [step] = [step for step in commits.committed_steps if step.kind == "tool"]
    assert decode_tool_output(loads(step.result)["output"]) == words


@pytest.mark.parametrize(
    "large",
    ["x" * LIMIT, "\x00" * (LIMIT // 5), ["\U000e0001" * (LIMIT // 8)], [b"\\" * (LIMIT // 3)]],
    ids=["text", "escaped", "container", "bytes"],
)
async def test_what_is_too_large_is_replaced_in_words(large: Any) -> None:
    commits = await runs.run(giving(large))
    assert status(commits) == "completed"
    [said] = outputs(commits)
    assert said.startswith("The tool's output was ")
    assert said.endswith("bytes, more than 16,777,216; it was not kept.")
    assert sum(len(step.result) for step in commits.committed_steps) < 10_000


def test_what_fits_is_kept() -> None:
    fits = "x" * (LIMIT - 5000)
    assert shown_output(fits, LIMIT) == (fits, {"json": fits})


async def huge_shell(request: Any) -> str:
    return "x" * LIMIT


async def huge_custom(context: Any, text: str) -> str:
    return "x" * LIMIT


ACTIONS = {
    "shell": (
        ShellTool(executor=huge_shell),
        {
            "type": "shell_call",
            "action": {"commands": ["ls"], "timeout_ms": 1000},
            "status": "completed",
        },
    ),
    "custom": (
        CustomTool(name="grep", description="grep", on_invoke_tool=huge_custom),
        {"type": "custom_tool_call", "name": "grep", "input": "x"},
    ),
}


@pytest.mark.parametrize("kind", ACTIONS)
async def test_of_other_tools_too(kind: str) -> None:
    tool, item = ACTIONS[kind]
    asks = turn(hosted({**item, "id": "i_1", "call_id": "c_1"}))
    model = Played(asks, turn(message("done")))
    commits = await runs.run(Agent(name="agent", model=model, tools=[tool]))
    assert status(commits) == "completed"
    [said] = outputs(commits)
    assert "it was not kept" in str(said)
