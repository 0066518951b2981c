"""`Idempotency-Key`: a request that is sent again, to any replica, is the request that was sent."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI

from longrun.access.keys import new_key
from longrun.store.keys import Keys, KeyToStore
from tests import servers, storing
from tests.postgres import Server
from tests.reading import Wire, check_complete, eventually, parse, script
from tests.servers import Replica

SCHEMA = "idempotency"

RUNS = 80
"""Requests for a run that are allowed in a minute."""

RETRY_WINDOW = 1.0

TOOL = [[["echo", {"text": "once"}]]]


@pytest.fixture(scope="module")
def effects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("effects") / "effects"
    path.touch()
    return path


@pytest.fixture(scope="module")
def pair(database: Server, effects: Path) -> Iterator[list[Replica]]:
    """Two replicas that note what their tools do."""
    environment = {
        "EFFECTS": str(effects),
        "LONGRUN_MAX_PRINCIPAL_REQUESTS_PER_MINUTE": str(RUNS),
        "LONGRUN_KEEPALIVE_INTERVAL": "0.3",
        "LONGRUN_CORS_ORIGINS": "https://app.example",
        "LONGRUN_RETRY_WINDOW": str(RETRY_WINDOW),
    }
    with servers.replicas(2, database.url, schema=SCHEMA, environment=environment) as started:
        yield started


@pytest.fixture
async def store(database: Server, pair: list[Replica]) -> AsyncIterator[Keys]:
    async with storing.migrated(database.url, SCHEMA) as opened:
        yield Keys(opened)


async def key_of(store: Keys, principal: str | None = None, **more: Any) -> str:
    """An API key of a principal that no other test uses."""
    key, name = new_key(), f"p{secrets.token_hex(6)}"
    scopes = frozenset({"read", "write"})
    await store.create(KeyToStore(key.prefix, key.hash, name, principal or name, scopes, **more))
    return key.text


@pytest.fixture
async def clients(pair: list[Replica], store: Keys) -> AsyncIterator[list[AsyncOpenAI]]:
    """A client of each replica, of one principal of this test's own."""
    key = await key_of(store)
    made = [AsyncOpenAI(base_url=each.base_url, api_key=key, max_retries=0) for each in pair]
    yield made
    for client in made:
        await client.close()


def done(effects: Path, what: str) -> int:
    """How often a tool did this."""
    return effects.read_text().splitlines().count(f"tool {what}")


async def create(client: AsyncOpenAI, key: str | None, input: Any, **more: Any) -> Any:
    headers = {} if key is None else {"Idempotency-Key": key}
    return await client.responses.create(
        model=more.pop("model", "scripted"), input=input, extra_headers=headers, **more
    )


async def events_of(stream: Any) -> list[dict[str, Any]]:
    return [event.to_dict() async for event in stream]


