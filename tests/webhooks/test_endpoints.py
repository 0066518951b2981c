"""`/webhook_endpoints`, by the client of OpenAI: managed, delivered to, signed for."""

import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import httpx2
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.webhooks import WebhookEndpoint

from tests.reading import eventually, script
from tests.servers import Replica
from tests.webhooks.sink import Received, Sink
from tests.webhooks.test_delivery import background

ALL: list[Any] = [
    "response.completed",
    "response.failed",
    "response.cancelled",
    "response.incomplete",
    "response.action_required",
]


def verifies(received: Received, secret: str) -> bool:
    """Whether the client of OpenAI takes it for signed with a secret."""
    client = OpenAI(api_key="none", webhook_secret=secret)
    try:
        client.webhooks.unwrap(received.body, received.headers)
    except openai.InvalidWebhookSignatureError:
        return False
    return True


@pytest.fixture
async def path(both: list[AsyncOpenAI]) -> AsyncIterator[str]:
    """A path of the sink that no other test uses; endpoints that lead there go at the end."""
    name = f"/{uuid4().hex}"
    yield name
    async for endpoint in both[0].webhooks.list(limit=100):
        await both[0].webhooks.delete(endpoint.id)


async def test_the_client_manages_them(
    both: list[AsyncOpenAI], sink: Sink, path: str, told: list[Replica]
) -> None:
    one, other = both
    url = f"{sink.url}{path}"
    assert (await one.webhooks.event_types.list()).data == ALL
    made = await one.webhooks.create(name="mine", url=url, event_types=ALL[:2])
    assert made.signing_secret.startswith("whsec_")
    assert made.signing_secret_hint == "whsec_****" + made.signing_secret[-4:]
    found = await other.webhooks.retrieve(made.id)
    assert isinstance(found, WebhookEndpoint)
    assert (found.name, found.url, found.event_types) == ("mine", url, ALL[:2])
    assert not hasattr(found, "signing_secret")
    second = await other.webhooks.create(name="second", url=url, event_types=ALL)
    listed = [each.id async for each in one.webhooks.list(limit=1)]
    assert listed == [second.id, made.id], "the newest first, page by page"
    changed = await other.webhooks.update(made.id, name="ours", event_types=ALL[3:1:-1])
    assert (changed.name, changed.url, changed.event_types) == ("ours", url, ALL[2:4])
    gone = await one.webhooks.delete(made.id)
    assert (gone.id, gone.deleted, gone.object) == (made.id, True, "webhook_endpoint.deleted")
    with pytest.raises(openai.NotFoundError):
        await other.webhooks.retrieve(made.id)
    for replica in told:
        assert made.signing_secret not in replica.output()


async def test_each_hears_of_what_it_asked_for(
    both: list[AsyncOpenAI], sink: Sink, path: str
) -> None:
    one, other = both
    for name, types in (("failed", ["response.failed"]), ("all", ALL)):
        made = await one.webhooks.create(
            name=name,
            url=f"{sink.url}{path}-{name}",
            event_types=types,  # type: ignore[arg-type]
        )
    completed = await background(other, input="hello")
    failed = await background(one, input=script(fail=1))
    await eventually(lambda: len(sink.at(f"{path}-all")) == 2)
    await eventually(lambda: len(sink.at(f"{path}-failed")) == 1)
    assert [each.response_id for each in sink.at(f"{path}-failed")] == [failed]
    assert {each.response_id for each in sink.at(f"{path}-all")} == {completed, failed}
    # An event has one id, and each delivery of it its own.
    await eventually(lambda: len(sink.of(failed)) == 1)
    told = [*sink.at(f"{path}-failed"), *sink.of(failed), *sink.of(failed, f"{path}-all")]
    assert len(told) == 3, "these two, and the endpoint of the settings"
    assert len({each.event["id"] for each in told}) == 1
    assert len({each.headers["webhook-id"] for each in told}) == 3
    assert verifies(sink.at(f"{path}-all")[0], made.signing_secret)
    assert not verifies(sink.at(f"{path}-failed")[0], made.signing_secret)


async def test_a_secret_that_was_rotated_may_sign_for_a_day(
    both: list[AsyncOpenAI], sink: Sink, path: str
) -> None:
    one, other = both
    made = await one.webhooks.create(name="n", url=f"{sink.url}{path}", event_types=ALL)
    second = await other.webhooks.rotate_secret(made.id, keep_old_secret_active_for_24_hours=True)
    await background(one, input="hello")
    await eventually(lambda: len(sink.at(path)) == 1)
    for secret in (made.signing_secret, second.signing_secret):
        assert verifies(sink.at(path)[0], secret)
    third = await one.webhooks.rotate_secret(made.id)
    assert len({each.signing_secret for each in (made, second, third)}) == 3
    await background(other, input="hello")
    await eventually(lambda: len(sink.at(path)) == 2)
    signed_by = [verifies(sink.at(path)[1], each.signing_secret) for each in (made, second, third)]
    assert signed_by == [False, False, True]


async def test_rotating_needs_no_body(told: list[Replica], sink: Sink, path: str) -> None:
    async with httpx2.AsyncClient(base_url=told[0].base_url) as client:
        hook = {"name": "n", "url": f"{sink.url}{path}", "event_types": ALL}
        made = (await client.post("/webhook_endpoints", json=hook)).json()
        answer = await client.post(f"/webhook_endpoints/{made['id']}/rotate_secret")
    assert answer.status_code == 200
    assert answer.json()["signing_secret"] != made["signing_secret"]


