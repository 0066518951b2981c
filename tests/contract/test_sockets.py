"""WebSocket mode (contract, "WebSocket"): OpenAI's client, the Agents SDK, and odd frames."""

import asyncio
import base64
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from agents import Agent, responses_websocket_session
from openai import AsyncOpenAI, OpenAI
from websockets.exceptions import InvalidStatus

from longrun.access.callers import Scope
from longrun.access.keys import new_key
from longrun.store.keys import Keys, KeyToStore
from tests import servers, storing
from tests.contract.conftest import MAX_BODY_BYTES
from tests.postgres import Server
from tests.reading import (
    Wire,
    create,
    eventually,
    finished,
    metric,
    parse,
    read,
    retrieve,
    script,
    stream_url,
)
from tests.servers import Replica
from tests.sockets import Client, connected, text_of

LONG = {"deltas": 2000, "pause": 0.02}


async def shown(client: Client, **fields: Any) -> list[dict[str, Any]]:
    """What the model was given."""
    event = await client.ask(script(show=True), **fields)
    assert event["type"] == "response.completed", event
    return list(json.loads(text_of(event)))


def said_in(items: list[dict[str, Any]]) -> list[str]:
    """The texts of messages, but for the last, which is the script."""
    texts = []
    for item in items[:-1]:
        content = item["content"]
        texts.append(content if isinstance(content, str) else content[0]["text"])
    return texts


class TestClients:
    async def test_openai_python(self, two: list[Replica]) -> None:
        async with (
            AsyncOpenAI(base_url=two[0].base_url, api_key="none") as client,
            client.responses.connect() as connection,
        ):
            await connection.response.create(model="scripted", input=script(deltas=5))
            events = []
            async for event in connection:
                events.append(event)
                if event.type == "response.completed":
                    break
            assert [e.sequence_number for e in events] == list(range(len(events)))
            first = events[-1].response
            assert first.output_text == "word0 word1 word2 word3 word4 "
            await connection.response.create(
                model="scripted", input="more", previous_response_id=first.id
            )
            async for event in connection:
                if event.type == "response.completed":
                    assert event.response.output_text == "more"
                    assert event.response.previous_response_id == first.id
                    break

    async def test_openai_python_without_asyncio(self, two: list[Replica]) -> None:
        def talk() -> list[str]:
            with (
                OpenAI(base_url=two[0].base_url, api_key="none") as client,
                client.responses.connect() as connection,
            ):
                connection.response.create(model="scripted", input="hello", stream_id="a")
                types = []
                for event in connection:
                    assert event.stream_id == "a"
                    types.append(event.type)
                    if event.type == "response.completed":
                        break
                connection.response.create(model="nobody", input="hello")
                types.append(connection.recv().type)
                return types

        types = await asyncio.to_thread(talk)
        assert types[0] == "response.created"
        assert types[-2:] == ["response.completed", "error"]

    async def test_the_agents_sdk(self, two: list[Replica]) -> None:
        """Its turns are responses here: the second continues the first on one connection."""
        async with responses_websocket_session(api_key="none", base_url=two[0].base_url) as session:
            agent = Agent(name="client", model="scripted")
            first = await session.run(agent, "one")
            assert first.final_output == "one"
            streamed = session.run_streamed(
                agent, script(show=True), previous_response_id=first.last_response_id
            )
            async for _ in streamed.stream_events():
                pass
            assert said_in(json.loads(str(streamed.final_output))) == ["one", "one"]