class TestTheSame:
    async def test_plain_again_is_the_same_response(
        self, clients: list[AsyncOpenAI], effects: Path
    ) -> None:
        said = script(turns=[[["echo", {"text": "again"}]]])
        first = await create(clients[0], "k", said)
        for client in reversed(clients):
            again = await create(client, "k", said)
            assert again.to_dict() == first.to_dict()
        assert done(effects, "again") == 1
        assert (await create(clients[1], "other", said)).id != first.id
        assert (await create(clients[1], None, said)).id != first.id

    async def test_streamed_and_plain_are_one(self, clients: list[AsyncOpenAI]) -> None:
        said = script(deltas=4)
        first = await events_of(await create(clients[0], "k", said, stream=True))
        again = await events_of(await create(clients[1], "k", said, stream=True))
        assert again == first
        plain = await create(clients[1], "k", said)
        assert plain.to_dict() == first[-1]["response"]
        assert (await create(clients[0], "k", said, stream=False)).id == plain.id

    async def test_a_stream_attaches_from_its_start_while_the_first_is_under_way(
        self, clients: list[AsyncOpenAI], effects: Path
    ) -> None:
        said = script(turns=[[["echo", {"text": "attached"}]]], deltas=20, pause=0.05)
        first = await create(clients[0], "k", said, stream=True)
        begun = [await anext(aiter(first)) for _ in range(4)]
        whole = await asyncio.gather(
            *(_events(client, "k", said) for client in (*clients, *clients)),
        )
        plain = await create(clients[1], "k", said)
        rest = await events_of(first)
        own = [event.to_dict() for event in begun] + rest
        assert all(each == own for each in whole)
        assert [event["sequence_number"] for event in own] == list(range(len(own)))
        assert plain.to_dict() == own[-1]["response"]
        assert done(effects, "attached") == 1

    async def test_frames_are_those_of_a_post(
        self, pair: list[Replica], clients: list[AsyncOpenAI]
    ) -> None:
        headers = {"Authorization": f"Bearer {clients[0].api_key}", "Idempotency-Key": "k"}
        body = {"model": "scripted", "input": "hello", "stream": True}
        bodies = []
        for replica in pair:
            url = f"{replica.base_url}/responses"
            async with await Wire.open(url, method="POST", json=body, headers=headers) as wire:
                bodies.append(bytes(await wire.rest()))
            check_complete(wire.body, with_ids=False)
        assert parse(bodies[0]).events == parse(bodies[1]).events

    async def test_in_the_background(self, clients: list[AsyncOpenAI]) -> None:
        said = script(deltas=3, hold=1.0)
        first = await create(clients[0], "k", said, background=True)
        assert first.status in ("queued", "in_progress")
        again = await create(clients[1], "k", said, background=True)
        assert again.id == first.id
        whole = await events_of(await create(clients[1], "k", said, background=True, stream=True))
        assert whole[-1]["type"] == "response.completed"
        ended = await create(clients[0], "k", said, background=True)
        assert ended.to_dict() == whole[-1]["response"]

    async def test_fifty_at_once_are_one(self, clients: list[AsyncOpenAI], effects: Path) -> None:
        said = script(turns=[[["echo", {"text": "fifty"}]]])
        answers = await asyncio.gather(
            *(
                create(clients[n % 2], "k", said)
                if n % 4 < 2
                else _events(clients[n % 2], "k", said)
                for n in range(50)
            )
        )
        plain = [each.to_dict() for each in answers if not isinstance(each, list)]
        plain += [each[-1]["response"] for each in answers if isinstance(each, list)]
        assert all(each == plain[0] for each in plain)
        assert plain[0]["status"] == "completed"
        assert done(effects, "fifty") == 1

    async def test_the_same_however_it_is_written(
        self, pair: list[Replica], clients: list[AsyncOpenAI]
    ) -> None:
        """White space, the order of members, escapes, nulls, and how the answer is to come."""
        said = {"model": "scripted", "input": "é", "metadata": {"a": "1", "b": "2"}}
        texts = [
            json.dumps(said),
            json.dumps(dict(reversed(said.items())), indent=3, ensure_ascii=False),
            json.dumps(said | {"metadata": {"b": "2", "a": "1"}, "temperature": None}),
            json.dumps(said | {"stream": False, "stream_options": None}),
        ]
        headers = {
            "authorization": f"Bearer {clients[0].api_key}",
            "idempotency-key": "k",
            "content-type": "application/json",
        }
        ids = set()
        async with httpx2.AsyncClient(base_url=pair[0].base_url) as client:
            for text in texts:
                answer = await client.post("/responses", content=text.encode(), headers=headers)
                assert answer.status_code == 200, answer.text
                ids.add(answer.json()["id"])
        assert len(ids) == 1

    async def test_a_chain_and_a_conversation(self, clients: list[AsyncOpenAI]) -> None:
        """What the first one has locked, or continued, does not refuse it the second time."""
        conversation = await clients[0].conversations.create()
        said = script(deltas=4, pause=0.1)
        on = {"conversation": conversation.id}
        both = await asyncio.gather(*(create(client, "k", said, **on) for client in clients))
        assert both[0].to_dict() == both[1].to_dict()
        assert (await create(clients[0], "k", said, **on)).id == both[0].id
        items = [item async for item in clients[0].conversations.items.list(conversation.id)]
        assert len(items) == 2
        chained = {"previous_response_id": both[0].id}
        next_ = await create(clients[1], "next", "more", **chained)
        await clients[0].responses.delete(both[0].id)
        assert (await create(clients[0], "next", "more", **chained)).id == next_.id


async def _events(client: AsyncOpenAI, key: str, input: Any, **more: Any) -> list[dict[str, Any]]:
    return await events_of(await create(client, key, input, stream=True, **more))


