"""A graph of LangGraph: one node looks something up, one asks a model, each in a step."""

import os
from collections.abc import AsyncIterator
from typing import Any, TypedDict

from langgraph.graph import END, START, StateGraph
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletion

import longrun
from tests.scripted import note_effect

client = AsyncOpenAI(base_url=os.environ["PROVIDER_URL"], api_key="sk-provider", max_retries=0)


class State(TypedDict, total=False):
    asked: str
    found: str
    said: str


async def look_up(state: State) -> State:
    return {"found": await longrun.step("look up", looked_up, "graphs")}


def looked_up(word: str) -> str:
    note_effect("tool", f"look {word}")
    return f"found {word}"


async def ask(state: State) -> State:
    messages: Any = [{"role": "user", "content": state["asked"]}]
    completion = await longrun.step(
        "ask",
        client.chat.completions.create,
        model="any",
        messages=messages,
        returns=ChatCompletion,
    )
    return {"said": completion.choices[0].message.content or ""}


graph = (
    StateGraph(State)
    .add_node("look_up", look_up)
    .add_node("ask", ask)
    .add_edge(START, "look_up")
    .add_edge("look_up", "ask")
    .add_edge("ask", END)
    .compile()
)


@longrun.agent(name="langgraph")
async def answer(request: longrun.HandlerRequest) -> AsyncIterator[Any]:
    async for update in graph.astream({"asked": request.text}, stream_mode="updates"):
        for state in update.values():
            yield state.get("found") or state.get("said")
            yield " "
