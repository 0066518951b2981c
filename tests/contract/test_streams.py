"""What a stream is: its events, its frames, its end, its heartbeats, its cursors."""

import asyncio
import json
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import TypeAdapter

from tests.reading import (
    DONE,
    KEEPALIVE,
    TERMINAL,
    Wire,
    check_complete,
    create,
    delete,
    event_models,
    finished,
    frames_alone,
    in_background,
    parse,
    read,
    rest_of,
    script,
    stream_url,
)
from tests.servers import Replica

PARALLEL = [[["echo", {"text": "a"}], ["echo", {"text": "b"}]], [["echo", {"text": "c"}]]]
SCRIPTS: dict[str, dict[str, Any]] = {
    "one turn": {"model": "scripted", "input": script(deltas=4)},
    "parallel tools": {"model": "scripted", "input": script(turns=PARALLEL, deltas=4)},
    "handoff": {"model": "chain", "input": script(turns=[[["transfer_to_scripted", {}]]])},
    "no deltas": {"model": "scripted", "input": script(deltas=0)},
    "failure of a model": {"model": "scripted", "input": script(deltas=4, fail=2)},
    "failure of a tool": {"model": "scripted", "input": script(turns=[[["broken", {}]]])},
    "odd characters": {
        "model": "scripted",
        "input": script(turns=[[["odd", {"kind": k}] for k in ("nul", "emoji", "lines")]]),
    },
}


