"""JSON schemas for `strict: true`: closed as models' providers want them, or refused.

The Agents SDK does the same and more, but expands references, up to 100,000 of them a tool; the
time of this grows with the schema alone.
"""

from typing import Any, Final, NamedTuple

from longrun.http.problems import shortened

_OF_NAMES: Final = frozenset({"properties", "$defs", "definitions"})
_OF_LISTS: Final = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})


class NotStrict(ValueError):
    """A schema that cannot be strict; says where in it, and why."""


class _Place(NamedTuple):
    """Where a schema is in the whole. Written out for an error only: names can be long."""

    within: "_Place | None"
    name: str

    def __str__(self) -> str:
        names: list[str] = []
        place: _Place | None = self
        while place is not None:
            names.append(shortened(place.name, 64))
            place = place.within
        return shortened("".join(reversed(names)), 500)


def closed(schema: dict[str, Any], param: str) -> dict[str, Any]:
    """A copy in which every object has exactly the properties that it names, all of them required.

    Args:
        param: the parameter that the schema is, for errors.

    Raises:
        NotStrict: an object allows others, or something that should be a schema is none.
    """
    return _closed(schema, _Place(None, param))


def _closed(schema: Any, place: _Place) -> dict[str, Any]:
    if not isinstance(schema, dict):
        raise NotStrict(f"{place} must be a schema that is an object")
    if schema.get("additionalProperties", False) is not False:
        raise NotStrict(f"{place}.additionalProperties must be false when strict is true")
    made = {key: _closed_within(key, value, place) for key, value in schema.items()}
    kinds = schema.get("type")
    if "properties" in schema or "object" in (kinds if isinstance(kinds, list) else [kinds]):
        made["additionalProperties"] = False
        made["required"] = list(schema.get("properties", ()))
    return made


def _closed_within(key: str, value: Any, place: _Place) -> Any:
    if key in _OF_NAMES:
        if not isinstance(value, dict):
            raise NotStrict(f"{place}.{key} must be an object")
        return {n: _closed(each, _Place(place, f".{key}.{n}")) for n, each in value.items()}
    if key in _OF_LISTS:
        if not isinstance(value, list):
            raise NotStrict(f"{place}.{key} must be a list")
        return [_closed(each, _Place(place, f".{key}[{n}]")) for n, each in enumerate(value)]
    if key == "items":
        return _closed(value, _Place(place, ".items"))
    return value
