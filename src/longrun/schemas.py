"""JSON schemas of clients: whether one is a schema, whether a value fits it, whether two are alike.

Schemas and patterns come from clients, values from models. What could take long is not done:
references lead nowhere outside, patterns are not tried, and checking stops after many references.
"""

from collections.abc import Iterator
from typing import Any, Final

from jsonschema import Draft202012Validator, SchemaError, ValidationError
from jsonschema.validators import extend
from referencing import Registry
from referencing.exceptions import Unresolvable

MOST_REFERENCES: Final = 10_000
"""References that are followed in a value. Each may lead to several others, so that a few lines
of schema could take for ever."""

_ANNOTATIONS: Final = frozenset(
    {"title", "description", "default", "examples", "$schema", "$id", "$comment", "deprecated"}
)

_OF_NAMES: Final = frozenset({"properties", "$defs", "definitions", "patternProperties"})


_NOT_TRIED: Final = ("pattern", "patternProperties", "uniqueItems", "$dynamicRef")
"""Each can be made to take for ever, or by the square of the value."""


class _GaveUp(Exception):
    """Enough was checked."""


def problem_of(schema: dict[str, Any]) -> str | None:
    """What is wrong with a schema, in some words; None if it is one."""
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        path = ".".join(str(part) for part in error.absolute_path)
        return f"{path}: {error.message}" if path else error.message
    except RecursionError:
        return "nested too deeply"
    return None


def fits(schema: dict[str, Any], value: Any) -> bool:
    """Whether a value is right by a schema, as far as is checked (see above)."""
    left = [MOST_REFERENCES]

    def reference(validator: Any, ref: Any, instance: Any, within: Any) -> Iterator[Any]:
        left[0] -= 1
        if left[0] < 0:
            raise _GaveUp
        yield from Draft202012Validator.VALIDATORS["$ref"](validator, ref, instance, within)

    bounded = extend(
        Draft202012Validator,
        {"$ref": reference, **dict.fromkeys(_NOT_TRIED, _nothing)},
    )
    registry: Registry[Any] = Registry()
    try:
        bounded(schema, registry=registry).validate(value)
    except ValidationError:
        return False
    except (_GaveUp, Unresolvable, RecursionError):
        return True
    return True


def _nothing(validator: Any, keyword: Any, instance: Any, schema: Any) -> Iterator[Any]:
    return iter(())


def alike(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two schemas ask for the same properties of the same types. What is only said of
    them does not count, nor what `strict` adds to each."""
    return bool(_bare(one) == _bare(other))


def _bare(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_bare(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {}
    for key, value in schema.items():
        if key in _ANNOTATIONS or key == "required":
            continue
        if key == "additionalProperties" and value is False:
            continue
        if key in _OF_NAMES and isinstance(value, dict):
            made[key] = {name: _bare(each) for name, each in value.items()}
        else:
            made[key] = value if key in ("const", "enum") else _bare(value)
    return made
