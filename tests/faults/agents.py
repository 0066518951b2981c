"""Agents that stop where a test wants them: at gates, which are files.

The input is a script (`tests/scripted.py`) with more keys: see `Plan`. At a gate the run writes
a file that says so, and goes on when another file appears, in whatever process it then is. So a
test knows where a run is when it kills its replica, and nothing depends on time.
"""

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents import Agent, AgentHooks, function_tool
from agents.tool_context import ToolContext
from openai.types.responses import ResponseCompletedEvent, ResponseIncompleteEvent
from openai.types.responses.response import IncompleteDetails

import longrun
from tests.scripted import Script, by_input, note_effect
from tests.scripted_model import Asked, ScriptedModel, last_text

AGENTS = "tests.faults.agents:agents"


@dataclass(frozen=True)
class Plan:
    """What a run does besides its script.

    Attributes:
        gates: where it stops: `model TURN` (before its first event), `delta N`, `item TURN PLACE`
            (when that item is finished), `turn TURN` (before its last event), `tool NAME` (before
            a tool starts), `in NAME` (in it), `end` (when all is done but the terminal event).
        request: the model holds a request open, to this port, and says nothing.
        incomplete: the model stops early, as at its token limit.
        call_id: the model gives all its calls this one.
    """

    gates: tuple[str, ...] = ()
    request: int = 0
    incomplete: bool = False
    call_id: str | None = None

    @classmethod
    def of(cls, items: Any) -> "Plan":
        try:
            given = json.loads(last_text(items))
        except ValueError:
            given = {}
        known = {key: value for key, value in given.items() if key in cls.__dataclass_fields__}
        return cls(**{**known, "gates": tuple(known.get("gates", ()))})


def gate_file(folder: Path, response_id: str, point: str, attempt: int) -> Path:
    """Says that a run is at a gate."""
    return folder / f"at {point} {response_id} {attempt}"


_at_gates: set[object] = set()
"""All that wait at gates in this process."""


async def gate(plan: Plan, point: str) -> None:
    """Stop here until the gate is open, if the plan wants that."""
    if point not in plan.gates:
        return
    folder = Path(os.environ["GATES"])
    current = longrun.current()
    gate_file(folder, current.response_id, point, current.attempt).touch()
    here = object()
    _at_gates.add(here)
    try:
        while not (folder / f"open {point}").exists():
            # However many wait, they take little of a processor that others need.
            await asyncio.sleep(max(0.02, len(_at_gates) * 0.002))
    finally:
        _at_gates.discard(here)


def note(kind: str, what: str) -> None:
    """An effect: who had it, and in which attempt."""
    current = longrun.current()
    key = current.idempotency_key or "-"
    note_effect(kind, f"{current.response_id} {what} {current.attempt} {key}")


async def gated(asked: Asked) -> AsyncIterator[Any]:
    """What the input tells (`scripted.by_input`), with gates."""
    plan = Plan.of(asked.items)
    _, turn = Script.of(asked.items)
    note("turn", str(turn))
    await gate(plan, f"model {turn}")
    if plan.request:
        await _request(plan.request)
    deltas = 0
    async for event in by_input(asked):
        if event.type == "response.completed":
            await gate(plan, f"turn {turn}")
            if plan.incomplete:
                event = _cut_short(event)
        yield event if plan.call_id is None else _called(event, plan.call_id)
        if event.type == "response.output_text.delta":
            deltas += 1
            await gate(plan, f"delta {deltas}")
        elif event.type == "response.output_item.done":
            await gate(plan, f"item {turn} {event.output_index}")


def _called(event: Any, call_id: str) -> Any:
    """An event with this call id for every call."""
    items = [event.item] if hasattr(event, "item") else []
    items += event.response.output if hasattr(event, "response") else []
    for item in items:
        if item.type == "function_call":
            item.call_id = call_id
    return event


def _cut_short(event: ResponseCompletedEvent) -> ResponseIncompleteEvent:
    details = IncompleteDetails(reason="max_output_tokens")
    response = event.response.model_copy(update={"incomplete_details": details})
    return ResponseIncompleteEvent(
        type="response.incomplete", sequence_number=event.sequence_number, response=response
    )


async def _request(port: int) -> None:
    """What a model's request looks like from outside: a connection that is open meanwhile."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        await reader.read()
    finally:
        writer.close()


def _plan(context: ToolContext[Any]) -> Plan:
    return Plan.of(context.turn_input) if context.turn_input else Plan()


class Gates(AgentHooks[Any]):
    """Gates at the SDK's own places."""

    async def on_tool_start(self, context: Any, agent: Any, tool: Any) -> None:
        name = json.loads(context.tool_arguments).get("name", tool.name)
        await gate(_plan(context), f"tool {name}")

    async def on_end(self, context: Any, agent: Any, output: Any) -> None:
        await gate(Plan.of(context.turn_input), "end")


@function_tool
async def work(context: ToolContext[Any], name: str) -> str:
    """Do something that counts."""
    note("tool", context.tool_call_id)
    await gate(_plan(context), f"in {name}")
    return f"did {name}"


@function_tool
async def stuck(context: ToolContext[Any]) -> str:
    """Never end; and say so when it is stopped."""
    note("tool", context.tool_call_id)
    try:
        await asyncio.Event().wait()
    finally:
        note("stopped", context.tool_call_id)
    return ""


@function_tool
async def block(context: ToolContext[Any], seconds: float) -> str:
    """Block the event loop, as a tool should not."""
    note("tool", context.tool_call_id)
    time.sleep(seconds)
    return "blocked"


@function_tool
def sleep_in_thread(context: ToolContext[Any], seconds: float) -> str:
    """A tool that nobody can stop: the SDK calls it in a thread."""
    note("tool", context.tool_call_id)
    time.sleep(seconds)
    return "slept"


@function_tool
async def die(context: ToolContext[Any]) -> str:
    """Take the whole replica along."""
    note("tool", context.tool_call_id)
    os.kill(os.getpid(), signal.SIGKILL)
    return ""


@function_tool
async def crash(context: ToolContext[Any]) -> str:
    """End the replica, as a crash in C would: no code of it can catch that."""
    note("tool", context.tool_call_id)
    os._exit(7)


def agents() -> list[Agent[Any]]:
    """`gated`, and `plain` without hooks: it has no gates before tools start, nor at the end."""
    tools: list[Any] = [work, stuck, block, sleep_in_thread, die, crash]
    model = ScriptedModel(gated)
    return [
        Agent(name="gated", model=model, tools=tools, hooks=Gates()),
        Agent(name="plain", model=model, tools=tools),
    ]
