"""Limits of principals and keys, over two replicas: 429, and how the answers say what is left."""

import json
import re
import secrets
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI
from openai._models import FinalRequestOptions

from longrun.access.keys import new_key
from longrun.store.keys import Keys, KeyToStore
from tests import servers, storing
from tests.postgres import Server
from tests.reading import Wire, eventually, script
from tests.servers import Replica

SCHEMA = "limits"

REQUESTS, OTHERS, TOKENS, STREAMS = 12, 40, 100, 3

USES = 15
"""Tokens of a run of one turn."""


@pytest.fixture(scope="module")
def limited(database: Server) -> Iterator[list[Replica]]:
    """Two replicas that allow little."""
    environment = {
        "LONGRUN_MAX_PRINCIPAL_REQUESTS_PER_MINUTE": str(REQUESTS),
        "LONGRUN_MAX_PRINCIPAL_OTHER_REQUESTS_PER_MINUTE": str(OTHERS),
        "LONGRUN_MAX_PRINCIPAL_TOKENS_PER_DAY": str(TOKENS),
        "LONGRUN_MAX_PRINCIPAL_STREAMS": str(STREAMS),
        "LONGRUN_DRAIN_SECONDS": "0",
    }
    with servers.replicas(2, database.url, schema=SCHEMA, environment=environment) as started:
        yield started


@pytest.fixture
async def store(database: Server, limited: list[Replica]) -> AsyncIterator[Keys]:
    async with storing.migrated(database.url, SCHEMA) as opened:
        yield Keys(opened)


async def key_of(store: Keys, principal: str | None = None, **limits: Any) -> str:
    """A key of a principal that no other test uses."""
    key, name = new_key(), f"p{secrets.token_hex(6)}"
    scopes = limits.pop("scopes", frozenset({"read", "write"}))
    await store.create(KeyToStore(key.prefix, key.hash, name, principal or name, scopes, **limits))
    return key.text


