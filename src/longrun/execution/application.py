"""What an application gives besides its agents: checked at start, made anew for each attempt.

Nothing of it is recorded. A run that is taken over gets a new context, configuration, hooks and
session, from the same functions, on another replica.
"""

import asyncio
import contextlib
import dataclasses
import inspect
import logging
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from types import ModuleType
from typing import Any, Final

from agents import Agent, RunConfig, RunHooks
from agents.lifecycle import RunHooksBase
from agents.memory import Session

from longrun.access.authentication import Authenticate
from longrun.errors import ConfigurationError
from longrun.execution.calling import arguments_of, asked, check_callable
from longrun.execution.contained import contained
from longrun.execution.current import Current
from longrun.execution.registry import described
from longrun.execution.served import Served

log = logging.getLogger("longrun.execution.application")

LEAVE_WAIT: Final = 5.0
"""Seconds that a context, or the lifespan, has to clean up."""

ContextFactory = Callable[[Current], Any] | Callable[[], Any]
RunConfigFactory = Callable[[Current], Any] | Callable[[], Any]
HooksFactory = Callable[[Current], Any] | Callable[[], Any]
SessionFactory = Callable[[Current], Any] | Callable[[], Any]
Lifespan = Callable[[Any], Any] | Callable[[], Any]

NAMES: Final = ("context", "run_config", "hooks", "session", "lifespan", "authenticate")
"""The arguments of `create_app`, and what `longrun serve` looks for in an agent's module."""

REFUSED: Final = {
    "group_id": "longrun sets it to the id of the response, to recognize its own runs",
    "sandbox": "the content of a sandbox would be lost when the run is taken over",
}
"""Fields of a RunConfig that an application cannot set, and why."""


@dataclasses.dataclass(frozen=True, slots=True)
class Given:
    """What one attempt was given."""

    context: Any = None
    run_config: RunConfig | None = None
    hooks: RunHooks[Any] | None = None
    session: Session | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """What `create_app` was given; see there.

    Raises:
        ConfigurationError: one of them has a wrong type; names it, and says what is allowed.
    """

    context: ContextFactory | None = None
    run_config: RunConfig | RunConfigFactory | None = None
    hooks: RunHooks[Any] | HooksFactory | None = None
    session: SessionFactory | None = None
    lifespan: Lifespan | None = None
    authenticate: Authenticate | None = None

    def __post_init__(self) -> None:
        if self.context is not None:
            check_callable("context", self.context, "makes the context of a run")
        if self.session is not None:
            check_callable("session", self.session, "makes the SDK Session of a run")
        if isinstance(self.run_config, RunConfig):
            if (problem := _refused(self.run_config)) is not None:
                raise ConfigurationError(problem)
        elif self.run_config is not None:
            check_callable("run_config", self.run_config, "gives an agents.RunConfig, or one")
        if self.hooks is not None and not isinstance(self.hooks, RunHooksBase):
            check_callable("hooks", self.hooks, "gives agents.RunHooks, or some")
        if self.lifespan is not None:
            check_callable("lifespan", self.lifespan, "gives an async context manager")
        if self.authenticate is not None:
            _check_authenticate(self.authenticate)

    @contextlib.asynccontextmanager
    async def of_run(self, run: Current) -> AsyncIterator[Given]:
        """What an attempt is given. A context that is an async context manager is entered, and
        left with the run."""
        config = await self.config_of(run)
        session = None if self.session is None else await asked(self.session, run)
        async with self.of_handler(run) as given:
            yield dataclasses.replace(given, run_config=config, session=session)

    async def config_of(self, run: Current) -> RunConfig | None:
        """The configuration of a run.

        Raises:
            TypeError: what the application gave is none, or has what cannot be set.
        """
        config = self.run_config
        if config is None or isinstance(config, RunConfig):
            return config
        found: RunConfig = _of_kind(RunConfig, "run_config", await asked(config, run))
        if (problem := _refused(found)) is not None:
            raise TypeError(problem)
        return found

    @contextlib.asynccontextmanager
    async def of_handler(self, run: Current) -> AsyncIterator[Given]:
        """What an attempt of a handler is given: context and hooks, as of an agent."""
        hooks = self.hooks
        if hooks is not None and not isinstance(hooks, RunHooksBase):
            hooks = _of_kind(RunHooksBase, "hooks", await asked(hooks, run))
        context = None if self.context is None else await asked(self.context, run)
        async with _entered(context, f"the context of {run.response_id}") as entered:
            yield Given(entered, hooks=hooks)

    def warn_of(self, handlers: Sequence[str]) -> None:
        """Say in the log what of it the served handlers do not get.

        Args:
            handlers: their names.
        """
        for name in ("run_config", "session"):
            if handlers and getattr(self, name) is not None:
                log.warning(
                    "%s is for the Agents SDK's Runner: the handlers %s do not get it",
                    name,
                    ", ".join(handlers),
                )

    @contextlib.asynccontextmanager
    async def opened(self, app: Any) -> AsyncIterator[Any]:
        """The lifespan of the process; gives what it yields.

        Raises:
            ConfigurationError: it failed at its start; says where.
        """
        if self.lifespan is None:
            yield None
            return
        lifespan: Callable[..., Any] = self.lifespan
        try:
            made = lifespan(app) if arguments_of(lifespan) else lifespan()
            if not isinstance(made, AbstractAsyncContextManager):
                if inspect.iscoroutine(made):
                    made.close()
                raise ConfigurationError(
                    f"lifespan gave {type(made).__name__}: expected an async context manager "
                    "(decorate the function with contextlib.asynccontextmanager)"
                )
            state = await made.__aenter__()
        except ConfigurationError:
            raise
        except Exception as error:
            raise ConfigurationError(f"lifespan failed: {described(error)}") from error
        try:
            yield state
        except BaseException as error:
            await _leave(made, "lifespan", error)
            raise
        await _leave(made, "lifespan")


