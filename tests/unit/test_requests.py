"""Bodies and queries: what is accepted and echoed, and how errors name what is wrong."""

import asyncio
import contextlib
import itertools
import json
import threading
import time
import tracemalloc
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.responses import Response
from pydantic import TypeAdapter
from starlette.requests import Request

from longrun.errors import (
    BadRequest,
    BodyTooLarge,
    LongrunError,
    Unavailable,
    UnsupportedMediaType,
)
from longrun.http import query
from longrun.http.bodies import Bodies
from longrun.http.limits import DEFAULT_LIMITS, Limits, Tally
from longrun.http.query import GetResponse
from longrun.http.requests import CreateResponse
from longrun.jsontext import dumps
from longrun.settings import Settings

HI: dict[str, Any] = {"input": "hi"}


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"a": value}
    return value


def refused(**body: Any) -> LongrunError:
    with pytest.raises(BadRequest) as raised:
        CreateResponse.parse({**HI, **body}).items()
    return raised.value


def document(**body: Any) -> dict[str, Any]:
    parsed = CreateResponse.parse({**HI, **body})
    return parsed.run_request("", "agent", None).document


class TestWrongBodies:
    @pytest.mark.parametrize(
        ("body", "param"),
        [
            ({"input": 5}, "input"),
            ({"input": [5]}, "input[0]"),
            ({"input": [{"role": "user", "content": "a"}, {"role": "boss"}]}, "input[1].role"),
            ({"input": [{"role": "user"}]}, "input[0].content"),
            ({"input": [{"role": "user", "content": [5]}]}, "input[0].content"),
            ({"input": [{"role": "user", "content": [{"text": "a"}]}]}, "input[0].content"),
            ({"input": [{"type": 5}]}, "input[0].type"),
            ({"input": [{"type": "function_call_output", "output": ""}]}, "input[0].call_id"),
            ({"input": deep(1)}, "input"),
            ({"input": [{"role": "user", "content": "a", "x": deep(300)}]}, "input"),
            ({"model": 5}, "model"),
            ({"metadata": []}, "metadata"),
            ({"metadata": {"a": 5}}, "metadata.a"),
            ({"metadata": {"a[0].b": 5}}, "metadata.a[0].b"),
            ({"metadata": {"k" * 65: "v"}}, "metadata." + "k" * 65),
            ({"metadata": {"k": "v" * 513}}, "metadata.k"),
            ({"metadata": {str(n): "v" for n in range(17)}}, "metadata"),
            ({"temperature": "1"}, "temperature"),
            ({"temperature": True}, "temperature"),
            ({"temperature": 2.1}, "temperature"),
            ({"top_p": -0.1}, "top_p"),
            ({"presence_penalty": 3}, "presence_penalty"),
            ({"frequency_penalty": -3}, "frequency_penalty"),
            ({"top_logprobs": 21}, "top_logprobs"),
            ({"max_output_tokens": 0}, "max_output_tokens"),
            ({"max_output_tokens": 1.5}, "max_output_tokens"),
            ({"max_tool_calls": "1"}, "max_tool_calls"),
            ({"stream": "true"}, "stream"),
            ({"store": 1}, "store"),
            ({"background": "yes"}, "background"),
            ({"parallel_tool_calls": "no"}, "parallel_tool_calls"),
            ({"tools": 5}, "tools"),
            ({"tools": [5]}, "tools[0]"),
            ({"tools": [{"type": "web_search"}, {}]}, "tools[1].type"),
            ({"tools": [{"type": "function"}]}, "tools[0].name"),
            ({"tools": [{"type": "function", "name": ""}]}, "tools[0].name"),
            ({"tools": [{"type": "function", "name": 5}]}, "tools[0].name"),
            (
                {"tools": [{"type": "function", "name": "f", "parameters": "x"}]},
                "tools[0].parameters",
            ),
            ({"tools": [{"type": "function", "name": "f", "strict": "x"}]}, "tools[0].strict"),
            ({"tool_choice": 5}, "tool_choice"),
            ({"reasoning": "high"}, "reasoning"),
            ({"reasoning": {"effort": 5}}, "reasoning.effort"),
            ({"text": "json"}, "text"),
            ({"text": {"format": "json"}}, "text.format"),
            ({"truncation": "maybe"}, "truncation"),
            ({"include": "x"}, "include"),
            ({"include": [5]}, "include[0]"),
            ({"previous_response_id": 5}, "previous_response_id"),
            ({"instructions": 5}, "instructions"),
            ({"service_tier": 5}, "service_tier"),
            ({"unheard_of": deep(300)}, "unheard_of"),
            ({"background": True, "store": False}, "store"),
            ({"previous_response_id": "r", "conversation": "c"}, "previous_response_id"),
        ],
    )
    def test_the_error_names_the_parameter(self, body: dict[str, Any], param: str) -> None:
        error = refused(**body)
        assert error.param == param
        assert param.split("[")[0].split(".")[0] in error.message

    @pytest.mark.parametrize(
        ("item", "param"),
        [
            ({"role": [], "content": "a"}, "role"),
            ({"role": {}, "content": "a"}, "role"),
            ({"role": None, "content": "a"}, "role"),
            ({"role": "user", "content": [{"type": []}]}, "content"),
            ({"role": "user", "content": {"type": "input_text"}}, "content"),
            ({"role": "user", "content": "a", "id": []}, "id"),
            ({"role": "user", "content": "a", "status": {}}, "status"),
            ({"type": [], "role": "user"}, "type"),
            ({"type": None, "role": "user", "content": "a"}, "type"),
            ({"type": "function_call", "call_id": [], "name": "f", "arguments": ""}, "call_id"),
            ({"type": "function_call", "call_id": "c", "arguments": ""}, "name"),
            ({"type": "function_call", "call_id": "c", "name": "f", "arguments": {}}, "arguments"),
            ({"type": "function_call_output", "call_id": {}, "output": ""}, "call_id"),
            ({"type": "of_the_future", "call_id": [1]}, "call_id"),
            ({"type": "item_reference", "id": 5}, "id"),
            ({"type": "item_reference"}, "id"),
        ],
    )
    def test_an_input_item_of_odd_types(self, item: dict[str, Any], param: str) -> None:
        """They are matched by these, so a list or an object would not even be hashable."""
        error = refused(input=[{"role": "user", "content": "a"}, item])
        assert (error.param, error.code) == (f"input[1].{param}", "invalid_type")

    def test_the_first_problem_alone_is_told(self) -> None:
        """An error for each of 2 MB of numbers took 5.5 s and 1.1 GB."""
        assert refused(input=[1] * 9000).param == "input[0]"
        assert refused(include=[1] * 90_000).param == "include[0]"
        assert refused(tools=[1] * 900).param == "tools[0]"

    @pytest.mark.parametrize("body", [None, [], "hi", 5, True])
    def test_a_body_that_is_no_object(self, body: Any) -> None:
        with pytest.raises(BadRequest, match="JSON object"):
            CreateResponse.parse(body)

    @pytest.mark.parametrize("given", [{}, {"input": ""}, {"input": []}, {"input": None}])
    def test_nothing_to_answer(self, given: dict[str, Any]) -> None:
        with pytest.raises(BadRequest) as raised:
            CreateResponse.parse(given)
        assert (raised.value.param, raised.value.code) == ("input", "missing_required_parameter")

    def test_a_message_says_what_is_allowed(self) -> None:
        assert "less than or equal to 2" in refused(temperature=3).message
        assert "'auto' or 'disabled'" in refused(truncation="x").message
        assert "developer" in refused(input=[{"role": "boss", "content": ""}]).message
        assert refused(tools=5).message == "tools: Input should be a list."
        assert refused(text=5).message == "text: Input should be an object."

    def test_text_that_is_no_unicode(self) -> None:
        """Echoed as it came, or refused in words."""
        assert document(user="\ud800", unheard_of="\udfff")["user"] == "\ud800"
        assert refused(metadata={"a": "\udfff"}).message == (
            "metadata.a: Input should be Unicode text, without lone surrogates."
        )

    def test_names_that_are_no_unicode(self) -> None:
        with pytest.raises(BadRequest):
            CreateResponse.parse({**HI, "\ud800": 1})
        assert refused(metadata={"\ud800": "a"}).param == "metadata"

    @given(
        st.dictionaries(
            st.sampled_from([*CreateResponse.model_fields, "unheard_of", "output", "id"]),
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
                lambda inner: (
                    st.lists(inner, max_size=3)
                    | st.dictionaries(
                        st.text(max_size=3) | st.sampled_from(["type", "name", "role", "content"]),
                        inner,
                        max_size=3,
                    )
                ),
                max_leaves=6,
            ),
            max_size=6,
        )
    )
    @settings(max_examples=200, deadline=None, print_blob=True)
    def test_any_json_is_either_a_request_or_a_bad_one(self, body: dict[str, Any]) -> None:
        try:
            parsed = CreateResponse.parse(body)
            made = parsed.run_request("", "agent", None)
        except BadRequest as error:
            refusal = error
        else:
            dumps(made.document), dumps(made.parameters), dumps(made.input)
            assert made.document["id"] == made.response_id
            return
        assert refusal.message
        assert refusal.param is None or refusal.param


