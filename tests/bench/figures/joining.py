"""Joining a long response at its present, beside reading all that it has said."""

import http.client
import time
from typing import Final

from tests import servers
from tests.bench import logs
from tests.bench.agents import AGENTS
from tests.bench.figure import Figure, Ground, Line, Target
from tests.servers import Replica

SCHEMA: Final = "bench_joining"
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
