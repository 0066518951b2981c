"""Every answer that is not 2xx has the same shape, the right words, and nothing of our insides."""

import gzip
import json
from typing import Any
from urllib.parse import quote

import asyncpg
import openai
import pytest
from openai import AsyncOpenAI

from longrun.store.records import Ending
from tests.contract.conftest import MAX_BODY_BYTES
from tests.postgres import Server
from tests.reading import Wire, create, finished, in_background, parse, read, script, stream_url
from tests.servers import Replica
from tests.storing import add_response, event, log_of, logged, opened, writing

UNKNOWN = "resp_" + "0" * 32
SECRET = "secret internal text"


async def answer(
    replica: Replica,
    path: str,
    method: str = "GET",
    *,
    content: bytes | None = None,
    media_type: str | None = "application/json",
    headers: dict[str, str] | None = None,
) -> tuple[int, Any]:
    """Status and body of the answer to a request as it is."""
    headers = dict(headers or {})
    if content is not None and "Transfer-Encoding" not in headers:
        headers["Content-Length"] = str(len(content))
        if media_type is not None:
            headers["Content-Type"] = media_type
    async with await Wire.open(
        replica.url + path, method=method, headers=headers, content=content
    ) as wire:
        await wire.rest()
        return wire.status, json.loads(wire.body) if wire.body else None


async def refusal(
    replica: Replica, path: str, method: str = "GET", **options: Any
) -> tuple[int, dict[str, Any]]:
    """Send a request that must fail: status and error, which must have its four keys."""
    status, body = await answer(replica, path, method, **options)
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "param", "code"}
    assert isinstance(body["error"]["message"], str)
    assert isinstance(body["error"]["type"], str)
    assert SECRET not in json.dumps(body)
    assert "Traceback" not in json.dumps(body)
    return status, body["error"]


async def refused_body(replica: Replica, body: Any) -> tuple[int, dict[str, Any]]:
    content = json.dumps(body).encode()
    return await refusal(replica, "/v1/responses", "POST", content=content)


class TestBodies:
    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"{",
            b'{"input": "x"',
            b"{'input': 'x'}",
            b"\xff\xfe\x00",
            b'{"input": "\xff"}',
            b'{"input": "x", "temperature": NaN}',
            b"[" * 100_000,
        ],
        ids=["nothing", "brace", "cut", "quotes", "bytes", "not UTF-8", "NaN", "deep"],
    )
    async def test_malformed_json(self, two: list[Replica], content: bytes) -> None:
        status, error = await refusal(two[0], "/v1/responses", "POST", content=content)
        assert (status, error["code"], error["param"]) == (400, "invalid_json", None)
        assert error["type"] == "invalid_request_error"

    @pytest.mark.parametrize("content", [b"[]", b'"input"', b"5", b"null", b"true"])
    async def test_json_that_is_no_object(self, two: list[Replica], content: bytes) -> None:
        status, error = await refusal(two[0], "/v1/responses", "POST", content=content)
        assert (status, error["code"], error["param"]) == (400, "invalid_request", None)

    @pytest.mark.parametrize(
        "media_type", [None, "text/plain", "application/x-www-form-urlencoded", "application", ""]
    )
    async def test_another_media_type(self, two: list[Replica], media_type: str | None) -> None:
        status, error = await refusal(
            two[0],
            "/v1/responses",
            "POST",
            content=b'{"model": "scripted", "input": "x"}',
            media_type=media_type,
        )
        assert (status, error["code"]) == (415, "unsupported_media_type")
        assert "application/json" in error["message"]

    async def test_a_compressed_body(self, two: list[Replica]) -> None:
        """It was said to be no UTF-8."""
        status, error = await refusal(
            two[0],
            "/v1/responses",
            "POST",
            headers={"Content-Encoding": "gzip"},
            content=gzip.compress(b'{"model": "scripted", "input": "x"}'),
        )
        assert (status, error["code"]) == (415, "unsupported_content_encoding")
        assert "'gzip'" in error["message"]

    @pytest.mark.parametrize(
        "media_type",
        ["application/json; charset=utf-8", "APPLICATION/JSON", "application/vnd.api+json"],
    )
    async def test_json_by_another_name_is_taken(self, two: list[Replica], media_type: str) -> None:
        status, body = await answer(
            two[0],
            "/v1/responses",
            "POST",
            content=b'{"model": "scripted", "input": "x"}',
            media_type=media_type,
        )
        assert (status, body["status"]) == (200, "completed")


