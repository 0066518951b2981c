"""An agent as it is served: itself or a function that makes it, and what holds for its runs."""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeGuard

from agents import Agent

from longrun.errors import ConfigurationError
from longrun.execution.calling import asked, check_callable
from longrun.execution.current import Current

AgentFactory = Callable[[Current], Any] | Callable[[], Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Served:
    """An agent to serve, where more is to be said than which.

    Args:
        agent: an `agents.Agent`; or a function that makes one, anew for each attempt of a run,
            from `longrun.current()` if it has a parameter. It may be async.
        name: by which clients call it, as `model`. Left out: the agent's, or the function's.

    Raises:
        ConfigurationError: one of them is not allowed; says what is.
    """

    agent: Agent[Any] | AgentFactory
    name: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.agent, Agent):
            check_callable("Served.agent", self.agent, "makes an agents.Agent, or one itself")
        if not isinstance(self.name, str):
            raise ConfigurationError(f"Served.name is {self.name!r}: expected text")
        if not self.name and not isinstance(self.agent, Agent):
            name = getattr(self.agent, "__name__", "")
            if not name.isidentifier():
                raise ConfigurationError(
                    f"{self.agent!r} has no name by which clients could call its agent: "
                    "give it one, Served(…, name='…')"
                )
            object.__setattr__(self, "name", name)
        elif not self.name and isinstance(self.agent, Agent):
            object.__setattr__(self, "name", self.agent.name)


def is_factory(found: Any) -> TypeGuard[AgentFactory]:
    """Whether this is a function that makes an agent."""
    return callable(found) and not isinstance(found, Agent | type)


async def made(agent: Agent[Any] | AgentFactory, run: Current) -> Agent[Any]:
    """The agent of a run.

    Raises:
        TypeError: what a function made is none.
    """
    if isinstance(agent, Agent):
        return agent
    found = await asked(agent, run)
    if not isinstance(found, Agent):
        raise TypeError(f"{agent!r} gave {type(found).__name__}: expected an agents.Agent")
    return found
