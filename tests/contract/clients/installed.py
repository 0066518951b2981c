"""The clients, how each is run, and where `make clients` puts them."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ENVIRONMENTS = HERE.parents[2] / ".venv" / "clients"
MODULES = HERE / "node_modules"


@dataclass(frozen=True)
class Client:
    """A client and the way to run it.

    Attributes:
        command: what plays the cases; they are its next argument.
        needs: is there when the client is installed.
        histories: how it can go on with a conversation; see `driver.Case`.
        after: further arguments, behind the cases.
    """

    name: str
    command: tuple[str, ...]
    needs: Path
    histories: tuple[str, ...]
    after: tuple[str, ...] = ()

    def play(self, urls: list[str], cases: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Play cases in one process, one after the other.

        Returns:
            What it saw, by the case's name: `texts`, `executed`, `error`.
        """
        given = json.dumps({"urls": urls, "cases": cases})
        done = subprocess.run(
            [*self.command, given, *self.after],
            capture_output=True,
            text=True,
            timeout=170,
            check=False,
            cwd=HERE,
        )
        saw = {each["name"]: each for each in map(json.loads, done.stdout.splitlines())}
        if done.returncode or len(saw) < len(cases):
            raise AssertionError(f"{self.name} ended with {done.returncode}:\n{done.stderr}")
        return saw


def _python(environment: str, script: str) -> tuple[str, ...]:
    return (str(ENVIRONMENTS / environment / "bin" / "python"), str(HERE / script))


RAW = ("previous", "whole", "reference")

CLIENTS = [
    Client(
        "openai 3",
        (sys.executable, str(HERE / "openai_python.py")),
        Path(sys.executable),
        RAW,
    ),
    Client(
        "openai 2",
        _python("openai2", "openai_python.py"),
        ENVIRONMENTS / "openai2" / ".installed",
        RAW,
    ),
    Client(
        "openai-node 7",
        ("node", str(HERE / "openai_node.mjs")),
        MODULES / "openai7",
        RAW,
        after=("openai7",),
    ),
    Client(
        "openai-node 6",
        ("node", str(HERE / "openai_node.mjs")),
        MODULES / "openai6",
        RAW,
        after=("openai6",),
    ),
    Client(
        "Agents SDK",
        (sys.executable, str(HERE / "agents_sdk.py")),
        Path(sys.executable),
        ("previous", "whole"),
    ),
    Client(
        "AI SDK",
        ("node", str(HERE / "ai_sdk.mjs")),
        MODULES / "ai",
        ("previous", "whole", "reference"),
    ),
    Client(
        "LangChain",
        _python("frameworks", "langchain_client.py"),
        ENVIRONMENTS / "frameworks" / ".installed",
        ("previous", "whole"),
    ),
    Client(
        "pydantic-ai",
        _python("frameworks", "pydantic_ai_client.py"),
        ENVIRONMENTS / "frameworks" / ".installed",
        ("previous", "whole"),
    ),
    Client(
        "LiteLLM",
        _python("frameworks", "litellm_client.py"),
        ENVIRONMENTS / "frameworks" / ".installed",
        ("previous", "whole"),
    ),
]
