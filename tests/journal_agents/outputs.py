"""Tools that give everything that a tool may give."""

import json
from typing import Any

from agents import (
    Agent,
    ToolOutputFileContent,
    ToolOutputImage,
    ToolOutputText,
    function_tool,
)

from tests.crashing import effect, place
from tests.journal_agents.calling import Weather
from tests.journal_agents.models import agent, calls, says, thinks


class Pebble:
    def __repr__(self) -> str:
        return "a pebble"


RICH: dict[str, Any] = {
    "none": None,
    "number": 1.5,
    "flag": True,
    "list": ["a", 1, {"b": None}],
    "tuple": ("a", 1),
    "dict": {"a": [1, 2.0, True, None], "b": {"c": "d"}},
    "odd_dict": {1: "one", "two": (2,), "nan": float("nan")},
    "model": Weather(city="Rome", degrees=21),
    "object": Pebble(),
    "models": [Weather(city="Rome", degrees=21), Pebble()],
    "nul": "a\x00b",
    "surrogate": "a\ud800b",
    "lines": "a\nb\r\n\u2028c",
    "text": ToolOutputText(text="hello"),
    "surrogate_text": ToolOutputText(text="a\ud800b"),
    "image": ToolOutputImage(image_url="data:image/png;base64,AAAA", detail="low"),
    "file": ToolOutputFileContent(file_data="AAAA", filename="a.txt"),
    "rich_list": [ToolOutputText(text="x"), ToolOutputImage(file_id="file_1")],
    "rich_dict": {"type": "text", "text": "as a dict"},
    "rich_dicts": [{"type": "text", "text": "as a dict"}],
    "empty": [],
    "set": {"only"},
    "large": 2**70,
}


WORDS = 'a\x00b\u2028c\U0001f600 "d" e\\f\r\n' * 60

LONG: dict[str, Any] = {
    "text": f"text {WORDS}",
    "surrogate": f"\ud800 {WORDS}",
    "dict": {"a": WORDS, "b": [WORDS, 1.0]},
    "json": json.dumps({"a": WORDS}),
    "parts": [
        ToolOutputText(text=f"part {WORDS}"),
        ToolOutputImage(image_url=f"data:image/png;base64,{'A' * 3000}", detail="low"),
    ],
    "image": ToolOutputImage(image_url=f"data:image/png;base64,{'B' * 3000}"),
}


@function_tool
async def rich(kind: str) -> Any:
    """Give an output of a kind."""
    await effect(f"start tool {place()}")
    await effect(f"end tool {place()}")
    return RICH[kind]


@function_tool
async def long(kind: str, why: str) -> Any:
    """Give a long output of a kind."""
    await effect(f"start tool {place()}")
    await effect(f"end tool {place()}")
    return LONG[kind]


def long_outputs() -> Agent[Any]:
    """What their items say, steps do not say again."""
    kinds = list(LONG)
    return agent(
        "agent",
        [
            thinks(f"thought {WORDS}"),
            *[calls("long", f"call_{kind}", kind=kind, why=WORDS) for kind in kinds[::2]],
        ],
        [
            says(f"said {WORDS}"),
            *[calls("long", f"call_{kind}", kind=kind, why=WORDS) for kind in kinds[1::2]],
        ],
        [thinks(f"thought {WORDS}"), says(f"long {WORDS}")],
        tools=[long],
    )


def rich_outputs() -> Agent[Any]:
    kinds = list(RICH)
    return agent(
        "agent",
        [calls("rich", f"call_{kind}", kind=kind) for kind in kinds[::2]],
        [calls("rich", f"call_{kind}", kind=kind) for kind in kinds[1::2]],
        [says("rich")],
        tools=[rich],
    )
