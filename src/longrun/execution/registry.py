"""The agents that are served, each under its name, which clients give as `model`."""

import contextlib
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from agents import Agent

from longrun.errors import ConfigurationError
from longrun.execution.handling.handler import Handler
from longrun.execution.served import AgentFactory, Served, is_factory

DEMO_AGENTS = "longrun.demo.agents:agents"


class Registry:
    """Served agents by name, in the order in which they were given.

    Raises:
        ConfigurationError: a name twice or empty, something that is no agent, or no agent.
    """

    def __init__(self, agents: Iterable[Agent[Any] | Served | Handler]) -> None:
        self._served: dict[str, Served] = {}
        for agent in agents:
            served = agent if isinstance(agent, Served) else _served(agent)
            _check_name(served.name)
            if served.name in self._served:
                raise ConfigurationError(
                    f"two agents are named {served.name!r}: each is served under its name, "
                    "so names must differ"
                )
            self._served[served.name] = served
        if not self._served:
            raise ConfigurationError("no agent to serve")

    def names(self) -> list[str]:
        return list(self._served)

    def get(self, name: str) -> Agent[Any] | AgentFactory | Handler:
        """The agent or the handler of this name, or the function that makes the agent; KeyError if
        it is not served."""
        return self._served[name].agent

    def served(self, name: str) -> Served | None:
        """What holds for the runs of an agent; None if it is not served here."""
        return self._served.get(name)

    def is_steerable(self, name: str) -> bool:
        """Whether the runs of an agent take messages; one that is not served here may."""
        served = self._served.get(name)
        return served is None or not isinstance(served.agent, Handler) or served.agent.steerable

    def all(self) -> list[Served]:
        return list(self._served.values())

    def handlers(self) -> list[str]:
        """The names of those that are handlers."""
        return [name for name in self._served if isinstance(self.get(name), Handler)]

    def agents(self) -> list[Agent[Any]]:
        """Those that are not made for each run."""
        found = (self.get(name) for name in self._served)
        return [each for each in found if isinstance(each, Agent)]


def _served(agent: Any) -> Served:
    if not isinstance(agent, Agent | Handler):
        raise ConfigurationError(
            f"cannot serve {agent!r}: expected an agents.Agent, got {type(agent).__name__}"
        )
    return Served(agent)


def _check_name(name: str) -> None:
    if not name.strip():
        raise ConfigurationError("an agent without a name cannot be served")
    if "\0" in name or not _is_text(name):
        raise ConfigurationError(
            f"an agent named {name!r} cannot be served: a name must not contain NUL "
            "or a lone surrogate"
        )


def _is_text(name: str) -> bool:
    """Whether UTF-8 can hold it, which Postgres and JSON are in."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


ALLOWED: Final = (
    "an agents.Agent, a longrun.Served, a handler (@longrun.agent), a list or dict of them, or a "
    "callable that returns one of these"
)


def load(import_strings: Iterable[str]) -> list[Agent[Any] | Served | Handler]:
    """Import agents by `module:attribute`, the current directory included.

    An attribute may be an Agent, a Served, a list or dict of them, or a callable that returns one
    of these. A callable within a list or dict makes an agent for each run (`served.py`).

    Raises:
        ConfigurationError: names the import string and what is wrong with it.
    """
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    return [
        agent for string in import_strings for agent in agents_of(imported(string), repr(string))
    ]


def imported(string: str) -> Any:
    """What an import string names.

    Raises:
        ConfigurationError: it is none, or cannot be imported.
    """
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
            f"cannot import {module_name!r} (of {string!r}): {described(error)}"
        ) from error
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise ConfigurationError(f"{module_name!r} has no {path!r} (of {string!r})") from None
    return found


def import_strings(agents: Any, settings: Sequence[str]) -> list[str]:
    """The import strings that `create_app` was given as agents, or else by the settings; none if
    it was given agents."""
    if agents is None:
        return list(settings) or [DEMO_AGENTS]
    if isinstance(agents, str):
        return [agents]
    if isinstance(agents, list | tuple) and agents and all(isinstance(x, str) for x in agents):
        return list(agents)
    return []


def given(agents: Any) -> list[Agent[Any] | Served | Handler]:
    """What `create_app` was given as agents, and not by import strings.

    Raises:
        ConfigurationError: it is something else; says what, and what is allowed.
    """
    return agents_of(agents, "agents")


_SHOWN_FRAMES: Final = 3

_OURS: Final = os.path.dirname(__file__)

_NOT_SHOWN: Final = (_OURS, importlib.__file__, contextlib.__file__, "<frozen importlib")


def described(error: BaseException) -> str:
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


def agents_of(found: Any, what: str) -> list[Agent[Any] | Served | Handler]:
    """The agents in what was given.

    Args:
        what: how it was named.

    Raises:
        ConfigurationError: something else is there; names it.
    """
    return _flatten(_called(found, what), what)


def _called(found: Any, what: str) -> Any:
    if isinstance(found, Agent | Served | Handler) or not callable(found):
        return found
    try:
        return found()
    except Exception as error:
        hint = ""
        if isinstance(error, TypeError) and not isinstance(found, type):
            hint = (
                "\n  It is called once, at start, without arguments. To make an agent for each "
                "run, put "
                "the function into a dict, {'name': function}, or longrun.Served(function)."
            )
        raise ConfigurationError(f"calling {what} failed: {described(error)}{hint}") from error


def _flatten(found: Any, what: str) -> list[Agent[Any] | Served | Handler]:
    if isinstance(found, Agent | Served | Handler):
        return [found]
    if isinstance(found, str | bytes) or not isinstance(found, Iterable):
        hint = ""
        if inspect.isawaitable(found):
            hint = ". Put an async function that makes an agent in a dict or longrun.Served"
            if inspect.iscoroutine(found):
                found.close()
        raise ConfigurationError(f"{what} is {type(found).__name__}: expected {ALLOWED}{hint}")
    try:
        pairs = list(found.items() if isinstance(found, Mapping) else ((None, x) for x in found))
    except Exception as error:
        raise ConfigurationError(f"listing {what} failed: {described(error)}") from error
    return [_one_of(each, key, what) for key, each in pairs]


def _one_of(found: Any, key: Any, what: str) -> Agent[Any] | Served | Handler:
    """One of several: a function among them makes the agent for each run."""
    if isinstance(found, Agent | Served | Handler):
        return found
    if is_factory(found):
        return Served(found, "" if key is None else str(key))
    raise ConfigurationError(
        f"{what} has {found!r} among its agents: expected an agents.Agent, "
        f"got {type(found).__name__}"
    )
