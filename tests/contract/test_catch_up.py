"""Reading less: the last events, and a snapshot, live and finished, on the other replica too."""

import asyncio
import json

import pytest
from openai import AsyncOpenAI

from longrun.client import Transcript, follow
from tests.contract.test_streams import SCRIPTS
from tests.reading import (
    Reading,
    Wire,
    create,
    frames_alone,
    in_background,
    parse,
    read,
    rest_of,
    script,
    stream_url,
)
from tests.servers import Replica
from tests.unit.oracle import RESPONSE
from tests.unit.test_snapshot import replayed

SLOW = {"turns": [["Let me look. ", ["echo", {"text": "a"}]]], "deltas": 40, "pause": 0.02}


async def caught_up(replica: Replica, response_id: str, query: str) -> Reading:
    url = f"{stream_url(replica, response_id)}&{query}"
    return parse(await read(url))


async def whole(replica: Replica, response_id: str) -> Reading:
    return parse(await read(stream_url(replica, response_id)))


@pytest.mark.parametrize("name", ["one turn", "parallel tools", "failure of a tool"])
async def test_of_a_finished_response(two: list[Replica], name: str) -> None:
    here, there = two
    response_id = (await create(here, **SCRIPTS[name]))["id"]
    everything = await whole(there, response_id)
    for count in (1, 2, len(everything.frames) - 1, len(everything.frames), 10**18):
        last = await caught_up(there, response_id, f"starting_after=-{count}")
        assert [frame.raw for frame in last.frames] == [
            frame.raw for frame in everything.frames[-min(count, 10**6) :]
        ]
        assert last.done
    [terminal] = (await caught_up(there, response_id, "catch_up=snapshot")).frames
    assert terminal.raw == everything.frames[-1].raw


async def test_a_snapshot_and_what_comes_after_it_are_the_whole(two: list[Replica]) -> None:
    here, there = two
    response_id = await in_background(here, **SLOW)
    joined: list[tuple[int, asyncio.Task[Reading]]] = []
    async with (
        await Wire.open(stream_url(there, response_id)) as wire,
        asyncio.TaskGroup() as group,
    ):
        for count, replica in ((5, here), (12, there), (25, there), (40, here)):
            while wire.frames < count:
                assert await wire.more(1 << 16)
            known = wire.frames
            joining = caught_up(replica, response_id, "catch_up=snapshot")
            joined.append((known, group.create_task(joining)))
        await wire.rest()
        events = parse(frames_alone(wire.body)).events
    for known, task in joined:
        reading = task.result()
        first, *rest = reading.events
        number = first["sequence_number"]
        assert reading.done
        assert reading.numbers == list(range(number, len(events)))
        assert reading.frames[0].id == number
        assert known - 1 <= number < len(events) - 1, "it has what was there when it was asked for"
        assert first["type"] == "response.in_progress"
        RESPONSE.validate_python(first["response"])
        assert first["response"]["status"] == "in_progress"
        assert first["response"]["output"] == replayed(events[: number + 1])
        assert rest == events[number + 1 :]


async def test_the_last_events_of_a_live_response(two: list[Replica]) -> None:
    here, there = two
    response_id = await in_background(here, **SLOW)
    async with await Wire.open(stream_url(here, response_id)) as wire:
        while wire.frames < 20:
            assert await wire.more(1 << 16)
        known = wire.frames
        last = await caught_up(there, response_id, "starting_after=-3")
        await wire.rest()
        events = parse(frames_alone(wire.body)).events
    assert last.numbers[0] >= known - 3
    assert last.events == events[last.numbers[0] :]


async def test_the_client_helper_and_the_sdk(two: list[Replica]) -> None:
    async with AsyncOpenAI(base_url=two[1].base_url, api_key="none", max_retries=0) as client:
        response_id = await in_background(two[0], **SLOW)
        async with await Wire.open(stream_url(two[0], response_id)) as wire:
            while wire.frames < 20:
                assert await wire.more(1 << 16)
        transcript, types = Transcript(), []
        async for event in follow(client, response_id, catch_up="snapshot"):
            transcript.take(event)
            types.append(event.type)
        assert types[0] == "response.in_progress"
        response = await client.responses.retrieve(response_id)
        assert transcript.text == response.output_text


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("catch_up=everything", "catch_up"),
        ("catch_up=", "catch_up"),
        ("catch_up=snapshot&starting_after=3", "catch_up"),
        ("catch_up=snapshot&starting_after=-3", "catch_up"),
        ("starting_after=-0", "starting_after"),
        ("starting_after=--1", "starting_after"),
        ("starting_after=-1.5", "starting_after"),
    ],
)
async def test_what_is_refused(two: list[Replica], query: str, param: str) -> None:
    response_id = (await create(two[0], script(deltas=1)))["id"]
    async with await Wire.open(f"{stream_url(two[0], response_id)}&{query}") as wire:
        await wire.rest()
        assert wire.status == 400
        assert json.loads(wire.body)["error"]["param"] == param


async def test_an_event_source_goes_on_where_it_was(two: list[Replica]) -> None:
    """It repeats its query, and its header says more."""
    response_id = (await create(two[0], script(deltas=3)))["id"]
    everything = await whole(two[0], response_id)
    for query in ("catch_up=snapshot", "starting_after=-2"):
        url = f"{stream_url(two[1], response_id)}&{query}"
        rest = await read(url, headers={"Last-Event-ID": "1"})
        assert rest == rest_of(everything.frames, 1)
