"""Where in a run a step is: the scopes of runs inside it, and the keys within each."""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any, Final

from longrun.history.faces import Origin
from longrun.jsontext import dumps

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

    def skip_to(self, other: "Scope") -> None:
        """Go on where another one of the same run stands."""
        self.turn, self._hash, self._hashed = other.turn, other._hash, other._hashed

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

    `timeout`: seconds that the model may take, if its settings say so. `origin`: whom it asks.
    """

    scope: Scope
    turn: str
    agent: str
    instructions: str | None
    input: Any
    timeout: float | None
    origin: Origin
