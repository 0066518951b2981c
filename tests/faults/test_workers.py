"""`longrun serve --workers 2`: one port, one `/metrics`, and what becomes of workers and parent."""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests import postgres, servers
from tests.attacking import Peer, over_tls
from tests.faults.ground import Ground, following, ground, script
from tests.reading import Wire, check_complete, create, eventually, frames_alone, stream_url
from tests.servers import Replica

WORKERS = 2

PATIENCE = 90.0
"""Seconds in which a worker has started: beside other loads that takes long."""


@pytest.fixture(scope="module")
def served(database: postgres.Server) -> Iterator[Ground]:
    """Two workers, in the place of one replica."""
    with ground(
        database,
        "workers",
        LONGRUN_WORKERS=str(WORKERS),
        LONGRUN_LOG_FORMAT="json",
        LONGRUN_DRAIN_SECONDS="2",
    ) as found:
        [replica] = found.start()
        wait_until_all_serve(replica)
        yield found
        replica.end()


@pytest.fixture
async def server(served: Ground) -> AsyncIterator[Replica]:
    """The command, with all of its workers there."""
    [replica] = served.replicas
    try:
        await eventually(lambda: len(serving(replica)) == WORKERS, PATIENCE)
        yield replica
    finally:
        # Shown by pytest with a failure.
        print(replica.output()[-8000:])


def wait_until_all_serve(replica: Replica) -> None:
    asyncio.run(eventually(lambda: bool(lines(replica, "serving")), PATIENCE))


def lines(replica: Replica, what: str) -> list[dict[str, Any]]:
    """What the log says of something."""
    whole = [line for line in replica.output().splitlines(keepends=True) if line.endswith("\n")]
    read = [json.loads(line) for line in whole if line.startswith("{")]
    return [line for line in read if line["message"] == what]


def serving(replica: Replica) -> list[int]:
    """The pids of the workers that are ready and alive."""
    alive = set(pids(replica))
    return [line["pid"] for line in lines(replica, "worker ready") if line["pid"] in alive]


def pids(replica: Replica) -> list[int]:
    children = psutil.Process(replica.process.pid).children()
    return [each.pid for each in children if each.status() != psutil.STATUS_ZOMBIE]


async def samples(replica: Replica) -> dict[str, float]:
    """All metrics, by name and labels."""
    text = ""
    while not text:
        # A worker that is killed may have taken the connection.
        with contextlib.suppress(ConnectionResetError):
            async with await Wire.open(f"{replica.url}/metrics") as wire:
                text = (await wire.rest()).decode()
    found = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in found}


def is_counted(name: str) -> bool:
    return bool(re.match(r"\w+_(total|count|bucket)\b", name))


@contextlib.asynccontextmanager
async def nobody_refused(replica: Replica, killed: int = 0) -> AsyncIterator[Counter[str]]:
    """Within the block, clients come one after another, each on a connection of its own. None is
    refused, and none is left without an answer but by a worker that is killed."""
    seen: Counter[str] = Counter()

    async def come() -> None:
        while True:
            try:
                async with await Wire.open(f"{replica.url}/healthz") as wire:
                    await wire.rest()
                seen["answered" if wire.status == 200 else "broken off"] += 1
            except ConnectionRefusedError:
                seen["refused"] += 1
            except ConnectionError:
                seen["broken off"] += 1
            await asyncio.sleep(0.005)

    coming = asyncio.create_task(come())
    try:
        yield seen
        await eventually(lambda: seen["answered"] > 20)
    finally:
        coming.cancel()
    assert not seen["refused"], seen
    assert seen["broken off"] <= killed, seen


async def test_connections_are_shared_evenly(server: Replica) -> None:
    """By the kernel alone, one of four idle workers was given 2 of 200, and another one 89."""
    wires = [await Wire.open(f"{server.base_url}/models") for _ in range(16)]
    await eventually(lambda: len(by_worker(server, "/v1/models")) == 16)
    for wire in wires:
        wire.close()
    shares = Counter(by_worker(server, "/v1/models"))
    assert set(shares) == {1, 2}
    assert max(shares.values()) <= 10, shares


def by_worker(replica: Replica, path: str) -> list[int]:
    """Which worker answered each request for a path."""
    whole = [line for line in replica.output().splitlines(keepends=True) if line.endswith("\n")]
    read = [json.loads(line) for line in whole if line.startswith("{")]
    return [line["worker"] for line in read if line.get("path") == path]


async def test_each_worker_is_a_replica(served: Ground, server: Replica) -> None:
    found = await served.sql("SELECT pid FROM replicas WHERE lease_until > now()")
    assert {row["pid"] for row in found} >= set(serving(server))


