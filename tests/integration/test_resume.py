"""Readers at full speed, on both replicas, at any cursor: every event once, in order, exact."""

import asyncio
import random
from collections.abc import Iterator

import pytest

from tests import servers
from tests.postgres import Server
from tests.reading import (
    DONE,
    Wire,
    check_complete,
    create,
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

EACH_AN_EVENT = {"LONGRUN_MERGE_DELTAS": "false"}
"""For logs of many events."""

TURNS = [[["echo", {"text": "a"}], ["echo", {"text": "b"}]], [["big", {"size": 3000}]]]


@pytest.fixture(scope="module")
def two(database: Server) -> Iterator[list[Replica]]:
    """Two replicas on one database, for the tests of this file."""
    with servers.replicas(2, database.url, schema="resume", environment=EACH_AN_EVENT) as started:
        yield started


async def read_in_pieces(
    replicas: list[Replica], response_id: str, chance: random.Random
) -> tuple[bytes, int]:
    """Read about a hundred events, cut the connection, go on with another replica, to the end.

    Returns:
        All frames, and how many connections they came over.
    """
    collected, cursor, connections = bytearray(), -1, 0
    while not collected.endswith(DONE):
        wanted = chance.randint(1, 200)
        replica = replicas[connections % len(replicas)]
        url = stream_url(replica, response_id, None if cursor < 0 else cursor)
        async with asyncio.timeout(60), await Wire.open(url) as wire:
            while wire.frames < wanted and await wire.more():
                pass
        piece = first_frames(frames_alone(wire.body), wanted)
        collected += piece
        cursor += piece.count(b"\n\n")
        connections += 1
    return bytes(collected), connections


def first_frames(body: bytes, count: int) -> bytes:
    """As many whole frames as wanted, or as there are."""
    at = 0
    for _ in range(count):
        end = body.find(b"\n\n", at)
        if end < 0:
            break
        at = end + 2
    return body[:at]


class TestCursors:
    async def test_at_every_cursor_of_a_finished_response_the_rest_is_exact(
        self, two: list[Replica]
    ) -> None:
        response = await create(two[0], script(turns=TURNS, deltas=80))
        whole = await read(stream_url(two[0], response["id"]))
        frames = check_complete(whole, with_ids=True).frames
        assert len(frames) > 100
        for cursor in range(len(frames) + 2):
            assert await read(stream_url(two[1], response["id"], cursor)) == rest_of(frames, cursor)

    async def test_at_twenty_cursors_of_a_live_one_the_rest_is_exact(
        self, two: list[Replica]
    ) -> None:
        response_id = await in_background(two[0], turns=TURNS, deltas=80, pause=0.03)
        cursors = list(range(0, 100, 5))
        streams = [
            asyncio.create_task(read(stream_url(two[1], response_id, cursor))) for cursor in cursors
        ]
        frames = check_complete(await read(stream_url(two[0], response_id)), with_ids=True).frames
        assert len(frames) > 100
        for cursor, stream in zip(cursors, streams, strict=True):
            assert await stream == rest_of(frames, cursor)

    async def test_chunks_are_cut_at_a_cursor_within_them(self, two: list[Replica]) -> None:
        """A run at full speed writes many events a chunk; a cursor lies anywhere in it."""
        response_id = await in_background(two[0], deltas=3000)
        await finished(two[0], response_id)
        frames = parse(await read(stream_url(two[0], response_id))).frames
        chance = random.Random(3)
        for cursor in chance.sample(range(3000), 40):
            body = await read(stream_url(two[1], response_id, cursor))
            assert body == rest_of(frames, cursor)


class TestFullSpeed:
    async def test_sixty_readers_that_come_at_random_moments_are_all_exact(
        self, two: list[Replica]
    ) -> None:
        chance = random.Random(11)
        deltas = 20_000
        moments = sorted(chance.randrange(deltas) for _ in range(60))
        readers: list[tuple[int, asyncio.Task[bytes]]] = []
        response_id = await in_background(two[0], deltas=deltas)

        def attach(seen: int) -> None:
            """A reader on either replica: from the start, from here, or from far ahead."""
            cursor = chance.choice([-1, seen - 1, max(-1, seen - 50), seen + 5])
            url = stream_url(two[len(readers) % 2], response_id, None if cursor < 0 else cursor)
            readers.append((cursor, asyncio.create_task(read(url))))

        async with asyncio.timeout(120), await Wire.open(stream_url(two[1], response_id)) as wire:
            while await wire.more():
                while moments and moments[0] <= wire.frames:
                    attach(moments.pop(0))
        observed = frames_alone(wire.body)
        assert len(readers) == 60
        whole = await read(stream_url(two[0], response_id))
        reading = parse(whole)
        assert reading.numbers == list(range(len(reading.frames)))
        assert len(reading.frames) > deltas
        assert observed == whole
        for cursor, stream in readers:
            assert await stream == rest_of(reading.frames, cursor)

    async def test_readers_that_cut_themselves_every_hundred_events_miss_nothing(
        self, two: list[Replica]
    ) -> None:
        response_id = await in_background(two[0], deltas=20_000)
        pieces = await asyncio.gather(
            *(
                read_in_pieces(order, response_id, random.Random(seed))
                for seed, order in enumerate([two, two[::-1], two[1:]])
            )
        )
        whole = await read(stream_url(two[0], response_id))
        assert len(parse(whole).frames) > 20_000
        for collected, connections in pieces:
            assert collected == whole
            assert connections > 100

    @pytest.mark.parametrize("runs", [1, 10, 50])
    async def test_parallel_runs_are_read_whole_on_the_other_replica(
        self, two: list[Replica], runs: int
    ) -> None:
        deltas = 6000 // runs
        ids = await asyncio.gather(*(in_background(two[0], deltas=deltas) for _ in range(runs)))
        bodies = await asyncio.gather(*(read(stream_url(two[1], i)) for i in ids))
        for response_id, body in zip(ids, bodies, strict=True):
            reading = parse(body)
            assert reading.numbers == list(range(deltas + len(reading.frames) - deltas))
            assert len(reading.frames) > deltas
            assert reading.done
            assert {f.event["response"]["id"] for f in reading.frames if "response" in f.event} == {
                response_id
            }
            assert await read(stream_url(two[0], response_id)) == body

    async def test_the_first_reader_of_a_live_run_misses_nothing(self, two: list[Replica]) -> None:
        """Each joins the log's end on its own, while the run writes: eighty times."""
        chance = random.Random(17)
        ids = await asyncio.gather(
            *(in_background(two[0], deltas=400, pause=0.001) for _ in range(40))
        )

        async def join(replica: Replica, response_id: str) -> bytes:
            await asyncio.sleep(chance.uniform(0, 1.5))
            return await read(stream_url(replica, response_id))

        bodies = await asyncio.gather(*(join(r, i) for i in ids for r in two))
        for place, response_id in enumerate(ids):
            whole = await read(stream_url(two[1], response_id))
            assert parse(whole).numbers == list(range(len(parse(whole).frames)))
            assert bodies[2 * place] == bodies[2 * place + 1] == whole

    async def test_runs_on_both_replicas_are_read_on_both(self, two: list[Replica]) -> None:
        ids = await asyncio.gather(
            *(in_background(two[n % 2], deltas=200, pause=0.001) for n in range(20))
        )
        bodies = await asyncio.gather(
            *(read(stream_url(replica, i)) for i in ids for replica in two)
        )
        for first, second in zip(bodies[::2], bodies[1::2], strict=True):
            assert first == second
            assert parse(first).numbers == list(range(len(parse(first).frames)))


class TestLarge:
    async def test_parallel_tools_with_outputs_of_a_megabyte_are_whole(
        self, two: list[Replica]
    ) -> None:
        turns = [[["big", {"size": 1_000_000 + n}] for n in range(10)]]
        response_id = await in_background(two[0], turns=turns)
        live = [asyncio.create_task(read(stream_url(r, response_id))) for r in two]
        found = await finished(two[1], response_id)
        assert found["status"] == "completed"
        outputs = [i["output"] for i in found["output"] if i["type"] == "mcp_call"]
        assert sorted(map(len, outputs)) == [1_000_000 + n for n in range(10)]
        whole = await read(stream_url(two[1], response_id))
        reading = parse(whole)
        assert reading.numbers == list(range(len(reading.frames)))
        assert reading.events[-1]["response"]["output"] == found["output"]
        for stream in live:
            assert await stream == whole
