"""The journal: the finished steps of earlier attempts, which stand in for their work.

A run that is taken over is executed again from its input; where the journal has a step, its
recorded result is given instead. A step is known by (scope, kind, key): the turn for a model's,
the call id for a tool's. Response and item ids are no keys, since adapters give fake ones.
"""

import logging
from collections.abc import Iterable, Iterator
from typing import Any, Final, NoReturn

from longrun.errors import ReplayMismatch
from longrun.jsontext import dumps, loads
from longrun.store.records import Step

MARKS: Final = frozenset({"call_ids", "steered"})
"""What a fingerprint says beyond what was asked, for versions that do not know it: they refuse."""

log = logging.getLogger("longrun.execution.replay.journal")


def fingerprint(**arguments: str) -> str:
    """What a step is asked, as JSON text. Keys that end in `_digest` may change."""
    return dumps(arguments).decode()


def asks(step: Step) -> dict[str, str]:
    """What a recorded step was asked."""
    asked: dict[str, str] = loads(step.fingerprint)
    return asked


def marked(step: Step, **marks: str) -> Step:
    """A step that released versions must not replay, since they would read it differently."""
    return step._replace(fingerprint=fingerprint(**loads(step.fingerprint), **marks))


class Journal:
    """The recorded steps of one response.

    Args:
        recorded: those of its earlier attempts.
        copied: those of the response that it was forked from, which it has not shown yet.
    """

    def __init__(self, recorded: Iterable[Step] = (), copied: Iterable[Step] = ()) -> None:
        self._steps = {(step.scope, step.kind, step.key): step for step in recorded}
        taken = {(step.scope, step.kind, step.key): step for step in copied}
        self._copied = taken.keys() - self._steps.keys()
        self._steps = {**taken, **self._steps}
        self._used: set[tuple[str, str, str]] = set()
        self.mismatch: ReplayMismatch | None = None

    def __len__(self) -> int:
        return len(self._steps)

    def recorded(self, kind: str) -> Iterator[Step]:
        """All recorded steps of a kind."""
        return (step for step in self._steps.values() if step.kind == kind)

    def has(self, scope: str, kind: str, key: str) -> bool:
        """Whether a step is recorded."""
        return (scope, kind, key) in self._steps

    @property
    def has_copies(self) -> bool:
        """Whether any step is recorded as another response's alone."""
        return bool(self._copied)

    def peek(self, scope: str, kind: str, key: str) -> Step | None:
        """A recorded step, without passing it."""
        return self._steps.get((scope, kind, key))

    def passed(self, step: Step) -> None:
        """A recorded step was passed, and asked what it was asked before."""
        self._used.add((step.scope, step.kind, step.key))

    def is_copied(self, scope: str, kind: str, key: str) -> bool:
        """Whether a step is recorded as another response's alone."""
        return (scope, kind, key) in self._copied

    def left(self, kind: str) -> list[Step]:
        """The recorded steps of a kind that this attempt has not passed."""
        return [
            step
            for place, step in self._steps.items()
            if step.kind == kind and place not in self._used
        ]

    def find(self, scope: str, kind: str, key: str, fingerprint: str) -> str | None:
        """The recorded result of a step, or None if it has to be done.

        Raises:
            ReplayMismatch: the step was asked something else. Latched in `mismatch` too, since
                a tool's error function may swallow what is raised inside it.
        """
        self.check()
        place = (scope, kind, key)
        step = self._steps.get(place)
        if step is None:
            return None
        self._used.add(place)
        if step.fingerprint != fingerprint:
            self._compare(place, loads(step.fingerprint), loads(fingerprint))
        return step.result

    def _compare(self, place: tuple[str, str, str], was: Any, now: Any) -> None:
        for name in was.keys() | now.keys():
            if name in MARKS or was.get(name) == now.get(name):
                continue
            if name.endswith("_digest") and place in self._copied:
                # A fork may be given other instructions.
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
