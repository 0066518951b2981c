"""Call ids: unique inside the SDK, whatever a model's adapter gives; the model gets back its own.

Adapters give `call_0` again in every turn, one id for two parallel calls, the tool's name, nothing
at all, or kilobytes of signature. The SDK raises on all but the last, and keys, clients and payment
providers want ids that are short, plain and unique. So the border is the model's tap: a call id
that is new in its run and usable stays as it is; in place of any other, one is minted. On the way
out to a model, minted ids are replaced by what was given for them.

A minted id is the given one with a number, or, where that would not be usable, comes from the
response, the scope, the turn and the place in the turn. It is recorded with its turn, beside the
response as the model gave it, so every attempt knows the call by it.
"""

import hashlib
import operator
import re
from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count, islice
from typing import Any, Final

from longrun.assembly.kinds import ITEM_ADDED, ITEM_DONE
from longrun.execution.replay.results import recorded_call_ids
from longrun.execution.replay.scope import Scope
from longrun.store.records import Step

CALLS: Final = frozenset(
    {
        "apply_patch_call",
        "computer_call",
        "custom_tool_call",
        "function_call",
        "local_shell_call",
        "shell_call",
    }
)
"""What the SDK or the client executes; all others are their provider's own affair."""

_USABLE: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""What every provider of the Responses API, and every client, takes as a call id."""

MOST_ALIKE: Final = 100
"""So many calls under one given id are told apart by a number; more by where they stand, since to
count on would be quadratic."""

NEAREST: Final = 64
"""Calls that their ids do not tell apart: so many are looked at."""

_ANY: Final = "\0"
"""A call id that no model gave stands for all."""

_ITEM_EVENTS: Final = frozenset({ITEM_ADDED, ITEM_DONE})
_ENDS: Final = frozenset({"response.completed", "response.incomplete", "response.failed"})
WITH_CALL_IDS: Final = _ITEM_EVENTS | _ENDS
"""The events of a model's stream that hold call ids."""


class CallIds:
    """The call ids of one run, and of the runs inside it, each of which is a scope of its own: the
    SDK keeps their calls apart, and which of two that run at once asks first is chance.

    Args:
        turns: the model turns that earlier attempts finished.
        shown: call ids that clients saw of calls that do not stay.
    """

    def __init__(
        self, response_id: str, turns: Iterable[Step] = (), shown: Iterable[str] = ()
    ) -> None:
        self._response_id = response_id
        self._given: dict[str, str | None] = {}
        self._origins: dict[str, str] = {}
        self._recorded: dict[tuple[str, str], Iterable[str]] = {}
        self._taken: defaultdict[str, set[str]] = defaultdict(set)
        self._taken[""].update(shown)
        for step in turns:
            taken, given = recorded_call_ids(step.result)
            self._taken[step.scope] |= taken
            self._given.update(given)
            self._recorded[step.scope, step.key] = given

    @property
    def given(self) -> Mapping[str, str | None]:
        """Of each id that was minted: what the model gave; None where it gave none."""
        return self._given

    def bring(self, given: Mapping[str, str], origin: str | None) -> None:
        """For calls that the context brings: what their models gave, where that is not the id
        that they have in the context.

        Args:
            given: by the call id in the context, what the model gave.
            origin: whose they are (`history/faces.py`); other providers do not get them.
        """
        self._given.update(given)
        if origin is not None:
            self._origins.update(dict.fromkeys(given, origin))

    def as_parked(self) -> list[tuple[str, str, str | None]]:
        """All that were minted, for `bring` in a later response: each with what the model gave, and
        whose it is."""
        return [
            (minted, given, self._origins.get(minted))
            for minted, given in self._given.items()
            if given
        ]

    def turn(self, scope: Scope, turn: str, origin: str) -> "TurnIds":
        """For one request of a model turn, or for one that was recorded.

        Args:
            origin: whom it asks.
        """
        self._origins.update(dict.fromkeys(self._recorded.get((scope.path, turn), ()), origin))
        return TurnIds(self, scope.path, turn, origin)

    def outgoing(self, scope: Scope, origin: str, items: Any) -> Any:
        """The input of a model, with the call ids that it gave itself. Where it gave none, the
        minted one stays: nothing else tells which output is of which call."""
        if isinstance(items, str):
            return items
        taken = self._taken[scope.path]
        return [self._outgoing(item, taken, origin) for item in items]

    def _outgoing(self, item: Any, taken: set[str], origin: str) -> Any:
        call_id = item.get("call_id") if isinstance(item, dict) else None
        if not isinstance(call_id, str):
            return item
        taken.add(call_id)
        given = self._given.get(call_id)
        if not given or self._origins.get(call_id, origin) != origin:
            return item
        return {**item, "call_id": given}

    def unique(self, given: str | None, scope: str, turn: str, place: int, origin: str) -> str:
        """The call id for a call that a model gives, by its place in the turn."""
        taken = self._taken[scope]
        made = self._made(given or "", f"{self._response_id}{scope}:{turn}.{place}")
        unique = next(each for each in made if each not in taken and _USABLE.fullmatch(each))
        taken.add(unique)
        if unique != given:
            self._given[unique] = given
            self._origins[unique] = origin
        return unique

    def _made(self, given: str, place: str) -> Iterator[str]:
        """What may be the id of a call, the best first: what was given, `given_2`, …; and where
        that is not usable, a hash of the place."""
        if _USABLE.fullmatch(given):
            yield given
            yield from (f"{given}_{n}" for n in range(2, MOST_ALIKE))
        for n in count():
            made = hashlib.sha256(f"{place}.{n}".encode("utf-8", "surrogatepass"))
            yield f"call_{made.hexdigest()[:24]}"