class TestEvents:
    async def test_they_are_those_of_a_stream(self, two: list[Replica]) -> None:
        async with connected(two[0]) as client:
            await client.create(script(deltas=3, turns=[[["echo", {"text": "x"}]]]))
            events = await client.rest()
        replayed = parse(await read(stream_url(two[1], events[0]["response"]["id"])))
        assert replayed.events == events

    async def test_at_the_root_too(self, two: list[Replica]) -> None:
        async with connected(two[0], path="/responses") as client:
            assert text_of(await client.ask("hello")) == "hello"

    async def test_a_large_one_comes_whole(self, two: list[Replica]) -> None:
        """It is sent in several frames, of one message."""
        async with connected(two[0]) as client:
            await client.create(script(deltas=1, delta="ä" * 200_000), stream_id="large")
            await client.create("small", stream_id="small")
            ended = {}
            while len(ended) < 2:
                event = await client.next()
                if event["type"] == "response.completed":
                    ended[event["stream_id"]] = text_of(event)
            assert ended == {"large": "ä" * 200_000, "small": "small"}

    async def test_a_failed_run_is_no_error(self, two: list[Replica]) -> None:
        async with connected(two[0]) as client:
            event = await client.ask(script(fail=1))
            assert event["type"] == "response.failed"
            assert text_of(await client.ask("and on")) == "and on"


class TestLanes:
    async def test_one_goes_on_beside_the_other(self, two: list[Replica]) -> None:
        async with connected(two[0]) as client:
            await client.create(script(**LONG), stream_id="slow")
            await client.create("quick", stream_id="quick")
            await client.create("default")
            seen: dict[str | None, list[str]] = {}
            while not {"quick", None} <= {
                name for name, types in seen.items() if "response.completed" in types
            }:
                event = await client.next()
                seen.setdefault(event.get("stream_id"), []).append(event["type"])
            assert "response.completed" not in seen["slow"]
            assert seen["slow"][0] == "response.created"

    async def test_in_one_lane_they_come_in_order(self, two: list[Replica]) -> None:
        async with connected(two[0]) as client:
            for text in ("a", "b", "c"):
                await client.create(script(deltas=3, delta=text, pause=0.01), stream_id="x")
            found = [await client.rest() for _ in range(3)]
        assert [text_of(events[-1]) for events in found] == ["aaa", "bbb", "ccc"]
        for events in found:
            assert {event["stream_id"] for event in events} == {"x"}
            assert [event["sequence_number"] for event in events] == list(range(len(events)))

    @pytest.mark.parametrize("name", ["", "with space", "x" * 257, 7, "ü"])
    async def test_names_that_cannot_be(self, two: list[Replica], name: Any) -> None:
        async with connected(two[0]) as client:
            event = await client.ask("hello", stream_id=name)
            assert event["error"]["code"] == "invalid_stream_id"
            assert event["status"] == 400

    async def test_there_are_not_any_number_of_them(self, two: list[Replica]) -> None:
        async with connected(two[0]) as client:
            for n in range(33):
                await client.create("hello", model="nobody", stream_id=f"lane{n}")
            codes = [(await client.next())["error"]["code"] for _ in range(33)]
            assert codes.count("websocket_stream_limit_reached") == 1

    async def test_what_waits_is_bounded(self, two: list[Replica]) -> None:
        async with connected(two[0]) as client:
            await client.create(script(**LONG))
            for _ in range(66):
                await client.create("waits")
            event = await client.error()
            assert (event["status"], event["error"]["code"]) == (429, "websocket_queue_full")
            assert event["error"]["headers"]["retry-after"] == "1"

    async def test_an_error_names_its_lane(self, two: list[Replica]) -> None:
        async with connected(two[0]) as client:
            event = await client.ask("hello", model="nobody", stream_id="x")
        assert event["type"] == "error"
        assert event["status"] == 404
        assert event["stream_id"] == "x"
        assert event["error"]["code"] == "model_not_found"
        assert event["error"]["param"] == "model"


