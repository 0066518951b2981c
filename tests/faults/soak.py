"""`python -m tests.faults.soak`: everything that can go wrong, at random, under load.

Three replicas execute runs for clients that follow them, while replicas are killed, frozen and
drained, connections are cut and Postgres is restarted. At the end every response must have ended
well, every log be whole, every reader have had all of it once, and no finished step done twice.

With --bad-company agents that misbehave in every way (`bad_agents.py`) run among the healthy ones
instead: some take their process along. The healthy ones must complete all the same, the bad ones
end in words, and the memory of the replicas stay flat.
"""

import argparse
import asyncio
import contextlib
import json
import random
import signal
import statistics
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg
import psutil
from rich.console import Console
from rich.live import Live
from rich.table import Table

from tests import postgres
from tests.faults import bad_agents
from tests.faults.agents import AGENTS
from tests.faults.database import OwnPostgres
from tests.faults.ground import Balancer, Follower, Ground, check_events, ground, script
from tests.servers import Replica, wait_ready

REPLICAS: Final = 3
CLIENTS: Final = 6
LEASE: Final = 2.0
PATIENCE: Final = 120.0
"""Seconds that what is live has to end after the last fault."""

ENVIRONMENT: Final = {
    "LONGRUN_LEASE_SECONDS": f"{LEASE:g}",
    "LONGRUN_MAX_ATTEMPTS": "1000",
    "LONGRUN_MAX_RUNS": "40",
}

COMPANY_ENVIRONMENT: Final = {**ENVIRONMENT, "LONGRUN_MAX_ATTEMPTS": "3", "LONGRUN_MAX_RUNS": "100"}
KILLER_SHARE: Final = 0.02
"""Of the bad runs, those that take their process along."""

FLAT: Final = 1.15
"""How much more memory the last third of a soak may take than the second, by their medians: an
output of 40 MB is in memory for a moment, and may come in either."""

PEAK: Final = 500e6
"""Bytes that no replica may take at any time."""

FAULTS: Final = {
    "kill": 6,
    "freeze": 4,
    "drain": 3,
    "cut connections": 4,
    "restart Postgres": 2,
    "crash Postgres": 1,
}


@dataclass
class Told:
    """What happened so far."""

    seconds: float = 0.0
    responses: int = 0
    finished: int = 0
    events: int = 0
    takeovers: int = 0
    steps: int = 0
    resumes: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    retried: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    memory: list[tuple[float, int]] = field(default_factory=list, repr=False)

    def as_table(self, phase: str) -> Table:
        table = Table.grid(padding=(0, 2))
        table.add_row("[bold]soak[/]", f"{phase}  [dim]{self.seconds:.0f} s[/]")
        table.add_row("responses", f"{self.responses}, finished {self.finished}")
        table.add_row("faults", ", ".join(f"{n} x {what}" for what, n in self.faults.items()))
        table.add_row("resumed streams", f"{self.resumes}")
        table.add_row("tried again", ", ".join(f"{n} x {w}" for w, n in self.retried.items()))
        if self.memory:
            table.add_row("memory", f"{self.memory[-1][1] / 1e6:,.0f} MB in the largest replica")
        for problem in self.problems[:10]:
            table.add_row("[red]✗[/]", problem[:300], style="red")
        return table