class TestAnother:
    @pytest.mark.parametrize(
        "other",
        [
            {"input": "another"},
            {"metadata": {"a": "b"}},
            {"background": True},
            {"store": False},
            {"model": "chain"},
            {"unknown": 1},
        ],
        ids=lambda other: next(iter(other)),
    )
    async def test_body_is_a_422(self, clients: list[AsyncOpenAI], other: dict[str, Any]) -> None:
        first = await create(clients[0], "k", "one")
        body = {"input": "one", "extra_body": other}
        for stream in (False, True):
            with pytest.raises(openai.UnprocessableEntityError) as refused:
                await create(clients[1], "k", stream=stream, **body)
            error = refused.value
            assert error.code == "idempotency_key_reused"
            assert error.param == "Idempotency-Key"
            assert error.type == "invalid_request_error"
        assert (await create(clients[1], "k", "one")).id == first.id

    async def test_principal_has_keys_of_its_own(
        self, pair: list[Replica], clients: list[AsyncOpenAI], store: Keys
    ) -> None:
        """Nobody finds out by a key what another one has sent, nor that it was sent."""
        first = await create(clients[0], "order 1", "mine")
        for said in ("mine", "a guess"):
            key = await key_of(store)
            async with AsyncOpenAI(base_url=pair[1].base_url, api_key=key) as other:
                found = await create(other, "order 1", said)
                assert found.id != first.id
                with pytest.raises(openai.NotFoundError):
                    await other.responses.retrieve(first.id)
        assert (await create(clients[1], "order 1", "mine")).id == first.id

    @pytest.mark.parametrize("key", ["", " ", "x" * 256, "é", "a\tb"])
    async def test_key_that_is_none(
        self, pair: list[Replica], clients: list[AsyncOpenAI], key: str
    ) -> None:
        body = {"model": "scripted", "input": "x"}
        head = [
            b"POST /v1/responses HTTP/1.1",
            b"Host: localhost",
            b"Authorization: Bearer " + clients[0].api_key.encode(),
            b"Content-Type: application/json",
            b"Content-Length: %d" % len(json.dumps(body)),
            b"Idempotency-Key: " + key.encode("latin-1"),
        ]
        error = await self._refused(pair[0], head, body)
        assert "Idempotency-Key" in error["message"]
        assert error["param"] == "Idempotency-Key"

    async def test_key_twice(self, pair: list[Replica], clients: list[AsyncOpenAI]) -> None:
        body = {"model": "scripted", "input": "x"}
        head = [
            b"POST /v1/responses HTTP/1.1",
            b"Host: localhost",
            b"Authorization: Bearer " + clients[0].api_key.encode(),
            b"Content-Type: application/json",
            b"Content-Length: %d" % len(json.dumps(body)),
            b"Idempotency-Key: a",
            b"Idempotency-Key: b",
        ]
        assert "once" in (await self._refused(pair[0], head, body))["message"]

    async def _refused(self, replica: Replica, head: list[bytes], body: Any) -> dict[str, Any]:
        port = int(replica.url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"\r\n".join(head) + b"\r\n\r\n" + json.dumps(body).encode())
        async with asyncio.timeout(10):
            answer = await reader.readuntil(b"}}")
        writer.close()
        assert answer.startswith(b"HTTP/1.1 400 ")
        return dict(json.loads(answer.partition(b"\r\n\r\n")[2])["error"])

    async def test_the_longest_key(self, clients: list[AsyncOpenAI]) -> None:
        key = " !~".join(["x" * 126] * 2)
        assert len(key) == 255
        ids = {(await create(client, key, "x")).id for client in clients}
        assert len(ids) == 1


class TestWhatIsRemembered:
    async def test_after_the_response_was_deleted_it_is_not_made_again(
        self, clients: list[AsyncOpenAI], effects: Path
    ) -> None:
        said = script(turns=[[["echo", {"text": "deleted"}]]])
        first = await create(clients[0], "k", said)
        await clients[0].responses.delete(first.id)
        for stream in (False, True):
            with pytest.raises(openai.NotFoundError) as refused:
                await create(clients[1], "k", said, stream=stream)
            assert first.id in refused.value.message
        assert done(effects, "deleted") == 1

    async def test_what_is_refused_is_not_remembered(self, clients: list[AsyncOpenAI]) -> None:
        for wrong in ({"previous_response_id": "resp_none"}, {"metadata": 3}):
            with pytest.raises(openai.BadRequestError):
                await create(clients[0], "k", "x", extra_body=wrong)
        assert (await create(clients[1], "k", "x")).status == "completed"

    async def test_a_failed_one_is(self, clients: list[AsyncOpenAI]) -> None:
        said = script(deltas=3, fail=1)
        first = await create(clients[0], "k", said)
        assert first.status == "failed"
        assert (await create(clients[1], "k", said)).to_dict() == first.to_dict()

    async def test_one_that_is_not_to_be_stored(
        self, clients: list[AsyncOpenAI], effects: Path
    ) -> None:
        """It can be read by its key alone, and goes a minute after its end."""
        said = script(turns=[[["echo", {"text": "unstored"}]]])
        first = await create(clients[0], "k", said, store=False)
        again = await create(clients[1], "k", said, store=False)
        assert again.to_dict() == first.to_dict()
        stream = await _events(clients[1], "k", said, store=False)
        assert stream[-1]["response"] == first.to_dict()
        assert done(effects, "unstored") == 1
        with pytest.raises(openai.NotFoundError):
            await clients[0].responses.retrieve(first.id)

    async def test_it_costs_no_run_of_a_minute(self, clients: list[AsyncOpenAI]) -> None:
        """Also when there is none left; a new one is refused then, and is not remembered."""
        first = await create(clients[0], "k", "x")
        left = []
        for n in range(40):
            answer = await clients[n % 2].responses.with_raw_response.create(
                model="scripted", input="x", extra_headers={"Idempotency-Key": "k"}
            )
            assert answer.parse().id == first.id
            left.append(int(answer.headers["x-ratelimit-remaining-requests"]))
        assert min(left) >= RUNS - 4
        refused = None
        async with asyncio.timeout(30):
            while refused is None:
                try:
                    await create(clients[0], None, "x", extra_body={"metadata": 3})
                except openai.RateLimitError as error:
                    refused = error
                except openai.BadRequestError:
                    pass
        with pytest.raises(openai.RateLimitError):
            await create(clients[0], "new", "x")
        assert (await create(clients[0], "k", "x")).id == first.id

    async def test_it_costs_no_run_of_a_chat_token(self, pair: list[Replica], store: Keys) -> None:
        key = await key_of(store, agent="scripted", runs=2, expires_in=60)
        ids = set()
        async with (
            AsyncOpenAI(base_url=pair[0].base_url, api_key=key, max_retries=0) as one,
            AsyncOpenAI(base_url=pair[1].base_url, api_key=key, max_retries=0) as two,
        ):
            said = script(deltas=3, pause=0.1)
            for asked in (await asyncio.gather(*(create(each, "k", said) for each in (one, two))),):
                ids |= {each.id for each in asked}
            ids |= {(await create(each, "k", said)).id for each in (one, two)}
            assert len(ids) == 1
            await create(one, "second", "x")
            with pytest.raises(openai.PermissionDeniedError):
                await create(one, "third", "x")
            assert (await create(two, "k", said)).id in ids


