"""What has become large beside what is small: a long log, many events, many responses."""

import http.client
import statistics
import time
from typing import Final

from tests import servers
from tests.bench import logs, processes, store
from tests.bench.agents import AGENTS
from tests.bench.figure import Figure, Ground, Line, Target
from tests.bench.figures.compaction import compact
from tests.bench.figures.insert import log_writer
from tests.bench.runs import query
from tests.servers import Replica

SCHEMA: Final = "bench_size"
FEW: Final = "bench_size_few"
SMALL: Final = 1000
"""Events of a log, and responses, that are few."""

RUNS: Final = 20
OFF: Final = {"LONGRUN_COMPACT_AFTER": "0"}


def _measure(ground: Ground) -> list[Line]:
    url = ground.postgres.url
    large = ground.pick(full=1_000_000, quick=50_000)
    rounds = ground.pick(full=5, quick=2)
    ground.planned(8 * rounds + 4)
    with (
        servers.replicas(1, url, schema=SCHEMA, agents=AGENTS, environment=OFF) as (replica,),
        servers.replicas(1, url, schema=FEW, agents=AGENTS, environment=OFF) as (beside,),
    ):
        resumes = _resumes(ground, replica, large, rounds)
        appends = _appends(ground, 10 * large, rounds)
        listed = _listed(ground, beside, replica, large, rounds)
    return [*resumes, appends, *listed]


def _resumes(ground: Ground, replica: Replica, large: int, rounds: int) -> list[Line]:
    """At the end of a long log: as its run has left it, and compacted."""
    url = ground.postgres.url
    [few] = logs.add(url, SCHEMA, 1, SMALL)
    ground.said(f"a log of {large:,} events")
    [many] = logs.add(url, SCHEMA, 1, large)
    query(url, f"VACUUM ANALYZE {SCHEMA}.event_chunks")
    lines = []
    for how in ("an event a chunk", "compacted"):
        pairs = ground.in_turn(
            rounds, lambda: _resumed(replica, few, SMALL), lambda: _resumed(replica, many, large)
        )
        lines.append(
            Line(f"resume at the end of {large:,} events, {how}", "ms", pairs, Target("<=", 1.5))
        )
        processes.call(compact, url=url, schema=SCHEMA, ids=[few, many])
    return lines


def _resumed(replica: Replica, response_id: str, events: int) -> float:
    path = f"/v1/responses/{response_id}?stream=true&starting_after={events - 3}"
    return _median(replica, path, b"data: [DONE]")


def _median(replica: Replica, path: str, contains: bytes, times: int = 30) -> float:
    """Milliseconds of a GET, to the end of its answer; the median of many."""
    connection = http.client.HTTPConnection(replica.url.removeprefix("http://"), timeout=60)
    took = []
    for _ in range(times):
        began = time.perf_counter()
        connection.request("GET", path)
        body = connection.getresponse().read()
        took.append(1000 * (time.perf_counter() - began))
        if contains not in body:
            raise AssertionError(f"GET {path}: {body[:300]!r}")
    connection.close()
    return statistics.median(took)


def _appends(ground: Ground, stored: int, rounds: int) -> Line:
    """The log writer on an empty table, and on one with many events, each a row."""
    url, seconds = ground.postgres.url, ground.pick(full=1.5, quick=1.0)
    ids = {schema: store.prepare(url, schema, RUNS) for schema in (FEW, SCHEMA)}
    ground.said(f"{stored:,} events stored")
    logs.add(url, SCHEMA, RUNS, stored // RUNS)
    query(url, f"VACUUM ANALYZE {SCHEMA}.event_chunks")

    def rate(schema: str) -> float:
        of_these = f"{schema}.event_chunks WHERE response_id = ANY($1) AND last > 0"
        query(url, f"DELETE FROM {of_these}", ids[schema])
        query(url, f"VACUUM {schema}.event_chunks")
        query(url, "CHECKPOINT")
        found, _ = processes.call(
            log_writer, url=url, schema=schema, ids=ids[schema], seconds=seconds
        )
        return float(found)

    pairs = ground.in_turn(rounds, lambda: rate(FEW), lambda: rate(SCHEMA))
    what = f"appends with {stored:,} events stored, each a row"
    return Line(what, "events/s", pairs, Target(">=", 0.9))


def _listed(
    ground: Ground, beside: Replica, replica: Replica, large: int, rounds: int
) -> list[Line]:
    """What clients ask for again and again, with few and with many responses stored."""
    url = ground.postgres.url
    one = {}
    for schema, count in ((FEW, SMALL), (SCHEMA, large)):
        ground.said(f"{count:,} responses")
        [one[schema]] = logs.add(url, schema, 1, 3)
        logs.copy(url, schema, one[schema], count)
        query(url, f"VACUUM ANALYZE {schema}.responses")
    query(url, "CHECKPOINT")
    page, more = "/v1/responses?limit=20", b'"has_more":true'
    pages = ground.in_turn(
        rounds, lambda: _median(beside, page, more), lambda: _median(replica, page, more)
    )

    def poll(of: Replica, schema: str) -> float:
        return _median(of, f"/v1/responses/{one[schema]}", one[schema].encode())

    polls = ground.in_turn(rounds, lambda: poll(beside, FEW), lambda: poll(replica, SCHEMA))
    return [
        Line(f"a page of the list, {large:,} responses stored", "ms", pages, Target("<=", 1.5)),
        Line(f"a poll, {large:,} responses stored", "ms", polls, Target("<=", 1.5)),
    ]


SIZE: Final = Figure(
    name="size",
    title="a long log, many events, many responses",
    floor=f"the same with {SMALL:,} events in the log, none and {SMALL:,} responses stored",
    measure=_measure,
)