async def test_a_test_is_sent_at_once_and_tells_the_status(
    both: list[AsyncOpenAI], sink: Sink, path: str
) -> None:
    made = await both[0].webhooks.create(name="n", url=f"{sink.url}{path}", event_types=ALL)
    tested = await both[1].webhooks.test(made.id, event_type="response.failed")
    assert (tested.object, tested.webhook_endpoint_id) == ("webhook_endpoint.test", made.id)
    assert (tested.event_type, tested.status_code, tested.success) == ("response.failed", 200, True)
    [received] = sink.at(path)
    assert received.event["type"] == "response.failed"
    assert verifies(received, made.signing_secret)
    for behaviour, status in ((503, 503), ("redirect", 307)):
        sink.behaviour[path] = behaviour
        tested = await both[0].webhooks.test(made.id, event_type="response.completed")
        assert tested.status_code == status
    sink.behaviour[path] = "break"
    with pytest.raises(openai.BadRequestError) as raised:
        await both[0].webhooks.test(made.id, event_type="response.completed")
    assert raised.value.code == "webhook_endpoint_unreachable"
    assert len(sink.at(path)) == 4, "none of them is tried again"


async def test_unchanged_and_tested_it_is_not_updated(
    both: list[AsyncOpenAI], sink: Sink, path: str
) -> None:
    made = await both[0].webhooks.create(name="n", url=f"{sink.url}{path}", event_types=ALL)
    await eventually(lambda: int(time.time()) > made.created_at)
    same = await both[0].webhooks.update(made.id, name="n", event_types=ALL)
    await both[0].webhooks.test(made.id, event_type="response.completed")
    assert same.updated_at == made.updated_at == made.created_at
    other = await both[0].webhooks.update(made.id, name="m")
    assert other.updated_at is not None
    assert other.updated_at > made.created_at


@pytest.mark.parametrize(
    ("said", "param"),
    [
        ({"url": "ftp://hook.example/"}, "url"),
        ({"url": "hook.example"}, "url"),
        ({"url": "https://user:password@hook.example/"}, "url"),
        ({"url": "https://hook.example/#fragment"}, "url"),
        ({"url": "http://10.0.0.1/"}, "url"),
        ({"url": "http://169.254.169.254/latest/meta-data"}, "url"),
        ({"url": "http://[::ffff:10.0.0.1]/"}, "url"),
        ({"url": "http://[fe80::1]/"}, "url"),
        ({"url": "https://hook.example/" + "a" * 2048}, "url"),
        ({"url": "https://hook.example/\0"}, "url"),
        ({"url": 1}, "url"),
        ({"event_types": []}, "event_types"),
        ({"event_types": ["batch.completed"]}, "event_types[0]"),
        ({"event_types": "response.completed"}, "event_types"),
        ({"name": ""}, "name"),
        ({"name": None}, "name"),
    ],
)
async def test_what_cannot_be_is_refused(
    told: list[Replica], said: dict[str, Any], param: str
) -> None:
    hook = {"name": "n", "url": "https://hook.example/", "event_types": ALL, **said}
    async with httpx2.AsyncClient(base_url=told[0].base_url) as client:
        answer = await client.post("/webhook_endpoints", json=hook)
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == param
        assert (await client.get("/webhook_endpoints")).json()["data"] == []


async def test_one_that_hangs_holds_up_no_other(
    both: list[AsyncOpenAI], sink: Sink, path: str
) -> None:
    sink.behaviour[f"{path}-hangs"] = "hang"
    for name in ("hangs", "answers"):
        await both[0].webhooks.create(name=name, url=f"{sink.url}{path}-{name}", event_types=ALL)
    made = {await background(both[n % 2], input="hello") for n in range(24)}
    await eventually(
        lambda: {each.response_id for each in sink.at(f"{path}-answers")} == made, timeout=10
    )
    assert len(sink.at(f"{path}-answers")) == len(made)
    assert 0 < len(sink.at(f"{path}-hangs")) < len(made)


async def test_one_that_is_gone_is_disabled_until_it_is_changed(
    both: list[AsyncOpenAI], told: list[Replica], sink: Sink, path: str
) -> None:
    sink.behaviour[path] = 410
    made = await both[0].webhooks.create(name="n", url=f"{sink.url}{path}", event_types=ALL)
    await background(both[0], input="hello")

    async def is_disabled() -> bool:
        found = await both[1].webhooks.retrieve(made.id)
        return found.to_dict()["status"] == "disabled"

    await eventually(is_disabled)
    later = await background(both[1], input="hello")
    await eventually(lambda: len(sink.of(later)) == 1)
    assert len(sink.at(path)) == 1, "nothing more is posted to it"
    text = "".join(httpx2.get(replica.url + "/metrics").text for replica in told)
    assert 'longrun_webhook_deliveries_total{outcome="gone"} 1.0' in text
    assert f"webhook endpoint {made.id} is disabled" in "".join(each.output() for each in told)
    del sink.behaviour[path]
    changed = await both[1].webhooks.update(made.id, url=f"{sink.url}{path}")
    assert changed.to_dict()["status"] == "enabled"
    last = await background(both[0], input="hello")
    await eventually(lambda: len(sink.of(last, path)) == 1)


async def test_what_is_for_one_that_was_deleted_is_dropped(
    both: list[AsyncOpenAI], sink: Sink, path: str
) -> None:
    sink.behaviour[path] = 500
    made = await both[0].webhooks.create(name="n", url=f"{sink.url}{path}", event_types=ALL)
    await background(both[0], input="hello")
    await eventually(lambda: len(sink.at(path)) >= 1)
    await both[1].webhooks.delete(made.id)
    later = await background(both[0], input="hello")
    await eventually(lambda: len(sink.of(later)) == 1)
    assert later not in {each.response_id for each in sink.at(path)}
