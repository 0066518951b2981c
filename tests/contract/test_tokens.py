"""Tokens for browsers: one that reads one response, and one that runs one agent."""

import time
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI

from longrun.access.stream_tokens import StreamTokens
from longrun.store.keys import Keys
from tests.contract.test_access import (
    Callers,
    call,
    callers,
    created,
    guarded,
    store,
)
from tests.reading import Wire, eventually
from tests.servers import Replica

__all__ = ["callers", "guarded", "store"]


async def token_of(replica: Replica, response_id: str, key: str) -> str:
    answer = await call(replica, "POST", f"/responses/{response_id}/stream_token", key)
    assert answer.status_code == 200, answer.text
    assert answer.json()["expires_at"] - time.time() == pytest.approx(300, abs=60)
    return str(answer.json()["token"])


class TestStreamTokens:
    async def test_any_replica_takes_one_for_its_response(
        self, guarded: list[Replica], callers: Callers
    ) -> None:
        theirs = await created(guarded[0], callers.keys["owner"])
        token = await token_of(guarded[0], theirs, callers.keys["reader"])
        for replica in guarded:
            url = f"/responses/{theirs}?token={token}"
            assert (await call(replica, "GET", url, "")).json()["id"] == theirs
            text = (await call(replica, "GET", f"{url}&stream=true", "")).text
            assert text.endswith("data: [DONE]\n\n")
            assert token not in replica.output()

    async def test_and_for_nothing_else(self, guarded: list[Replica], callers: Callers) -> None:
        owner = callers.keys["owner"]
        theirs, another = await created(guarded[0], owner), await created(guarded[0], owner)
        token = await token_of(guarded[0], theirs, owner)
        for method, path in (
            ("GET", f"/responses/{another}?token={token}"),
            ("GET", f"/responses/{theirs}/input_items?token={token}"),
            ("GET", f"/responses?token={token}"),
            ("DELETE", f"/responses/{theirs}?token={token}"),
            ("POST", f"/responses/{theirs}/cancel?token={token}"),
            ("POST", f"/responses/{theirs}/stream_token?token={token}"),
            ("GET", f"/responses/{theirs}?token={token}x"),
            ("GET", f"/responses/{theirs}?token=a.b"),
        ):
            assert (await call(guarded[1], method, path, "")).status_code == 401, path

    async def test_only_for_what_is_ones_own(
        self, guarded: list[Replica], callers: Callers
    ) -> None:
        theirs = await created(guarded[0], callers.keys["owner"])
        path = f"/responses/{theirs}/stream_token"
        assert (await call(guarded[0], "POST", path, callers.keys["other"])).status_code == 404
        assert (await call(guarded[0], "POST", path, callers.keys["writer"])).status_code == 403

    async def test_an_old_one_is_refused(
        self, guarded: list[Replica], callers: Callers, store: Keys
    ) -> None:
        theirs = await created(guarded[0], callers.keys["owner"])
        token = await StreamTokens(store, -1).issue(theirs, "alice")
        answer = await call(guarded[0], "GET", f"/responses/{theirs}?token={token.text}", "")
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "token_expired"

    async def test_an_open_stream_goes_on(
        self, guarded: list[Replica], callers: Callers, store: Keys
    ) -> None:
        script = '{"deltas": 40, "pause": 0.1}'
        theirs = await created(guarded[0], callers.keys["owner"], input=script, background=True)
        token = await StreamTokens(store, 2).issue(theirs, "alice")
        url = f"{guarded[1].base_url}/responses/{theirs}?stream=true&token={token.text}"
        async with await Wire.open(url) as wire:
            read = bytes(await wire.rest())
        assert time.time() > token.expires_at
        assert read.rpartition(b"event: ")[2].startswith(b"response.completed")