class TestContinuing:
    async def test_a_response_of_elsewhere(self, two: list[Replica]) -> None:
        first = await create(two[1], "by HTTP")
        async with connected(two[0]) as client:
            second = (await client.ask("one", previous_response_id=first["id"]))["response"]["id"]
        async with connected(two[1]) as client:
            items = await shown(client, previous_response_id=second)
        assert said_in(items) == ["by HTTP", "by HTTP", "one", "one"]

    async def test_one_that_is_not_stored_lives_with_its_connection(
        self, two: list[Replica]
    ) -> None:
        async with connected(two[0]) as client, connected(two[0]) as other:
            previous, ids = None, []
            for text in ("one", "two"):
                event = await client.ask(text, store=False, previous_response_id=previous)
                previous = event["response"]["id"]
                ids.append(previous)
            items = await shown(client, store=False, previous_response_id=previous)
            assert said_in(items) == ["one", "one", "two", "two"]
            for response_id in ids:
                async with await Wire.open(f"{two[0].base_url}/responses/{response_id}") as wire:
                    assert wire.status == 404
                event = await other.ask("x", previous_response_id=response_id)
                assert event["status"] == 400
                assert event["error"]["code"] == "previous_response_not_found"
                assert event["error"]["param"] == "previous_response_id"

    async def test_a_chain_that_begins_stored_goes_on_not_stored(self, two: list[Replica]) -> None:
        async with connected(two[0]) as client:
            first = (await client.ask("stored"))["response"]["id"]
            second = await client.ask("held", store=False, previous_response_id=first)
            items = await shown(client, store=False, previous_response_id=second["response"]["id"])
            assert said_in(items) == ["stored", "stored", "held", "held"]

    async def test_a_stored_one_takes_the_held_history_along(self, two: list[Replica]) -> None:
        async with connected(two[0]) as client:
            first = await client.ask("held", store=False)
            second = await client.ask("stored", previous_response_id=first["response"]["id"])
            response_id = second["response"]["id"]
            assert second["response"]["previous_response_id"] == first["response"]["id"]
        async with connected(two[1]) as client:
            items = await shown(client, previous_response_id=response_id)
        assert said_in(items) == ["held", "held", "stored", "stored"]

    async def test_a_tool_of_the_client_is_answered(self, two: list[Replica]) -> None:
        tool = {"type": "function", "name": "mine", "parameters": {"type": "object"}}
        turns = script(turns=[[["mine", {}]]], deltas=1, delta="done")
        async with connected(two[0]) as client:
            event = await client.ask(turns, tools=[tool], store=False)
            [call] = event["response"]["output"]
            output = {"type": "function_call_output", "call_id": call["call_id"], "output": "42"}
            event = await client.ask(
                [output], tools=[tool], store=False, previous_response_id=event["response"]["id"]
            )
            assert text_of(event) == "done"

    async def test_one_that_fails_evicts_it(self, two: list[Replica]) -> None:
        wrong = {"type": "function_call_output", "call_id": "nobody", "output": "x"}
        async with connected(two[0]) as client:
            first = (await client.ask("one", store=False))["response"]["id"]
            event = await client.ask([wrong], store=False, previous_response_id=first)
            assert event["error"]["code"] == "tool_call_not_found"
            event = await client.ask("again", store=False, previous_response_id=first)
            assert event["error"]["code"] == "previous_response_not_found"

            first = (await client.ask("one", store=False))["response"]["id"]
            event = await client.ask(script(fail=0), store=False, previous_response_id=first)
            assert event["type"] == "response.failed"
            event = await client.ask("again", store=False, previous_response_id=first)
            assert event["error"]["code"] == "previous_response_not_found"

    async def test_a_fork_that_fails_leaves_it(self, two: list[Replica]) -> None:
        wrong = {"type": "function_call_output", "call_id": "nobody", "output": "x"}
        async with connected(two[0]) as client:
            first = (await client.ask("one", store=False, stream_id="a"))["response"]["id"]
            event = await client.ask([wrong], previous_response_id=first, stream_id="b")
            assert event["error"]["code"] == "tool_call_not_found"
            for lane in ("b", "a"):
                items = await shown(client, store=False, previous_response_id=first, stream_id=lane)
                assert said_in(items) == ["one", "one"]

    async def test_nothing_is_generated_where_that_is_not_wanted(self, two: list[Replica]) -> None:
        async with connected(two[0]) as client:
            for store in (True, False):
                event = await client.ask("prepared", generate=False, store=store)
                assert event["type"] == "response.completed"
                assert event["response"]["output"] == []
                items = await shown(client, previous_response_id=event["response"]["id"])
                assert said_in(items) == ["prepared"]
            event = await client.ask("x", generate="no")
            assert event["error"]["param"] == "generate"


