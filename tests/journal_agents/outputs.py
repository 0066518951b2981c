"""Tools that give everything that a tool may give."""

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
from tests.journal_agents.models import agent, calls, says


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


@function_tool
async def rich(kind: str) -> Any:
    """Give an output of a kind."""
    await effect(f"start tool {place()}")
    await effect(f"end tool {place()}")
    return RICH[kind]


def rich_outputs() -> Agent[Any]:
    kinds = list(RICH)
    return agent(
        "agent",
        [calls("rich", f"call_{kind}", kind=kind) for kind in kinds[::2]],
        [calls("rich", f"call_{kind}", kind=kind) for kind in kinds[1::2]],
        [says("rich")],
        tools=[rich],
    )