class TestChatTokens:
    async def chat_token(self, replica: Replica, key: str, **more: Any) -> dict[str, Any]:
        body = {"model": "scripted", "user": "visitor", **more}
        answer = await call(replica, "POST", "/chat_tokens", key, body)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def test_a_page_runs_one_agent_for_one_user(
        self, guarded: list[Replica], callers: Callers
    ) -> None:
        owner = callers.keys["owner"]
        made = await self.chat_token(guarded[0], owner, max_runs=2)
        other = await self.chat_token(guarded[0], owner, user="somebody")
        assert made["principal"] == "alice/visitor"
        async with AsyncOpenAI(
            base_url=guarded[1].base_url, api_key=made["token"], max_retries=0
        ) as page:
            assert [model.id for model in (await page.models.list()).data] == ["scripted"]
            response = await page.responses.create(input="hello")
            assert response.model == "scripted"
            with pytest.raises(openai.NotFoundError):
                await page.responses.create(model="chain", input="hello")
            await page.responses.create(input="hello", previous_response_id=response.id)
            with pytest.raises(openai.PermissionDeniedError) as raised:
                await page.responses.create(input="hello")
            assert raised.value.code == "no_runs_left"
            assert (await page.responses.retrieve(response.id)).id == response.id
        path = f"/responses/{response.id}"
        assert (await call(guarded[0], "GET", path, other["token"])).status_code == 404
        assert (await call(guarded[0], "GET", path, owner)).status_code == 404
        as_visitor = {"longrun-principal": "alice/visitor"}
        assert (await call(guarded[0], "GET", path, owner, None, as_visitor)).is_success
        for kind in ("other", "reader"):
            answer = await call(guarded[0], "GET", path, callers.keys[kind], None, as_visitor)
            assert answer.status_code == (200 if kind == "reader" else 403)

    async def test_it_makes_no_others_and_acts_for_nobody(
        self, guarded: list[Replica], callers: Callers
    ) -> None:
        made = await self.chat_token(guarded[0], callers.keys["owner"])
        body = {"model": "scripted", "user": "another"}
        answer = await call(guarded[0], "POST", "/chat_tokens", made["token"], body)
        assert answer.status_code == 403
        below = {"longrun-principal": "alice/visitor/below"}
        answer = await call(guarded[0], "GET", "/responses", made["token"], None, below)
        assert answer.status_code == 403

    async def test_it_ends(self, guarded: list[Replica], callers: Callers) -> None:
        made = await self.chat_token(guarded[0], callers.keys["owner"], expires_in=1)

        async def refused() -> bool:
            return (await call(guarded[0], "GET", "/models", made["token"])).status_code == 401

        await eventually(refused, timeout=10)

    @pytest.mark.parametrize(
        ("body", "status", "param"),
        [
            ({"user": "a"}, 400, "model"),
            ({"model": "scripted"}, 400, "user"),
            ({"model": "nobody", "user": "a"}, 404, "model"),
            ({"model": "scripted", "user": "a/b"}, 400, "user"),
            ({"model": "scripted", "user": ""}, 400, "user"),
            ({"model": "scripted", "user": "a", "expires_in": 86_401}, 400, "expires_in"),
            ({"model": "scripted", "user": "a", "max_runs": 0}, 400, "max_runs"),
            ({"model": "scripted", "user": "a", "max_runs": "3"}, 400, "max_runs"),
            ([], 400, None),
        ],
    )
    async def test_what_cannot_be(
        self,
        guarded: list[Replica],
        callers: Callers,
        body: Any,
        status: int,
        param: str | None,
    ) -> None:
        answer = await call(guarded[0], "POST", "/chat_tokens", callers.keys["owner"], body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)

    async def test_one_whose_principal_would_be_too_long(
        self, guarded: list[Replica], callers: Callers, store: Keys
    ) -> None:
        await callers.make(store, "long", "a" * 150, "read write")
        body = {"model": "scripted", "user": "b" * 50}
        answer = await call(guarded[0], "POST", "/chat_tokens", callers.keys["long"], body)
        error = answer.json()["error"]
        assert (answer.status_code, error["param"]) == (400, "user")
        assert "at most 200 characters" in error["message"]

    async def test_a_reader_gets_none(self, guarded: list[Replica], callers: Callers) -> None:
        body = {"model": "scripted", "user": "a"}
        answer: httpx2.Response = await call(
            guarded[0], "POST", "/chat_tokens", callers.keys["reader"], body
        )
        assert answer.status_code == 403