ODD: dict[str, tuple[str | bytes, int, str]] = {
    "no JSON": ("{", 400, "invalid_json"),
    "no text": ("", 400, "invalid_json"),
    "a list": ("[]", 400, "invalid_event"),
    "binary": (b'{"type": "response.create"}', 400, "invalid_event"),
    "no type": ("{}", 400, "unknown_event_type"),
    "a type of elsewhere": ('{"type": "session.update"}', 400, "unknown_event_type"),
    "a type that is none": ('{"type": {"a": 1}}', 400, "unknown_event_type"),
    "in the background": (
        '{"type": "response.create", "input": "x", "background": true}',
        400,
        "invalid_request",
    ),
    "not streamed": (
        '{"type": "response.create", "input": "x", "stream": false}',
        400,
        "invalid_request",
    ),
    "a wrong type": ('{"type": "response.create", "input": 7}', 400, "invalid_type"),
    "nothing": ('{"type": "response.create"}', 400, "missing_required_parameter"),
}


class TestOddMessages:
    @pytest.mark.parametrize(("said", "status", "code"), ODD.values(), ids=ODD.keys())
    async def test_they_are_told_as_events(
        self, two: list[Replica], said: str | bytes, status: int, code: str
    ) -> None:
        async with connected(two[0]) as client:
            await client.connection.send(said)
            event = await client.next()
            assert event["type"] == "error"
            assert (event["status"], event["error"]["code"]) == (status, code)
            assert event["error"].keys() >= {"type", "code", "message", "param"}
            assert text_of(await client.ask("and on")) == "and on"

    async def test_one_in_many_frames(self, two: list[Replica]) -> None:
        said = json.dumps({"type": "response.create", "model": "scripted", "input": "hällo"})
        async with connected(two[0]) as client:
            await client.connection.send(list(said))
            assert text_of((await client.rest())[-1]) == "hällo"
            await (await client.connection.ping())

    async def test_too_large(self, tight: Replica) -> None:
        async with connected(tight) as client:
            event = await client.ask("x" * MAX_BODY_BYTES)
            assert (event["status"], event["error"]["code"]) == (413, "body_too_large")
            assert await client.close_code() == 1009

    async def test_large_ones_that_wait_share_a_budget(self, tight: Replica) -> None:
        """The first is being answered; of those that wait, the budget has room for one."""
        async with connected(tight) as client:
            await client.create(script(**LONG))
            while (await client.next())["type"] != "response.output_text.delta":
                pass
            for _ in range(3):
                await client.create("x" * 90_000)
            event = await client.error()
            assert event["status"] == 503
        async with connected(tight) as client:
            # What they took was given back.
            event = await client.ask("x" * 90_000)
            assert event["type"] == "response.completed"

    async def test_a_flood_of_them_ends_the_connection(self, two: list[Replica]) -> None:
        async with connected(two[0]) as client:
            for _ in range(200):
                await client.connection.send("{")
            assert await client.close_code() == 1008

    @pytest.mark.parametrize(
        ("frame", "code"),
        [
            (b"\x81\x80\x00\x00\x00\x00" + b"\x80\x80\x00\x00\x00\x00", 1002),
            (b"\x81\x01x", 1002),
            (b"\xf1\x80\x00\x00\x00\x00", 1002),
            (b"\x81\x81\x00\x00\x00\x00\xff", 1007),
            (b"\x88\x80\x00\x00\x00\x00", None),
        ],
        ids=["a part of nothing", "not masked", "reserved bits", "not UTF-8", "close"],
    )
    async def test_frames_that_are_none(
        self, two: list[Replica], frame: bytes, code: int | None
    ) -> None:
        reader, writer = await opened(two[0])
        writer.write(frame)
        said = await asyncio.wait_for(reader.read(), 30)
        at = said.index(b"\x88")
        length = said[at + 1]
        expected = b"" if code is None else code.to_bytes(2, "big")
        assert said[at + 2 : at + 2 + min(length, 2)] == expected
        writer.close()


