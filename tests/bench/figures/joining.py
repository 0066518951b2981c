"""Joining a long response at its present, beside reading all that it has said."""

import asyncio
import http.client
import time
from typing import Final

from longrun.store.digesting import Digesting
from tests import servers
from tests.bench import logs
from tests.bench.agents import AGENTS
from tests.bench.figure import Figure, Ground, Line, Target
from tests.servers import Replica
from tests.storing import opened

SCHEMA: Final = "bench_joining"
_LIVE: Final = "UPDATE {schema}.responses SET status = $2 WHERE id = $1"
UP: Final = 50.0
"""Milliseconds after which a reader is to have what there is."""


def _measure(ground: Ground) -> list[Line]:
    url, events = ground.postgres.url, ground.pick(full=100_000, quick=20_000)
    rounds = ground.pick(full=5, quick=2)
    shapes = (100, 1)
    ground.planned((2 * rounds + 1) * len(shapes))
    lines = []
    with servers.replicas(1, url, schema=SCHEMA, agents=AGENTS) as (replica,):
        for items in shapes:
            ground.said(f"a log of {events:,} events")
            response_id = logs.add_live(url, SCHEMA, items, events // items)
            asyncio.run(_digest(url, response_id))
            last = items * (events // items + 2) - 1
            pairs = ground.in_turn(
                rounds,
                lambda id_=response_id, last=last: _milliseconds(replica, id_, "", last),
                lambda id_=response_id, last=last: _milliseconds(
                    replica, id_, "&catch_up=snapshot", last
                ),
            )
            what = f"{events:,} deltas in {items} items, joined by a snapshot"
            lines.append(Line(f"{what}, or read whole", "ms", pairs))
            up = [(UP, ours) for _, ours in pairs]
            lines.append(Line(what, "ms", up, Target("<=", 1.0)))
    return lines


async def _digest(url: str, response_id: str) -> None:
    """As the replica that executes it would have done."""
    async with opened(url, SCHEMA) as database:
        digesting, reached = Digesting(database), None
        await database.execute(_LIVE.format(schema=SCHEMA), response_id, "in_progress")
        while (reached := await digesting.digest(response_id, reached)) is not None:
            pass
        # Else the replica would look for somebody to take it over.
        await database.execute(_LIVE.format(schema=SCHEMA), response_id, "queued")


def _milliseconds(replica: Replica, response_id: str, how: str, last: int) -> float:
    """From the request until the event with that number, or one that has it in it, is there."""
    connection = http.client.HTTPConnection(replica.url.removeprefix("http://"), timeout=60)
    began = time.perf_counter()
    connection.request("GET", f"/v1/responses/{response_id}?stream=true{how}")
    answer, end, read = connection.getresponse(), b"id: %d\n" % last, b""
    while end not in read:
        part = answer.read1(1 << 20)
        if not part:
            raise AssertionError(f"the stream ended before event {last}: {read[-300:]!r}")
        # What was read is not kept, but for what may be the beginning of the end.
        read = read[-len(end) :] + part
    took = 1000 * (time.perf_counter() - began)
    connection.close()
    return took


JOINING: Final = Figure(
    name="joining",
    title="a long response is joined at its present",
    floor="reading all of it; and what is promised",
    measure=_measure,
)