class TestClientsThatGo:
    @pytest.mark.parametrize("stream", [True, False], ids=["stream", "plain"])
    async def test_a_run_that_may_be_asked_for_again_is_not_ended_with_its_client(
        self, pair: list[Replica], clients: list[AsyncOpenAI], effects: Path, stream: bool
    ) -> None:
        text = f"dropped {stream}"
        said = script(turns=[[["echo", {"text": text}]]], deltas=10, pause=0.1)
        headers = {"Authorization": f"Bearer {clients[0].api_key}", "Idempotency-Key": "k"}
        body = {"model": "scripted", "input": said, "stream": stream}
        url = f"{pair[0].base_url}/responses"
        async with await Wire.open(url, method="POST", json=body, headers=headers, wait=stream):
            await eventually(lambda: done(effects, text) == 1)
        again = await create(clients[1], "k", said)
        assert again.status == "completed"
        assert done(effects, text) == 1

    async def test_one_that_nobody_comes_back_for_is_ended(
        self, pair: list[Replica], clients: list[AsyncOpenAI]
    ) -> None:
        """Not as long as one connection of two waits for it, on the other replica."""
        said = script(deltas=1000, pause=0.1)
        headers = {"Authorization": f"Bearer {clients[0].api_key}", "Idempotency-Key": "k"}
        body = {"model": "scripted", "input": said, "stream": True}
        wires = [
            await Wire.open(f"{each.base_url}/responses", method="POST", json=body, headers=headers)
            for each in pair
        ]
        for wire in wires:
            await wire.until(lambda body: b"word0" in body)
        id_ = parse(wires[0].body).events[0]["response"]["id"]
        wires[1].close()
        # Three times the window, of events.
        before = wires[0].frames
        await wires[0].until(lambda _: wires[0].frames > before + 30 * RETRY_WINDOW)
        assert (await clients[1].responses.retrieve(id_)).status == "in_progress"
        wires[0].close()

        async def cancelled() -> bool:
            return (await clients[1].responses.retrieve(id_)).status == "cancelled"

        await eventually(cancelled)


async def test_pages_may_send_it(pair: list[Replica]) -> None:
    async with httpx2.AsyncClient(base_url=pair[0].base_url) as client:
        answer = await client.options(
            "/responses",
            headers={
                "origin": "https://app.example",
                "access-control-request-method": "POST",
                "access-control-request-headers": "idempotency-key,content-type",
            },
        )
    assert answer.status_code == 200
    assert "idempotency-key" in answer.headers["access-control-allow-headers"].lower()


async def test_openapi_has_it(pair: list[Replica]) -> None:
    async with httpx2.AsyncClient(base_url=pair[0].url) as client:
        said = (await client.get("/openapi.json")).json()["paths"]["/responses"]["post"]
    assert "idempotency-key" in {each["name"] for each in said["parameters"]}
    assert "422" in said["responses"]
    assert "409" not in said["responses"]
