"""Agents that misbehave, as real ones do: each must end in words, and harm nobody beside it.

`AGENTS` serves them beside `gated`, the healthy one. `bad` says of each how it may end. Of the
`killers` one takes its process along, which no code can catch, and one does not heed its
cancellation. `sleepy` hangs in a thread for as long as its input says.
"""

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any, Final

from agents import (
    Agent,
    AgentHooks,
    GuardrailFunctionOutput,
    InputGuardrail,
    OutputGuardrail,
    function_tool,
)
from openai.types.responses import ResponseFunctionToolCall

from tests.faults.agents import agents as healthy
from tests.scripted import by_input, note_effect, scripted
from tests.scripted_model import Asked, ScriptedModel

AGENTS = "tests.faults.bad_agents:agents"

FAILS: Final = frozenset({"failed"})
COMPLETES: Final = frozenset({"completed"})
EITHER: Final = FAILS | COMPLETES

RAISED: Final = {
    "SystemExit": lambda: SystemExit(3),
    "KeyboardInterrupt": lambda: KeyboardInterrupt(),
    "GeneratorExit": lambda: GeneratorExit(),
    "CancelledError": lambda: asyncio.CancelledError(),
    "BaseExceptionGroup": lambda: BaseExceptionGroup("bad", [SystemExit(1), ValueError("x")]),
    "StopAsyncIteration": lambda: StopAsyncIteration(),
    "RecursionError": lambda: RecursionError(),
}


def calling(name: str, *tools: Any, **more: Any) -> Agent[Any]:
    """An agent that calls its first tool once, and then says something."""
    return Agent(name=name, model=calls_once(tools[0].name), tools=list(tools), **more)


def calls_once(tool: str, call_id: str | None = None) -> ScriptedModel:
    """Whatever it is asked, it calls one tool, with an id of the test's choice, then answers."""

    async def play(asked: Asked) -> AsyncIterator[Any]:
        script = f'{{"turns": [[["{tool}", {{}}]]], "deltas": 2}}'
        items = asked.items if isinstance(asked.items, list) else []
        turns = [item for item in items if item.get("type", "message") != "message"]
        told = [{"role": "user", "content": script}, *turns]
        async for event in by_input(replace(asked, items=told)):
            if call_id is not None:
                _rename(event, call_id)
            yield event

    return ScriptedModel(play)


def _rename(event: Any, call_id: str) -> None:
    response = getattr(event, "response", None)
    for item in (getattr(event, "item", None), *(response.output if response else ())):
        if isinstance(item, ResponseFunctionToolCall):
            item.call_id = call_id


def breaks(after: int, make: Callable[[], BaseException] | None) -> ScriptedModel:
    """Raises, or just ends, after so many events."""

    async def play(asked: Asked) -> AsyncIterator[Any]:
        place = 0
        async for event in by_input(asked):
            if place == after:
                if make is None:
                    return
                raise make()
            place += 1
            yield event

    return ScriptedModel(play)


def tool_that(name: str, body: Callable[[], Any], **options: Any) -> Any:
    async def tool() -> Any:
        return body()

    return function_tool(tool, name_override=name, **options)


def sync_tool_that(name: str, body: Callable[[], Any], **options: Any) -> Any:
    def tool() -> Any:
        return body()

    return function_tool(tool, name_override=name, **options)


def raiser(make: Callable[[], BaseException]) -> Callable[..., Any]:
    def body(*_: Any) -> Any:
        raise make()

    return body


def raising_everywhere(kind: str) -> dict[str, tuple[Agent[Any], frozenset[str]]]:
    """One exception, out of each place where code of the user runs."""
    make = RAISED[kind]
    loud: dict[str, Any] = {"failure_error_function": None}

    async def refuse(*_: Any) -> Any:
        raise make()

    async def judge(*_: Any) -> GuardrailFunctionOutput:
        raise make()

    class Hooks(AgentHooks[Any]):
        async def on_tool_start(self, *_: Any) -> None:
            raise make()

    class StartHooks(AgentHooks[Any]):
        async def on_start(self, *_: Any) -> None:
            raise make()

    class EndHooks(AgentHooks[Any]):
        async def on_end(self, *_: Any) -> None:
            raise make()

    fine = tool_that("fine", lambda: "fine")
    found: dict[str, tuple[Agent[Any], frozenset[str]]] = {}

    def add(place: str, made: Callable[[str], Agent[Any]], may: frozenset[str] = FAILS) -> None:
        name = f"{kind} {place}"
        found[name] = (made(name), may)

    add("tool", lambda n: calling(n, tool_that("t", raiser(make), **loud)))
    add("quiet tool", lambda n: calling(n, tool_that("t", raiser(make))), EITHER)
    add("sync tool", lambda n: calling(n, sync_tool_that("t", raiser(make), **loud)))
    add("model", lambda n: Agent(name=n, model=breaks(0, make)))
    add("model midway", lambda n: Agent(name=n, model=breaks(5, make)))
    add("hook", lambda n: calling(n, fine, hooks=Hooks()))
    add("start hook", lambda n: calling(n, fine, hooks=StartHooks()))
    add("end hook", lambda n: calling(n, fine, hooks=EndHooks()))
    add("instructions", lambda n: Agent(name=n, model=scripted(), instructions=refuse))
    add(
        "input guardrail",
        lambda n: Agent(name=n, model=scripted(), input_guardrails=[InputGuardrail(judge)]),
    )
    add(
        "output guardrail",
        lambda n: Agent(name=n, model=scripted(), output_guardrails=[OutputGuardrail(judge)]),
    )
    return found