class Soak:
    """One soak.

    Args:
        pick: what decides about everything that is left to chance.
    """

    def __init__(self, found: Ground, own: OwnPostgres, pick: random.Random) -> None:
        self._ground = found
        self._own = own
        self._pick = pick
        self._replicas: list[Replica] = []
        self._followers: list[Follower] = []
        self._calm = asyncio.Event()
        self._frozen: set[int] = set()
        self._began = time.monotonic()
        self.told = Told()
        self.phase = "starting"

    async def run(self, seconds: float) -> None:
        self._replicas[:] = await asyncio.to_thread(self._ground.start, REPLICAS)
        self._began = time.monotonic()
        balancer = Balancer(self._replicas)
        self.told.retried = balancer.tries
        async with asyncio.TaskGroup() as group:
            self.phase = "faults under load"
            keeping = group.create_task(self._keep_alive())
            loads = [group.create_task(self._load(balancer, n, group)) for n in range(CLIENTS)]
            await self._disturb(balancer, seconds, group)
            self.phase = "calm: waiting for all to end"
            self._calm.set()
            await asyncio.wait(loads)
            await self._wait_for_ends()
            keeping.cancel()
        self.phase = "looking"
        await self._look()
        self.phase = "done"

    # -- load -----------------------------------------------------------------------------

    async def _load(self, balancer: Balancer, number: int, group: asyncio.TaskGroup) -> None:
        pick = random.Random(self._pick.random())
        while not self._calm.is_set():
            deltas = pick.randrange(1, 40)
            fields = script(deltas=deltas, pause=pick.choice((0.0, 0.02, 0.2)))
            body = {"model": "gated", "input": json.dumps(fields), "background": True}
            try:
                answer = await balancer.post(body)
            except AssertionError as error:
                self.told.problems.append(f"a request failed: {error}")
                continue
            self.told.responses += 1
            follower = Follower(self._replicas, answer["id"], number)
            self._followers.append(follower)
            group.create_task(self._follow(follower))
            await asyncio.sleep(pick.uniform(0.1, 1.0))

    async def _follow(self, follower: Follower) -> None:
        try:
            await follower.run()
        except Exception as error:
            self.told.problems.append(f"{follower.response_id}: a reader failed: {error!r}")
        self.told.finished += 1
        self.told.resumes += follower.breaks

    async def _keep_alive(self) -> None:
        """Start replicas anew that are gone."""
        while True:
            for place, replica in enumerate(self._replicas):
                if replica.process.poll() is not None:
                    (self._replicas[place],) = self._ground.start(wait=False)
            self.told.seconds = time.monotonic() - self._began
            await asyncio.sleep(0.1)

    # -- faults ---------------------------------------------------------------------------

    async def _disturb(self, balancer: Balancer, seconds: float, group: asyncio.TaskGroup) -> None:
        """What is done to the healthy runs while they run."""
        await self._hurt(seconds)

    async def _hurt(self, seconds: float) -> None:
        async with asyncio.TaskGroup() as group:
            while time.monotonic() - self._began < seconds:
                await asyncio.sleep(self._pick.uniform(0.5, 5.0))
                (fault,) = self._pick.choices(list(FAULTS), list(FAULTS.values()))
                self.told.faults[fault] += 1
                await self._do(fault, group)

    async def _do(self, fault: str, group: asyncio.TaskGroup) -> None:
        replica = self._pick.choice(self._replicas)
        match fault:
            case "kill":
                replica.signal(signal.SIGKILL)
            case "drain":
                replica.signal(signal.SIGTERM)
            case "freeze":
                group.create_task(self._freeze(replica))
            case "cut connections":
                await self._cut()
            case "restart Postgres":
                await asyncio.to_thread(self._own.restart, self._pick.choice(("fast", "immediate")))
            case "crash Postgres":
                await self._crash()

    async def _freeze(self, replica: Replica) -> None:
        if replica.process.pid not in self._frozen:
            self._frozen.add(replica.process.pid)
            replica.signal(signal.SIGSTOP)
            await asyncio.sleep(self._pick.uniform(0.5, 3) * LEASE)
            replica.signal(signal.SIGCONT)
            self._frozen.discard(replica.process.pid)

    async def _cut(self) -> None:
        share = self._pick.choice((0.2, 0.5, 1.0))
        with contextlib.suppress(Exception):
            await self._ground.sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name LIKE 'longrun%' AND random() < $1",
                share,
            )

    async def _crash(self) -> None:
        with contextlib.suppress(Exception):
            pid = await self._ground.value(
                "SELECT pid FROM pg_stat_activity WHERE application_name = 'longrun'"
                " ORDER BY random() LIMIT 1"
            )
            self._own.kill(pid)

    # -- the end --------------------------------------------------------------------------

    async def _wait_for_ends(self) -> None:
        deadline = time.monotonic() + PATIENCE
        for replica in self._replicas:
            with contextlib.suppress(AssertionError):
                await asyncio.to_thread(wait_ready, replica)
        while time.monotonic() < deadline:
            with contextlib.suppress(Exception):
                live = await self._ground.value(
                    "SELECT count(*) FROM responses WHERE finished_at IS NULL"
                )
                if not live and all(follower.done for follower in self._followers):
                    return
            await asyncio.sleep(0.2)
        for follower in self._followers:
            if not follower.done:
                self.told.problems.append(
                    f"{follower.response_id}: its reader has {len(follower.lines)} events, no end"
                )
                follower.done = True

    async def _look(self) -> None:
        """The truth: Postgres, the effects, and what each reader has."""
        rows = await self._ground.sql("SELECT id, agent, status, attempt FROM responses")
        readers = {follower.response_id: follower for follower in self._followers}
        self.told.takeovers = sum(max(row["attempt"] - 1, 0) for row in rows)
        self.told.steps = await self._ground.value("SELECT count(*) FROM steps")
        async with self._ground.sharing():
            for row in rows:
                try:
                    events = await self._check(row)
                    self.told.events += len(events)
                    if row["id"] in readers:
                        log = await self._ground.log_of(row["id"])
                        assert readers[row["id"]].lines == log, f"{row['id']}: a reader differs"
                except AssertionError as error:
                    self.told.problems.append(str(error) or f"{row['id']}: not as it should be")
        if missing := readers.keys() - {row["id"] for row in rows}:
            self.told.problems.append(f"{len(missing)} responses are lost")

    async def _check(self, row: asyncpg.Record) -> list[dict[str, Any]]:
        """Everything that is promised of one response. Returns its events."""
        return await self._ground.check(row["id"])


