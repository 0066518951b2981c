"""Streams when something breaks: readers that stall, connections that are killed, servers that
stop, and servers that cannot start. Always a whole stream, or a cut that can be resumed."""

import asyncio
import contextlib
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

import psutil
import pytest

from longrun import cli
from tests import servers
from tests.postgres import Server
from tests.reading import (
    KEEPALIVE,
    Wire,
    check_complete,
    delete,
    eventually,
    finished,
    frames_alone,
    in_background,
    metric,
    parse,
    read,
    rest_of,
    script,
    stream_url,
)
from tests.servers import Replica
from tests.storing import add_history, connected, migrated, terminate

SMALL = 4096
"""Bytes that a slow client's socket takes in advance."""


@dataclass(frozen=True)
class Ground:
    """Two replicas and a response with 40 MB of log. `hasty` cuts readers after 3 s, `patient`
    after 12."""

    patient: Replica
    hasty: Replica
    long: str

    @property
    def both(self) -> list[Replica]:
        return [self.patient, self.hasty]


@pytest.fixture(scope="module")
def ground(database: Server) -> Iterator[Ground]:
    async def history() -> str:
        async with migrated(database.url, "stream_faults") as store:
            return await add_history(store, 40)

    long = asyncio.run(history())
    hasty, patient = ({"LONGRUN_SEND_TIMEOUT": seconds} for seconds in ("3", "12"))
    with (
        servers.replicas(1, database.url, schema="stream_faults", environment=patient) as first,
        servers.replicas(1, database.url, schema="stream_faults", environment=hasty) as second,
    ):
        yield Ground(first[0], second[0], long)


@contextlib.contextmanager
def one_more(database: Server, **environment: str) -> Iterator[Replica]:
    """A replica beside the two, for a test to stop."""
    with servers.replicas(
        1, database.url, schema="stream_faults", environment=environment
    ) as started:
        yield started[0]


def connections_to(replica: Replica, port: int) -> list[object]:
    """The replica's own connections to a client's port, as the kernel sees them."""
    process = psutil.Process(replica.process.pid)
    return [c for c in process.net_connections("tcp") if c.raddr and c.raddr.port == port]


class TestSlowPostgres:
    async def test_a_stream_has_heartbeats_while_its_history_is_waited_for(
        self, ground: Ground, database: Server
    ) -> None:
        with one_more(database, LONGRUN_KEEPALIVE_INTERVAL="0.2") as replica:
            async with connected(database.url) as connection:
                async with connection.transaction():
                    # Postgres answers everything but what is in the log.
                    await connection.execute("LOCK TABLE stream_faults.event_chunks")
                    wire = await Wire.open(stream_url(replica, ground.long, 39_000))
                    await wire.until(lambda body: body.count(KEEPALIVE) >= 5)
                    assert not frames_alone(wire.body)
                async with wire:
                    await wire.rest()
            assert wire.complete
            got = frames_alone(wire.body)
            assert got == await read(stream_url(ground.patient, ground.long, 39_000))