@dataclass(slots=True, eq=False)
class _Call:
    """A call of a turn. `at`: what the stream says of its place, its output index and item id."""

    unique: str
    at: tuple[Any, Any]
    content: Any = None
    done: bool = False
    final: bool = False


class TurnIds:
    """The calls of one request of a model turn, told apart in the events that speak of them.

    A call may be said three times: `added`, `done`, and in the final output. It is the same one if
    its kind and the given id are; among several, the one at the same place in the stream, or with
    the same arguments, or else the first. One whose id did not come until now may get it.
    """

    def __init__(self, ids: CallIds, scope: str, turn: str, origin: str) -> None:
        self._ids = ids
        self._scope = scope
        self._turn = turn
        self._origin = origin
        self._count = 0
        self._waiting: dict[Hashable, deque[_Call]] = {}
        self._latest: dict[Hashable, _Call] = {}

    def event(self, event: Any) -> Any:
        """An event of `WITH_CALL_IDS`, with unique call ids. What the model gave is not changed:
        it may be the model's own memory."""
        if event.type in _ITEM_EVENTS:
            item = event.item
            if _of(item, "type") not in CALLS:
                return event
            tell = self._done if event.type == ITEM_DONE else self._added
            renamed = _renamed(item, tell(item, event.output_index))
            return event if renamed is item else event.model_copy(update={"item": renamed})
        output = event.response.output or []
        unique = self.output(output)
        if all(map(operator.is_, output, unique)):
            return event
        response = event.response.model_copy(update={"output": unique})
        return event.model_copy(update={"response": response})

    def output(self, items: Iterable[Any]) -> list[Any]:
        """The final output of the turn, with unique call ids."""
        return [self._final(item) for item in items]

    def _added(self, item: Any, index: Any) -> str | None:
        """None while it has no id: that may come with `done`, and is not shown until then."""
        if not _of(item, "call_id"):
            return None
        kind, given = _identity(item)
        at = (index, _of(item, "id"))
        call = self._latest.get((kind, given, at))
        if call is None or call.done:
            call = self._new(kind, given, at)
        return call.unique

    def _done(self, item: Any, index: Any) -> str:
        kind, given = _identity(item)
        at, content = (index, _of(item, "id")), _content(item)
        call = self._first("done", kind, given, lambda call: call.at == at)
        if call is None:
            said = self._latest.get((kind, given, at))
            twice = said is not None and said.content == content
            call = said if said is not None and twice else self._new(kind, given, at)
        call.done, call.content = True, content
        return call.unique

    def _final(self, item: Any) -> Any:
        if str(_of(item, "type")).removesuffix("_output") not in CALLS:
            # Messages for one, of which a turn may have thousands.
            return item
        kind, given = _identity(item)
        if kind not in CALLS:
            return self._final_output(item, kind, given)
        content = _content(item)

        def same(call: _Call) -> bool:
            return bool(call.content == content)

        call = (
            self._first("final", kind, given, same)
            or (self._first("final", kind, None, same) if given else None)
            or (self._first("final", kind, _ANY, same) if not given else None)
            or self._new(kind, given, (None, _of(item, "id")))
        )
        call.done = call.final = True
        return _renamed(item, call.unique)

    def _final_output(self, item: Any, kind: str, given: str | None) -> Any:
        """What a provider executed itself, in the same turn, has the id of its call."""
        call = self._latest.get((kind.removesuffix("_output"), given)) if given else None
        return _renamed(item, call.unique) if call else item

    def _first(
        self, until: str, kind: str, given: str | None, fits: Callable[[_Call], bool]
    ) -> _Call | None:
        """Of the calls that are not yet `done`, or `final`: one near by that fits, or the first."""
        waiting = self._waiting.get((until, kind, given), deque())
        while waiting and getattr(waiting[0], until):
            waiting.popleft()
        near = [call for call in islice(waiting, NEAREST) if not getattr(call, until)]
        return next(filter(fits, near), near[0] if near else None)

    def _new(self, kind: str, given: str | None, at: tuple[Any, Any]) -> _Call:
        unique = self._ids.unique(given, self._scope, self._turn, self._count, self._origin)
        call = _Call(unique, at)
        self._count += 1
        self._latest[kind, given, at] = self._latest[kind, given] = call
        for key in (("done", kind, given), ("final", kind, given), ("final", kind, _ANY)):
            self._waiting.setdefault(key, deque()).append(call)
        return call


def _of(item: Any, name: str) -> Any:
    return item.get(name) if isinstance(item, dict) else getattr(item, name, None)


def _renamed(item: Any, call_id: str | None) -> Any:
    if call_id is None or _of(item, "call_id") == call_id:
        return item
    if isinstance(item, dict):
        return {**item, "call_id": call_id}
    return item.model_copy(update={"call_id": call_id})


def _content(item: Any) -> Any:
    """What a call asks for."""
    return [_of(item, name) for name in ("name", "arguments", "input", "action", "operation")]


def _identity(item: Any) -> tuple[str, str | None]:
    """An item's type, and its call id if it has one."""
    given = _of(item, "call_id")
    return str(_of(item, "type")), given if isinstance(given, str) and given else None