async def opened(replica: Replica) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A WebSocket as bytes."""
    port = int(replica.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    key = base64.b64encode(os.urandom(16)).decode()
    head = (
        f"GET /v1/responses HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: Upgrade\r\n"
        "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Key: {key}\r\n\r\n"
    )
    writer.write(head.encode())
    answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
    assert answer.startswith(b"HTTP/1.1 101 ")
    return reader, writer


class TestEnds:
    async def test_a_run_goes_on_without_its_connection(self, two: list[Replica]) -> None:
        async with connected(two[0]) as client:
            await client.create(script(deltas=20, pause=0.05))
            response_id = (await client.next())["response"]["id"]
            while client.last["type"] != "response.output_text.delta":
                await client.next()
            seen = client.last["sequence_number"]
        rest = parse(await read(stream_url(two[1], response_id, seen)))
        assert rest.numbers[0] == seen + 1
        assert rest.types[-1] == "response.completed"
        assert (await retrieve(two[1], response_id))["status"] == "completed"

    async def test_one_that_is_not_stored_is_cancelled(self, two: list[Replica]) -> None:
        live = await metric(two[0], "longrun_runs")
        async with connected(two[0]) as client:
            await client.create(script(**LONG), store=False)
            while (await client.next())["type"] != "response.output_text.delta":
                pass
            assert await metric(two[0], "longrun_runs") > live

        async def ended() -> bool:
            return await metric(two[0], "longrun_runs") <= live

        await eventually(ended)

    async def test_one_that_is_deleted_is_told(self, two: list[Replica]) -> None:
        async with connected(two[0]) as client:
            await client.create(script(**LONG), stream_id="x")
            response_id = (await client.next())["response"]["id"]
            url = f"{two[1].base_url}/responses/{response_id}"
            async with await Wire.open(url, method="DELETE") as wire:
                assert wire.status == 200
            event = await client.ended()
            assert (event["type"], event["stream_id"]) in (
                ("error", "x"),
                ("response.failed", "x"),
            )
            assert text_of(await client.ask("and on", stream_id="x")) == "and on"

    async def test_open_ones_are_counted(self, two: list[Replica]) -> None:
        before = await metric(two[1], "longrun_sockets")
        async with connected(two[1]) as client:
            await client.ask("hello")
            assert await metric(two[1], "longrun_sockets") == before + 1

        async def closed() -> bool:
            return await metric(two[1], "longrun_sockets") == before

        await eventually(closed)


@pytest.fixture(scope="module")
def short(database: Server) -> Iterator[Replica]:
    """A replica whose connections have little time, and which has few of them."""
    environment = {
        "LONGRUN_SOCKET_SECONDS": "2",
        "LONGRUN_MAX_SOCKETS": "2",
        "LONGRUN_KEEPALIVE_INTERVAL": "0.2",
        "LONGRUN_SEND_TIMEOUT": "0.5",
    }
    with servers.replicas(1, database.url, schema="sockets", environment=environment) as started:
        yield started[0]


class TestLimits:
    async def test_a_connection_has_its_time(self, short: Replica) -> None:
        async with connected(short) as client:
            await client.create(script(deltas=100, pause=0.05))
            response_id = (await client.next())["response"]["id"]
            event = await client.ended()
            assert event["status"] == 400
            assert event["error"]["code"] == "websocket_connection_limit_reached"
            assert await client.close_code() == 1001
        # Its run goes on.
        assert (await finished(short, response_id))["status"] == "completed"

    async def test_there_may_be_so_many(self, short: Replica) -> None:
        async with connected(short), connected(short):
            with pytest.raises(InvalidStatus) as refused:
                async with connected(short):
                    pass
        answer = refused.value.response
        assert answer.status_code == 503
        assert json.loads(answer.body or b"")["error"]["code"] == "too_many_sockets"
        assert answer.headers["retry-after"] == "5"

    async def test_a_client_that_answers_no_ping_is_gone(self, short: Replica) -> None:
        reader, writer = await opened(short)
        said = await asyncio.wait_for(reader.read(), 1.8)
        assert said.startswith(b"\x89\x00")
        writer.close()

    async def test_one_that_answers_stays(self, short: Replica) -> None:
        async with connected(short) as client:
            await asyncio.sleep(1.2)
            assert text_of(await client.ask("still here")) == "still here"


SCHEMA = "sockets_of_callers"


@pytest.fixture(scope="module")
def guarded(database: Server) -> Iterator[Replica]:
    """A replica with keys, which pages of one other place may call."""
    environment = {
        "LONGRUN_CORS_ORIGINS": "https://app.example",
        "LONGRUN_MAX_PRINCIPAL_STREAMS": "1",
        "LONGRUN_KEY_CACHE_SECONDS": "0",
    }
    with servers.replicas(1, database.url, schema=SCHEMA, environment=environment) as started:
        yield started[0]


@pytest.fixture
async def keys(database: Server, guarded: Replica) -> AsyncIterator[Keys]:
    async with storing.migrated(database.url, SCHEMA) as opened:
        yield Keys(opened)


async def key_of(keys: Keys, principal: str, *scopes: Scope, **limits: Any) -> tuple[str, str]:
    """A key, and the prefix by which it is revoked."""
    key = new_key()
    given = frozenset(scopes or ("read", "write"))
    stored = KeyToStore(key.prefix, key.hash, key.prefix, principal, given, **limits)
    assert await keys.create(stored)
    return key.text, key.prefix


def bearing(key: str, **headers: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}", **headers}


async def refused(replica: Replica, **options: Any) -> tuple[int, dict[str, Any]]:
    """The answer to a WebSocket that is refused."""
    with pytest.raises(InvalidStatus) as caught:
        async with connected(replica, **options):
            pass
    answer = caught.value.response
    assert answer.headers["x-request-id"]
    assert answer.headers["content-type"] == "application/json"
    return answer.status_code, json.loads(answer.body or b"")["error"]


class TestCallers:
    async def test_who_may_not(self, guarded: Replica, keys: Keys) -> None:
        reader, _ = await key_of(keys, "alice", "read")
        expired, _ = await key_of(keys, "alice", expires_in=-1)
        assert (await refused(guarded))[0] == 401
        for key in ("lr_wrong", expired):
            status, error = await refused(guarded, additional_headers=bearing(key))
            assert (status, error["code"]) == (401, "invalid_api_key")
        assert (await refused(guarded, additional_headers=bearing(reader)))[0] == 403
        acting = bearing(reader, **{"longrun-principal": "bob"})
        assert (await refused(guarded, additional_headers=acting))[0] == 403
        assert (await refused(guarded, path="/v1/models", additional_headers=bearing(reader)))[
            0
        ] in (403, 404)

    async def test_nobody_elses_is_continued(self, guarded: Replica, keys: Keys) -> None:
        alice, _ = await key_of(keys, "alice")
        bob, _ = await key_of(keys, "bob")
        async with (
            connected(guarded, additional_headers=bearing(alice)) as hers,
            connected(guarded, additional_headers=bearing(bob)) as his,
        ):
            response_id = (await hers.ask("hello"))["response"]["id"]
            event = await his.ask("x", previous_response_id=response_id)
            assert event["error"]["code"] == "previous_response_not_found"

    async def test_a_key_that_is_revoked_meanwhile(self, guarded: Replica, keys: Keys) -> None:
        key, prefix = await key_of(keys, "carol")
        async with connected(guarded, additional_headers=bearing(key)) as client:
            assert text_of(await client.ask("hello")) == "hello"
            await keys.revoke(prefix)
            event = await client.ask("again")
            assert (event["status"], event["error"]["code"]) == (401, "invalid_api_key")

    async def test_a_page_sends_its_key_as_a_protocol(self, guarded: Replica, keys: Keys) -> None:
        key, _ = await key_of(keys, "dave")
        protocols = ["responses", f"openai-insecure-api-key.{key}"]
        async with connected(
            guarded, origin="https://app.example", subprotocols=protocols
        ) as client:
            assert client.connection.subprotocol == "responses"
            assert text_of(await client.ask("hello")) == "hello"

    async def test_pages_of_elsewhere(self, guarded: Replica, keys: Keys) -> None:
        """Before a WebSocket no browser asks whether its page may, and cookies go along."""
        key, _ = await key_of(keys, "erin")
        own = guarded.url
        for origin in (own, "https://app.example"):
            async with connected(guarded, origin=origin, additional_headers=bearing(key)) as client:
                assert text_of(await client.ask("hello")) == "hello"
        for origin in (
            "https://evil.example",
            "null",
            own + ".evil.example",
            "https://app.example:1",
        ):
            status, error = await refused(guarded, origin=origin, additional_headers=bearing(key))
            assert (status, error["code"]) == (403, "forbidden")

    async def test_limits_hold_for_each_event(self, guarded: Replica, keys: Keys) -> None:
        key, _ = await key_of(keys, "frank", max_requests=2)
        async with connected(guarded, additional_headers=bearing(key)) as client:
            for _ in range(2):
                assert text_of(await client.ask("hello")) == "hello"
            held = await client.ask("hello")
            assert (held["status"], held["error"]["code"]) == (429, "rate_limit_exceeded")
            assert int(held["error"]["headers"]["retry-after"]) > 0

    async def test_its_responses_are_streams(self, guarded: Replica, keys: Keys) -> None:
        key, _ = await key_of(keys, "grace")
        async with connected(guarded, additional_headers=bearing(key)) as client:
            await client.create(script(**LONG), stream_id="a")
            await client.next()
            event = await client.ask("hello", stream_id="b")
            while event.get("stream_id") != "b":
                event = await client.ended()
            assert (event["status"], event["error"]["code"]) == (429, "too_many_streams")

    async def test_a_page_of_elsewhere_on_a_server_without_keys(self, two: list[Replica]) -> None:
        assert (await refused(two[0], origin="https://evil.example"))[0] == 403
        assert (await refused(two[0], path="/v1/elsewhere"))[0] == 404


class TestDrain:
    async def test_connections_end_between_events_and_go_on_elsewhere(
        self, database: Server
    ) -> None:
        """Those with nothing under way at once; the others after the end of their response, or when
        its stream is cut."""
        environment = {"LONGRUN_DRAIN_SECONDS": "2"}
        options: dict[str, Any] = {"schema": "sockets_drained", "environment": environment}
        with servers.replicas(2, database.url, **options) as (first, second):
            async with (
                connected(first) as idle,
                connected(first) as brief,
                connected(first) as busy,
            ):
                await idle.ask("hello")
                await brief.create(script(deltas=10, pause=0.03))
                await busy.create(script(deltas=100, pause=0.05))
                response_id = (await busy.next())["response"]["id"]
                await brief.next()
                while busy.last["type"] != "response.output_text.delta":
                    await busy.next()
                first.signal(signal.SIGTERM)
                ends = [await each.close_code() for each in (idle, brief, busy)]
                assert ends == [1012, 1012, 1012]
                assert brief.last["type"] == "response.completed"
                assert busy.last["type"] != "response.completed"
                seen = busy.last["sequence_number"]
            rest = parse(await read(stream_url(second, response_id, seen)))
            assert rest.numbers[0] == seen + 1
            assert rest.types[-1] == "response.completed"
            assert first.wait() == 0