class TestSlowReaders:
    async def test_a_reader_that_stalls_and_comes_back_gets_every_event(
        self, ground: Ground
    ) -> None:
        async with await Wire.open(
            stream_url(ground.patient, ground.long), receive_buffer=SMALL
        ) as wire:
            await wire.until(lambda body: len(body) > 10_000)
            # The fault itself: half of the time after which it would be cut.
            await asyncio.sleep(6)
            wire.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            await wire.rest()
        assert wire.complete
        assert frames_alone(wire.body) == await read(stream_url(ground.hasty, ground.long))

    async def test_one_that_stalls_for_too_long_is_cut_and_can_resume(self, ground: Ground) -> None:
        before = await metric(ground.hasty, "longrun_reader_timeouts_total")
        async with await Wire.open(
            stream_url(ground.hasty, ground.long), receive_buffer=SMALL
        ) as wire:
            await wire.until(lambda body: len(body) > 10_000)
            await eventually(lambda: not connections_to(ground.hasty, wire.port))
            await wire.rest()
        assert wire.closed
        assert not wire.complete
        assert await metric(ground.hasty, "longrun_reader_timeouts_total") == before + 1
        whole = await read(stream_url(ground.patient, ground.long))
        kept = frames_alone(wire.body[: wire.body.rfind(b"\n\n") + 2])
        last = parse(kept).numbers[-1]
        assert last < 40_000
        assert kept + await read(stream_url(ground.patient, ground.long, last)) == whole

    async def test_one_whose_response_is_deleted_meanwhile_is_not_told_that_it_has_all(
        self, ground: Ground
    ) -> None:
        response_id = await in_background(ground.patient, deltas=40_000, delta="x" * 200)
        await finished(ground.patient, response_id)
        async with await Wire.open(
            stream_url(ground.patient, response_id), receive_buffer=SMALL
        ) as wire:
            await wire.until(lambda body: len(body) > 10_000)
            await delete(ground.hasty, response_id)
            wire.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            await wire.rest()
        assert wire.complete
        reading = parse(wire.body)
        assert reading.rest == b""
        assert reading.numbers == list(range(len(reading.numbers)))
        assert not reading.done
        assert b"response.completed" not in wire.body

    async def test_one_that_takes_a_byte_a_second_is_cut_and_its_connection_is_gone(
        self, ground: Ground
    ) -> None:
        async with await Wire.open(
            stream_url(ground.hasty, ground.long), receive_buffer=SMALL
        ) as wire:
            assert connections_to(ground.hasty, wire.port)
            began = time.monotonic()
            while connections_to(ground.hasty, wire.port):
                assert time.monotonic() - began < 30
                await wire.more(1)
                await asyncio.sleep(1)
            assert time.monotonic() - began > 2
            assert len(wire.body) < 1000

    async def test_a_client_that_is_gone_leaves_nothing_behind(self, ground: Ground) -> None:
        response_id = await in_background(ground.patient, deltas=100_000, pause=0.05)
        readers = await metric(ground.patient, "longrun_readers")
        wires = [
            await Wire.open(stream_url(ground.patient, i), receive_buffer=SMALL)
            for i in (response_id, ground.long) * 5
        ]
        assert await metric(ground.patient, "longrun_readers") == readers + 10
        for wire in wires:
            wire.close()
        await eventually(lambda: reads(ground.patient, readers))
        await delete(ground.patient, response_id)

    async def test_a_slow_reader_does_not_slow_the_others(self, ground: Ground) -> None:
        async with await Wire.open(stream_url(ground.patient, ground.long), receive_buffer=SMALL):
            response_id = await in_background(ground.patient, deltas=50_000, delta="x" * 200)
            async with await Wire.open(
                stream_url(ground.patient, response_id), receive_buffer=SMALL
            ) as stalled:
                whole = await read(stream_url(ground.patient, response_id), timeout=60)
                assert parse(whole).numbers == list(range(len(parse(whole).frames)))
                stalled.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
                await stalled.rest()
                assert frames_alone(stalled.body) == whole


async def reads(replica: Replica, readers: float) -> bool:
    return await metric(replica, "longrun_readers") == readers


class TestListener:
    async def test_killed_again_and_again_streams_stay_whole(
        self, ground: Ground, database: Server
    ) -> None:
        response_id = await in_background(ground.patient, deltas=300, pause=0.01)
        streams = [
            asyncio.create_task(read(stream_url(replica, response_id, cursor)))
            for replica in ground.both
            for cursor in (None, 100, 250)
        ]
        killed = 0
        while not all(stream.done() for stream in streams):
            killed += await terminate(database.url, application="longrun listener")
            await asyncio.sleep(0.15)
        assert killed >= 10
        whole = await read(stream_url(ground.hasty, response_id))
        frames = check_complete(whole, with_ids=True).frames
        for stream, cursor in zip(streams, (-1, 100, 250) * 2, strict=True):
            assert await stream == rest_of(frames, cursor)
        for replica in ground.both:
            await eventually(lambda replica=replica: is_ready(replica))  # type: ignore[misc]
        async with connected(database.url) as connection:
            attempt = await connection.fetchval(
                "SELECT attempt FROM stream_faults.responses WHERE id = $1", response_id
            )
        assert attempt == 1, "a lost LISTEN connection must not move a run"

    async def test_all_sessions_of_all_replicas_killed_in_mid_stream(
        self, ground: Ground, database: Server
    ) -> None:
        response_id = await in_background(ground.patient, deltas=200, pause=0.02)
        streams = [
            asyncio.create_task(read(stream_url(replica, response_id))) for replica in ground.both
        ]
        for _ in range(3):
            await asyncio.sleep(0.4)
            await terminate(database.url, application="longrun%")
        whole = await streams[0]
        check_complete(whole, with_ids=True)
        assert await streams[1] == whole
        assert await read(stream_url(ground.hasty, response_id)) == whole


