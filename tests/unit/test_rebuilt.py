"""Recorded model turns come back as the very objects that openai's `construct` makes of them."""

import functools
import types
from collections.abc import Callable
from typing import Any, Literal, Union, get_args, get_origin

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai import BaseModel
from openai.types.responses import Response, ResponseOutputItem, ResponseUsage

from longrun.execution.replay.rebuilt import rebuilt
from longrun.execution.replay.results import decode_response, encode_response
from longrun.jsontext import dumps, loads
from longrun.pieces import at_once
from tests.unit.streams import JSONObject

KINDS = get_args(get_args(ResponseOutputItem)[0])
ODD: st.SearchStrategy[Any] = st.sampled_from(
    [None, "", "odd", 0, -1, 1.5, -0.0, True, [], {}, ["odd"], [{"type": "odd"}], {"type": "odd"}]
)
SCALARS: dict[Any, st.SearchStrategy[Any]] = {
    str: st.text(max_size=3),
    int: st.integers(0, 9),
    float: st.sampled_from([0, 3, 0.5, 1e12]),
    bool: st.booleans(),
    type(None): st.none(),
}


@functools.cache
def valid(annotation: Any, depth: int = 4) -> st.SearchStrategy[Any]:
    """JSON values of a type."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation in SCALARS:
        return SCALARS[annotation]
    if origin is Literal:
        return st.sampled_from(inner)
    if hasattr(annotation, "__metadata__"):
        return valid(inner[0], depth)
    if origin in (Union, types.UnionType):
        return st.one_of([valid(one, depth) for one in inner])
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return _object(annotation, depth - 1)
    if depth <= 0:
        return st.just([] if origin is list else {})
    if origin is list:
        return st.lists(valid(inner[0], depth), max_size=2)
    if origin is dict:
        return st.dictionaries(st.text(max_size=2), valid(inner[1], depth), max_size=2)
    return ODD


def _object(kind: type[BaseModel], depth: int) -> st.SearchStrategy[Any]:
    def fields(required: bool) -> dict[str, st.SearchStrategy[Any]]:
        return {
            field.alias or name: valid(field.annotation, depth)
            for name, field in kind.model_fields.items()
            if field.is_required() is required and (required or depth > 0)
        }

    return st.fixed_dictionaries(fields(True), optional=fields(False))


@st.composite
def sloppy(draw: Callable[..., Any], value: st.SearchStrategy[Any]) -> Any:
    """Values that a model's adapter has left something out of, or added something to."""
    return _spoilt(draw, draw(value))


def _spoilt(draw: Callable[..., Any], value: Any) -> Any:
    what = draw(st.sampled_from(["no", "no", "within", "within", "less", "more", "odd"]))
    if what == "odd":
        return draw(ODD)
    if isinstance(value, list) and value and what != "no":
        at = draw(st.integers(0, len(value) - 1))
        return [_spoilt(draw, one) if n == at else one for n, one in enumerate(value)]
    if not isinstance(value, dict) or not value or what == "no":
        return value
    name = draw(st.sampled_from(sorted(value)))
    if what == "within":
        return {**value, name: _spoilt(draw, value[name])}
    if what == "less":
        return {key: one for key, one in value.items() if key != name}
    return {**value, draw(st.sampled_from(["more", "self", "_fields_set", "async_"])): draw(ODD)}


OUTPUTS = st.lists(st.sampled_from(KINDS).flatmap(valid), max_size=3)
FIELDS = valid(Response).map(
    lambda fields: {name: value for name, value in fields.items() if name != "tools"}
)


def seen(value: Any) -> Any:
    """All that there is to an object, with the types and the order of everything."""
    if isinstance(value, BaseModel):
        assert value.__pydantic_private__ is None
        extra = value.__pydantic_extra__
        return (type(value), seen(value.__dict__), seen(extra), value.model_fields_set)
    if isinstance(value, dict):
        return [(key, seen(one)) for key, one in value.items()]
    if isinstance(value, list):
        return [list, *map(seen, value)]
    return type(value), repr(value)


def outcome(make: Callable[..., Any], values: JSONObject) -> Any:
    try:
        return seen(make(values))
    except Exception as error:
        return type(error)


