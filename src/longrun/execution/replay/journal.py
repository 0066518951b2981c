"""The journal: the finished steps of earlier attempts, which stand in for their work.

A run that is carried on is executed again from its input; where the journal has a step, its
recorded result is given instead. A step is known by (scope, kind, key): the turn for a model's,
the call id for a tool's. Response and item ids are no keys, since adapters give fake ones.
"""

import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from longrun.errors import LongrunError
from longrun.jsontext import dumps, loads
from longrun.store.records import Step

log = logging.getLogger("longrun.execution.replay.journal")


class ReplayMismatch(LongrunError):
    """The agent's code was changed so that the replay no longer fits the journal."""

    default_code = "replay_mismatch"


@dataclass(slots=True)
class Scope:
    """A run, or a run inside it: '' for the run itself, else the path of calls that lead there.

    Counts turns, and hashes what its models are given, only what is new each turn: hashing all
    of it every turn would be quadratic.
    """

    path: str
    turn: int = -1
    _operations: dict[str, int] = field(default_factory=dict)
    _hash: Any = field(default_factory=hashlib.sha256)
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
        return Scope(f"{self.path}/{name}")

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


def fingerprint(**given: str) -> str:
    """What a step was given, as JSON text. Keys that end in `_digest` may change."""
    return dumps(given).decode()


class Journal:
    """The recorded steps of one response."""

    def __init__(self, recorded: Iterable[Step] = ()) -> None:
        self._steps = {(step.scope, step.kind, step.key): step for step in recorded}
        self._used: set[tuple[str, str, str]] = set()
        self.mismatch: ReplayMismatch | None = None

    def __len__(self) -> int:
        return len(self._steps)

    def find(self, scope: str, kind: str, key: str, given: str) -> str | None:
        """The recorded result of a step, or None if it has to be done.

        Raises:
            ReplayMismatch: the step was given something else. Latched in `mismatch` too, since
                a tool's error function may swallow what is raised inside it.
        """
        self.check()
        place = (scope, kind, key)
        step = self._steps.get(place)
        if step is None:
            return None
        self._used.add(place)
        if step.fingerprint != given:
            self._compare(place, loads(step.fingerprint), loads(given))
        return step.result

    def _compare(self, place: tuple[str, str, str], was: Any, now: Any) -> None:
        for name in was.keys() | now.keys():
            if was.get(name) == now.get(name):
                continue
            if name.endswith("_digest"):
                # Time in dynamic instructions, say. The recorded result still stands.
                log.warning("replay of step %s: its %s differs", place, name)
            else:
                self.refuse(f"step {place}: {name} was {was.get(name)!r}, is {now.get(name)!r}")

    def refuse(self, why: str) -> NoReturn:
        """The replay does not fit: latch it, and raise it."""
        self.mismatch = ReplayMismatch(why)
        raise self.mismatch

    def check(self) -> None:
        """Raise the latched mismatch: after one nothing more may be done, nor recorded."""
        if self.mismatch is not None:
            raise self.mismatch

    def check_reached(self, scope: str, *kinds: str) -> None:
        """At the end of a run, or of one inside it: what was recorded of it has been passed.

        Raises:
            ReplayMismatch: the code ended earlier than it did before.
        """
        self.check()
        left = [
            place
            for place in self._steps
            if place[0] == scope and place[1] in kinds and place not in self._used
        ]
        if left:
            self.refuse(f"{len(left)} recorded steps were never reached, {left[0]} among them")
