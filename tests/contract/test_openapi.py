"""What the server answers is what its `/openapi.json` says, errors and streams included."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from openai.types.conversations import Conversation
from openai.types.responses import InputTokenCountResponse, Response, ResponseStreamEvent
from openai.types.webhooks import WebhookEndpoint, WebhookEndpointWithSecret
from pydantic import TypeAdapter

from tests.openapi import Judge
from tests.reading import script
from tests.servers import Replica

UNKNOWN = "resp_" + "0" * 32
STREAM_EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


class Caller:
    """Calls a replica, and has the document judge each answer."""

    def __init__(self, client: httpx2.AsyncClient, judge: Judge) -> None:
        self._client = client
        self.judge = judge
        self.asked: set[tuple[str, int]] = set()

    async def __call__(self, method: str, path: str, status: int = 200, **more: Any) -> Any:
        answer = await self._client.request(method, path, **more)
        assert answer.status_code == status, answer.text
        media_type = answer.headers.get("content-type", "")
        problem = self.judge.problem(method, path, status, media_type, answer.text)
        assert problem is None, problem
        assert answer.headers["x-request-id"]
        operation = self.judge.operation(method, path)
        self.asked.add((operation["operationId"] if operation else "unknown", status))
        return answer.json() if "json" in media_type else answer.text


@pytest.fixture
async def call(two: list[Replica]) -> AsyncIterator[Caller]:
    async with httpx2.AsyncClient(base_url=two[0].url, timeout=30) as client:
        document = (await client.get("/openapi.json")).json()
        yield Caller(client, Judge(document))


async def test_each_endpoint_answers_as_it_says(call: Caller) -> None:
    conversation = await call("POST", "/conversations", json={"metadata": {"a": "b"}})
    Conversation.model_validate(conversation, strict=True)
    on = f"/conversations/{conversation['id']}"
    message = {"role": "user", "content": "hello"}
    added = await call("POST", f"{on}/items", json={"items": [message, {"type": "new", "x": 1}]})
    body = {"input": "hello", "model": "scripted"}
    whole = {
        **body,
        "background": True,
        "input": script(turns=[[["echo", {"text": "a"}]]]),
        "conversation": conversation["id"],
        "text": {"format": {"type": "text"}, "verbosity": None},
        "reasoning": {"effort": "of the future"},
        "tools": [{"type": "function", "name": "mine"}, {"type": "web_search"}],
        "metadata": {"k": "v"},
        "truncation": "auto",
        "unheard_of": {"x": [1]},
    }
    started = await call("POST", "/v1/responses", json=whole)
    path = f"/responses/{started['id']}"
    events = await call("GET", f"{path}?stream=true")
    ended = await call("GET", path)
    assert ended["status"] == "completed"
    Response.model_validate({**ended, "reasoning": None})
    for line in events.splitlines():
        if line.startswith("data: {"):
            STREAM_EVENT.validate_python(
                json.loads(line[6:].replace('"of the future"', '"high"')), strict=False
            )
    last = events.rpartition("id: ")[2].partition("\n")[0]
    await call("GET", path, 204, headers={"last-event-id": last})
    await call("GET", f"{path}/failure", 403)
    await call("POST", f"{path}/cancel")
    late = await call("POST", f"{path}/steer", 400, json={"input": "too late"})
    assert late["error"]["code"] == "response_already_completed"
    holding = {**body, "background": True, "input": script(hold=60)}
    live = f"/responses/{(await call('POST', '/responses', json=holding))['id']}"
    await call("POST", f"{live}/steer", json={"input": "more"}, headers={"idempotency-key": "k"})
    await call("DELETE", live)
    await call("GET", f"{path}/input_items?limit=1&order=asc")
    await call("GET", "/responses?limit=100&status=completed&metadata[k]=v")
    await call("GET", "/runs?limit=100&status=completed,failed&metadata[k]=v&q=echo")
    await call("GET", f"/runs/{started['id']}")
    await call("GET", f"/runs/{started['id']}/steps")
    await call("GET", "/system")
    await call("POST", f"{path}/stream_token")
    await call("POST", "/chat_tokens", json={"model": "scripted", "user": "u"})
    await call("POST", "/responses", json={**body, "stream": True})
    await call("POST", "/responses", json={**body, "input": script(fail=0)})
    calls = [[["echo", {"text": "a"}], ["echo", {"text": "b"}]]]
    short = {**body, "input": script(turns=calls), "max_tool_calls": 1}
    assert (await call("POST", "/responses", json=short))["status"] == "incomplete"
    await call("POST", on, json={"metadata": {}})
    await call("GET", on)
    await call("GET", f"{on}/items")
    item = f"{on}/items/{added['first_id']}"
    await call("GET", item)
    await call("DELETE", item)
    await call("DELETE", path)
    await call("DELETE", on)
    hook = {"name": "n", "url": "https://1.1.1.1/", "event_types": ["response.failed"]}
    await call("GET", "/webhook_event_types")
    endpoint = await call("POST", "/webhook_endpoints", json=hook)
    WebhookEndpointWithSecret.model_validate(endpoint, strict=True)
    one = f"/webhook_endpoints/{endpoint['id']}"
    WebhookEndpoint.model_validate(await call("GET", one), strict=True)
    await call("GET", "/webhook_endpoints?limit=1")
    await call("POST", one, json={"name": "m", "url": None})
    await call("POST", f"{one}/rotate_secret")
    # Whether something answers there is not asked: this replica may post to none of its own.
    await call("POST", f"{one}/test", 400, json={"event_type": "response.unheard_of"})
    await call("DELETE", one)
    compacted = await call("POST", "/responses/compact", json=body)
    assert compacted["output"][-1]["type"] == "compaction"
    counted = await call("POST", "/responses/input_tokens", json=body)
    InputTokenCountResponse.model_validate(counted, strict=True)
    await call("GET", "/models")
    await call("GET", "/models/scripted")
    for public in ("/", "/healthz", "/readyz", "/metrics", "/openapi.json"):
        await call("GET", public)
    asked = {name for name, _ in call.asked}
    there = {
        operation["operationId"]
        for item in call.judge.document["paths"].values()
        for method, operation in item.items()
        if method != "servers"
    }
    assert {each for each in there - asked if not each.startswith("get_console_")} == set()


@pytest.mark.parametrize(
    ("method", "path", "status", "more"),
    [
        ("GET", f"/responses/{UNKNOWN}", 404, {}),
        ("GET", f"/responses/{UNKNOWN}?stream=maybe", 400, {}),
        ("GET", f"/responses/{UNKNOWN}?starting_after=-0", 400, {}),
        ("GET", "/responses?limit=0", 400, {}),
        ("GET", "/runs?status=lost", 400, {}),
        ("GET", "/models/nobodys", 404, {}),
        ("GET", "/webhook_endpoints?limit=0", 400, {}),
        ("GET", "/webhook_endpoints/we_1", 404, {}),
        ("POST", "/webhook_endpoints", 400, {"json": {"name": "n"}}),
        ("GET", "/nothing", 404, {}),
        ("PATCH", "/responses", 405, {}),
        ("POST", "/responses", 400, {"json": {}}),
        ("POST", "/responses", 404, {"json": {"input": "a", "model": "nobodys"}}),
        ("POST", "/responses", 404, {"json": {"input": "a", "conversation": ""}}),
        ("POST", "/responses", 415, {"content": b"{}"}),
        ("POST", "/responses", 403, {"json": {}, "headers": {"origin": "https://a.example"}}),
        ("GET", "/responses", 431, {"headers": {f"x-{n}": "a" * 8000 for n in range(20)}}),
        ("POST", "/conversations", 400, {"json": {"items": [{"type": "function_call"}]}}),
        ("POST", "/chat_tokens", 400, {"json": {"model": "scripted"}}),
    ],
)
async def test_errors_are_in_it(
    call: Caller, method: str, path: str, status: int, more: dict[str, Any]
) -> None:
    await call(method, path, status, **more)
