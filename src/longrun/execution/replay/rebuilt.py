"""A recorded model turn as openai's objects: those of `Response.construct`, in a tenth of its time.

`construct` looks up the type of each field anew, and tries each output item as all 28 types that
there are. What can be told beforehand is told once here: the type of an item by its name, fields
that stay as they are, what became of a short value before. All else is left to `construct`.
"""

import types
from collections import Counter
from functools import cache, lru_cache
from typing import Any, Final, List, Literal, Union, get_args, get_origin  # noqa: UP035

from openai import BaseModel
from openai.types.responses import Response, ResponseOutputItem
from pydantic import ValidationError

from longrun.assembly.kinds import JSONObject

_SCALARS: Final = frozenset({str, int, float, bool})
_REMEMBERED: Final = frozenset({str, int, bool})
"""Not floats: 0.0 and -0.0 are equal."""

_IMMUTABLE: Final = _SCALARS | {type(None)}
_SHORT: Final = 64
"""Characters of a text up to which what became of it is remembered."""

_OUTPUT: Final = List[ResponseOutputItem]  # noqa: UP006
"""As openai writes it; `list` would be another type to those who compare."""


def rebuilt(values: JSONObject) -> Response:
    """What `Response.construct(**values)` gives, of JSON values."""
    response = _constructed(Response, values)
    assert isinstance(response, Response)
    return response


def _constructed(kind: type[BaseModel], values: JSONObject) -> BaseModel:
    """What `kind.construct(**values)` gives."""
    shape = _shape(kind)
    if not shape.fits(values):
        return kind.construct(**values)
    known: JSONObject = {}
    left: JSONObject = {}
    for name, value in values.items():
        try:
            known[name] = shape.field(name, value)
        except _NotKnownError:
            left[name] = value
    base = kind.construct(**left) if left else shape.empty
    return base.model_copy(update=known)


class _NotKnownError(Exception):
    """Left to `construct`."""


class _Shape:
    """What can be told of one of openai's types before there is a value.

    Attributes:
        empty: an object of which nothing is known.
    """

    def __init__(self, kind: type[BaseModel]) -> None:
        self._kind = kind
        self.empty = kind.construct()
        fields = kind.model_fields
        # Copies share the values of defaults; and what has another name in JSON is rare.
        simple = all(
            field.alias is None and type(getattr(self.empty, name)) in _IMMUTABLE
            for name, field in fields.items()
        )
        self._names = frozenset(fields if simple else ())
        self._none = frozenset(name for name in fields if getattr(self.empty, name) is None)
        self._kept = {name: _scalar(field.annotation) for name, field in fields.items()}
        self._objects = {name: _object_type(field.annotation) for name, field in fields.items()}
        self._items = {name for name, field in fields.items() if field.annotation == _OUTPUT}

    def fits(self, values: JSONObject) -> bool:
        """Whether these are fields of it, and no others."""
        return values.keys() <= self._names

    def field(self, name: str, value: Any) -> Any:
        """What `construct` makes of the value of a field.

        Raises:
            _NotKnownError: it has to be asked.
        """
        kind = type(value)
        if value is None:
            if name in self._none:
                return None
        elif kind is self._kept[name]:
            return value
        elif kind in _REMEMBERED:
            if kind is not str or len(value) <= _SHORT:
                return _remembered(self._kind, name, value)
        elif kind is dict and (found := self._objects[name]) is not None:
            return found(value)
        elif kind is list and name in self._items:
            return [_item(item) for item in value]
        raise _NotKnownError


@cache
def _shape(kind: type[BaseModel]) -> _Shape:
    return _Shape(kind)


@lru_cache(maxsize=1024, typed=True)
def _remembered(kind: type[BaseModel], name: str, value: Any) -> Any:
    """What becomes of a short text, or a number, as a field of this type."""
    made = getattr(kind.construct(**{name: value}), name)
    if type(made) not in _SCALARS:
        raise _NotKnownError
    return made


def _scalar(annotation: Any) -> type | None:
    """The type whose values a field keeps as they are, if it has one type alone, or null."""
    found = set(_alternatives(annotation)) - {type(None)}
    return found.pop() if len(found) == 1 and found <= _SCALARS else None


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) in (Union, types.UnionType):
        return get_args(annotation)
    return (annotation,)


class _Object:
    """A field that holds an object of one type, or null."""

    def __init__(self, kind: type[BaseModel], *, tried: bool) -> None:
        self._kind = kind
        self._tried = tried

    def __call__(self, value: JSONObject) -> BaseModel:
        return _valid(self._kind, value) if self._tried else _constructed(self._kind, value)


def _object_type(annotation: Any) -> _Object | None:
    match _alternatives(annotation):
        case (type() as kind,) if issubclass(kind, BaseModel):
            return _Object(kind, tried=False)
        case (type() as kind, none) if issubclass(kind, BaseModel) and none is type(None):
            return _Object(kind, tried=True)
    return None


def _item(value: Any) -> BaseModel:
    name = value.get("type") if type(value) is dict else None
    kind = _kinds().get(name) if type(name) is str else None
    if kind is None:
        raise _NotKnownError
    return _valid(kind, value)


def _valid(kind: type[BaseModel], value: JSONObject) -> BaseModel:
    """What `construct` makes of a value that can be of this type, or of none: it is validated, and
    taken for one that is not valid otherwise."""
    try:
        try:
            return kind.model_validate(value)
        except ValidationError:
            return _constructed(kind, value)
    except Exception:
        raise _NotKnownError from None


@cache
def _kinds() -> dict[str, type[BaseModel]]:
    """The types of output items, by their names; none at all if names alone do not tell."""
    union, *about = get_args(ResponseOutputItem)
    named = [(name, kind) for kind in get_args(union) for name in _names(kind)]
    count = Counter(name for name, _ in named)
    told = any(getattr(one, "discriminator", None) == "type" for one in about)
    return dict(named) if told and None not in count and max(count.values()) == 1 else {}


def _names(kind: type[BaseModel]) -> tuple[Any, ...]:
    """What an item of this type calls itself; None: it may be anything."""
    field = kind.model_fields.get("type")
    if field is None or not field.is_required() or get_origin(field.annotation) is not Literal:
        return (None,)
    return get_args(field.annotation)