class TestLargeBodies:
    async def test_at_the_limit_a_body_is_taken(self, tight: Replica) -> None:
        body = {"model": "scripted", "input": ""}
        body["input"] = "x" * (MAX_BODY_BYTES - len(json.dumps(body)))
        status, answered = await answer(
            tight, "/v1/responses", "POST", content=json.dumps(body).encode()
        )
        assert status == 200
        assert answered["output"][0]["content"][0]["text"] == body["input"]

    @pytest.mark.parametrize("size", [MAX_BODY_BYTES + 1, 1_000_000, 20_000_000])
    async def test_over_it_the_answer_is_413(self, tight: Replica, size: int) -> None:
        async with AsyncOpenAI(base_url=tight.base_url, api_key="none", max_retries=0) as client:
            with pytest.raises(openai.APIStatusError) as raised:
                await client.responses.create(model="scripted", input="x" * size)
        assert raised.value.status_code == 413
        assert raised.value.body["code"] == "body_too_large"
        assert str(MAX_BODY_BYTES) in raised.value.body["message"]

    @pytest.mark.parametrize("expecting", [True, False])
    async def test_it_comes_before_the_body(self, tight: Replica, expecting: bool) -> None:
        """A client that asks first need not send 30 MB for nothing."""
        headers = {"Content-Type": "application/json", "Content-Length": "30000000"}
        if expecting:
            headers["Expect"] = "100-continue"
        status, error = await refusal(tight, "/v1/responses", "POST", headers=headers)
        assert (status, error["code"]) == (413, "body_too_large")

    async def test_one_that_does_not_say_its_size_too(self, tight: Replica) -> None:
        part = b"x" * 60_000
        chunk = b"%x\r\n%b\r\n" % (len(part), part)
        status, error = await refusal(
            tight,
            "/v1/responses",
            "POST",
            headers={"Transfer-Encoding": "chunked", "Content-Type": "application/json"},
            content=chunk + chunk + b"0\r\n\r\n",
        )
        assert (status, error["code"]) == (413, "body_too_large")


