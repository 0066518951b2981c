"""JSON schemas of clients: what is checked, and that nothing of it takes long or leads outside."""

from typing import Any

import pytest

from longrun.schemas import alike, fits, problem_of

POINT = {
    "type": "object",
    "properties": {"x": {"type": "integer"}, "y": {"$ref": "#/$defs/Y"}},
    "required": ["x", "y"],
    "additionalProperties": False,
    "$defs": {"Y": {"enum": ["a", "b"]}},
}


@pytest.mark.parametrize(
    ("value", "right"),
    [
        ({"x": 1, "y": "a"}, True),
        ({"x": 1, "y": "c"}, False),
        ({"x": "1", "y": "a"}, False),
        ({"x": 1}, False),
        ({"x": 1, "y": "a", "z": 0}, False),
        ([], False),
    ],
)
def test_fits(value: Any, right: bool) -> None:
    assert fits(POINT, value) is right


def doubling(times: int) -> dict[str, Any]:
    """A schema whose references lead to two others each."""
    defs: dict[str, Any] = {
        f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(times)
    }
    return {"$ref": "#/$defs/d0", "$defs": {**defs, f"d{times}": {}}}


@pytest.mark.parametrize(
    "schema",
    [
        doubling(60),
        {"$ref": "#"},
        {"$ref": "http://127.0.0.1:1/schema"},
        {"$ref": "#/$defs/none"},
        {"type": "string", "pattern": "(a+)+$"},
    ],
)
@pytest.mark.timeout(20)
def test_what_would_take_for_ever_or_lead_outside_is_not_checked(schema: dict[str, Any]) -> None:
    assert problem_of(schema) is None
    assert fits(schema, "a" * 40 + "b")


@pytest.mark.parametrize(
    "schema", [{"type": "nothing"}, {"properties": []}, {"required": "a"}, {"enum": 1}]
)
def test_what_is_no_schema(schema: dict[str, Any]) -> None:
    assert problem_of(schema)


def test_what_is_only_said_of_them_makes_no_difference() -> None:
    described = {**POINT, "title": "Point", "description": "A point."}
    assert alike(described, POINT)
    bare = {name: POINT[name] for name in ("type", "properties", "$defs")}
    assert alike(bare, POINT)


@pytest.mark.parametrize(
    "other",
    [
        {**POINT, "properties": {"x": {"type": "number"}, "y": {"$ref": "#/$defs/Y"}}},
        {**POINT, "properties": {"x": {"type": "integer"}}},
        {**POINT, "$defs": {"Y": {"enum": ["b", "a"]}}},
        # Properties that are called like keywords.
        {"type": "object", "properties": {"title": {"type": "string"}}},
    ],
)
def test_what_is_asked_for_does(other: dict[str, Any]) -> None:
    assert not alike(other, POINT)
    assert not alike(other, {"type": "object", "properties": {}})
