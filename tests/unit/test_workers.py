"""What workers are made from: cores, shares of connections, metrics that are summed."""

import asyncio
import os
import socket
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Gauge, Histogram, Info
from prometheus_client import Counter as Count
from prometheus_client.parser import text_string_to_metric_families

from longrun.backoff import Backoff
from longrun.serving import cores
from longrun.serving.shares import NONE, Shares
from longrun.serving.taking import LEAD_PART, Taking
from longrun.serving.totals import Totals, snapshot
from longrun.serving.workers import TRIES, Workers
from tests.reading import eventually


class TestCores:
    @pytest.fixture(autouse=True)
    def eight(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)

    def found(self, tmp_path: Path, lines: str, **files: str) -> int:
        for name, text in files.items():
            path = tmp_path / "cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        of_process = tmp_path / "of_process"
        of_process.write_text(lines)
        return cores.available(tmp_path / "cgroup", of_process)

    def test_without_cgroups(self, tmp_path: Path) -> None:
        assert cores.available(tmp_path, tmp_path / "none") == 8

    @pytest.mark.parametrize(
        ("limit", "expected"),
        [("max 100000", 8), ("250000 100000", 2), ("50000 100000", 1), ("1600000 100000", 8)],
    )
    def test_version_2_has_whole_cores(self, tmp_path: Path, limit: str, expected: int) -> None:
        assert self.found(tmp_path, "0::/a/b\n", **{"a/b/cpu.max": limit}) == expected

    def test_the_smallest_of_those_around_it(self, tmp_path: Path) -> None:
        limits = {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "300000 100000\n"}
        assert self.found(tmp_path, "0::/a/b\n", **limits) == 3

    def test_in_a_container_the_path_is_the_hosts(self, tmp_path: Path) -> None:
        assert self.found(tmp_path, "0::/docker/1\n", **{"cpu.max": "400000 100000\n"}) == 4

    def test_version_1(self, tmp_path: Path) -> None:
        lines = "3:memory:/x\n2:cpu,cpuacct:/x\n"
        files = {"cpu.cfs_quota_us": "500000\n", "cpu.cfs_period_us": "100000\n"}
        given = {f"cpu,cpuacct/x/{name}": text for name, text in files.items()}
        assert self.found(tmp_path, lines, **given) == 5
        unlimited = {**given, "cpu,cpuacct/x/cpu.cfs_quota_us": "-1\n"}
        assert self.found(tmp_path, lines, **unlimited) == 8


