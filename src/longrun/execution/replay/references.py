"""References: what a step's result says in the same words as an output item is stored with the item
alone, and put in again when a takeover reads both.

A model turn holds the texts of its items, and a tool call what its output item shows. A result that
refers is a list of pieces, of which its JSON text is joined: text of its own, and parts of items as
[output index, first character, characters].

    {"pieces": ["{\\"output\\":{\\"json\\":", [3, 97, 1000002], "},\\"error\\":false}"]}
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import orjson

from longrun.jsontext import NotJSON, dumps, loads
from longrun.store.records import Step

LONG: Final = 256
"""Characters of a string from which on it is looked for in the items."""

_PROBE: Final = 64
"""Characters by which a string is found, before all of it is compared."""

_MOST_PROBES: Final = 8
"""Places that begin like a string which are compared with it."""

_MOST_MISSED: Final = 8 * 1024 * 1024
"""Characters of items that are looked through in vain before it is left at that: milliseconds."""

_REFERS: Final = '{"pieces":['
_KINDS: Final = frozenset({"model", "tool"})

Piece = str | tuple[int, int, int]


def refer(step: Step, items: Mapping[int, str]) -> Step:
    """A step that refers to items, where its result says the same.

    Args:
        items: JSON texts by output index, committed before the step or with it, and kept as long.
    """
    if len(step.result) < LONG or step.kind not in _KINDS:
        return step
    pieces = _pieces(step.result, items)
    if len(pieces) == 1:
        return step
    return step._replace(result=dumps({"pieces": pieces}).decode())


def resolve(steps: Iterable[Step], items: Mapping[int, str]) -> list[Step]:
    """Steps as they were before `refer`."""
    return [_resolved(step, items) for step in steps]


def _resolved(step: Step, items: Mapping[int, str]) -> Step:
    if step.kind not in _KINDS or not step.result.startswith(_REFERS):
        return step
    parts = []
    for piece in loads(step.result)["pieces"]:
        if isinstance(piece, str):
            parts.append(piece)
        else:
            index, start, length = piece
            parts.append(items[index][start : start + length])
    return step._replace(result="".join(parts))


def _pieces(text: str, items: Mapping[int, str]) -> list[Piece]:
    """A JSON text, cut where a long string of it stands in an item, with the same escapes."""
    pieces: list[Piece] = []
    sources = _Sources(items)
    written = cursor = 0
    for string in _long_strings(text):
        encoded = dumps(string).decode()
        start = _find(text, encoded, cursor)
        if start < 0 or sources.exhausted:
            break
        cursor = start + len(encoded)
        if place := sources.find(encoded):
            pieces += [text[written:start], (*place, len(encoded))]
            written = cursor
    return [*pieces, text[written:]]


class _Sources:
    """The items that may be referred to. Strings come in about the order of the items, so each is
    looked for behind the one before it, and only then everywhere."""

    def __init__(self, items: Mapping[int, str]) -> None:
        self._items = items
        self._after = dict.fromkeys(items, 0)
        self._missed = 0

    @property
    def exhausted(self) -> bool:
        """Too much was looked through in vain."""
        return self._missed > _MOST_MISSED

    def find(self, encoded: str) -> tuple[int, int] | None:
        """An item that has this string, and where."""
        for index, start in self._after.items():
            if (at := self._find(index, encoded, start)) >= 0:
                return index, at
        for index, start in self._after.items():
            if start and (at := self._find(index, encoded, 0)) >= 0:
                return index, at
        return None

    def _find(self, index: int, encoded: str, start: int) -> int:
        text = self._items[index]
        at = _find(text, encoded, start)
        if at < 0:
            self._missed += len(text) - start
        else:
            self._after[index] = at + len(encoded)
        return at


def _find(text: str, encoded: str, start: int) -> int:
    """Where a JSON string stands in a text; -1 if not there, or not among the first that begin so.

    Found within another string it would be as good: what counts is that the characters are the
    same.
    """
    for _ in range(_MOST_PROBES):
        at = text.find(encoded[:_PROBE], start)
        if at < 0 or text.startswith(encoded, at):
            return at
        start = at + 1
    return -1


def _long_strings(text: str) -> Iterator[str]:
    """The long strings in a JSON text, in order."""
    inside: list[Iterator[Any]] = [iter((_decoded(text),))]
    while inside:
        for value in inside[-1]:
            if isinstance(value, str):
                if len(value) >= LONG:
                    yield value
            elif isinstance(value, dict | list):
                inside.append(iter(value.values() if isinstance(value, dict) else value))
                break
        else:
            inside.pop()


def _decoded(text: str) -> Any:
    """Of which only strings matter, and no number: orjson alone is a few times as fast as
    `loads`."""
    with contextlib.suppress(orjson.JSONDecodeError):
        return orjson.loads(text)
    with contextlib.suppress(NotJSON):
        return loads(text)
    return None