class TestParameters:
    @pytest.mark.parametrize(
        ("body", "param"),
        [
            ({"input": 5}, "input"),
            ({"input": {"role": "user"}}, "input"),
            ({"input": [5]}, "input[0]"),
            ({"input": [{"role": "user", "content": "x"}, "y"]}, "input[1]"),
            ({"input": [{"role": "king", "content": "x"}]}, "input[0].role"),
            ({"input": [{"role": 5, "content": "x"}]}, "input[0].role"),
            ({"input": [{"role": "user", "content": "x"}, {"content": "x"}]}, "input[1].role"),
            ({"input": [{"role": "user"}]}, "input[0].content"),
            ({"input": [{"role": "user", "content": 5}]}, "input[0].content"),
            ({"input": [{"role": "user", "content": ["x"]}]}, "input[0].content"),
            ({"input": [{"type": 5}]}, "input[0].type"),
            ({"input": [{"type": "function_call_output", "output": ""}]}, "input[0].call_id"),
            ({"temperature": "hot"}, "temperature"),
            ({"temperature": 2.1}, "temperature"),
            ({"temperature": -1}, "temperature"),
            ({"temperature": True}, "temperature"),
            ({"top_p": 1.1}, "top_p"),
            ({"presence_penalty": 3}, "presence_penalty"),
            ({"frequency_penalty": []}, "frequency_penalty"),
            ({"top_logprobs": 21}, "top_logprobs"),
            ({"top_logprobs": 1.5}, "top_logprobs"),
            ({"max_output_tokens": 0}, "max_output_tokens"),
            ({"max_output_tokens": "many"}, "max_output_tokens"),
            ({"max_tool_calls": 0}, "max_tool_calls"),
            ({"model": 5}, "model"),
            ({"stream": "yes"}, "stream"),
            ({"background": 1}, "background"),
            ({"store": "no"}, "store"),
            ({"instructions": ["x"]}, "instructions"),
            ({"previous_response_id": 5}, "previous_response_id"),
            ({"conversation": 5}, "conversation"),
            ({"metadata": "x"}, "metadata"),
            ({"metadata": {"a": None}}, "metadata.a"),
            ({"parallel_tool_calls": "no"}, "parallel_tool_calls"),
            ({"reasoning": "low"}, "reasoning"),
            ({"text": "plain"}, "text"),
            ({"tools": {}}, "tools"),
            ({"tools": ["weather"]}, "tools[0]"),
            ({"tools": [{"name": "x"}]}, "tools[0].type"),
            ({"tools": [{"type": "function", "name": 5}]}, "tools[0].name"),
            ({"tools": [{"type": "x"}, {"type": "function"}]}, "tools[1].name"),
            ({"tools": [{"type": "function", "name": ""}]}, "tools[0].name"),
            ({"tool_choice": 5}, "tool_choice"),
            ({"truncation": "some"}, "truncation"),
            ({"service_tier": 5}, "service_tier"),
            ({"include": "everything"}, "include"),
            ({"user": 5}, "user"),
        ],
        ids=lambda value: json.dumps(value) if isinstance(value, dict) else None,
    )
    async def test_a_wrong_value_is_refused_by_name(
        self, two: list[Replica], body: dict[str, Any], param: str
    ) -> None:
        status, error = await refused_body(two[0], {"model": "scripted", "input": "x", **body})
        assert (status, error["param"]) == (400, param)
        assert error["type"] == "invalid_request_error"
        assert error["code"] is not None
        assert param in error["message"]

    @pytest.mark.parametrize("input", ["", [], None])
    async def test_empty_input(self, two: list[Replica], input: Any) -> None:
        status, error = await refused_body(two[0], {"model": "scripted", "input": input})
        assert (status, error["param"]) == (400, "input")
        assert error["code"] == "missing_required_parameter"

    async def test_background_needs_store(self, two: list[Replica]) -> None:
        body = {"model": "scripted", "input": "x", "background": True, "store": False}
        status, error = await refused_body(two[0], body)
        assert (status, error["param"]) == (400, "store")

    async def test_previous_response_excludes_conversation(self, two: list[Replica]) -> None:
        body = {"input": "x", "previous_response_id": UNKNOWN, "conversation": "conv_1"}
        status, error = await refused_body(two[0], body)
        assert (status, error["param"]) == (400, "previous_response_id")
        assert "conversation" in error["message"]

    async def test_an_unknown_model_names_the_ones_served(
        self, two: list[Replica], clients: list[AsyncOpenAI]
    ) -> None:
        with pytest.raises(openai.NotFoundError) as raised:
            await clients[0].responses.create(model="gpt-9", input="x")
        error = raised.value.body
        assert (error["param"], error["code"]) == ("model", "model_not_found")
        assert "'gpt-9'" in error["message"]
        assert "scripted, chain" in error["message"]
        status, error = await refusal(two[0], "/v1/models/gpt-9")
        assert (status, error["code"]) == (404, "model_not_found")

    async def test_nothing_is_created_for_a_request_that_is_refused(
        self, two: list[Replica], database: Server
    ) -> None:
        count = f'SELECT count(*) FROM "{two[0].environment["LONGRUN_SCHEMA"]}".responses'
        connection = await asyncpg.connect(database.url)
        try:
            before = await connection.fetchval(count)
            for body in (
                {"input": [{"role": "king", "content": "x"}], "background": True},
                {"input": "x", "model": "gpt-9", "stream": True},
                {"input": "x", "previous_response_id": UNKNOWN},
            ):
                await refused_body(two[0], body)
            assert await connection.fetchval(count) == before
        finally:
            await connection.close()


UNKNOWN_IDS = [
    UNKNOWN,
    "resp_1",
    "nonsense",
    "resp_" + "g" * 32,
    "resp_" + "0" * 33,
    "RESP_" + "0" * 32,
    "%00",
    "resp_%F0%9F%98%80",
    "'%20OR%201=1%20--",
    "x" * 2000,
]


