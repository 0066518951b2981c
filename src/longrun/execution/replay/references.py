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

from longrun.jsontext import Encoded, NotJSON, dumps, loads
from longrun.pieces import Pieces
from longrun.store.records import Step

LONG: Final = 256
"""Characters of a string from which on it is looked for in the items."""

_PROBE: Final = 64
"""Characters by which a string is found, before all of it is compared."""

_MOST_PROBES: Final = 8
"""Places that begin like a string which are compared with it."""

_SLICE: Final = 64 * 1024
"""Characters of a string that are encoded and compared at a time: a long one is not copied."""

_MARK: Final = "\0"
"""Around what stands for a reference while a text is made: no JSON text has this character."""

_MOST_MISSED: Final = 8 * 1024 * 1024
"""Characters of items that are looked through in vain before it is left at that: milliseconds."""

_REFERS: Final = '{"pieces":['
_KINDS: Final = frozenset({"model", "tool"})

Place = tuple[int, int, int]
"""Where a text stands: output index, first character, characters."""

Piece = str | Place


def refer(step: Step, items: Mapping[int, str]) -> Step:
    """A step that refers to items, where its result says the same.

    Args:
        items: JSON texts by output index, committed before the step or with it, and kept as long.
    """
    if len(step.result) < LONG or step.kind not in _KINDS or step.result.startswith(_REFERS):
        return step
    pieces = _pieces(step.result, items)
    if len(pieces) == 1:
        return step
    return step._replace(result=dumps({"pieces": pieces}).decode())


def encode_referring(
    value: Any, items: Mapping[int, str], parts: list[Any] | None = None
) -> Pieces[str]:
    """A JSON value as text, or as one that refers to items where it says the same: as `refer`, for
    which all of it has to be a text first.

    Args:
        parts: a list within the value, each member of which is a piece of the work. What is in it
            afterwards is of no use to anybody.
    """
    sources, places = _Sources(items), list[Place]()
    whole = list(parts or ())
    for number, part in enumerate(whole):
        assert parts is not None
        parts[number] = _encoded(part, sources, places)
        yield
    try:
        own = dumps(_marked(value, sources, places)).decode().split(_MARK)
    except (ValueError, RecursionError):
        # What orjson does not take.
        if parts is not None:
            parts[:] = whole
        return dumps(value).decode()
    yield
    if not places:
        return own[0]
    pieces: list[Piece] = [own[0]]
    for place, text in zip(own[1::2], own[2::2], strict=True):
        pieces += [places[int(place)], text]
    return dumps({"pieces": pieces}).decode()


def _encoded(part: Any, sources: "_Sources", places: list[Place]) -> Encoded:
    """A part as JSON, with a mark in place of each string that an item has."""
    try:
        return Encoded(dumps(_marked(part, sources, places)))
    except (ValueError, RecursionError):
        return Encoded(dumps(part))


def _marked(value: Any, sources: "_Sources", places: list[Place]) -> Any:
    """A value with a mark in place of each string that an item has: the number of the place where
    that is, which is added to `places`."""
    if isinstance(value, str):
        if len(value) >= LONG and not sources.exhausted and (place := sources.find(value)):
            places.append(place)
            return Encoded(f"{_MARK}{len(places) - 1}{_MARK}")
    elif isinstance(value, dict):
        return {key: _marked(each, sources, places) for key, each in value.items()}
    elif isinstance(value, list):
        return [_marked(each, sources, places) for each in value]
    return value


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
        if place := sources.find(string):
            pieces += [text[written:start], place]
            written = cursor
    return [*pieces, text[written:]]


class _Sources:
    """The items that may be referred to. Strings come in about the order of the items, so each is
    looked for behind the one before it, in that item and the next ones, and only then everywhere.
    So a turn of 10,000 items takes as many looks."""

    def __init__(self, items: Mapping[int, str]) -> None:
        self._items = items
        self._after = dict.fromkeys(items, 0)
        self._order = list(items)
        self._last = 0
        self._missed = 0

    @property
    def exhausted(self) -> bool:
        """Too much was looked through in vain."""
        return self._missed > _MOST_MISSED

    def find(self, string: str) -> tuple[int, int, int] | None:
        """An item that has this string as JSON; where, and how many characters of it."""
        found = self._find(string, _SLICE)
        if found is None and len(string) > _SLICE and not string.isascii():
            # One lone surrogate anywhere has all of a text encoded in another way.
            found = self._find(string, len(string))
        return found

    def _find(self, string: str, size: int) -> tuple[int, int, int] | None:
        count = len(self._order)
        for number in range(self._last, self._last + count):
            index = self._order[number % count]
            if place := self._find_in(index, string, size, self._after[index]):
                self._last = number % count
                return place
        for index, start in self._after.items():
            if start and (place := self._find_in(index, string, size, 0)):
                return place
        return None

    def _find_in(
        self, index: int, string: str, size: int, start: int
    ) -> tuple[int, int, int] | None:
        text, at = self._items[index], start
        probe = dumps(string[:size]).decode()[:_PROBE]
        for _ in range(_MOST_PROBES):
            at = text.find(probe, at)
            if at < 0:
                break
            if length := _length_in(text, at, string, size):
                self._after[index] = at + length
                return index, at, length
            at += 1
        self._missed += _PROBE + len(text) - start
        return None


def _length_in(text: str, start: int, string: str, size: int) -> int:
    """How many characters of a text, from there on, are this string as JSON; 0: they are not."""
    end = start + 1
    for place in range(0, len(string), size):
        encoded = dumps(string[place : place + size]).decode()
        if not text.startswith(encoded[1:-1], end):
            return 0
        end += len(encoded) - 2
    return end + 1 - start if text.startswith('"', end) else 0


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
