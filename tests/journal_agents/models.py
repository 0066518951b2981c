"""Scripted models whose every start, word and end is an effect, and their turns.

A model has no state: which turn it is in, it reads from the calls among the items that it gets.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

from agents import Agent
from openai.types.responses import Response

import longrun
from longrun.execution.replay import place as places
from tests.crashing import effect
from tests.scripted_model import Asked, ScriptedModel
from tests.unit.streams import FAKE, raw

JSONObject = dict[str, Any]
Turn = Sequence[JSONObject]


def says(text: str) -> JSONObject:
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {
        "type": "message",
        "id": FAKE,
        "role": "assistant",
        "status": "completed",
        "content": [part],
    }


def thinks(text: str) -> JSONObject:
    return {"type": "reasoning", "id": FAKE, "summary": [{"type": "summary_text", "text": text}]}


def calls(name: str, call_id: str = "call_1", **arguments: Any) -> JSONObject:
    return {
        "type": "function_call",
        "id": FAKE,
        "call_id": call_id,
        "name": name,
        "arguments": json.dumps(arguments),
        "status": "completed",
    }


class Turns:
    """A script: says its turns, the last one when nothing is left to be called.

    Args:
        fails: so many requests of each turn fail before one succeeds.
    """

    def __init__(self, name: str, *turns: Turn, fails: int = 0) -> None:
        self.name = name
        self.turns = turns
        self.fails = fails
        self.failed: dict[str, int] = {}

    async def __call__(self, asked: Asked) -> AsyncIterator[Any]:
        name, turn = self._next(asked.items)
        await effect(f"start model {name}")
        await asyncio.sleep(0)
        yield raw({"type": "response.created", "response": _response(name, ()).to_dict()})
        self._fail(name)
        if asked.streamed:
            for index, item in enumerate(turn):
                async for event in _item_events(name, index, item):
                    yield event
        await effect(f"end model {name}")
        yield raw({"type": "response.completed", "response": _response(name, turn).to_dict()})

    def _next(self, items: str | list[Any]) -> tuple[str, Turn]:
        """The turn, and its name, unique in a run unless a model is asked the same twice."""
        if isinstance(items, str):
            items = [{"role": "user", "content": items}]
        given = [dict(item) for item in items]
        last = max(n for n, item in enumerate(given) if item.get("role") == "user")
        done = {item.get("call_id") for item in given[last + 1 :]}
        number = 0
        while number < len(self.turns) - 1 and self._called(self.turns[number]) <= done:
            number += 1
        return f"{self.name}:{_scope()}:{number}", self.turns[number]

    def _called(self, turn: Turn) -> set[str]:
        return {item["call_id"] for item in turn if "call_id" in item}

    def _fail(self, name: str) -> None:
        who = f"{longrun.current().response_id} {name}"
        self.failed[who] = self.failed.get(who, 0) + 1
        if self.failed[who] <= self.fails:
            raise ConnectionError("try again")


async def _item_events(name: str, index: int, item: JSONObject) -> AsyncIterator[Any]:
    where = {"item_id": FAKE, "output_index": index}
    message = item["type"] == "message"
    shown = {**item, "content": []} if message else item
    yield raw({"type": "response.output_item.added", "output_index": index, "item": shown})
    if message:
        text = item["content"][0]["text"]
        third = len(text) // 3 + 1
        for n, start in enumerate(range(0, len(text), third)):
            yield raw(
                {
                    "type": "response.output_text.delta",
                    "delta": text[start : start + third],
                    "content_index": 0,
                    "logprobs": [],
                    **where,
                }
            )
            await asyncio.sleep(0)
            await effect(f"delta {name} {n}")
    yield raw({"type": "response.output_item.done", "output_index": index, "item": item})


def _response(name: str, turn: Turn) -> Response:
    return Response.construct(
        id=name,
        created_at=0,
        model="scripted",
        object="response",
        output=list(turn),
        parallel_tool_calls=True,
        tool_choice="auto",
        tools=[],
        usage={
            "input_tokens": 10,
            "input_tokens_details": {"cached_tokens": 1, "cache_write_tokens": 0},
            "output_tokens": 5,
            "output_tokens_details": {"reasoning_tokens": 2},
            "total_tokens": 15,
        },
    )


def _scope() -> str:
    """Of the run that asks a model: names are unique with it."""
    found = places.here()
    return found.scope.path if found else "of its own"


def agent(name: str, *turns: Turn, fails: int = 0, **more: Any) -> Agent[Any]:
    return Agent(name=name, model=ScriptedModel(Turns(name, *turns, fails=fails)), **more)