async def call(
    replica: Replica, method: str, path: str, key: str, body: Any = None, **headers: str
) -> httpx2.Response:
    headers = {"authorization": f"Bearer {key}"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    async with httpx2.AsyncClient(base_url=replica.base_url, timeout=30) as client:
        return await client.request(method, path, json=body, headers=headers)


async def create(replica: Replica, key: str, input: str = "hello", **more: Any) -> httpx2.Response:
    headers = more.pop("headers", {})
    body = {"model": "scripted", "input": input, **more}
    return await call(replica, "POST", "/responses", key, body, **headers)


def said(answer: httpx2.Response, what: str) -> tuple[int, int, str]:
    names = ("limit", "remaining", "reset")
    limit, remaining, reset = (answer.headers[f"x-ratelimit-{name}-{what}"] for name in names)
    return int(limit), int(remaining), reset


class TestRequests:
    async def test_of_both_replicas_together(self, limited: list[Replica], store: Keys) -> None:
        key = await key_of(store)
        refused: httpx2.Response | None = None
        allowed = 0
        while refused is None:
            # Not JSON: it counts all the same, and costs no tokens.
            answer = await create(limited[allowed % 2], key, input="x", metadata=3)
            if answer.status_code == 429:
                refused = answer
            else:
                assert answer.status_code == 400
                assert said(answer, "requests")[0] == REQUESTS
                allowed += 1
        assert REQUESTS <= allowed <= REQUESTS + 2 * 2 + 5
        error = refused.json()["error"]
        assert (error["type"], error["code"]) == ("requests", "rate_limit_exceeded")
        assert said(refused, "requests")[:2] == (REQUESTS, 0)
        assert re.fullmatch(r"(\dm)?[\d.]+s", said(refused, "requests")[2])
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert refused.headers["x-request-id"]
        # Others are not held up, and what is not a request for a run counts by itself.
        assert (await create(limited[0], await key_of(store))).is_success
        assert (await call(limited[0], "GET", "/models", key)).is_success

    async def test_other_requests_by_themselves(self, limited: list[Replica], store: Keys) -> None:
        key = await key_of(store)
        answers = [await call(limited[0], "GET", "/models", key) for _ in range(OTHERS + 10)]
        refused = [answer for answer in answers if answer.status_code == 429]
        assert refused
        assert all(answer.is_success for answer in answers[:OTHERS])
        assert refused[0].json()["error"]["code"] == "rate_limit_exceeded"
        assert "x-ratelimit-limit-requests" not in refused[0].headers
        assert (await create(limited[0], key)).is_success

    async def test_of_a_key_whomever_it_acts_for(self, limited: list[Replica], store: Keys) -> None:
        key = await key_of(store, "site", max_requests=2)
        first, second, third = [
            await create(limited[0], key, headers={"longrun_principal": f"site/{user}"})
            for user in range(3)
        ]
        assert [said(each, "requests")[:2] for each in (first, second)] == [(2, 1), (2, 0)]
        assert third.status_code == 429

    async def test_principals_below_have_no_limit_of_their_own(
        self, limited: list[Replica], store: Keys
    ) -> None:
        key = await key_of(store, "upper")
        answers = [
            await create(limited[0], key, metadata=3, headers={"longrun_principal": f"upper/{n}"})
            for n in range(REQUESTS + 4)
        ]
        assert 429 in {answer.status_code for answer in answers}

    async def test_the_sdk_is_told_how_long_to_wait(
        self, limited: list[Replica], store: Keys
    ) -> None:
        key = await key_of(store, max_requests=1)
        async with AsyncOpenAI(base_url=limited[0].base_url, api_key=key, max_retries=0) as client:
            raw = await client.responses.with_raw_response.create(model="scripted", input="hello")
            assert raw.headers["x-ratelimit-remaining-requests"] == "0"
            with pytest.raises(openai.RateLimitError) as raised:
                await client.responses.create(model="scripted", input="hello")
            assert raised.value.code == "rate_limit_exceeded"
            options = FinalRequestOptions.construct(method="post", url="/responses")
            waits = client._calculate_retry_timeout(2, options, raised.value.response.headers)
            assert 50 < waits <= 60


class TestLiveOnes:
    async def test_those_of_principals_below_count_too(
        self, limited: list[Replica], store: Keys
    ) -> None:
        """Any number of them could be live, each for another principal."""
        key = await key_of(store, "crowd", max_runs=2)
        held = json.dumps({"hold": 60})
        answers = [
            await create(
                limited[n % 2],
                key,
                input=held,
                background=True,
                headers={"longrun_principal": f"crowd/{n}"},
            )
            for n in range(3)
        ]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert answers[2].json()["error"]["code"] == "too_many_runs"
        for n in range(2):
            path = f"/responses/{answers[n].json()['id']}/cancel"
            await call(limited[0], "POST", path, key, longrun_principal=f"crowd/{n}")


class TestTokens:
    async def test_of_a_day_on_any_replica(self, limited: list[Replica], store: Keys) -> None:
        key = await key_of(store, max_tokens=2 * USES)
        for n in range(2):
            answer = await create(limited[n], key)
            assert answer.json()["usage"]["total_tokens"] == USES
            limit, remaining, reset = said(answer, "tokens")
            # As it was when the response was created.
            assert (limit, remaining) == (2 * USES, (2 - n) * USES)
            assert re.fullmatch(r"(\d+h)?(\d+m)?\d+s", reset)
        refused = await create(limited[0], key)
        assert refused.status_code == 429
        error = refused.json()["error"]
        assert (error["type"], error["code"]) == ("tokens", "rate_limit_exceeded")
        assert said(refused, "tokens")[:2] == (2 * USES, 0)
        assert refused.headers["x-should-retry"] == "false"
        assert 0 < int(refused.headers["retry-after"]) <= 86_400
        # What there is may still be read.
        assert (await call(limited[1], "GET", "/responses", key)).is_success

    async def test_all_keys_of_a_principal_have_one_count(
        self, limited: list[Replica], store: Keys
    ) -> None:
        first = await key_of(store, "shared")
        second = await key_of(store, "shared", max_tokens=USES)
        third = await key_of(store, "shared/user")
        assert (await create(limited[0], first)).is_success
        assert (await create(limited[1], second)).status_code == 429
        assert said(await create(limited[1], first), "tokens")[:2] == (TOKENS, TOKENS - USES)
        assert said(await create(limited[1], third), "tokens")[1] == TOKENS

    async def test_those_that_act_for_others_pay_too(
        self, limited: list[Replica], store: Keys
    ) -> None:
        key = await key_of(store, "payer", max_tokens=2 * USES)
        answers = [
            await create(limited[0], key, headers={"longrun_principal": f"payer/{n}"})
            for n in range(3)
        ]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        own = await key_of(store, "payer/0")
        assert said(await create(limited[0], own), "tokens")[1] == TOKENS - USES

    async def test_compactions_are_paid_for(self, limited: list[Replica], store: Keys) -> None:
        key = await key_of(store, max_tokens=2 * USES)
        body = {"model": "scripted", "input": "hello"}
        for n in range(2):
            answer = await call(limited[n], "POST", "/responses/compact", key, body)
            assert answer.json()["usage"]["total_tokens"] == USES
            assert said(answer, "tokens")[:2] == (2 * USES, (2 - n) * USES)
        assert (await create(limited[0], key)).status_code == 429
        refused = await call(limited[1], "POST", "/responses/compact", key, body)
        assert refused.status_code == 429
        assert refused.json()["error"]["type"] == "tokens"

    async def test_cancelled_and_deleted_ones_are_paid_for(
        self, limited: list[Replica], store: Keys
    ) -> None:
        key = await key_of(store, max_tokens=USES)
        held = script(turns=[[["echo", {"text": "x"}]]], hold=60)
        made = await create(limited[0], key, input=held, background=True)
        path = f"/responses/{made.json()['id']}"

        async def has_a_turn() -> bool:
            return bool((await call(limited[0], "GET", path, key)).json()["output"])

        await eventually(has_a_turn, every=0.3)
        assert (await call(limited[1], "DELETE", path, key)).is_success
        assert (await create(limited[0], key)).status_code == 429


class TestStreams:
    async def test_so_many_are_open_at_once(self, limited: list[Replica], store: Keys) -> None:
        key = await key_of(store)
        held = script(hold=60)
        made = (await create(limited[0], key, input=held, background=True)).json()["id"]
        url, headers = f"{limited[0].base_url}/responses", {"authorization": f"Bearer {key}"}
        body = {"model": "scripted", "input": held, "stream": True}
        opened = [await Wire.open(url, method="POST", json=body, headers=headers)]
        for _ in range(STREAMS - 1):
            opened.append(await Wire.open(f"{url}/{made}?stream=true", headers=headers))
        for wire in opened:
            await wire.more()
            assert wire.status == 200
        for refused in (
            await create(limited[0], key, stream=True),
            await call(limited[0], "GET", f"/responses/{made}?stream=true", key),
        ):
            assert refused.status_code == 429
            assert refused.json()["error"]["code"] == "too_many_streams"
        listed = (await call(limited[0], "GET", "/responses", key)).json()["data"]
        assert len(listed) == 2, "a refused stream created a response"
        opened.pop().close()

        async def has_room() -> bool:
            url_of_one = f"{url}/{made}?stream=true"
            async with await Wire.open(url_of_one, headers=headers) as wire:
                await wire.more()
                return wire.status == 200

        await eventually(has_room, every=0.5)
        for wire in opened:
            wire.close()
        await call(limited[0], "POST", f"/responses/{made}/cancel", key)


class TestAQueueThatIsFull:
    async def test_leaves_room_for_the_first_of_another(
        self, database: Server, schema: str
    ) -> None:
        """One principal's responses filled it, and nobody else could create any."""
        environment = {"LONGRUN_MAX_RUNS": "1", "LONGRUN_MAX_QUEUED": "2"}
        environment["LONGRUN_DRAIN_SECONDS"] = "0"
        async with storing.migrated(database.url, schema) as opened:
            keys = [await key_of(Keys(opened)) for _ in range(4)]
        with servers.replicas(1, database.url, schema=schema, environment=environment) as (one,):
            held = json.dumps({"hold": 60})
            statuses = [
                (await create(one, keys[0], input=held, background=True)).status_code
                for _ in range(4)
            ]
            assert statuses == [200, 200, 200, 429]
            others = [
                [(await create(one, key, background=True)).status_code for _ in range(2)]
                for key in keys[1:]
            ]
            # Twice the limit at most.
            assert others == [[200, 429], [200, 429], [429, 429]]


async def test_keys_are_listed_with_their_limits(limited: list[Replica], store: Keys) -> None:
    await key_of(store, "listed", max_runs=1, max_requests=2, max_tokens=3)
    [found] = [each for each in await store.all() if each["principal"] == "listed"]
    assert (found["max_runs"], found["max_requests"], found["max_tokens"]) == (1, 2, 3)
    new = new_key()
    assert await store.rotate(found["name"], new.prefix, new.hash, 0)
    kept = await store.find(new.prefix)
    assert kept is not None
    assert (kept.max_runs, kept.max_requests, kept.max_tokens) == (1, 2, 3)