async def test_a_stream_is_resumed_on_the_other_worker(served: Ground, server: Replica) -> None:
    served.close()
    asked = json.dumps(script(gates=("in a",)))
    body = {"model": "gated", "input": asked, "background": True, "stream": True}
    async with await Wire.open(f"{server.base_url}/responses", method="POST", json=body) as wire:
        await wire.until(lambda _: wire.frames >= 3)
        response_id = re.search(rb"resp_[0-9a-f]{32}", bytes(wire.body))[0].decode()  # type: ignore[index]
    readers = [await Wire.open(stream_url(server, response_id, after=1)) for _ in range(8)]
    served.open("in a")
    bodies = [frames_alone(await reader.rest()) for reader in readers]
    for reader in readers:
        reader.close()
    check_complete(bodies[0], with_ids=True, after=1)
    assert len(set(bodies)) == 1
    path = f"/v1/responses/{response_id}"
    await eventually(lambda: len(by_worker(server, path)) == 8)
    assert set(by_worker(server, path)) == {1, 2}


class TestMetrics:
    async def test_are_one_sum_whoever_is_asked(self, server: Replica) -> None:
        name = 'longrun_http_requests_total{method="GET",route="healthz",status="200"}'
        before = (await samples(server)).get(name, 0)
        wires = [await Wire.open(f"{server.url}/healthz") for _ in range(8)]
        for wire in wires:
            wire.close()
        await asyncio.gather(*(sums_to(server, name, before + 8) for _ in range(4)))
        found = await samples(server)
        assert found['longrun_workers{state="ready"}'] == WORKERS
        assert found['longrun_listening{worker="1"}'] == found['longrun_listening{worker="2"}'] == 1
        assert found["longrun_runs"] == 0

    async def test_do_not_go_back_when_a_worker_dies(self, server: Replica) -> None:
        before = await samples(server)
        pid = serving(server)[0]
        async with nobody_refused(server, killed=1):
            os.kill(pid, signal.SIGKILL)
            while len(serving(server)) < WORKERS or pid in serving(server):
                after = await samples(server)
                for name, value in before.items():
                    assert not is_counted(name) or after.get(name, -1) >= value, name
                before = after
        name = 'longrun_worker_restarts_total{reason="signal"}'
        assert (await samples(server))[name] >= 1
        [died] = [line for line in lines(server, "worker died") if line["pid"] == pid]
        assert died["reason"].startswith("SIGKILL")


async def sums_to(replica: Replica, name: str, value: float) -> None:
    async def is_so() -> bool:
        return (await samples(replica)).get(name, 0) == value

    await eventually(is_so, 10)


async def test_a_killed_workers_run_goes_on_in_the_other(served: Ground, server: Replica) -> None:
    served.close()
    ids = await served.submit(server, 1, gates=("in a",))
    await served.reach(ids, "in a")
    pid = await served.pid_of(ids[0])
    assert pid in serving(server)
    async with following([server], ids):
        os.kill(pid, signal.SIGKILL)
        served.open("in a")
    await served.check_all(ids)
    assert await served.attempts(ids) == {ids[0]: 2}


async def test_workers_are_replaced_one_by_one(served: Ground, server: Replica) -> None:
    """At SIGHUP, and the code is read anew. Their runs go on, and nobody is refused."""
    served.close()
    old = set(serving(server))
    ids = await served.submit(server, 2, gates=("in a",))
    await served.reach(ids, "in a")
    async with nobody_refused(server), following([server], ids, PATIENCE):
        server.signal(signal.SIGHUP)
        await eventually(lambda: bool(lines(server, "worker left")), PATIENCE)
        served.open("in a")
        await eventually(lambda: bool(lines(server, "all workers are replaced")), PATIENCE)
    await served.check_all(ids)
    assert not old & set(serving(server))
    assert len(serving(server)) == WORKERS


async def test_one_that_is_stopped_alone_is_replaced(server: Replica) -> None:
    pid = serving(server)[0]
    async with nobody_refused(server):
        os.kill(pid, signal.SIGTERM)
        await eventually(
            lambda: pid not in pids(server) and len(serving(server)) == WORKERS, PATIENCE
        )
    assert not [line for line in lines(server, "worker died") if line["pid"] == pid]


async def test_one_that_is_frozen_is_killed_in_the_end(served: Ground, server: Replica) -> None:
    """Until then the other one has its run, and takes the connections."""
    served.close()
    ids = await served.submit(server, 1, gates=("in a",))
    await served.reach(ids, "in a")
    pid = await served.pid_of(ids[0])
    assert pid is not None
    async with following([server], ids):
        os.kill(pid, signal.SIGSTOP)
        served.open("in a")
    await served.check_all(ids)
    await eventually(
        lambda: any(
            (line["pid"], line["reason"]) == (pid, "frozen")
            for line in lines(server, "worker died")
        )
    )


async def test_all_are_drained_together(served: Ground, server: Replica) -> None:
    """The last of these: nothing is left, and no run of theirs."""
    served.close()
    workers = pids(server)
    ids = await served.submit(server, 4, gates=("in a",))
    await served.reach(ids, "in a")
    server.signal(signal.SIGTERM)
    await eventually(lambda: len(lines(server, "stopping")) >= 1 + WORKERS)
    served.open("in a")
    assert server.wait() == 0
    assert not any(map(psutil.pid_exists, workers))
    await served.all_finished(ids)