def of_modules(import_strings: Iterable[str]) -> dict[str, Any]:
    """What the modules of agents have beside them under the names of `create_app`'s arguments.

    Raises:
        ConfigurationError: two of them have different things under one name, or a wrong one.
    """
    found: dict[str, Any] = {}
    module_of: dict[str, str] = {}
    for module_name in dict.fromkeys(string.partition(":")[0] for string in import_strings):
        beside = _beside(module_name)
        for name, value in beside.items():
            if name in found and found[name] is not value:
                raise ConfigurationError(
                    f"both {module_of[name]} and {module_name} have {name!r}: one server has one"
                )
            found[name], module_of[name] = value, module_name
        try:
            Application(**beside)
        except ConfigurationError as error:
            raise ConfigurationError(
                f"{module_name}: {error.message}. longrun uses this name next to the agents; if "
                "it is something else, rename it"
            ) from None
        if beside:
            log.info("%s of %s: used", ", ".join(beside), module_name)
    return found


def _beside(module_name: str) -> dict[str, Any]:
    names = vars(sys.modules[module_name])
    # A submodule, or an agent, may be called so as well.
    others = (ModuleType, Agent, Served, type(None))
    return {name: names[name] for name in NAMES if not isinstance(names.get(name), others)}


def _check_authenticate(function: Any) -> None:
    if not callable(function) or arguments_of(function) != 1:
        raise ConfigurationError(
            f"authenticate is {function!r} ({type(function).__name__}): expected a function of "
            "one argument, Starlette's HTTPConnection, that returns a longrun.Caller or None"
        )


def _refused(config: RunConfig) -> str | None:
    """Why a configuration cannot be used, if it cannot."""
    for name, why in REFUSED.items():
        if getattr(config, name) is not None:
            return f"RunConfig.{name} cannot be set: {why}"
    return None


def _of_kind(kind: type[Any], what: str, found: Any) -> Any:
    if not isinstance(found, kind):
        expected = kind.__name__.removesuffix("Base")
        raise TypeError(f"{what} gave {type(found).__name__}: expected agents.{expected}")
    return found


@contextlib.asynccontextmanager
async def _entered(context: Any, what: str) -> AsyncIterator[Any]:
    if not isinstance(context, AbstractAsyncContextManager):
        yield context
        return
    entered = await context.__aenter__()
    try:
        yield entered
    except BaseException as error:
        # Whatever it makes of it: a run that failed is never complete.
        await _leave(context, what, error)
        raise
    await _leave(context, what)


async def _leave(
    context: AbstractAsyncContextManager[Any], what: str, error: BaseException | None = None
) -> None:
    """Leave a context; what goes wrong is logged, since what was done within it stands."""
    try:
        with contained(what):
            async with asyncio.timeout(LEAVE_WAIT):
                traceback = None if error is None else error.__traceback__
                await context.__aexit__(type(error) if error else None, error, traceback)
    except Exception as failure:
        if failure is not error:
            log.exception("%s could not be left", what)