class TestUnknown:
    @pytest.mark.parametrize("id", UNKNOWN_IDS)
    @pytest.mark.parametrize("method", ["GET", "DELETE"])
    async def test_ids(self, two: list[Replica], id: str, method: str) -> None:
        status, error = await refusal(two[1], f"/v1/responses/{id}", method)
        assert (status, error["code"]) == (404, "not_found")

    async def test_ids_with_stream(self, two: list[Replica]) -> None:
        for unknown in UNKNOWN_IDS:
            status, error = await refusal(
                two[1], f"/v1/responses/{unknown}?stream=true", headers={"Last-Event-ID": "1"}
            )
            assert (status, error["code"]) == (404, "not_found")

    @pytest.mark.parametrize("prefix", ["", "/v1"])
    @pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
    @pytest.mark.parametrize(
        "path",
        ["/nope", "/responses/a/b/c", "/respons%C3%A9s", "/responses.json", "//responses"],
    )
    async def test_paths(self, two: list[Replica], prefix: str, method: str, path: str) -> None:
        status, error = await refusal(two[0], prefix + path, method)
        assert (status, error["code"]) == (404, "not_found")

    @pytest.mark.parametrize("path", ["/v1", "/v1/", "/responses/", "/v1/responses/", "/healthz/"])
    async def test_a_slash_more_or_less_is_another_path(
        self, two: list[Replica], path: str
    ) -> None:
        for method in ("GET", "POST"):
            status, _ = await refusal(two[0], path, method)
            assert status in (404, 405)

    @pytest.mark.parametrize("prefix", ["", "/v1"])
    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("PUT", "/responses"),
            ("PATCH", "/responses"),
            ("DELETE", "/responses"),
            ("POST", f"/responses/{UNKNOWN}"),
            ("PUT", f"/responses/{UNKNOWN}"),
            ("PATCH", f"/responses/{UNKNOWN}"),
            ("POST", "/models"),
            ("DELETE", "/models"),
            ("POST", "/models/scripted"),
        ],
    )
    async def test_methods(self, two: list[Replica], prefix: str, method: str, path: str) -> None:
        status, error = await refusal(two[0], prefix + path, method)
        assert (status, error["code"]) == (405, "method_not_allowed")
        assert method in error["message"]

    @pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
    async def test_methods_outside_the_api(self, two: list[Replica], path: str) -> None:
        status, error = await refusal(two[0], path, "POST")
        assert (status, error["code"]) == (405, "method_not_allowed")


class TestAnothers:
    async def test_9_it_gets_the_answer_of_an_id_that_does_not_exist(
        self, two: list[Replica], database: Server
    ) -> None:
        schema = two[0].environment["LONGRUN_SCHEMA"]
        async with opened(database.url, schema) as store, writing(store) as writer:
            theirs = await add_response(store, principal="somebody else")
            run = log_of(writer, theirs)
            run.append([event(1, "response.completed")], ending=Ending("completed", "{}"))
            await run.flush()
        for method, suffix in (
            ("GET", ""),
            ("GET", "?stream=true"),
            ("GET", "?stream=true&starting_after=0"),
            ("DELETE", ""),
            ("POST", "/cancel"),
        ):
            answers = [
                await refusal(two[0], f"/v1/responses/{each}{suffix}", method)
                for each in (theirs, UNKNOWN)
            ]
            assert answers[0][0] == 404
            check_same(answers, theirs)
        for each in (theirs, UNKNOWN):
            body = {"model": "scripted", "input": "x", "previous_response_id": each}
            status, error = await refused_body(two[0], body)
            assert (status, error["code"]) == (400, "previous_response_not_found")
        async with opened(database.url, schema) as store:
            assert len(await logged(store, theirs)) == 2


def check_same(answers: list[tuple[int, dict[str, Any]]], response_id: str) -> None:
    """But for the id that was asked for."""
    first, second = (json.dumps(each) for each in answers)
    assert first.replace(response_id, UNKNOWN) == second


