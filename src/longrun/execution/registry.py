"""The agents that are served, each under its name, which clients give as `model`."""

import importlib
import os
import sys
import traceback
from collections.abc import Iterable, Mapping
from typing import Any, Final

from agents import Agent

from longrun.errors import ConfigurationError

DEMO_AGENTS = "longrun.demo.agents:agents"


class Registry:
    """Served agents by name, in the order in which they were given.

    Raises:
        ConfigurationError: a name twice or empty, something that is no agent, or no agent.
    """

    def __init__(self, agents: Iterable[Agent[Any]]) -> None:
        self._agents: dict[str, Agent[Any]] = {}
        for agent in agents:
            if not isinstance(agent, Agent):
                raise ConfigurationError(
                    f"cannot serve {agent!r}: expected an agents.Agent, got {type(agent).__name__}"
                )
            if not agent.name.strip():
                raise ConfigurationError("an agent without a name cannot be served")
            if "\0" in agent.name or not _is_text(agent.name):
                raise ConfigurationError(
                    f"an agent named {agent.name!r} cannot be served: a name must not contain NUL "
                    "or a lone surrogate"
                )
            if agent.name in self._agents:
                raise ConfigurationError(
                    f"two agents are named {agent.name!r}: each is served under its name, "
                    "so names must differ"
                )
            self._agents[agent.name] = agent
        if not self._agents:
            raise ConfigurationError("no agent to serve")

    def names(self) -> list[str]:
        return list(self._agents)

    def get(self, name: str) -> Agent[Any]:
        """The agent of this name; KeyError if it is not served."""
        return self._agents[name]


def _is_text(name: str) -> bool:
    """Whether UTF-8 can hold it, which Postgres and JSON are in."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def load(import_strings: Iterable[str]) -> list[Agent[Any]]:
    """Import agents by `module:attribute`, the current directory included.

    An attribute may be an Agent, a list or dict of them, or a callable that returns one of these.

    Raises:
        ConfigurationError: names the import string and what is wrong with it.
    """
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    return [agent for string in import_strings for agent in _load_one(string)]


def _load_one(string: str) -> list[Agent[Any]]:
    module_name, _, path = string.partition(":")
    if not module_name or not path:
        raise ConfigurationError(
            f"{string!r} is not an import string: expected module:attribute, "
            "for example my_app.agents:researcher"
        )
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:
        raise ConfigurationError(
            f"cannot import {module_name!r} (of {string!r}): {_described(error)}"
        ) from error
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise ConfigurationError(f"{module_name!r} has no {path!r} (of {string!r})") from None
    return _flatten(_called(found, string), string)


_SHOWN_FRAMES: Final = 3

_NOT_SHOWN: Final = (__file__, importlib.__file__, "<frozen importlib")


def _described(error: Exception) -> str:
    """The error and where in the user's code it was raised: the last frames."""
    lines = [f"{type(error).__name__}: {error}"]
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(_NOT_SHOWN)
    ]
    for frame in frames[-_SHOWN_FRAMES:]:
        lines.append(f"  {frame.filename}, line {frame.lineno}, in {frame.name}: {frame.line}")
    if isinstance(error, SyntaxError):
        lines.append(f"  {error.filename}, line {error.lineno}: {(error.text or '').strip()}")
    return "\n".join(lines)


def _called(found: Any, string: str) -> Any:
    if isinstance(found, Agent) or not callable(found):
        return found
    try:
        return found()
    except Exception as error:
        raise ConfigurationError(f"calling {string!r} failed: {_described(error)}") from error


def _flatten(found: Any, string: str) -> list[Agent[Any]]:
    if isinstance(found, Agent):
        return [found]
    values = found.values() if isinstance(found, Mapping) else found
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ConfigurationError(
            f"{string!r} is {type(found).__name__}: expected an agents.Agent, a list or dict of "
            "them, or a callable that returns one of these"
        )
    try:
        agents = list(values)
    except Exception as error:
        raise ConfigurationError(f"listing {string!r} failed: {_described(error)}") from error
    for each in agents:
        if not isinstance(each, Agent):
            raise ConfigurationError(
                f"{string!r} has {each!r} among its agents: expected an agents.Agent, "
                f"got {type(each).__name__}"
            )
    return agents
