"""Where in a run the code is that a tap was called from.

The SDK calls the taps by their global names and hands them nothing of ours, so the way to the
run is a context variable: it is set before the SDK makes a task, and every task inherits it. It
is read and written here alone, and says one of three things:

- a `Place` with the scope '': the SDK's code for the run itself;
- a `Place` with a longer scope: the SDK's code for a run inside the run, of an agent that is a
  tool, or of a guardrail;
- nothing: code outside any run, or user code (a tool, a callback). A tool is one step whatever it
  does, so runs that it starts are its own affair.
"""

import dataclasses
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from agents import RunConfig

from longrun.execution.replay.scope import Scope

if TYPE_CHECKING:
    from longrun.execution.replay.steps import Steps


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """The steps of the run whose code this is, and where in it."""

    steps: "Steps"
    scope: Scope

    def inside(self, name: str) -> "Place":
        """In a run inside this one."""
        return Place(self.steps, self.scope.inside(name))

    def is_of(self, run_config: RunConfig | None) -> bool:
        """Whether a run with this configuration is the one here, and not one that user code (a
        hook, say) starts of its own. Within a nested scope all of them count."""
        own = run_config is not None and run_config.group_id == self.steps.group_id
        return own or self.scope.path != ""


_place: ContextVar[Place | None] = ContextVar("longrun_place", default=None)


def enter(steps: "Steps") -> None:
    """This task, and all that it starts, is the run whose steps these are."""
    _place.set(Place(steps, Scope("")))


def leave() -> None:
    """From here on this task is user code."""
    _place.set(None)


def here() -> Place | None:
    """The place of the code that calls this; None in user code and outside runs."""
    return _place.get()


def here_of(run_config: RunConfig | None) -> Place | None:
    """The place, if what calls this is a run with this configuration."""
    place = _place.get()
    return place if place is not None and place.is_of(run_config) else None


@contextmanager
def at(place: Place | None) -> Iterator[None]:
    """Within the block, the code is there."""
    token = _place.set(place)
    try:
        yield
    finally:
        _place.reset(token)


def in_user_code() -> AbstractContextManager[None]:
    """Within the block, the code is the user's: a step, whatever it does."""
    return at(None)
