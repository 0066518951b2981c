"""Agents on the scripted model: deterministic, and told by their input what to do.

The input's last user message is a JSON object (see `Script`); anything else is answered with
itself. A model is stateless: which turn it is in, it reads from the items that it is given.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

from agents import Agent, function_tool

from tests.scripted_model import (
    Asked,
    ScriptedModel,
    begun,
    called,
    closed,
    completed,
    delta,
    last_text,
    opened,
    usage,
)


@dataclass(frozen=True)
class Script:
    """What a run does.

    Attributes:
        turns: the turns before the last: each a list of tool calls `[name, arguments]`, made in
            parallel, and of texts, which are messages.
        deltas: how many deltas the final text has.
        delta: the text of each; `{n}` is its number.
        pause: seconds between deltas.
        fail: the model raises after so many deltas.
        hold: seconds after the last delta.
        until: a file; the text ends when it is there.
        show: the final text is what the model was given: its input items, as JSON.
    """

    turns: tuple[tuple[tuple[str, dict[str, Any]] | str, ...], ...] = ()
    deltas: int = 3
    delta: str = "word{n} "
    pause: float = 0.0
    fail: int | None = None
    hold: float = 0.0
    until: str | None = None
    show: bool = False

    @classmethod
    def of(cls, items: str | list[Any]) -> tuple["Script", int]:
        """The script in the last user message, and how many turns were taken since."""
        if isinstance(items, str):
            items = [{"role": "user", "content": items}]
        asked = [i for i, item in enumerate(items) if item.get("role") == "user"]
        if not asked:
            return cls(deltas=1, delta="Nothing was asked."), 0
        last = asked[-1]
        text = last_text(items)
        answered = sum(1 for item in items[last + 1 :] if item.get("type") == "function_call")
        try:
            given = json.loads(text)
        except ValueError:
            given = {"deltas": 1, "delta": text}
        if not isinstance(given, dict):
            given = {"deltas": 1, "delta": text}
        script = cls(**{k: v for k, v in given.items() if k in cls.__dataclass_fields__})
        turn = 0
        for items in script.turns:
            calls = sum(not isinstance(item, str) for item in items)
            if answered < calls:
                break
            answered -= calls
            turn += 1
        return script, turn

    def text(self) -> str:
        return "".join(self.delta.replace("{n}", str(n)) for n in range(self.deltas))


async def by_input(asked: Asked) -> AsyncIterator[Any]:
    """The script that the input tells."""
    script, turn = Script.of(asked.items)
    if script.show:
        script = replace(script, deltas=1, delta=json.dumps(asked.items))
    note_effect("model", str(turn))
    for event in begun():
        yield event
    output: list[Any] = []
    steps = script.turns[turn] if turn < len(script.turns) else (None,)
    for place, step in enumerate(steps):
        if step is None or isinstance(step, str):
            said = script if step is None else Script(deltas=1, delta=step)
            events = _saying(said, place)
        else:
            events = _calling(step[0], step[1], f"call_{turn}_{place}", place)
        async for event in events:
            yield event
            if event.type == "response.output_item.done":
                output.append(event.item)
    yield completed(output, usage())


async def _saying(script: Script, place: int) -> AsyncIterator[Any]:
    for event in opened(place):
        yield event
    for n in range(script.deltas):
        if script.fail is not None and n >= script.fail:
            raise RuntimeError("secret internal text of the model's failure")
        yield delta(script.delta.replace("{n}", str(n)), place)
        if script.pause:
            await asyncio.sleep(script.pause)
        elif n % 100 == 99:
            await asyncio.sleep(0)
    await asyncio.sleep(script.hold)
    while script.until and not os.path.exists(script.until):
        await asyncio.sleep(0.02)
    for event in closed(script.text(), place):
        yield event


async def _calling(name: str, arguments: Any, call_id: str, place: int) -> AsyncIterator[Any]:
    for event in called(name, arguments, call_id, place):
        yield event


def scripted() -> ScriptedModel:
    """A model that does what its input tells."""
    return ScriptedModel(by_input)


def note_effect(kind: str, what: str) -> None:
    """Count an effect in the file that EFFECTS names: a line, appended at once, by any process."""
    path = os.environ.get("EFFECTS")
    if path:
        with open(path, "a") as file:
            file.write(f"{kind} {what}\n")


@function_tool
async def echo(text: str, pause: float = 0.0) -> str:
    """Give back a text, after a pause."""
    note_effect("tool", text)
    await asyncio.sleep(pause)
    return f"echo: {text}"


@function_tool
async def big(size: int) -> str:
    """Give a text of so many characters."""
    return "x" * size


@function_tool
async def odd(kind: str) -> str:
    """Give a text that JSON encoders or databases stumble over."""
    return {
        "nul": "a\x00b",
        "surrogate": "a\ud800b",
        "emoji": "a\U0001f600b",
        "lines": "a\nb\r\n\u2028c",
    }[kind]


@function_tool(failure_error_function=None)
async def broken() -> str:
    """Raise."""
    raise RuntimeError("secret internal text of the tool's failure")


def agents() -> list[Agent[Any]]:
    """`scripted` has all tools; `chain` hands off to `scripted` at once."""
    tools: list[Any] = [echo, big, odd, broken]
    usual = Agent(name="scripted", model=scripted(), tools=tools)
    chain = Agent(name="chain", model=scripted(), handoffs=[usual], tools=tools)
    return [usual, chain]