def same(values: JSONObject) -> None:
    expected = outcome(lambda values: Response.construct(**values), loads(dumps(values)))
    for _ in range(2):
        assert outcome(rebuilt, loads(dumps(values))) == expected


quickly = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@quickly
@given(sloppy(OUTPUTS))
def test_output_items_are_those_that_construct_makes(output: Any) -> None:
    same({"output": output})


@quickly
@given(sloppy(FIELDS))
def test_responses_are_those_that_construct_makes(fields: Any) -> None:
    if isinstance(fields, dict):
        same(fields)


@quickly
@given(sloppy(valid(ResponseUsage)))
def test_usage_is_what_construct_makes(usage: Any) -> None:
    same({"usage": usage})


@quickly
@given(OUTPUTS)
def test_a_turn_comes_back_from_its_record(output: Any) -> None:
    turn = Response.construct(id="resp_1", created_at=1.5, output=output)
    record = at_once(encode_response(turn, [3], {}))
    decoded, indexes = decode_response(record)
    assert indexes == [3]
    assert [type(item) for item in decoded.output] == [type(item) for item in turn.output]
    assert seen(decoded) == seen(Response.construct(**loads(record)["response"]))


@pytest.mark.parametrize(
    "values",
    [
        {"usage": {"input_tokens_details": {"cached_tokens": "3", "cache_write_tokens": 0}}},
        {"output": [{"type": "custom_tool_call", "async_": True, "async": False}]},
        {"output": [{"type": "custom_tool_call", "async_": True}]},
        {"output": [{"type": "message", "_fields_set": 1}]},
        {"output": [{"type": "of tomorrow", "id": "i"}]},
        {"output": [{"type": ["message"]}, {"type": None}, {}]},
        {"created_at": 3, "top_p": 0, "of_tomorrow": {"a": 1}},
        {"model": "m" * 1000, "status": "odd", "error": None, "output": None},
        {"reasoning": {"effort": "odd"}, "usage": {"_fields_set": 1}},
    ],
    ids=lambda values: ", ".join(values),
)
def test_odd_turns_are_what_construct_makes(values: JSONObject) -> None:
    same(values)


def test_equal_values_of_two_types_are_told_apart() -> None:
    for value in (1, True, 0, False, 0.0, -0.0):
        same({"tool_choice": value, "max_output_tokens": value, "created_at": value})


def test_what_one_turn_has_is_its_own() -> None:
    one, other = (rebuilt({"id": id_, "output": []}) for id_ in "ab")
    one.output.append(KINDS[0].construct())
    one.status, one.more = "failed", 1  # type: ignore[attr-defined]
    third = rebuilt({})
    assert (other.output, other.status, other.model_extra) == ([], None, {})
    assert (third.model_fields_set, third.model_extra) == (set(), {})


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_ordinary_turns_are_not_left_to_construct(
    kind: type[BaseModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which would take ten times as long."""
    least = {"call_id": "c", "id": "i"}
    [item] = [_least(kind, least)]
    values = {
        "id": "resp_1",
        "created_at": 1764000000.5,
        "error": None,
        "model": "a-model",
        "object": "response",
        "output": [item],
        "parallel_tool_calls": True,
        "status": "completed",
        "tool_choice": "auto",
        "usage": {"input_tokens": 1, "input_tokens_details": {"cached_tokens": 0}},
    }
    same(values)
    before = rebuilt(values)

    def refuse(*_: Any, **fields: Any) -> Any:
        raise AssertionError(f"constructed: {fields}")

    monkeypatch.setattr(Response, "construct", refuse)
    monkeypatch.setattr(kind, "construct", refuse)
    assert rebuilt(values) == before


def _least(annotation: Any, known: JSONObject) -> Any:
    """The least value of a type."""
    inner = get_args(annotation)
    if get_origin(annotation) is Literal:
        return inner[0]
    if hasattr(annotation, "__metadata__") or get_origin(annotation) in (Union, types.UnionType):
        return _least(inner[0], known)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {
            field.alias or name: known.get(name, _least(field.annotation, known))
            for name, field in annotation.model_fields.items()
            if field.is_required()
        }
    scalars = {str: "text", int: 1, float: 1.5, bool: True, type(None): None}
    return scalars.get(annotation, [] if get_origin(annotation) is list else {})
