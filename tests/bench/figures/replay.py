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

READERS: Final = 10
EVENTS: Final = 5000
EACH_AN_EVENT: Final = {"LONGRUN_MERGE_DELTAS": "false"}
SCHEMA: Final = "bench_replay"
TARGET: Final = Target(">=", 0.5)


def _measure(ground: Ground) -> list[Line]:
    with servers.replicas(
        1, ground.postgres.url, schema=SCHEMA, agents=AGENTS, environment=EACH_AN_EVENT
    ) as (replica,):
        url = ground.postgres.url
        fast, slow = (runs.create(replica, Pace(EVENTS - EXTRA)) for _ in range(2))
        runs.wait_for_ends(url, SCHEMA, [fast, slow])
        asyncio.run(_one_event_a_chunk(url, slow))
        return [
            _replays(ground, what, runs.stream_of(replica, id_))
            for what, id_ in (
                ("log of a run at full speed", fast),
                ("log of a slow run: an event a chunk", slow),
            )
        ]


def _replays(ground: Ground, what: str, stream: Stream) -> Line:
    body = reader.read([stream], bodies=True).streams[0].body
    with tempfile.NamedTemporaryFile(suffix=".sse") as file:
        Path(file.name).write_text(body.removesuffix("data: [DONE]\n\n"))
        with bare.serving(Path(file.name)) as port:
            pairs = ground.in_turn(
                ground.pick(full=3, quick=1),
                lambda: _rate(ground, Stream(port, "/frames")),
                lambda: _rate(ground, stream),
            )
    return Line(what, "events/s", pairs, TARGET)


def _rate(ground: Ground, stream: Stream) -> float:
    readings = reader.read([stream] * READERS, times=ground.pick(full=5, quick=2))
    ground.problems += readings.problems
    for each in readings.streams:
        if each.events != EVENTS:
            ground.problems.append(f"a replay of {EVENTS} events brought {each.events}")
    return readings.events / readings.seconds


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
    title=f"{EVENTS} events to {READERS} readers, each delta an event",
    floor="a bare ASGI app that holds the same frames and sends one a send",
    measure=_measure,
)
