"""Requests that nobody would make in earnest: a 2xx or a 4xx in the contract's words, no 5xx."""

import asyncio
import contextlib
import http.client
import json
import time
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.contract.conftest import MAX_BODY_BYTES
from tests.contract.test_errors import answer, refusal, refused_body
from tests.reading import Wire, create, eventually, retrieve
from tests.servers import Replica
from tests.unit.test_any_request import body as any_body

FUNCTION = {"type": "function", "name": "theirs", "strict": True}


def quoted(text: str | bytes) -> str:
    return quote(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"), "")


def ask(
    replica: Replica, method: str, path: str, content: bytes | None = None
) -> tuple[int, bytes]:
    """Status and body of the answer."""
    connection = http.client.HTTPConnection(urlsplit(replica.url).netloc, timeout=60)
    try:
        connection.request(method, path, content, {"Content-Type": "application/json"})
        answered = connection.getresponse()
        return answered.status, answered.read()
    finally:
        connection.close()


class TestAnything:
    @given(any_body)
    @settings(
        max_examples=40,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    def test_is_answered_or_refused(self, two: list[Replica], body: dict[str, Any]) -> None:
        status, answered = ask(
            two[0], "POST", "/v1/responses", json.dumps({**body, "model": "scripted"}).encode()
        )
        if status == 200:
            assert answered
            return
        assert 400 <= status < 500, answered
        error = json.loads(answered)["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        assert error["type"] == "invalid_request_error"

    @given(
        st.sampled_from(["GET", "DELETE"]),
        st.text(max_size=8) | st.binary(max_size=8),
        st.dictionaries(
            st.sampled_from(["stream", "starting_after", "include", "limit"]),
            st.text(max_size=8) | st.integers().map(str) | st.binary(max_size=4),
        ),
    )
    @settings(
        max_examples=40,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    def test_that_is_asked_for_is_unknown(
        self, two: list[Replica], method: str, id: str | bytes, query: dict[str, Any]
    ) -> None:
        path = f"/v1/responses/{quoted(id)}?" + "&".join(
            f"{name}={quoted(value)}" for name, value in query.items()
        )
        status, answered = ask(two[0], method, path)
        assert status in (400, 404, 405), answered
        assert json.loads(answered)["error"].keys() == {"message", "type", "param", "code"}

    @given(
        st.dictionaries(
            st.sampled_from(
                ["after", "limit", "order", "status", "model", "metadata[a]", "metadata["]
            ),
            st.text(max_size=8) | st.binary(max_size=4) | st.sampled_from(["\0", "1_0", "desc"]),
        )
    )
    @settings(
        max_examples=40,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    def test_that_is_listed(self, two: list[Replica], query: dict[str, Any]) -> None:
        text = "&".join(f"{quoted(name)}={quoted(value)}" for name, value in query.items())
        status, answered = ask(two[0], "GET", f"/v1/responses?{text}")
        assert status in (200, 400), answered


class TestLists:
    @pytest.mark.parametrize(
        ("query", "param"),
        [
            ("model=%00", "model"),
            ("after=%00", "after"),
            *((f"limit={odd}", "limit") for odd in ("1_0", "%202", "5.0", "%2B1", "%EF%BC%91")),
        ],
    )
    async def test_odd_queries(self, two: list[Replica], query: str, param: str) -> None:
        status, error = await refusal(two[0], f"/v1/responses?{query}")
        assert (status, error["param"]) == (400, param)


class TestOddTypes:
    @pytest.mark.parametrize(
        ("body", "param"),
        [
            ({"input": [{"role": [], "content": "x"}]}, "input[0].role"),
            ({"input": [{"type": "function_call", "call_id": []}]}, "input[0].call_id"),
            ({"input": [{"role": "user", "content": "x", "id": {}}]}, "input[0].id"),
            (
                {"tools": [{**FUNCTION, "parameters": {"type": "object", "properties": 5}}]},
                "tools[0].parameters",
            ),
            (
                {"tools": [{**FUNCTION, "parameters": {"additionalProperties": True}}]},
                "tools[0].parameters",
            ),
        ],
        ids=["role", "call_id", "id", "properties", "not strict"],
    )
    async def test_are_refused_by_name(
        self, two: list[Replica], body: dict[str, Any], param: str
    ) -> None:
        status, error = await refused_body(two[0], {"model": "scripted", "input": "x", **body})
        assert (status, error["param"]) == (400, param)

    @pytest.mark.parametrize(
        "body",
        [
            {"reasoning": {"_fields_set": 1, "cls": 2, "effort": "low"}},
            {"tools": [{**FUNCTION, "parameters": {"properties": {"a": {"type": "string"}}}}]},
            {"tools": [FUNCTION]},
            {"_items": 1, "model_config": {}, "parse": []},
        ],
        ids=["reasoning", "strict", "no schema", "our own names"],
    )
    async def test_are_no_trouble(self, two: list[Replica], body: dict[str, Any]) -> None:
        response = await create(two[0], "hello", **body)
        assert response["status"] == "completed"
        for name, value in body.items():
            assert response[name] == value


class TestOddText:
    @pytest.mark.parametrize("odd", ["\x00", "a\ud800b", "\udfff", "\u2028", "\\u0000"])
    async def test_is_stored_and_echoed_as_it_is(self, two: list[Replica], odd: str) -> None:
        fields = {
            "instructions": odd,
            "user": odd,
            "prompt_cache_key": odd,
            "unheard_of": {odd: [odd]},
            "metadata": {} if "\ud800" in odd or "\udfff" in odd else {"key" + odd: odd},
        }
        content = json.dumps({"model": "scripted", "input": odd + "x", **fields}).encode()
        status, response = await answer(two[0], "/v1/responses", "POST", content=content)
        assert (status, response["status"]) == (200, "completed")
        found = await retrieve(two[1], response["id"])
        assert found == response
        assert {name: found[name] for name in fields} == fields

    @pytest.mark.parametrize("odd", ["\\u0000", "\\ud800"])
    async def test_in_names_of_things_it_is_unknown(self, two: list[Replica], odd: str) -> None:
        for name, code in (("model", 404), ("previous_response_id", 400)):
            content = b'{"input":"x","%b":"resp_%b"}' % (name.encode(), odd.encode())
            status, error = await refusal(two[0], "/v1/responses", "POST", content=content)
            assert (status, error["param"]) == (code, name)

    async def test_a_name_twice_is_its_last_value(self, two: list[Replica]) -> None:
        content = b'{"model":"scripted","input":"a","input":"b","user":"c","user":"d"}'
        status, response = await answer(two[0], "/v1/responses", "POST", content=content)
        assert (status, response["user"]) == (200, "d")
        assert response["output"][0]["content"][0]["text"] == "b"


class TestCursors:
    @pytest.mark.parametrize("cursor", ["1_0", "5.0", "%201", "%2B1", "1%20", "%EF%BC%91"])
    async def test_only_ascii_digits(self, two: list[Replica], cursor: str) -> None:
        response = await create(two[0], "x")
        path = f"/v1/responses/{response['id']}?stream=true&starting_after={cursor}"
        status, error = await refusal(two[1], path)
        assert (status, error["param"]) == (400, "starting_after")


class TestLarge:
    @pytest.mark.parametrize(
        ("content", "param"),
        [
            (b'{"input":[%b1]}' % (b"1," * 1_000_000), "input"),
            (b'{"input":"x","tools":[%b1]}' % (b"1," * 1_000_000), "tools"),
            (b'{"input":"x","unheard_of":[%b1]}' % (b"[]," * 10_000_000), "unheard_of"),
        ],
        ids=["input", "tools", "unheard_of"],
    )
    async def test_a_body_of_millions_of_values_holds_nobody_up(
        self, two: list[Replica], content: bytes, param: str
    ) -> None:
        """They held the event loop for 5 to 18 seconds."""
        asked = asyncio.create_task(refusal(two[0], "/v1/responses", "POST", content=content))
        slowest = 0.0
        while not asked.done():
            began = time.monotonic()
            await Wire.fetch(f"{two[0].url}/healthz")
            slowest = max(slowest, time.monotonic() - began)
        status, error = await asked
        assert (status, error["param"], error["code"]) == (400, param, "too_many_values")
        assert slowest < 3

    async def test_an_image_is_no_large_number_of_values(self, two: list[Replica]) -> None:
        url = "data:image/png;base64," + "iVBORw0KGgo" * 500_000
        part = [{"type": "input_text", "text": "x"}, {"type": "input_image", "image_url": url}]
        response = await create(two[0], [{"role": "user", "content": part}])
        assert response["status"] == "completed"

    async def test_bodies_have_one_budget(self, tight: Replica) -> None:
        """While it is used up, large requests are asked to come again, and small ones answered."""
        body = {"model": "scripted", "input": "x" * (MAX_BODY_BYTES - 100)}
        content = json.dumps(body).encode()
        headers = {"Content-Type": "application/json", "Content-Length": str(len(content))}
        url = f"{tight.base_url}/responses"
        async with contextlib.AsyncExitStack() as holding:

            async def is_refused() -> bool:
                async with await Wire.open(url, method="POST", json=body) as wire:
                    await wire.rest()
                    if wire.status == 200:
                        return False
                assert (wire.status, wire.headers["retry-after"]) == (503, "1")
                assert json.loads(wire.body)["error"]["code"] == "unavailable"
                return True

            async def is_held() -> bool:
                """Each time anew: if the other was read first, it was this one that was refused."""
                await holding.aclose()
                slow = Wire.open(
                    url, method="POST", headers=headers, content=content[:-1], wait=False
                )
                await holding.enter_async_context(await slow)
                return await is_refused()

            await eventually(is_held)
            assert (await create(tight, "a small one"))["status"] == "completed"

        async def is_answered() -> bool:
            return not await is_refused()

        await eventually(is_answered)