class Process:
    """Metrics of one process, as longrun has them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Count("longrun_requests", "R.", ["route"], registry=self.registry)
        self.runs = Gauge("longrun_runs", "L.", registry=self.registry)
        self.listening = Gauge("longrun_listening", "H.", registry=self.registry)
        self.queued = Gauge("longrun_cluster_queued", "Q.", registry=self.registry)
        self.build = Info("longrun_build", "B.", registry=self.registry)
        self.seconds = Histogram("longrun_seconds", "S.", buckets=(1, 2), registry=self.registry)

    def taken(self) -> Any:
        return snapshot(self.registry.collect())


def read(totals: Totals) -> dict[str, float]:
    """Samples by name and labels."""
    text = totals.exposition().decode()
    return {
        sample.name + "".join(f" {k}={v}" for k, v in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


class TestTotals:
    def test_what_is_summed_and_what_is_of_each(self) -> None:
        totals = Totals()
        for number in (1, 2):
            process = Process()
            process.requests.labels("a").inc(number)
            process.requests.labels(f"only {number}").inc()
            process.runs.set(5)
            process.listening.set(number - 1)
            process.queued.set(6 + number)
            process.build.info({"version": "1"})
            process.seconds.observe(1.5)
            totals.take(f"pid {number}", str(number), process.taken())
        found = read(totals)
        assert found["longrun_requests_total route=a"] == 3
        assert found["longrun_requests_total route=only 1"] == 1
        assert found["longrun_runs"] == 10
        assert (found["longrun_seconds_count"], found["longrun_seconds_sum"]) == (2, 3)
        assert found["longrun_seconds_bucket le=1.0"] == 0
        assert found["longrun_seconds_bucket le=2.0"] == 2
        assert found["longrun_listening worker=1"] == 0
        assert found["longrun_listening worker=2"] == 1
        assert "longrun_listening" not in found
        assert found["longrun_cluster_queued"] == 8, "each says it of all"
        assert found["longrun_build_info version=1"] == 1

    def test_what_was_counted_stays_when_a_process_is_gone(self) -> None:
        totals = Totals()
        for pid in ("1", "2", "3"):
            process = Process()
            process.requests.labels("a").inc(2)
            process.seconds.observe(3)
            process.runs.set(5)
            totals.take(pid, "1", process.taken())
            process.requests.labels("a").inc()
            totals.take(pid, "1", process.taken())
            totals.end(pid)
        found = read(totals)
        assert found["longrun_requests_total route=a"] == 9
        assert found["longrun_seconds_bucket le=+Inf"] == 3
        assert "longrun_runs" not in found, "nobody has runs any more"

    def test_when_counting_began(self) -> None:
        first, second = Process(), Process()
        for process in (first, second):
            process.requests.labels("a").inc()
        totals = Totals()
        totals.take("2", "2", second.taken())
        totals.take("1", "1", first.taken())
        began = [
            sample.value
            for metric in first.registry.collect()
            for sample in metric.samples
            if sample.name == "longrun_requests_created"
        ]
        assert read(totals)["longrun_requests_created route=a"] == began[0]


class TestTaking:
    async def test_those_that_have_more_leave_connections_to_the_others(self) -> None:
        """Here two in one process; the second one has 20 runs to begin with."""
        shares, descriptor = Shares.made(3)
        os.close(descriptor)
        shares[0] = NONE
        taken: Counter[int] = Counter()
        left: Counter[int] = Counter()

        def takes(listening: socket.socket, place: int, work: int) -> Taking:
            async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                taken[place] += 1
                await reader.read()
                writer.close()
                await writer.wait_closed()
                left[place] += 1

            return Taking(listening, shares, place, connected, lambda: work, None, None)

        with socket.create_server(("127.0.0.1", 0)) as listening, listening.dup() as same:
            # Each has a descriptor of its own, as in a process of its own.
            one, two = takes(listening, 1, 0), takes(same, 2, 20)
            async with one.taken(100), two.taken(100):
                clients = [await connected_to(listening) for _ in range(40)]
                await eventually(lambda: taken.total() == 40)
                assert abs(taken[1] - taken[2] - 20) <= 2 * (1 + 20 // LEAD_PART)
                assert shares.least() == min(taken[1], 20 + taken[2])
                two.end()
                assert shares[2] == NONE
                before = taken[2]
                clients += [await connected_to(listening) for _ in range(5)]
                await eventually(lambda: taken.total() == 45)
                assert taken[2] == before
                for client in clients:
                    client.close()
                    await client.wait_closed()
                await eventually(lambda: left.total() == 45)
                assert shares.least() == 0

    async def test_a_worker_with_more_takes_what_nobody_else_does(self) -> None:
        """The other one, which has nothing to do by its number, does not wake."""
        shares, descriptor = Shares.made(2)
        os.close(descriptor)
        shares[0] = 0
        served = asyncio.Event()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()
            await writer.wait_closed()
            served.set()

        with socket.create_server(("127.0.0.1", 0)) as listening:
            taking = Taking(listening, shares, 1, connected, lambda: 50, None, None)
            async with taking.taken(100):
                client = await connected_to(listening)
                async with asyncio.timeout(10):
                    await served.wait()
                client.close()
                await client.wait_closed()


async def connected_to(listening: socket.socket) -> asyncio.StreamWriter:
    _, writer = await asyncio.open_connection(*listening.getsockname())
    return writer


async def test_one_that_does_not_start_while_others_serve_shows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        workers = Workers(
            2, listening, lease_seconds=1, drain_seconds=1, started=lambda models: None
        )

        def shown(name: str) -> float:
            samples = [sample for metric in workers._measuring.own() for sample in metric.samples]
            return next(s.value for s in samples if f"{s.name} {s.labels.get('state', '')}" == name)

        monkeypatch.setattr(workers, "_is_served", lambda: True)
        monkeypatch.setattr(sys, "executable", "/nowhere/python")
        async with asyncio.TaskGroup() as group:
            again = group.create_task(workers._start_again(2, Backoff(0.001, 0.002)))
            await eventually(lambda: shown("longrun_worker_failed_starts_total ") > TRIES)
            assert shown("longrun_workers failing") == 1
            started = object()
            monkeypatch.setattr(workers, "_start", lambda number: returned(started))
            assert await again is started
        assert shown("longrun_workers failing") == 0


async def returned(value: object) -> object:
    return value