@pytest.fixture(params=SCRIPTS.values(), ids=SCRIPTS.keys())
def request_body(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The body of a request, of each kind of run there is."""
    return dict(request.param)


def response_id_of(body: bytes | bytearray) -> str:
    return str(parse(body).events[0]["response"]["id"])


async def post_stream(replica: Replica, **body: Any) -> bytes:
    """`POST /responses` with `stream`; the whole body."""
    url = f"{replica.base_url}/responses"
    async with await Wire.open(url, method="POST", json={**body, "stream": True}) as wire:
        await wire.rest()
        assert wire.status == 200, bytes(wire.body)
        assert wire.complete
        return frames_alone(wire.body)


def test_the_models_of_all_events_are_known() -> None:
    assert len(event_models()) >= 58
    assert event_models().keys() >= TERMINAL


class TestOnTheWire:
    async def test_a_post_stream_is_whole_and_without_ids(
        self, two: list[Replica], request_body: dict[str, Any]
    ) -> None:
        check_complete(await post_stream(two[0], **request_body), with_ids=False)

    async def test_a_get_stream_is_whole_and_with_ids(
        self, two: list[Replica], request_body: dict[str, Any]
    ) -> None:
        response_id = response_id_of(await post_stream(two[0], **request_body))
        for replica in two:
            check_complete(await read(stream_url(replica, response_id)), with_ids=True)

    async def test_both_carry_the_same_events(
        self, two: list[Replica], request_body: dict[str, Any]
    ) -> None:
        posted = parse(await post_stream(two[0], **request_body))
        response_id = posted.events[0]["response"]["id"]
        got = parse(await read(stream_url(two[1], response_id)))
        assert [frame.data for frame in got.frames] == [frame.data for frame in posted.frames]

    async def test_every_event_fits_the_union_of_openai(
        self, two: list[Replica], request_body: dict[str, Any]
    ) -> None:
        union: TypeAdapter[Any] = TypeAdapter(openai.types.responses.ResponseStreamEvent)
        for frame in parse(await post_stream(two[0], **request_body)).frames:
            assert union.validate_json(frame.data, strict=True).type == frame.type

    async def test_the_terminal_snapshot_is_what_a_poll_shows(
        self, two: list[Replica], request_body: dict[str, Any]
    ) -> None:
        last = parse(await post_stream(two[0], **request_body)).events[-1]
        assert await finished(two[1], last["response"]["id"]) == last["response"]

    async def test_what_was_not_streamed_can_be_replayed(
        self, two: list[Replica], request_body: dict[str, Any]
    ) -> None:
        async with await Wire.open(
            f"{two[0].base_url}/responses", method="POST", json=request_body
        ) as wire:
            await wire.rest()
            response = json.loads(wire.body)
        reading = check_complete(await read(stream_url(two[1], response["id"])), with_ids=True)
        assert reading.events[-1]["response"] == response

    async def test_headers_keep_proxies_from_buffering(self, two: list[Replica]) -> None:
        url = f"{two[0].base_url}/responses"
        body = {"input": "hi", "stream": True}
        async with await Wire.open(url, method="POST", json=body) as posted:
            await posted.rest()
        get = stream_url(two[1], response_id_of(posted.body))
        async with await Wire.open(get) as got:
            await got.rest()
        for wire in (posted, got):
            assert wire.headers["content-type"].startswith("text/event-stream")
            assert wire.headers["cache-control"] == "no-cache"
            assert wire.headers["x-accel-buffering"] == "no"

    async def test_browsers_are_told_when_to_come_back(self, two: list[Replica]) -> None:
        """In the first frame, whatever it is; and where there is EventSource, on GET streams."""
        response_id = (await create(two[0], "hi"))["id"]
        for after in (None, 2):
            async with await Wire.open(stream_url(two[1], response_id, after)) as got:
                await got.rest()
            assert got.body.startswith(b"retry: 1000\nevent: ")
            assert got.body.count(b"retry: ") == 1
        async with await Wire.open(
            f"{two[0].base_url}/responses", method="POST", json={"input": "hi", "stream": True}
        ) as posted:
            await posted.rest()
        assert b"retry: " not in posted.body

    async def test_the_same_at_the_root(self, two: list[Replica]) -> None:
        body = {"input": "hi", "stream": True}
        async with await Wire.open(f"{two[0].url}/responses", method="POST", json=body) as wire:
            await wire.rest()
        check_complete(wire.body, with_ids=False)
        response_id = response_id_of(wire.body)
        at_root = await read(f"{two[1].url}/responses/{response_id}?stream=true")
        assert at_root == await read(stream_url(two[1], response_id))

    async def test_a_background_stream_is_live(self, two: list[Replica]) -> None:
        url = f"{two[0].base_url}/responses"
        body = {"input": script(deltas=1000, pause=0.1), "stream": True, "background": True}
        async with await Wire.open(url, method="POST", json=body) as wire:
            await wire.until(lambda body: b"word3" in body)
            response = parse(wire.body).events[0]["response"]
            assert response["background"] is True
            assert response["status"] == "in_progress"
        await delete(two[0], response["id"])

    async def test_items_keep_their_identity_and_nothing_is_left_open(
        self, two: list[Replica], request_body: dict[str, Any]
    ) -> None:
        events = parse(await post_stream(two[0], **request_body)).events
        added = [e for e in events if e["type"] == "response.output_item.added"]
        done = {e["output_index"]: e for e in events if e["type"] == "response.output_item.done"}
        assert [e["output_index"] for e in added] == list(range(len(added)))
        for event in added:
            end = done[event["output_index"]]
            assert end["item"]["id"] == event["item"]["id"]
            assert end["item"]["type"] == event["item"]["type"]
            assert end["item"].get("call_id") == event["item"].get("call_id")
        lifecycle = [e["response"]["id"] for e in events if "response" in e]
        assert len(set(lifecycle)) == 1
        assert "__fake_id__" not in json.dumps(events)


class TestThroughTheClient:
    @pytest.mark.parametrize("background", [False, True])
    async def test_create_with_stream(
        self, clients: list[AsyncOpenAI], request_body: dict[str, Any], background: bool
    ) -> None:
        stream = await clients[0].responses.create(
            **request_body, stream=True, background=background
        )
        events = [event async for event in stream]
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert events[0].type == "response.created"
        assert events[-1].type in TERMINAL
        assert events[-1].response.background is background

    @pytest.mark.parametrize("name", ["one turn", "parallel tools", "handoff", "no deltas"])
    async def test_the_strict_stream_helper(self, clients: list[AsyncOpenAI], name: str) -> None:
        async with clients[0].responses.stream(**SCRIPTS[name]) as stream:
            events = [event async for event in stream]
            final = await stream.get_final_response()
        found = await clients[1].responses.retrieve(final.id)
        assert final.output_text == found.output_text
        assert [item.to_dict()["id"] for item in final.output] == [
            item.to_dict()["id"] for item in found.output
        ]
        text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
        assert text == found.output_text

    def test_the_strict_stream_helper_of_the_synchronous_client(self, two: list[Replica]) -> None:
        with (
            OpenAI(base_url=two[0].base_url, api_key="none", max_retries=0) as first,
            OpenAI(base_url=two[1].base_url, api_key="none", max_retries=0) as second,
        ):
            with first.responses.stream(**SCRIPTS["parallel tools"]) as stream:
                seen = [event.sequence_number for event in stream]
                final = stream.get_final_response()
            assert seen == list(range(len(seen)))
            with second.responses.stream(response_id=final.id, starting_after=5) as stream:
                assert [event.sequence_number for event in stream] == seen[6:]
                assert stream.get_final_response().output_text == final.output_text
            with second.responses.retrieve(final.id, stream=True, starting_after=5) as replay:
                assert [event.sequence_number for event in replay] == seen[6:]

    @pytest.mark.parametrize("name", ["one turn", "parallel tools", "handoff"])
    async def test_the_helper_resumes_on_the_other_replica(
        self, clients: list[AsyncOpenAI], name: str
    ) -> None:
        response = await clients[0].responses.create(**SCRIPTS[name])
        async with clients[1].responses.stream(response_id=response.id, starting_after=4) as stream:
            numbers = [event.sequence_number async for event in stream]
            final = await stream.get_final_response()
        assert numbers[0] == 5
        assert numbers == list(range(5, 5 + len(numbers)))
        assert final.output_text == response.output_text

    async def test_the_helper_resumes_a_live_run(
        self, two: list[Replica], clients: list[AsyncOpenAI]
    ) -> None:
        response_id = await in_background(two[0], deltas=10, pause=0.1)
        async with clients[1].responses.stream(response_id=response_id, starting_after=6) as stream:
            numbers = [event.sequence_number async for event in stream]
            final = await stream.get_final_response()
        assert numbers == list(range(7, 7 + len(numbers)))
        assert final.output_text == "".join(f"word{n} " for n in range(10))

    async def test_retrieve_with_a_cursor(
        self, clients: list[AsyncOpenAI], request_body: dict[str, Any]
    ) -> None:
        stream = await clients[0].responses.create(**request_body, stream=True)
        events = [event async for event in stream]
        replay = await clients[1].responses.retrieve(
            events[0].response.id, stream=True, starting_after=2
        )
        assert [event.to_dict() async for event in replay] == [e.to_dict() for e in events[3:]]

    async def test_a_lone_surrogate_passes_through(self, clients: list[AsyncOpenAI]) -> None:
        """Legal JSON, though neither pydantic nor Postgres's jsonb would take it."""
        given = script(turns=[[["odd", {"kind": "surrogate"}]]])
        stream = await clients[0].responses.create(model="scripted", input=given, stream=True)
        events = [event async for event in stream]
        assert events[-1].type == "response.completed"
        assert events[-1].response.output[0].output == "a\ud800b"
        replay = await clients[1].responses.retrieve(events[-1].response.id, stream=True)
        assert [event.to_dict() async for event in replay] == [e.to_dict() for e in events]

    async def test_tool_results_come_when_they_are_there(self, clients: list[AsyncOpenAI]) -> None:
        """Not only when the slowest of the parallel tools has ended."""
        turns = [[["echo", {"text": "slow", "pause": 1.0}], ["echo", {"text": "fast"}]]]
        stream = await clients[0].responses.create(
            model="scripted", input=script(turns=turns), stream=True
        )
        outputs = [
            event.item.output
            async for event in stream
            if event.type == "response.output_item.done" and event.item.type == "mcp_call"
        ]
        assert outputs == ["echo: fast", "echo: slow"]


class TestCursors:
    async def test_zero_is_after_event_zero_and_nothing_is_from_the_start(
        self, two: list[Replica]
    ) -> None:
        response = await create(two[0], script(deltas=3))
        whole = parse(await read(stream_url(two[1], response["id"])))
        assert whole.numbers[0] == 0
        after_zero = parse(await read(stream_url(two[1], response["id"], 0)))
        assert after_zero.numbers == whole.numbers[1:]

    @pytest.mark.parametrize("beyond", [0, 1, 1000, 2**53, 2**63 - 1])
    async def test_at_or_past_the_end_of_a_finished_one_there_is_only_done(
        self, two: list[Replica], beyond: int
    ) -> None:
        response = await create(two[0], script(deltas=3))
        last = parse(await read(stream_url(two[0], response["id"]))).numbers[-1]
        cursor = min(last + beyond, 2**63 - 1)
        for replica in two:
            assert await read(stream_url(replica, response["id"], cursor)) == DONE

    async def test_past_the_end_of_a_live_one_it_waits_for_what_comes_later(
        self, two: list[Replica]
    ) -> None:
        response_id = await in_background(two[0], deltas=30, pause=0.1)
        bodies = [
            asyncio.create_task(read(stream_url(replica, response_id, cursor)))
            for replica in two
            for cursor in (20, 25, 10_000)
        ]
        whole = await read(stream_url(two[0], response_id))
        frames = check_complete(whole, with_ids=True).frames
        for body, cursor in zip(bodies, (20, 25, 10_000) * 2, strict=True):
            assert await body == rest_of(frames, cursor)

    async def test_last_event_id_means_the_same_and_wins_over_the_query(
        self, two: list[Replica]
    ) -> None:
        response = await create(two[0], script(deltas=3))
        url = stream_url(two[1], response["id"])
        whole = parse(await read(url))
        without_query = f"{two[1].base_url}/responses/{response['id']}"
        for given in (url, stream_url(two[1], response["id"], 1), without_query):
            body = await read(given, headers={"Last-Event-ID": "4"})
            assert parse(body).numbers == whole.numbers[5:]

    async def test_last_event_id_at_or_past_the_end_stops_an_event_source(
        self, two: list[Replica]
    ) -> None:
        response = await create(two[0], script(deltas=3))
        last = parse(await read(stream_url(two[0], response["id"]))).numbers[-1]
        for replica in two:
            for seen in (last, last + 1, 2**60):
                async with await Wire.open(
                    stream_url(replica, response["id"]), headers={"Last-Event-ID": str(seen)}
                ) as wire:
                    await wire.rest()
                    assert (wire.status, bytes(wire.body)) == (204, b"")

    async def test_last_event_id_of_a_live_one_waits(self, two: list[Replica]) -> None:
        response_id = await in_background(two[0], deltas=15, pause=0.1)
        body = await read(stream_url(two[1], response_id), headers={"Last-Event-ID": "1000"})
        assert body == DONE
        assert (await finished(two[1], response_id))["status"] == "completed"


class TestHeartbeat:
    async def test_a_stream_with_nothing_yet_gets_one_at_once(self, two: list[Replica]) -> None:
        """Fifteen seconds before the next."""
        response_id = await in_background(two[0], deltas=10_000, pause=0.05)
        for replica in two:
            async with await Wire.open(stream_url(replica, response_id, 10_000)) as wire:
                await wire.until(lambda body: bool(body), timeout=5)
                assert bytes(wire.body) == KEEPALIVE
        await delete(two[0], response_id)

    async def test_a_stream_with_events_gets_none(self, two: list[Replica]) -> None:
        url = f"{two[0].base_url}/responses"
        body = {"input": script(deltas=20, pause=0.01), "stream": True}
        async with await Wire.open(url, method="POST", json=body) as wire:
            await wire.rest()
        assert KEEPALIVE not in wire.body

    async def test_silence_is_filled_with_comments_of_one_newline(self, tight: Replica) -> None:
        url = f"{tight.base_url}/responses"
        body = {"input": script(deltas=2, pause=1.5), "stream": True}
        async with await Wire.open(url, method="POST", json=body) as wire:
            await wire.rest()
        reading = parse(wire.body)
        assert reading.rest == b""
        assert 3 <= reading.keepalives <= 12
        assert KEEPALIVE + b"\n" not in wire.body
        assert wire.body.count(KEEPALIVE) == reading.keepalives
        check_complete(frames_alone(wire.body), with_ids=False)

    async def test_openai_reads_over_them(self, tight: Replica) -> None:
        async with (
            AsyncOpenAI(base_url=tight.base_url, api_key="none", max_retries=0) as client,
            client.responses.stream(model="scripted", input=script(deltas=3, pause=0.7)) as stream,
        ):
            numbers = [event.sequence_number async for event in stream]
            final = await stream.get_final_response()
            assert numbers == list(range(len(numbers)))
            replay = await client.responses.retrieve(final.id, stream=True)
            assert [event.sequence_number async for event in replay] == numbers

    async def test_a_waiting_cursor_is_kept_alive_until_its_events_come(
        self, tight: Replica
    ) -> None:
        response_id = await in_background(tight, deltas=4, pause=0.7)
        async with await Wire.open(stream_url(tight, response_id, 6)) as wire:
            await wire.rest()
        reading = parse(wire.body)
        assert reading.keepalives >= 2
        assert reading.numbers[0] == 7
        assert reading.done


async def test_a_frame_is_never_split_over_two_sends(two: list[Replica]) -> None:
    """The compliance client of Open Responses loses an event that is."""
    response_id = await in_background(two[0], deltas=300, pause=0.005)
    async with await Wire.open(stream_url(two[1], response_id)) as wire:
        while await wire.more():
            if wire.at_boundary:
                assert parse(wire.body).rest == b""
    assert len(check_complete(wire.body, with_ids=True).frames) > 100