class BadCompany(Soak):
    """A soak in which nobody hurts the replicas but the agents that they serve."""

    async def run(self, seconds: float) -> None:
        await super().run(seconds)
        self._look_at_memory()

    async def _disturb(self, balancer: Balancer, seconds: float, group: asyncio.TaskGroup) -> None:
        names, killers = list(bad_agents.statuses()), list(bad_agents.killers())
        while time.monotonic() - self._began < seconds:
            name = self._pick.choice(killers if self._pick.random() < KILLER_SHARE else names)
            self.told.faults["killer" if name in killers else "bad agent"] += 1
            try:
                answer = await balancer.post({"model": name, "input": "x", "background": True})
                if name == "stubborn":
                    await balancer.post({}, f"/responses/{answer['id']}/cancel")
            except AssertionError as error:
                self.told.problems.append(f"a request failed: {error}")
            self._weigh()
            await asyncio.sleep(self._pick.uniform(0.05, 0.3))

    def _weigh(self) -> None:
        """The memory of the largest replica, now."""
        sizes = [0]
        for replica in self._replicas:
            with contextlib.suppress(psutil.Error):
                sizes.append(psutil.Process(replica.process.pid).memory_info().rss)
        self.told.memory.append((time.monotonic() - self._began, max(sizes)))

    def _look_at_memory(self) -> None:
        sizes = [size for _, size in self.told.memory]
        third = len(sizes) // 3
        second, last = (statistics.median(part) for part in (sizes[third:-third], sizes[-third:]))
        if last > FLAT * second:
            self.told.problems.append(f"memory grew from {second:,} to {last:,} bytes")
        if max(sizes) > PEAK:
            self.told.problems.append(f"a replica took {max(sizes):,} bytes")

    async def _check(self, row: asyncpg.Record) -> list[dict[str, Any]]:
        if row["agent"] == "gated":
            return await super()._check(row)
        expected = bad_agents.statuses().get(row["agent"], frozenset({"failed", "cancelled"}))
        assert row["status"] in expected, f"{row['agent']} {row['id']}: {row['status']}"
        events = [json.loads(line) for line in await self._ground.log_of(row["id"])]
        check_events(row["id"], events, row["status"])
        return events


def main() -> int:
    """0 if all was well, else 1."""
    options = _parser().parse_args()
    seed = options.seed if options.seed is not None else random.randrange(1_000_000)
    told = asyncio.run(_soak(options.minutes * 60, seed, options.json, options.bad_company))
    if options.json:
        found = {**vars(told), "memory": _by_minute(told.memory)}
        print(json.dumps({"seed": seed, "minutes": options.minutes, **found}, indent=2))
    else:
        _say(told, seed)
    return 1 if told.problems else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long (10)")
    parser.add_argument(
        "--bad-company", action="store_true", help="agents that misbehave, in place of the faults"
    )
    parser.add_argument("--seed", type=int, help="of what is left to chance; shown at the end")
    parser.add_argument("--json", action="store_true", help="one JSON document, for programs")
    return parser


async def _soak(seconds: float, seed: int, quiet: bool, bad_company: bool) -> Told:
    agents = bad_agents.AGENTS if bad_company else AGENTS
    environment = COMPANY_ENVIRONMENT if bad_company else ENVIRONMENT
    with (
        postgres.embedded() as server,
        ground(server, "soak", agents=agents, **environment) as found,
    ):
        kind = BadCompany if bad_company else Soak
        soak = kind(found, OwnPostgres(server), random.Random(seed))
        console = Console(stderr=True, highlight=False)
        with Live(console=console, auto_refresh=False, transient=quiet) as live:
            work = asyncio.ensure_future(soak.run(seconds))
            while not work.done():
                await asyncio.wait([work], timeout=0.5)
                live.update(soak.told.as_table(soak.phase), refresh=True)
            work.result()
    return soak.told


def _by_minute(memory: list[tuple[float, int]]) -> dict[str, dict[str, float]]:
    """MB that the largest replica took in each minute."""
    minutes: dict[int, list[float]] = {}
    for seconds, size in memory:
        minutes.setdefault(int(seconds // 60), []).append(size / 1e6)
    return {
        str(minute): {"median": round(statistics.median(sizes)), "most": round(max(sizes))}
        for minute, sizes in minutes.items()
    }


def _say(told: Told, seed: int) -> None:
    out = Console(highlight=False)
    for problem in told.problems:
        out.print(f"[bold red]✗[/] {problem}")
    out.print(
        f"{told.responses:,} responses, {told.events:,} events, {told.steps:,} finished steps;"
        f" {sum(told.faults.values())} faults, {told.takeovers} takeovers and handovers,"
        f" {told.resumes} resumed streams. Seed {seed}."
    )
    if not told.problems:
        out.print(
            "[green]✓[/] every log is whole, every reader had it once, no step was done twice"
        )


if __name__ == "__main__":
    sys.exit(main())