def itself() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


class Unsayable:
    def __str__(self) -> str:
        raise ValueError("no text")

    def __eq__(self, other: object) -> Any:
        raise ValueError("no comparison")

    __hash__ = None  # type: ignore[assignment]


class Arrays:
    """Compares like an array of numpy: its truth is not defined."""

    def __eq__(self, other: object) -> Any:
        return self

    def __bool__(self) -> bool:
        raise ValueError("the truth value of an array is ambiguous")

    def __str__(self) -> str:
        return "[1 2 3]"

    __hash__ = None  # type: ignore[assignment]


def deep(levels: int = 6000) -> list[Any]:
    found: list[Any] = []
    for _ in range(levels):
        found = [found]
    return found


OUTPUTS: Final[dict[str, tuple[Callable[[], Any], frozenset[str]]]] = {
    "itself": (itself, COMPLETES),
    "unsayable": (Unsayable, EITHER),
    "an array": (Arrays, COMPLETES),
    "deep": (deep, COMPLETES),
    "a generator": (lambda: (n for n in range(3)), COMPLETES),
    "bytes": (lambda: b"\xff\x00", COMPLETES),
    "None": (lambda: None, COMPLETES),
    "a class": (lambda: dict, COMPLETES),
    "surrogates and NUL": (lambda: "a\ud800\x00b", COMPLETES),
    "40 MB": (lambda: "x" * 40_000_000, EITHER),
}

CALL_IDS: Final = {
    "NUL": "call\x00_1",
    "a surrogate": "call\ud800_1",
    "empty": "",
    "6,000 characters": "c" * 6000,
    "spaces": "a call with spaces\n",
}


async def swallows() -> str:
    """Swallow every cancellation, for a while that is longer than any patience."""
    note_effect("stubborn", "started")
    until = time.monotonic() + 120
    while time.monotonic() < until:
        try:
            await asyncio.sleep(0.05)
        except BaseException:  # what such tools do
            continue
    return "at last"


@function_tool
def sleeps(seconds: float) -> str:
    """Hang in a thread, which nobody can stop."""
    note_effect("sleepy", "started")
    time.sleep(seconds)
    return "slept"


def _hang() -> str:
    threading.Event().wait(5)
    return "late"


async def _cancel_oneself() -> str:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)
    return "not reached"


def bad() -> dict[str, tuple[Agent[Any], frozenset[str]]]:
    """Agents that a replica must survive, and the statuses in which each may end."""
    found: dict[str, tuple[Agent[Any], frozenset[str]]] = {}
    for kind in RAISED:
        found |= raising_everywhere(kind)
    for what, (make, may) in OUTPUTS.items():
        found[f"gives {what}"] = (calling(f"gives {what}", tool_that("t", make)), may)
    for what, call_id in CALL_IDS.items():
        name = f"call id {what}"
        model = calls_once("t", call_id)
        tools = [tool_that("t", lambda: "fine")]
        found[name] = (Agent(name=name, model=model, tools=tools), EITHER)
    found["ends without an end"] = (Agent(name="ends without an end", model=breaks(5, None)), FAILS)
    oneself = function_tool(_cancel_oneself, name_override="t")
    found["cancels itself"] = (calling("cancels itself", oneself), EITHER)
    found["hangs"] = (calling("hangs", sync_tool_that("t", _hang)), COMPLETES)
    return found


def _exit() -> str:
    os._exit(7)


def killers() -> dict[str, Agent[Any]]:
    """Agents that take their process along, and one that nothing stops."""
    return {
        "exits": calling("exits", tool_that("t", _exit)),
        "stubborn": calling("stubborn", function_tool(swallows)),
    }


def agents() -> list[Agent[Any]]:
    everyone = [agent for agent, _ in bad().values()]
    sleepy = Agent(name="sleepy", model=scripted(), tools=[sleeps])
    return [*healthy(), *everyone, *killers().values(), sleepy]


def statuses() -> dict[str, frozenset[str]]:
    """How each agent of `bad` may end."""
    return {name: may for name, (_, may) in bad().items()}
