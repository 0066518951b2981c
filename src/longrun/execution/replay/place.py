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
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from agents import RunConfig

from longrun.jsontext import dumps

if TYPE_CHECKING:
    from longrun.execution.replay.steps import Steps


LONGEST_KEY: Final = 64
LONGEST_PATH: Final = 512
"""Postgres indexes 2,704 bytes; a step's place in a run is a part of its key."""


def key_of(name: str) -> str:
    """A call id, or another name that is not ours, as a part of keys: itself if it is short and
    plain, else a hash. Models' adapters give NULs, lone surrogates and kilobytes of signature,
    which no index takes, nor a payment provider as idempotency key."""
    plain = name.isascii() and name.isprintable() and "/" not in name and name[:1] not in ("", "~")
    return name if plain and len(name) <= LONGEST_KEY else f"~{_hashed(name)}"


def _hashed(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


@dataclasses.dataclass(slots=True)
class Scope:
    """A run, or a run inside it: '' for the run itself, else the path of calls that lead there.

    Counts turns, and hashes what its models are given, only what is new each turn: hashing all
    of it every turn would be quadratic.
    """

    path: str
    turn: int = -1
    _operations: dict[str, int] = dataclasses.field(default_factory=dict)
    _hash: Any = dataclasses.field(default_factory=hashlib.sha256)
    _hashed: int = 0

    def next_turn(self) -> str:
        self.turn += 1
        return str(self.turn)

    def next_operation(self, name: str) -> str:
        """A key for what has no key of its own: the n-th of this name."""
        self._operations[name] = self._operations.get(name, 0) + 1
        return f"{name} {self._operations[name]}"

    def inside(self, name: str) -> "Scope":
        """The scope of a run inside this one, under a call id or a guardrail's name."""
        path = f"{self.path}/{key_of(name)}"
        return Scope(path if len(path) <= LONGEST_PATH else f"/~{_hashed(path)}")

    def digest(self, instructions: str | None, items: str | Sequence[Any]) -> str:
        """Of the instructions and of all input so far."""
        if isinstance(items, str):
            items = [items]
        for item in items[self._hashed :]:
            self._hash.update(dumps(item))
        self._hashed = len(items)
        whole = self._hash.copy()
        whole.update((instructions or "").encode("utf-8", "surrogatepass"))
        return str(whole.hexdigest()[:16])


@dataclasses.dataclass(frozen=True, slots=True)
class ModelCall:
    """One model turn that is about to be asked: whose, the how-manieth, and with what.

    `timeout`: seconds that the model may take, if its settings say so.
    """

    scope: Scope
    turn: str
    agent: str
    instructions: str | None
    input: Any
    timeout: float | None


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