class TestBounds:
    def test_counts(self) -> None:
        for name, most in (("input", DEFAULT_LIMITS.input_items), ("tools", DEFAULT_LIMITS.tools)):
            error = refused(**{name: [{}] * (most + 1)})
            assert (error.param, error.code) == (name, "array_above_max_length")
            assert str(most) in error.message

    def test_as_many_as_there_may_be(self) -> None:
        item = {"role": "user", "content": "a"}
        assert len(CreateResponse.parse({"input": [item] * 10_000}).items()) == 10_000
        assert len(document(tools=[TOOL] * 1000)["tools"]) == 1000

    def test_parameters(self) -> None:
        assert refused(**{f"p{n}": 1 for n in range(1000)}).code == "too_many_parameters"
        many = {f"\ud800{n}": 1 for n in range(1001)}
        assert refused(tools=[{"type": "x", **many}]).param == "tools[0]"
        assert refused(reasoning=many).param == "reasoning"
        assert refused(metadata=many).message == "metadata: Input should have at most 16 pairs."

    @pytest.mark.parametrize("value", ["x" * 300_000, [["x"]] * 60_000, {"a": "\x00" * 50_000}])
    def test_what_is_unknown_is_echoed_in_every_snapshot(self, value: Any) -> None:
        error = refused(heard_of="a", unheard_of=value)
        assert (error.param, error.code) == ("unheard_of", "parameter_too_large")
        assert str(DEFAULT_LIMITS.unknown_bytes) in error.message

    def test_all_that_is_echoed(self) -> None:
        half = "x" * (DEFAULT_LIMITS.echoed_bytes // 2)
        assert document(instructions=half)["instructions"] == half
        tool = {"type": "function", "name": "f", "description": half + "x"}
        error = refused(instructions=half, tools=[tool])
        assert (error.param, error.code) == ("tools", "parameter_too_large")

    def test_input_is_not_echoed(self) -> None:
        image = {"type": "input_image", "image_url": "data:image/png;base64," + "A" * 10_000_000}
        items = [{"role": "user", "content": [image]}]
        assert CreateResponse.parse({"input": items}).items() == items

    def test_an_answer_does_not_repeat_kilobytes(self) -> None:
        for body in (
            {"x" * 100_000: deep(300)},
            {"metadata": {"x" * 100_000: "v"}},
            {"x" * 300_000: 1, "unheard_of": "x" * 1_000_000},
            {"tools": [{**TOOL, "strict": True, "parameters": open_at("x" * 100_000)}]},
        ):
            error = refused(**body)
            assert len(error.message) < 1000
            assert len(error.param or "") < 300


def open_at(name: str) -> Any:
    """A schema with an object in it that allows any property."""
    inner = {"type": "object", "additionalProperties": True}
    return {"type": "object", "properties": {name: inner}}


class TestStrictTools:
    def made(self, parameters: Any) -> Any:
        tool = {"type": "function", "name": "f", "strict": True, "parameters": parameters}
        parsed = CreateResponse.parse({**HI, "tools": [{"type": "web_search"}, tool]})
        made = parsed.run_request("", "agent", None)
        assert made.document["tools"][1] == tool, "it is echoed as it was given"
        return made.parameters["tools"][0]["parameters"]

    def test_objects_are_closed(self) -> None:
        leaf = {"type": "string", "default": None}
        assert self.made({"properties": {"a": leaf, "additionalProperties": leaf}}) == {
            "properties": {"a": leaf, "additionalProperties": leaf},
            "required": ["a", "additionalProperties"],
            "additionalProperties": False,
        }

    def test_at_every_depth(self) -> None:
        thing = {"type": ["object", "null"], "properties": {"x": {}}}
        made = self.made(
            {
                "type": "object",
                "properties": {"a": {"anyOf": [thing, {"items": thing}]}},
                "$defs": {"d": thing},
            }
        )
        done = {**thing, "additionalProperties": False, "required": ["x"]}
        assert made["properties"]["a"]["anyOf"] == [done, {"items": done}]
        assert made["$defs"]["d"] == done

    def test_values_are_not_schemas(self) -> None:
        odd = {"enum": [{"type": "object"}], "const": {"properties": 5}, "default": {"items": 1}}
        assert self.made(odd) == odd

    @pytest.mark.parametrize(
        ("parameters", "where"),
        [
            ({"type": "object", "additionalProperties": True}, "additionalProperties"),
            ({"type": "object", "additionalProperties": {}}, "additionalProperties"),
            (open_at("a"), "properties.a.additionalProperties"),
            ({"anyOf": [{}, {"items": open_at("a")}]}, "anyOf[1].items.properties.a"),
            ({"properties": 5}, "properties"),
            ({"properties": {"a": 5}}, "properties.a"),
            ({"properties": {"a": True}}, "properties.a"),
            ({"items": []}, "items"),
            ({"anyOf": {}}, "anyOf"),
        ],
    )
    def test_what_cannot_be_strict(self, parameters: Any, where: str) -> None:
        """It failed the run, with a traceback."""
        tool = {"type": "function", "name": "f", "strict": True, "parameters": parameters}
        error = refused(tools=[tool])
        assert (error.param, error.code) == ("tools[0].parameters", "invalid_schema")
        assert f"tools[0].parameters.{where}" in error.message
        assert document(tools=[{**tool, "strict": False}])

    def test_references_are_not_expanded(self) -> None:
        """Each of these definitions names the next one twice: 2**40 of the last."""
        defs = {
            f"d{n}": {"properties": {k: {"$ref": f"#/$defs/d{n + 1}", "title": k} for k in "ab"}}
            for n in range(40)
        }
        made = self.made({"$ref": "#/$defs/d0", "$defs": {**defs, "d40": {"type": "string"}}})
        assert made["$defs"]["d39"]["properties"]["a"] == {"$ref": "#/$defs/d40", "title": "a"}


class TestDocuments:
    def test_is_a_response_that_every_client_can_parse(self) -> None:
        for body in ({}, {"background": True}, {"tools": [TOOL]}, {"reasoning": {}}):
            whole = {**document(**body), "output": []}
            parsed = TypeAdapter(Response).validate_python(whole)
            assert parsed.status == "in_progress"

    def test_has_all_that_open_responses_demands(self) -> None:
        """Numbers and `service_tier` never null."""
        made = document(service_tier=None, temperature=None, top_p=None, metadata=None)
        assert made["service_tier"] == "default"
        for name in ("temperature", "top_p", "presence_penalty", "frequency_penalty"):
            assert isinstance(made[name], float)
        assert isinstance(made["created_at"], int)
        assert made["metadata"] == {}
        assert {"id", "object", "usage", "error", "incomplete_details", "completed_at"} <= set(made)

    def test_echoes_what_was_given(self) -> None:
        given: dict[str, Any] = {
            "temperature": 0.3,
            "metadata": {"a": "b"},
            "instructions": "Be brief.",
            "tools": [TOOL, {"type": "web_search", "filters": None}],
            "tool_choice": {"type": "function", "name": "f"},
            "reasoning": {"effort": "as never before", "summary": None},
            "text": {"format": {"type": "json_object"}, "verbosity": "low"},
            "truncation": "auto",
            "unheard_of": {"deep": [1, None, {"x": "y"}]},
            "max_output_tokens": 10**30,
        }
        made = document(**given)
        assert {name: made[name] for name in given} == given

    def test_what_the_server_says_is_not_the_client_s(self) -> None:
        lies = {
            "id": "resp_mine",
            "object": "thing",
            "status": "completed",
            "output": ["x"],
            "usage": {"total_tokens": 1},
            "created_at": 1,
            "error": {"code": "x"},
        }
        made = document(**lies)
        assert made["object"] == "response"
        assert made["id"].startswith("resp_0")
        assert (made["status"], made["usage"], made["error"]) == ("in_progress", None, None)
        assert "output" not in made

    def test_input_and_stream_are_not_echoed(self) -> None:
        assert not {"input", "stream", "include"} & set(document(stream=True, include=["x"]))

    def test_a_text_is_a_user_s_message(self) -> None:
        assert CreateResponse.parse(HI).items() == [{"role": "user", "content": "hi"}]

    def test_items_of_any_named_type_pass(self) -> None:
        items = [
            {"role": "developer", "content": [{"type": "input_text", "text": "a"}]},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text"}]},
            {"type": "item_reference", "id": "msg_1"},
            {"type": "something_new", "a": 1},
        ]
        assert CreateResponse.parse({"input": items}).items() == items

    def test_no_input_of_its_own_after_a_previous_response(self) -> None:
        parsed = CreateResponse.parse({"previous_response_id": "resp_1"})
        assert parsed.items() == []

    def test_what_a_run_acts_upon(self) -> None:
        parsed = CreateResponse.parse(
            {**HI, "temperature": 0, "tools": [TOOL, {"type": "web_search"}], "user": "u"}
        )
        made = parsed.run_request("somebody", "agent", None)
        assert made.parameters["temperature"] == 0
        assert made.parameters["tools"] == [{k: v for k, v in TOOL.items() if v is not None}]
        assert made.parameters["user"] == "u"
        assert "metadata" not in made.parameters
        assert (made.principal, made.agent, made.stored, made.background) == (
            "somebody",
            "agent",
            True,
            False,
        )

    def test_each_has_an_id_of_its_own(self) -> None:
        assert document()["id"] != document()["id"]


TOOL = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": None}


def get(query: str = "", **headers: str) -> Request:
    raw = [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()]
    return Request({"type": "http", "query_string": query.encode(), "headers": raw})


class TestQueries:
    def test_nothing(self) -> None:
        found = GetResponse.parse(get())
        assert (found.stream, found.starting_after) == (False, None)

    def test_a_cursor(self) -> None:
        found = GetResponse.parse(get("stream=true&starting_after=7&include=x&new=1"))
        assert (found.stream, found.starting_after) == (True, 7)
        assert GetResponse.parse(get("starting_after=0")).starting_after == 0

    @pytest.mark.parametrize(
        "cursor",
        [
            "1_0",
            "5.0",
            "%201",
            "1%20",
            "%2B1",
            "+1",
            "%EF%BC%91",
            "%D9%A3",
            "%C2%B2",
            "0x1",
            "1%0A",
        ],
    )
    def test_what_only_python_takes_for_a_number(self, cursor: str) -> None:
        with pytest.raises(BadRequest) as raised:
            GetResponse.parse(get(f"starting_after={cursor}"))
        assert raised.value.param == "starting_after"

    @pytest.mark.parametrize("cursor", ["1_0", "5.0", "+1", "\xb2"])
    def test_in_a_last_event_id_too(self, cursor: str) -> None:
        request = get("starting_after=3")
        request.scope["headers"] = [(b"last-event-id", cursor.encode("latin-1"))]
        with pytest.raises(BadRequest) as raised:
            GetResponse.parse(request)
        assert raised.value.param == "Last-Event-ID"

    def test_the_last_events(self) -> None:
        found = GetResponse.parse(get("starting_after=-7"))
        assert (found.cursor, found.last, found.skips) == (-1, 7, True)
        assert GetResponse.parse(get(f"starting_after=-{2**63 - 1}")).last == 2**63 - 1
        found = GetResponse.parse(get("starting_after=7"))
        assert (found.cursor, found.last, found.skips) == (7, 0, False)

    @pytest.mark.parametrize("cursor", ["-0", "x", "", "1.5", "9" * 30, "1e3", "%20", "NaN"])
    def test_cursors_that_are_none(self, cursor: str) -> None:
        with pytest.raises(BadRequest) as raised:
            GetResponse.parse(get(f"starting_after={cursor}"))
        assert raised.value.param == "starting_after"

    @pytest.mark.parametrize("stream", ["maybe", "2", "x"])
    def test_a_stream_that_is_neither(self, stream: str) -> None:
        with pytest.raises(BadRequest) as raised:
            GetResponse.parse(get(f"stream={stream}"))
        assert raised.value.param == "stream"

    def test_last_event_id_wins(self) -> None:
        """EventSource repeats the old query next to the newer header."""
        found = GetResponse.parse(get("starting_after=3", last_event_id="9"))
        assert found.starting_after == 9

    def test_an_empty_last_event_id_is_none(self) -> None:
        assert GetResponse.parse(get("starting_after=3", last_event_id=" ")).starting_after == 3

    @pytest.mark.parametrize("cursor", ["-1", "x", "9" * 30])
    def test_a_last_event_id_that_is_no_number(self, cursor: str) -> None:
        with pytest.raises(BadRequest) as raised:
            GetResponse.parse(get("starting_after=3", last_event_id=cursor))
        assert raised.value.param == "Last-Event-ID"

    def test_the_largest_is_that_of_the_database(self) -> None:
        largest = query.LARGEST_CURSOR
        assert GetResponse.parse(get(f"starting_after={largest}")).starting_after == largest
        with pytest.raises(BadRequest):
            GetResponse.parse(get(f"starting_after={largest + 1}"))


async def read_json(request: Request, limit: int, **limits: int) -> Any:
    """The body of a request, decoded."""
    return await Bodies(replace(DEFAULT_LIMITS, body_bytes=limit, **limits)).read(
        request, lambda value: value
    )


def post(*parts: bytes, complete: bool = True, **headers: str) -> Request:
    """A request whose body comes in these parts."""
    messages = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    if complete:
        messages.append({"type": "http.request", "body": b"", "more_body": False})

    async def sent() -> AsyncIterator[Any]:
        for message in messages:
            yield message
        yield {"type": "http.disconnect"}

    receiving = sent()
    given = {"content_type": "application/json", **headers}
    raw = [(k.replace("_", "-").encode(), v.encode()) for k, v in given.items()]
    scope = {"type": "http", "method": "POST", "query_string": b"", "headers": raw}
    return Request(scope, lambda: anext(receiving))


async def unread() -> Any:
    raise AssertionError("the body was read")


class TestBodies:
    async def test_in_any_parts(self) -> None:
        body = json.dumps({"input": "é" * 50}, ensure_ascii=False).encode()
        for size in (1, 7, 1000):
            parts = [body[i : i + size] for i in range(0, len(body), size)]
            assert await read_json(post(*parts), 1000) == {"input": "é" * 50}

    @pytest.mark.parametrize(
        "kind",
        ["application/json; charset=utf-8", "APPLICATION/JSON", "application/vnd.api+json"],
    )
    async def test_any_json_type(self, kind: str) -> None:
        assert await read_json(post(b"{}", content_type=kind), 10) == {}

    @pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded"])
    async def test_another_type(self, kind: str) -> None:
        with pytest.raises(UnsupportedMediaType):
            await read_json(post(b"{}", content_type=kind), 10)

    @pytest.mark.parametrize(
        "body", [b"", b"{", b"{'a': 1}", b'{"a": NaN}', b'{"a": 1e999}', b"\xff", b"{} {}"]
    )
    async def test_what_is_not_json(self, body: bytes) -> None:
        with pytest.raises(BadRequest) as raised:
            await read_json(post(body), 100)
        assert raised.value.code == "invalid_json"

    async def test_what_others_refuse(self) -> None:
        assert await read_json(post(b'["\\ud800", 123456789012345678901234567890]'), 100) == [
            "\ud800",
            123456789012345678901234567890,
        ]

    async def test_nested_without_end(self) -> None:
        with pytest.raises(BadRequest):
            await read_json(post(b"[" * 100_000), 1_000_000)

    async def test_one_that_is_just_not_too_large(self) -> None:
        assert await read_json(post(b'"234', b'567"'), 8) == "234567"

    @pytest.mark.parametrize("headers", [{}, {"content_length": "9"}])
    async def test_one_that_is_too_large(self, headers: dict[str, str]) -> None:
        with pytest.raises(BodyTooLarge, match="8 bytes"):
            await read_json(post(b'"234', b'5678"', **headers), 8)

    async def test_one_that_says_it_is_too_large_is_not_read(self) -> None:
        request = post(b"x" * 9, content_length="9")
        request._receive = unread
        with pytest.raises(BodyTooLarge):
            await read_json(request, 8)
        with pytest.raises(BodyTooLarge):
            await read_json(post(content_length="9" * 5000, complete=False), 8)

    async def test_one_that_grows_too_large_is_not_read_on(self) -> None:
        """What follows is dropped by the server, after the answer."""
        read: list[bytes] = []

        async def receive() -> Any:
            read.append(b"x" * 100)
            return {"type": "http.request", "body": read[-1], "more_body": True}

        with pytest.raises(BodyTooLarge):
            await read_json(Request(post().scope, receive), 250)
        assert len(read) == 3

    async def test_a_client_that_goes_away(self) -> None:
        with pytest.raises(BadRequest, match="closed"):
            await read_json(post(b'{"input"', complete=False), 100)

    async def test_a_length_that_only_python_takes_for_one(self) -> None:
        assert await read_json(post(b"{}", content_length="\xb2"), 10) == {}

    @pytest.mark.parametrize(
        ("body", "param"),
        [
            (b'{"input":[%b1]}' % (b"1," * 1_000_000), "input"),
            (b'{"input":"x","tools":[%b1]}' % (b"1," * 1_000_000), "tools"),
            (b'{"input":"x","un\\u0068eard":[%b1]}' % (b"[]," * 10_000_000), "unheard"),
            (b'{"input":"x","a":{"tools":[1]},"b":{"c":{%b}}}' % (b'"k":1,' * 200_000), "b"),
            (b'{"input":"[\\"{\\\\","deep":' + b"[" * 1_000_000, "deep"),
            (b"[%b1]" % (b"1," * 1_000_000), None),
            (b'{"input":' + b'"' * 1_000_000, "input"),
        ],
        ids=["input", "tools", "lists", "members", "deep", "no object", "strings"],
    )
    async def test_too_many_values_are_not_even_parsed(
        self, body: bytes, param: str | None
    ) -> None:
        """2 MB of numbers took 5.5 s and 1.1 GB, 31 MB of lists 17.6 s."""
        parts = [body[start : start + 65_536] for start in range(0, len(body), 65_536)]
        tracemalloc.start()
        try:
            with pytest.raises(BadRequest) as raised:
                await read_json(post(*parts), 1 << 25)
            assert tracemalloc.get_traced_memory()[1] < 10_000_000
        finally:
            tracemalloc.stop()
        assert (raised.value.param, raised.value.code) == (param, "too_many_values")

    async def test_as_many_values_as_there_may_be(self) -> None:
        body = b"[" + b"1," * 99_998 + b"1]"
        assert len(await read_json(post(body), 1 << 20)) == 99_999

    async def test_text_of_escapes(self) -> None:
        """Encoding it again would take longer than anything else."""
        body = b'{"input":"' + b"\\n" * 2_100_000 + b'"}'
        with pytest.raises(BadRequest) as raised:
            await read_json(post(body), 1 << 25)
        assert (raised.value.param, raised.value.code) == ("input", "too_many_escapes")

    @pytest.mark.parametrize("number", [b"1" * 101, b"-" + b"1" * 100, b"1" * 1_000_000])
    async def test_long_integers(self, number: bytes) -> None:
        with pytest.raises(BadRequest, match="100 characters") as raised:
            await read_json(post(b'{"a":%b}' % number), 1 << 20)
        assert raised.value.code == "invalid_json"
        assert len(raised.value.message) < 200
        assert await read_json(post(b"1" * 100), 1000) == int("1" * 100)

    async def test_a_name_twice_is_its_last_value(self) -> None:
        assert await read_json(post(b'{"a":1,"a":2}'), 100) == {"a": 2}
        assert await read_json(post(b'{"a":"\\ud800","a":2}'), 100) == {"a": 2}

    async def test_a_large_one_is_parsed_beside_the_event_loop(self) -> None:
        """A small one is not: handing it over would take longer."""
        reader = Bodies(DEFAULT_LIMITS)
        own = threading.get_ident()
        assert await reader.read(post(b"1"), lambda _: threading.get_ident()) == own
        body = b'"%b"' % (b"x" * 100_000)
        assert await reader.read(post(body), lambda _: threading.get_ident()) != own


class TestAllBodies:
    """What a replica reads at the same time has one budget."""

    async def test_over_it_the_answer_is_503(self) -> None:
        reader = Bodies(replace(DEFAULT_LIMITS, bodies_bytes=300_000))
        large = b'"%b"' % (b"x" * 200_000)
        sent: list[asyncio.Event] = []

        async def slow() -> Any:
            """A client that has sent most of its body, and then waits."""
            more = asyncio.Event()
            request = post()
            begun = asyncio.Event()

            async def receive() -> Any:
                if not begun.is_set():
                    begun.set()
                    return {"type": "http.request", "body": large[:-1], "more_body": True}
                sent[0].set()
                await more.wait()
                return {"type": "http.request", "body": large[-1:], "more_body": False}

            slow_request = Request(request.scope, receive)
            sent.append(asyncio.Event())
            releases.append(more)
            return await reader.read(slow_request, lambda value: value)

        releases: list[asyncio.Event] = []
        first = asyncio.create_task(slow())
        while not sent:
            await asyncio.sleep(0)
        await sent[0].wait()
        with pytest.raises(Unavailable) as raised:
            await reader.read(post(large), lambda value: value)
        assert raised.value.retry_after
        assert await reader.read(post(b'"an ordinary one"'), lambda value: value)
        releases[0].set()
        assert len(await first) == 200_000
        assert len(await reader.read(post(large), lambda value: value)) == 200_000

    @pytest.mark.parametrize("bad", [b'{"a":', b"x" * 2_000_000, b"[" + b"1," * 200_000])
    async def test_what_is_refused_is_given_back(self, bad: bytes) -> None:
        reader = Bodies(replace(DEFAULT_LIMITS, body_bytes=1_000_000, bodies_bytes=1_000_000))
        for _ in range(5):
            with pytest.raises((BadRequest, BodyTooLarge)):
                await reader.read(post(bad), lambda value: value)
            with pytest.raises(BadRequest, match="closed"):
                await reader.read(post(b"x" * 900_000, complete=False), lambda value: value)
        assert await reader.read(post(b"[1]"), lambda value: value) == [1]


def count(value: Any) -> int:
    """Elements and members, at all depths."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return sum(1 + count(each) for each in inner)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


class TestTally:
    @given(JSON, st.lists(st.integers(0, 200), max_size=6), st.booleans())
    @settings(max_examples=300, deadline=None)
    def test_counts_in_any_parts(self, value: Any, cuts: list[int], ascii_: bool) -> None:
        text = json.dumps(value, ensure_ascii=ascii_).encode("utf-8", "surrogatepass")
        whole = Tally()
        whole.add(text)
        assert (
            count(value) <= whole.values <= 2 * count(value) + text.count(b"[") + text.count(b"{")
        )
        parts = Tally()
        for start, end in itertools.pairwise([0, *sorted(cuts), len(text)]):
            parts.add(text[start:end])
        assert (parts.values, parts.escapes) == (whole.values, whole.escapes)

    def test_marks_in_strings_do_not_count(self) -> None:
        tally = Tally()
        tally.add(json.dumps({"a": '[{,"\\', "b": "\\\\", "c": ",,,,"}).encode())
        assert tally.values == 3

    def test_escapes(self) -> None:
        tally = Tally()
        tally.add(rb'"\\ \n \u0041 \" \\\\"')
        assert tally.escapes == 6


def test_the_limits_are_those_of_the_settings() -> None:
    assert Limits.of(Settings.model_construct()) == DEFAULT_LIMITS


@pytest.mark.parametrize(
    "body",
    [
        {"input": [{"role": "user", "content": "hello there"}] * 10_000},
        {"input": [{"role": "nobody", "content": [{"type": "x"}] * 3}] * 10_000},
        {"input": [{"role": "user", "content": [{"type": "input_text"}] * 5}] * 10_000},
        {"input": [1] * 10_000},
        {"input": "x", "metadata": {str(number): number for number in range(100_000)}},
        {"input": "x", "include": [1] * 300_000},
    ],
    ids=["right", "wrong role", "wrong parts", "no items", "metadata", "include"],
)
def test_a_large_body_is_checked_in_a_bounded_time(body: dict[str, Any]) -> None:
    """Of the processor: 20 to 80 ms. With an error for each of its values it was seconds."""
    began = time.thread_time()
    with contextlib.suppress(BadRequest):
        CreateResponse.parse(body)
    assert time.thread_time() - began < 2
