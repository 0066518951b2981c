"""Plays the cases that `test_clients.py` sends, for a client in Python, and says what it saw.

A client's script is run with one argument, `{"urls": […], "cases": [case, …]}`, and prints a line
of JSON for each case. It runs in whatever environment its client is installed in, so this file
needs nothing but Python.
"""

import json
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

KEY = "none"

LOOK = {
    "type": "function",
    "name": "client_look",
    "description": "Look a word up, at the client.",
    "parameters": {
        "type": "object",
        "properties": {"word": {"type": "string"}},
        "required": ["word"],
        "additionalProperties": False,
    },
    "strict": True,
}
"""The tool of the client's own."""


@dataclass
class Case:
    """A conversation.

    Attributes:
        urls: of the replicas; turn n goes to the n-th, round and round.
        model: the agent.
        turns: what the user says.
        history: how the client goes on: `previous` (`previous_response_id`), `whole` (all items
            again), `reference` (`item_reference`), `native` (what it does by itself).
        stream: ask for streams.
        tools: bring the tool `client_look`.
        hosted: declare web search, for a client that wants to know all tools that it hears of.
        structured: ask for a city and its degrees, by whatever the client has for that; the text
            of each turn is what it made of the answer (`shown`).
        executed: the words that it looked up.
    """

    name: str
    urls: list[str]
    model: str
    turns: list[str]
    history: str = "native"
    stream: bool = False
    tools: bool = False
    hosted: bool = False
    structured: bool = False
    executed: list[str] = field(default_factory=list)

    def url(self, turn: int) -> str:
        return self.urls[turn % len(self.urls)]

    def look(self, word: str) -> str:
        """What the client's own tool does."""
        self.executed.append(word)
        return f"client found {word}"


def shown(value: dict[str, Any]) -> str:
    """What a client made of a structured answer."""
    return json.dumps(value, sort_keys=True)


def main(play: Callable[[Case], list[str]]) -> None:
    """Play all cases.

    Args:
        play: has the conversation, and gives the last text of each turn.
    """
    given = json.loads(sys.argv[1])
    for each in given["cases"]:
        case = Case(urls=given["urls"], **each)
        saw: dict[str, Any] = {"name": case.name, "texts": [], "error": None}
        try:
            saw["texts"] = play(case)
        except Exception as error:
            saw["error"] = f"{type(error).__name__}: {error}"[:2_000]
            traceback.print_exc()
        print(json.dumps({**saw, "executed": case.executed}), flush=True)
