"""Agents for the benchmarks: a text at a given pace, from a model that costs next to nothing; and
one long output of a tool, or one long text.

The model makes an event for each delta, as every model has to, and reads no network and no JSON.

The input's last user message is a `Pace` as JSON; the bare application of `bare.py` takes the
same, so that both sides emit at the very same moments. For the agent `long` it is a `Length`.
"""

import asyncio
import base64
import json
import random
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from agents import Agent, function_tool

from tests.bench import gate
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
)

AGENTS = "tests.bench.agents:agents"
NAME = "paced"
LONG = "long"
WORDS = "some words "
"""What a delta says that does not carry its clock."""

YIELD_EVERY = 100
"""A model at full speed lets others run after so many deltas; a real one waits for its network."""


@dataclass(frozen=True)
class Pace:
    """When a stream emits what.

    Attributes:
        deltas: how many.
        gate: the file to wait for (`gate.py`); empty to begin at once.
        rate: deltas a second; 0 for full speed.
        phase: seconds by which this stream is behind the others, so that they do not all emit
            at the same moment.
        clock: each delta is the `time.monotonic_ns()` of its emission.
    """

    deltas: int
    gate: str = ""
    rate: float = 0.0
    phase: float = 0.0
    clock: bool = False

    @classmethod
    def parse(cls, text: str) -> Self:
        return cls(**json.loads(text))

    def as_text(self) -> str:
        return json.dumps(asdict(self))

    async def ticks(self) -> AsyncIterator[int]:
        """The number of each delta, at the moment when it is to be emitted."""
        start = await gate.opened(Path(self.gate)) if self.gate else time.monotonic()
        begin = start + self.phase
        await asyncio.sleep(max(0.0, begin - time.monotonic()))
        for number in range(self.deltas):
            if self.rate:
                wait = begin + number / self.rate - time.monotonic()
                if wait > 0:
                    await asyncio.sleep(wait)
            elif number % YIELD_EVERY == YIELD_EVERY - 1:
                await asyncio.sleep(0)
            yield number


async def paced(asked: Asked) -> AsyncIterator[Any]:
    """A script: one message at the pace that the input tells."""
    pace = Pace.parse(last_text(asked.items))
    for event in (*begun(), *opened()):
        yield event
    text: list[str] = []
    async for _ in pace.ticks():
        words = f"{time.monotonic_ns()} " if pace.clock else WORDS
        text.append(words)
        yield delta(words)
    *closing, done = closed("".join(text))
    for event in (*closing, done):
        yield event
    yield completed([done.item])


@dataclass(frozen=True)
class Length:
    """One long thing that a run makes, in bytes: what its tool gives, or its model says, in so many
    messages and in deltas of so many characters."""

    output: int = 0
    text: int = 0
    messages: int = 1
    delta: int = 1000

    def as_text(self) -> str:
        return json.dumps(asdict(self))


def noise(size: int) -> str:
    """A text of so many bytes that no compression makes much smaller."""
    return base64.b64encode(random.Random(size).randbytes(size)).decode()[:size]


@function_tool(name_override="noise")
async def give_noise(size: int) -> str:
    """A long text."""
    return noise(size)


async def lengthy(asked: Asked) -> AsyncIterator[Any]:
    """A script: a tool's long output and a short text, or a long text. Nothing of it is held that a
    model would not hold."""
    length = Length(**json.loads(last_text(asked.items)))
    for event in begun():
        yield event
    if length.output and isinstance(asked.items, list) and len(asked.items) == 1:
        *events, done = called("noise", {"size": length.output}, "call_1")
        for event in (*events, done):
            yield event
        yield completed([done.item])
        return
    items = []
    text = noise((length.text or 8) // length.messages)
    for place in range(length.messages):
        for event in opened(place):
            yield event
        for number, at in enumerate(range(0, len(text), length.delta)):
            yield delta(text[at : at + length.delta], place)
            if number % YIELD_EVERY == YIELD_EVERY - 1:
                await asyncio.sleep(0)
        *closing, done = closed(text, place)
        for event in (*closing, done):
            yield event
        items.append(done.item)
    yield completed(items)


def agents() -> list[Agent[Any]]:
    """`paced` and `long`."""
    return [
        Agent(name=NAME, model=ScriptedModel(paced)),
        Agent(name=LONG, model=ScriptedModel(lengthy), tools=[give_noise]),
    ]