class TestCursors:
    @pytest.mark.parametrize(
        "cursor", ["-0", "--1", "x", "1e3", "0x10", "1.5", "", "%20", "NaN", "9" * 30, "٣"]
    )
    async def test_starting_after_must_be_a_number(self, two: list[Replica], cursor: str) -> None:
        response = await create(two[0], "x")
        path = f"/v1/responses/{response['id']}?stream=true&starting_after={quote(cursor, '%')}"
        status, error = await refusal(two[1], path)
        assert (status, error["param"]) == (400, "starting_after")

    @pytest.mark.parametrize("cursor", ["-1", "x", "1.5", "evt_5", "9" * 30])
    async def test_last_event_id_too(self, two: list[Replica], cursor: str) -> None:
        response = await create(two[0], "x")
        status, error = await refusal(
            two[1],
            f"/v1/responses/{response['id']}?stream=true&starting_after=1",
            headers={"Last-Event-ID": cursor},
        )
        assert (status, error["param"]) == (400, "Last-Event-ID")

    async def test_stream_must_be_a_boolean(self, two: list[Replica]) -> None:
        response = await create(two[0], "x")
        status, error = await refusal(two[1], f"/v1/responses/{response['id']}?stream=maybe")
        assert (status, error["param"]) == (400, "stream")


FAILURES = {
    "a model that raises": script(deltas=5, fail=2),
    "a model that raises at once": script(deltas=5, fail=0),
    "a tool that raises": script(turns=[[["broken", {}]]]),
    "a tool that raises beside others": script(turns=[[["echo", {"text": "a"}], ["broken", {}]]]),
    "an unknown tool": script(turns=[[["no_such_tool", {}]]]),
    "arguments that do not fit": script(turns=[[["big", {"size": "much"}]]]),
}


class TestFailures:
    @pytest.mark.parametrize("input", FAILURES.values(), ids=FAILURES.keys())
    async def test_no_internal_text_leaves(
        self, two: list[Replica], clients: list[AsyncOpenAI], input: str
    ) -> None:
        stream = await clients[0].responses.create(model="scripted", input=input, stream=True)
        events = [event async for event in stream]
        response_id = events[0].response.id
        shown = [
            json.dumps([event.to_dict() for event in events]),
            json.dumps(await finished(two[1], response_id)),
            (await read(stream_url(two[1], response_id))).decode(),
        ]
        for text in shown:
            assert SECRET not in text
            assert "Traceback" not in text
            assert "RuntimeError" not in text

    @pytest.mark.parametrize(
        "name", ["a model that raises", "a tool that raises", "a tool that raises beside others"]
    )
    async def test_it_is_a_failed_response_with_an_error(
        self, two: list[Replica], clients: list[AsyncOpenAI], name: str
    ) -> None:
        given = FAILURES[name]
        plain = await clients[0].responses.create(model="scripted", input=given)
        assert plain.status == "failed"
        assert plain.error is not None
        assert (plain.error.code, plain.error.message) == ("server_error", "The agent failed.")
        assert plain.completed_at is None

        stream = await clients[0].responses.create(model="scripted", input=given, stream=True)
        events = [event async for event in stream]
        assert "error" not in [event.type for event in events]
        assert events[-1].type == "response.failed"
        assert events[-1].response.status == "failed"
        assert events[-1].response.error == plain.error

        found = await finished(two[1], plain.id)
        assert found["error"] == {"code": "server_error", "message": "The agent failed."}

    async def test_what_was_finished_before_stays_in_the_output(self, two: list[Replica]) -> None:
        turns = [[["echo", {"text": "done"}]]]
        response_id = await in_background(two[0], turns=turns, deltas=5, fail=3, pause=0.1)
        found = await finished(two[1], response_id)
        assert found["status"] == "failed"
        assert [item["type"] for item in found["output"]] == ["mcp_call"]
        events = parse(await read(stream_url(two[1], response_id))).events
        closed = [e["item"] for e in events if e["type"] == "response.output_item.done"][-1]
        assert (closed["type"], closed["status"]) == ("message", "incomplete")
        assert closed["content"][0]["text"] == "word0 word1 word2 "

    async def test_all_that_the_model_said_before_is_streamed(self, two: list[Replica]) -> None:
        response = await create(two[0], script(deltas=500, fail=400))
        events = parse(await read(stream_url(two[1], response["id"]))).events
        deltas = [e["delta"] for e in events if e["type"] == "response.output_text.delta"]
        assert "".join(deltas) == "".join(f"word{n} " for n in range(400))

    async def test_a_failure_harms_no_other_run(self, two: list[Replica]) -> None:
        ids = [
            await in_background(two[0], deltas=20, fail=10 if n % 2 else None) for n in range(10)
        ]
        statuses = [(await finished(two[1], response_id))["status"] for response_id in ids]
        assert statuses == ["completed", "failed"] * 5