async def is_ready(replica: Replica) -> bool:
    async with await Wire.open(f"{replica.url}/readyz") as wire:
        await wire.rest()
        return wire.status == 200


class TestStop:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    async def test_streams_end_between_two_frames_and_resume_elsewhere(
        self, ground: Ground, database: Server, number: signal.Signals
    ) -> None:
        drain = 4.0
        async with contextlib.AsyncExitStack() as stack:
            third = stack.enter_context(one_more(database, LONGRUN_DRAIN_SECONDS=str(drain)))
            local = await in_background(third, deltas=100_000, pause=0.01)
            remote = await in_background(ground.patient, deltas=100_000, pause=0.01)
            body = {"input": script(deltas=100_000, pause=0.01), "stream": True}
            streams = [
                await Wire.open(stream_url(third, local)),
                await Wire.open(stream_url(third, remote)),
                await Wire.open(f"{third.base_url}/responses", method="POST", json=body),
            ]
            waiting = await Wire.open(stream_url(third, remote, 1_000_000))
            stalled = await Wire.open(stream_url(third, ground.long), receive_buffer=SMALL)
            for wire in (*streams, waiting, stalled):
                stack.callback(wire.close)
            for wire in streams:
                await wire.until(lambda body: b"word20" in body)

            third.signal(number)
            await asyncio.gather(*(wire.rest(drain + 20) for wire in (*streams, waiting)))
            # The drain, then the answers that are under way; the rest is for a busy machine.
            assert await asyncio.to_thread(third.wait, drain + 20) == 0
            assert "Traceback" not in third.output()

            for wire in (*streams, waiting):
                assert wire.complete
                reading = parse(wire.body)
                assert reading.rest == b""
                assert not reading.done
            posted = parse(streams[2].body).events[0]["response"]["id"]
            for wire, response_id in zip(streams, (local, remote, posted), strict=True):
                numbers = parse(wire.body).numbers
                assert numbers == list(range(len(numbers)))
                await goes_on(ground.patient, response_id, numbers[-1])

    async def test_no_new_work_is_taken_and_a_run_that_is_near_its_end_may_finish(
        self, ground: Ground, database: Server
    ) -> None:
        """What is in the log is all there for the others, the end included."""
        with one_more(database, LONGRUN_DRAIN_SECONDS="6") as third:
            response_id = await in_background(third, deltas=100, pause=0.01)
            async with await Wire.open(stream_url(third, response_id)) as wire:
                await wire.until(lambda body: b"word20" in body)
                third.signal(signal.SIGTERM)
                await eventually(lambda: refuses(third))
                await wire.rest()
            assert await asyncio.to_thread(third.wait, 20) == 0
            assert wire.complete
            assert parse(wire.body).rest == b""
        whole = await read(stream_url(ground.patient, response_id))
        assert (await finished(ground.hasty, response_id))["status"] == "completed"
        reading = check_complete(whole, with_ids=True)
        assert [e["response"]["status"] for e in reading.events if "response" in e] == [
            "in_progress",
            "in_progress",
            "completed",
        ]
        assert whole.startswith(frames_alone(wire.body))


async def goes_on(replica: Replica, response_id: str, cursor: int) -> None:
    """Another replica goes on after the last event of a stream that was cut."""
    async with await Wire.open(stream_url(replica, response_id, cursor)) as resumed:
        await resumed.until(lambda _: resumed.frames > 20)
    numbers = parse(resumed.body).numbers
    assert numbers == list(range(cursor + 1, cursor + 1 + len(numbers)))
    await delete(replica, response_id)


async def refuses(replica: Replica) -> bool:
    """No new connection, or an answer that sends the client elsewhere."""
    try:
        body = {"model": "scripted", "input": "x", "background": True}
        async with await Wire.open(
            f"{replica.base_url}/responses", method="POST", json=body
        ) as wire:
            await wire.rest()
            return wire.status in (0, 503)
    except ConnectionError:
        return True