class TestStarting:
    def test_a_failure_is_told_once(self, database: postgres.Server) -> None:
        replica = started(database, agents="tests.nothing:agents")
        try:
            assert replica.wait() == 2
            assert replica.output().count("cannot import 'tests.nothing'") == 1
            assert "\nlongrun cannot start\ncannot import" in replica.output()
        finally:
            replica.end()
            replica.log.unlink()

    def test_the_status_is_that_of_the_worker(self, database: postgres.Server) -> None:
        replica = started(database, agents="tests.faults.dying_agents:agents")
        try:
            assert replica.wait() == 7
            assert re.search(
                r"worker [12] ended before it was ready: exit status 7", replica.output()
            )
        finally:
            replica.end()
            replica.log.unlink()

    def test_a_port_in_use(self, database: postgres.Server) -> None:
        """Before any worker is started."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = str(taken.getsockname()[1])
            replica = started(database, arguments=("--port", port))
            try:
                assert replica.wait() == 2
                assert replica.output().startswith("longrun cannot start\ncannot listen on")
            finally:
                replica.end()
                replica.log.unlink()


def started(database: postgres.Server, **options: Any) -> Replica:
    environment = {"LONGRUN_WORKERS": "2"}
    return servers.start(
        database.url, schema="workers_start", environment=environment, wait=False, **options
    )


async def test_a_replacement_that_does_not_start_and_a_second_signal(
    database: postgres.Server, tmp_path: Path
) -> None:
    """The workers that serve stay, until they are told twice to stop."""
    code = tmp_path / "deployed_agents.py"
    code.write_text("from tests.scripted import agents\n")
    replica = servers.start(
        database.url,
        schema="workers_broken",
        agents="deployed_agents:agents",
        environment={"LONGRUN_WORKERS": "2", "PYTHONPATH": str(tmp_path)},
        wait=False,
    )
    try:
        await eventually(lambda: "longrun serves" in replica.output(), PATIENCE)
        workers = pids(replica)
        # Another length: compiled code is told from it by that and by whole seconds.
        code.write_text("raise RuntimeError('a broken deployment')\n")
        replica.signal(signal.SIGHUP)
        await eventually(lambda: "not replaced" in replica.output(), PATIENCE)
        assert "a broken deployment" in replica.output()
        assert set(workers) <= set(pids(replica))
        await create(replica, json.dumps({"deltas": 1, "hold": 600}), background=True)
        replica.signal(signal.SIGTERM)
        await eventually(lambda: "stopping" in replica.output())
        replica.signal(signal.SIGTERM)
        assert replica.wait() == 1
        assert "second signal" in replica.output()
        assert not any(map(psutil.pid_exists, workers))
    finally:
        replica.end()
        replica.log.unlink()


async def test_readyz_says_that_another_worker_does_not_start(
    database: postgres.Server, tmp_path: Path
) -> None:
    """A broken deployment, after which one worker dies: the other one serves, and stays ready."""
    code = tmp_path / "broken_agents.py"
    code.write_text("from tests.scripted import agents\n")
    replica = servers.start(
        database.url,
        schema="workers_amiss",
        agents="broken_agents:agents",
        environment={"LONGRUN_WORKERS": "2", "PYTHONPATH": str(tmp_path)},
        wait=False,
    )

    async def warned(*warnings: str) -> bool:
        async with await Wire.open(f"{replica.url}/readyz") as wire:
            said = json.loads(await wire.rest())
        assert (wire.status, said["problems"]) == (200, [])
        return said.get("warnings", []) == list(warnings)

    try:
        await eventually(lambda: "longrun serves" in replica.output(), PATIENCE)
        assert await warned()
        code.write_text("raise RuntimeError('a broken deployment')\n")
        os.kill(pids(replica)[1], signal.SIGKILL)
        await eventually(lambda: "does not start" in replica.output(), PATIENCE)
        await eventually(lambda: warned("worker 2 does not start"))
        code.write_text("from tests.scripted import agents  # mended\n")
        await eventually(lambda: warned(), PATIENCE)
    finally:
        replica.end()
        replica.log.unlink()


async def test_over_tls_and_without_their_parent(database: postgres.Server, tmp_path: Path) -> None:
    """Both protocols; then the parent is killed, and its workers stop by themselves."""
    environment = {"LONGRUN_WORKERS": "2", "LONGRUN_DRAIN_SECONDS": "1"}
    with over_tls(database.url, tmp_path, schema="workers_tls", environment=environment) as replica:
        await eventually(lambda: "longrun serves" in replica.output())
        peers = [await Peer.open(replica) for _ in range(4)]
        for peer in peers:
            async with peer:
                assert await peer.get("/v1/models") == 200
        workers = pids(replica)
        replica.process.kill()
        replica.process.wait()
        await eventually(lambda: not any(map(psutil.pid_exists, workers)))
        assert replica.output().count("the parent is gone: stopping") == WORKERS
