"""Replay of a finished response to several readers at once."""

import asyncio
import tempfile
from pathlib import Path
from typing import Final

from longrun.store.sealing import chunk_place
from tests import servers
from tests.bench import bare, reader, runs
from tests.bench.agents import AGENTS, Pace
from tests.bench.figure import Figure, Ground, Line, Target
from tests.bench.figures.throughput import EXTRA
from tests.bench.reader import Stream
from tests.storing import SEALING, connected

READERS: Final = (1, 10)
EVENTS: Final = 5000
EACH_AN_EVENT: Final = {"LONGRUN_MERGE_DELTAS": "false"}
SCHEMA: Final = "bench_replay"
TARGET: Final = Target(">=", 0.8)


def _measure(ground: Ground) -> list[Line]:
    with servers.replicas(
        1, ground.postgres.url, schema=SCHEMA, agents=AGENTS, environment=EACH_AN_EVENT
    ) as (replica,):
        url = ground.postgres.url
        fast, slow = (runs.create(replica, Pace(EVENTS - EXTRA)) for _ in range(2))
        runs.wait_for_ends(url, SCHEMA, [fast, slow])
        asyncio.run(_one_event_a_chunk(url, slow))
        return [
            line
            for what, id_ in (
                ("run at full speed", fast),
                ("slow run, an event a chunk", slow),
            )
            for line in _replays(ground, what, runs.stream_of(replica, id_))
        ]


def _replays(ground: Ground, what: str, stream: Stream) -> list[Line]:
    body = reader.read([stream], bodies=True).streams[0].body
    frames = body.removesuffix("data: [DONE]\n\n")
    with tempfile.NamedTemporaryFile(suffix=".sse") as file:
        Path(file.name).write_text(frames)
        with bare.serving(Path(file.name)) as port:
            pairs = ground.in_turn(
                ground.pick(full=3, quick=1),
                lambda: _rates(ground, Stream(port, "/frames")),
                lambda: _rates(ground, stream),
            )
    found = []
    for readers in READERS:
        rates = [(floor[readers], ours[readers]) for floor, ours in pairs]
        size = len(body.encode()) / EVENTS
        who = f"{readers} reader{'s'[: readers > 1]}"
        found += [
            Line(f"{what}, {who}", "events/s", rates, TARGET),
            Line(f"{what}, {who}", "bytes/s", [(size * a, size * b) for a, b in rates], TARGET),
        ]
    return found


def _rates(ground: Ground, stream: Stream) -> dict[int, float]:
    """Events per second, by readers at once."""
    found = {}
    for readers in READERS:
        times = ground.pick(full=50, quick=20) // readers
        readings = reader.read([stream] * readers, times=times)
        ground.note(readings)
        for each in readings.streams:
            if each.events != EVENTS:
                ground.problems.append(f"a replay of {EVENTS} events brought {each.events}")
        found[readers] = readings.events / readings.seconds
    return found


async def _one_event_a_chunk(url: str, response_id: str) -> None:
    """Take the chunks of a log apart, as it were if its events had come one by one."""
    table = f"{SCHEMA}.event_chunks"
    async with connected(url) as connection, connection.transaction():
        chunks = await connection.fetch(
            f"DELETE FROM {table} WHERE response_id = $1 RETURNING first, last, attempt, data",
            response_id,
        )
        rows = []
        for first, last, attempt, data in chunks:
            plain = SEALING.open(chunk_place(response_id, first, last), data)
            for number, line in enumerate(plain.split(b"\n"), first):
                sealed = SEALING.seal(chunk_place(response_id, number, number), line)
                rows.append((response_id, number, number, attempt, sealed))
        await connection.executemany(
            f"INSERT INTO {table} (response_id, first, last, attempt, data)"
            " VALUES ($1, $2, $3, $4, $5)",
            rows,
        )


REPLAY: Final = Figure(
    name="replay",
    title=f"{EVENTS} events to {READERS[0]} and to {READERS[1]} readers, each delta an event",
    floor="a bare ASGI app that holds the same frames and sends one a send",
    measure=_measure,
)
