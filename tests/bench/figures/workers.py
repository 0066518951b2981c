"""What two workers of one command write, beside one: runs at full speed, started on one port.

Runs are given to workers as the connections are that ask for them. On a machine of two cores
Postgres, the load and both workers share them, so this says how little is lost there; what is won
shows where there are more cores than workers.
"""

from typing import Final

from tests import servers
from tests.bench.agents import AGENTS
from tests.bench.figure import Figure, Ground, Line, Target
from tests.bench.figures.throughput import RUNS, Written, round_of

SCHEMA: Final = "bench_workers"
TARGET: Final = Target(">=", 1.0)


def _measure(ground: Ground) -> list[Line]:
    deltas, url = ground.pick(full=3000, quick=1500), ground.postgres.url
    one, two = {"LONGRUN_WORKERS": "1"}, {"LONGRUN_WORKERS": "2"}
    with (
        servers.replicas(1, url, schema=SCHEMA, agents=AGENTS, environment=one) as (alone,),
        servers.replicas(1, url, schema=f"{SCHEMA}_2", agents=AGENTS, environment=two) as (both,),
    ):

        def floor() -> Written:
            return round_of(ground, alone, SCHEMA, deltas)

        def ours() -> Written:
            return round_of(ground, both, f"{SCHEMA}_2", deltas)

        pairs = ground.in_turn(ground.pick(full=4, quick=2), floor, ours)
    return [
        Line("persisted", "deltas/s", [(a.deltas, b.deltas) for a, b in pairs], TARGET),
    ]


WORKERS: Final = Figure(
    name="workers",
    title=f"{RUNS} runs at full speed on two workers of one port",
    floor="the same on one; cores are shared with Postgres",
    measure=_measure,
)
