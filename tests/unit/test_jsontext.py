"""JSON as agents really produce it, out and in again."""

import json
import math
import tracemalloc
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.responses import ResponseOutputText
from pydantic import BaseModel

from longrun.jsontext import Encoded, NotJSON, dumps, loads

thorough = settings(max_examples=200, deadline=None, print_blob=True)

any_text = st.text(st.characters(exclude_categories=()), max_size=20)
any_number = st.integers() | st.integers(-(10**40), 10**40) | st.floats()
anything = st.recursive(
    st.none() | st.booleans() | any_number | any_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_text, inner, max_size=4),
    max_leaves=12,
)


def as_json(value: Any) -> Any:
    """What a value is in JSON: NaN and infinities null, pairs of surrogates the one character."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    if isinstance(value, list):
        return [as_json(each) for each in value]
    if isinstance(value, dict):
        return {as_json(key): as_json(each) for key, each in value.items()}
    return value


class TestRoundTrip:
    @given(st.text("a\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029\u00e9\u2019", max_size=20))
    @thorough
    def test_no_client_ends_a_line_in_it(self, value: str) -> None:
        """Python's splitlines and others end lines at more than a newline."""
        encoded = dumps({"text": value, "again": Encoded(orjson.dumps(value))})
        assert len(encoded.decode().splitlines()) == 1
        assert loads(encoded) == {"text": value, "again": value}

    @given(anything)
    @thorough
    def test_what_goes_out_comes_in(self, value: Any) -> None:
        assert same(loads(dumps(value)), as_json(value))

    @given(anything)
    @thorough
    def test_every_client_can_read_it(self, value: Any) -> None:
        """Python's own reader, which refuses nothing, agrees; and it is one line of UTF-8."""
        text = dumps(value)
        assert same(json.loads(text), as_json(value))
        text.decode("utf-8")
        for raw in (b"\n", b"\r", b"\0"):
            assert raw not in text

    @given(anything, anything)
    @thorough
    def test_what_is_encoded_goes_in_as_it_is(self, inner: Any, outer: Any) -> None:
        """Lone surrogates outside make the slow path decode it and encode it again."""
        for text in (dumps(inner), dumps(inner).decode()):
            whole = loads(dumps({"item": Encoded(text), "rest": [outer, "\ud800", 10**30]}))
            assert same(whole, {"item": as_json(inner), "rest": [as_json(outer), "\ud800", 10**30]})

    @given(st.floats(allow_nan=False, allow_infinity=False))
    @thorough
    def test_numbers_keep_every_digit(self, number: float) -> None:
        for value in (number, [number, 10**30]):
            found = loads(dumps(value))
            assert (found if isinstance(found, float) else found[0]) == number


def same(one: Any, other: Any) -> bool:
    """Equal, and of the same kinds: 1 is not 1.0, and not true."""
    return repr(_sorted(one)) == repr(_sorted(other))


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return sorted(((key, _sorted(each)) for key, each in value.items()), key=repr)
    return [_sorted(each) for each in value] if isinstance(value, list) else value


class Model(BaseModel):
    text: str
    rest: Any = None


class TestObjects:
    @pytest.mark.parametrize("extra", [None, "\ud800", 10**30])
    def test_on_both_paths(self, extra: Any) -> None:
        """What orjson takes and what the standard library takes look the same."""
        value = {
            "model": Model(text="a"),
            "part": ResponseOutputText(text="b", type="output_text", annotations=[]),
            "tuple": (1, 2),
            "set": {1},
            "nan": math.nan,
            "object": Path_(),
            "inner": {"list": [math.inf, Model(text="c", rest=(None,))]},
            "extra": extra,
        }
        assert loads(dumps(value)) == {
            "model": {"text": "a"},
            "part": {"text": "b", "type": "output_text", "annotations": []},
            "tuple": [1, 2],
            "set": [1],
            "nan": None,
            "object": "a path",
            "inner": {"list": [None, {"text": "c", "rest": [None]}]},
            "extra": extra,
        }

    def test_nested_as_deep_as_requests_may_be(self) -> None:
        value: Any = "x"
        for _ in range(300):
            value = [value]
        assert loads(dumps(value)) == value

    @pytest.mark.parametrize("kind", ["list", "dict"])
    def test_nested_deeper_than_python_goes(self, kind: str) -> None:
        value: Any = "deep"
        for _ in range(5000):
            value = [value] if kind == "list" else {"a": value}
        text = dumps({"beside": 1, "value": value})
        assert loads(text)["beside"] == 1
        assert "…" in json.dumps(loads(text), ensure_ascii=False)

    def test_nested_in_itself(self) -> None:
        value: dict[str, Any] = {"beside": [1, 2]}
        value["list"] = [value, value]
        assert loads(dumps(value)) == {"beside": [1, 2], "list": ["…", "…"]}

    def test_fields_that_were_not_set_stay_out(self) -> None:
        assert dumps(Model(text="a")) == b'{"text":"a"}'


class Path_:  # noqa: N801
    def __str__(self) -> str:
        return "a path"


class TestNotJSON:
    @pytest.mark.parametrize(
        "text",
        [
            "",
            " ",
            "{",
            "'a'",
            "NaN",
            "[Infinity]",
            "-Infinity",
            "1e999",
            '["\\ud800", -1e999]',
            '["\\ud800", NaN]',
            "1 2",
            "[1,]",
            "// a\n1",
            "\ud800",
            b"\xff",
            b'"\xc3"',
            "[" * 100_000,
            "1" * 5_000,
            "[" * 100_000 + "1" * 20,
            "\ufeff" + "1" * 20,
            b"\xed\xa0\x80",
        ],
    )
    def test_is_refused(self, text: str | bytes) -> None:
        with pytest.raises(NotJSON):
            loads(text)

    @given(st.binary(max_size=30))
    @thorough
    def test_any_bytes_are_json_or_not(self, raw: bytes) -> None:
        try:
            value = loads(raw)
        except NotJSON:
            with pytest.raises(orjson.JSONDecodeError):
                orjson.loads(raw)
        else:
            assert same(loads(dumps(value)), value)

    def test_is_a_value_error(self) -> None:
        assert issubclass(NotJSON, ValueError)


class TestMemory:
    @pytest.mark.parametrize("size", [10, 150, 2_000, 10_000])
    def test_what_is_kept_takes_what_it_has(self, size: int) -> None:
        """orjson gives its own buffer: 4 KiB and more for an event."""
        event = {"type": "response.output_text.delta", "delta": "a" * size}
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            kept = [dumps(event) for _ in range(1_000)]
            took = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        assert took < 1.3 * sum(len(text) + 48 for text in kept)
