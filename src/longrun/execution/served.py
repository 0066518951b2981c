"""An agent as it is served: itself or a function that makes it, and what holds for its runs."""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from math import inf
from typing import Any, TypeGuard

from agents import Agent

from longrun.errors import ConfigurationError
from longrun.execution.calling import asked, check_callable
from longrun.execution.current import Current
from longrun.execution.handling.handler import Handler
from longrun.parameters import BOUNDED, NAMES
from longrun.settings import Settings, no_parameter

AgentFactory = Callable[[Current], Any] | Callable[[], Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Served:
    """An agent to serve, where more is to be said than which.

    Args:
        agent: an `agents.Agent`, or a handler (`@longrun.agent`); or a function that makes an
            Agent, anew for each attempt of a run, from `longrun.current()` if it has a parameter.
            It may be async.
        name: by which clients call it, as `model`. Left out: the agent's, or the function's.
        concurrency: the most runs of it at once on one replica, among those of LONGRUN_MAX_RUNS;
            more are queued.
        timeout: seconds for a response across all attempts, at most LONGRUN_RUN_TIMEOUT.
        attempts: instead of LONGRUN_MAX_ATTEMPTS, and not more.
        forbidden_parameters: of requests, besides those of LONGRUN_FORBIDDEN_PARAMETERS.
        parameter_limits: greatest values of request parameters, besides those of
            LONGRUN_PARAMETER_LIMITS.

    Raises:
        ConfigurationError: one of them is not allowed; says what is.
    """

    agent: Agent[Any] | AgentFactory | Handler
    name: str = ""
    _: dataclasses.KW_ONLY
    concurrency: int | None = None
    timeout: float | None = None
    attempts: int | None = None
    forbidden_parameters: Collection[str] = ()
    parameter_limits: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        own = self.agent.name if isinstance(self.agent, Agent | Handler) else None
        if own is None:
            check_callable("Served.agent", self.agent, "makes an agents.Agent, or one itself")
        if not isinstance(self.name, str):
            raise ConfigurationError(f"Served.name is {self.name!r}: expected text")
        if not self.name and own is None:
            name = getattr(self.agent, "__name__", "")
            if not name.isidentifier():
                raise ConfigurationError(
                    f"{self.agent!r} has no name by which clients could call its agent: "
                    "give it one, Served(…, name='…')"
                )
            object.__setattr__(self, "name", name)
        elif not self.name:
            object.__setattr__(self, "name", own)
        self._check_numbers()
        self._check_parameters()

    def _check_numbers(self) -> None:
        for what, kind in (("concurrency", int), ("attempts", int), ("timeout", int | float)):
            value = getattr(self, what)
            if value is not None and (
                not isinstance(value, kind) or isinstance(value, bool) or not 0 < value < inf
            ):
                expected = "a whole number" if kind is int else "a number of seconds"
                raise ConfigurationError(
                    f"Served.{what} is {value!r}: expected {expected}, greater than 0"
                )

    def _check_parameters(self) -> None:
        if isinstance(self.forbidden_parameters, str):
            raise ConfigurationError("Served.forbidden_parameters is text: expected a list")
        for name in self.forbidden_parameters:
            if name not in NAMES - {"input", "model"}:
                raise ConfigurationError(f"Served.forbidden_parameters: {no_parameter(name)}")
        for name, most in self.parameter_limits.items():
            if name not in BOUNDED:
                allowed = ", ".join(sorted(BOUNDED))
                raise ConfigurationError(
                    f"Served.parameter_limits: {name!r} cannot be bounded; allowed are {allowed}"
                )
            if not isinstance(most, int | float) or isinstance(most, bool) or not 0 < most < inf:
                raise ConfigurationError(
                    f"Served.parameter_limits: {name}={most!r}: expected a number greater than 0"
                )

    def check_within(self, settings: Settings) -> None:
        """Whether it stays within what the operator allows.

        Raises:
            ConfigurationError: names the value and the setting.
        """
        for what, most, setting in (
            ("timeout", settings.run_timeout, "LONGRUN_RUN_TIMEOUT"),
            ("attempts", settings.max_attempts, "LONGRUN_MAX_ATTEMPTS"),
            ("concurrency", settings.max_runs, "LONGRUN_MAX_RUNS"),
        ):
            value = getattr(self, what)
            if value is not None and value > most:
                raise ConfigurationError(
                    f"{what}={value:g} of the agent {self.name!r} is more than {setting}={most:g}"
                )


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