@dataclass(frozen=True)
class Wrong:
    """How a server is started that cannot start, and words of what it has to say."""

    words: tuple[str, ...]
    agents: str = servers.AGENTS
    arguments: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()


def setting(name: str, value: str) -> Wrong:
    return Wrong((name, value), environment=((name, value),))


NOWHERE = "postgresql://someone:secret-password@127.0.0.1:1/x"

WRONG = {
    "a port that is in use": Wrong(("{used}", "in use"), arguments=("--port", "{used}")),
    "a module that is not there": Wrong(("no_such:agents",), agents="no_such:agents"),
    "a database that is not there": Wrong(
        ("LONGRUN_DATABASE_URL",), environment=(("LONGRUN_DATABASE_URL", NOWHERE),)
    ),
}

ALSO_WRONG = {
    "an address that is not here": Wrong(("192.0.2.1",), arguments=("--host", "192.0.2.1")),
    "no attribute": Wrong(("'tests.scripted'", "module:attribute"), agents="tests.scripted"),
    "an unknown attribute": Wrong(("nobody", "tests.scripted"), agents="tests.scripted:nobody"),
    "what is no agent": Wrong(("tests.servers:AGENTS", "str"), agents="tests.servers:AGENTS"),
    "an agent twice": Wrong(("'scripted'",), agents=f"{servers.AGENTS} {servers.AGENTS}"),
    "a number": setting("LONGRUN_POOL_SIZE", "many"),
    "a range": setting("LONGRUN_SEND_TIMEOUT", "-1"),
    "a choice": setting("LONGRUN_LOG_LEVEL", "loud"),
    "a truth": setting("LONGRUN_AUTO_MIGRATE", "perhaps"),
    "a schema": setting("LONGRUN_SCHEMA", "No-Name"),
    "a password that is not percent-encoded": Wrong(
        ("LONGRUN_DATABASE_URL", "%23"),
        environment=(("LONGRUN_DATABASE_URL", "postgresql://x:secret-password#1@127.0.0.1/x"),),
    ),
    "a URL": Wrong(
        ("LONGRUN_DATABASE_URL",), environment=(("LONGRUN_DATABASE_URL", "http://x:pass@y/"),)
    ),
}


def check_message(output: str, words: tuple[str, ...], **values: str) -> None:
    assert "longrun cannot start" in output
    assert "Traceback" not in output
    for each in words:
        assert each.format(**values) in output
    assert "secret-password" not in output
    assert len(output.splitlines()) < 15


class TestCannotStart:
    def test_the_process_ends_with_2_and_says_why(self, database: Server) -> None:
        started: dict[str, Replica] = {}
        with socket.socket() as used:
            used.bind(("127.0.0.1", 0))
            used.listen()
            port = str(used.getsockname()[1])
            try:
                for name, wrong in WRONG.items():
                    environment = dict(wrong.environment)
                    started[name] = servers.start(
                        environment.get("LONGRUN_DATABASE_URL", database.url),
                        schema="stream_faults",
                        agents=wrong.agents,
                        arguments=tuple(each.format(used=port) for each in wrong.arguments),
                        environment=environment,
                        wait=False,
                    )
                for name, replica in started.items():
                    assert replica.wait(100) == 2, name
                    check_message(replica.output(), WRONG[name].words, used=port)
            finally:
                for replica in started.values():
                    replica.end()
                    replica.log.unlink()

    @pytest.mark.parametrize("wrong", ALSO_WRONG.values(), ids=ALSO_WRONG.keys())
    def test_the_command_says_what_is_wrong(
        self,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        database: Server,
        wrong: Wrong,
    ) -> None:
        monkeypatch.setenv("LONGRUN_DATABASE_URL", database.url)
        for name, value in wrong.environment:
            monkeypatch.setenv(name, value)
        command = ["longrun", "serve", *wrong.agents.split(), "--port", "0", *wrong.arguments]
        monkeypatch.setattr("sys.argv", command)
        with pytest.raises(SystemExit) as raised:
            cli.main()
        assert raised.value.code == 2
        check_message(capsys.readouterr().err, wrong.words)
