"""Clients over HTTP/1.1 that do not behave: none of them keeps a replica from the others.

What each input did before is in its docstring."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import psutil
import pytest

from tests import servers
from tests.attacking import (
    MEGABYTE,
    MemoryWatch,
    answer,
    answers_others,
    check_error,
    connect,
    ends,
    open_connections,
    raw,
    say,
    whole,
)
from tests.postgres import Server
from tests.reading import (
    Wire,
    eventually,
    in_background,
    metric,
    parse,
    retrieve,
    script,
    stream_url,
)
from tests.servers import Replica
from tests.storing import add_history, migrated

SMALL = 4096
JSON = b"content-type: application/json\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n"
UNREAD = CHUNKED + b"\r\n" + b"1\r\nx\r\n" * 20
"""More parts than Hypercorn's queue holds."""


@dataclass(frozen=True)
class Target:
    """A replica that is soon out of patience; a response with events of 1 MB, one with small."""

    replica: Replica
    heavy: str
    long: str


@pytest.fixture(scope="module")
def target(database: Server) -> Iterator[Target]:
    async def history() -> tuple[str, str]:
        async with migrated(database.url, "attacks_http1") as store:
            return await add_history(store, 12, size=1_000_000), await add_history(store, 12)

    heavy, long = asyncio.run(history())
    environment = {
        "LONGRUN_SEND_TIMEOUT": "1",
        "LONGRUN_RECEIVE_TIMEOUT": "1.5",
        "LONGRUN_MAX_BODY_BYTES": str(4 * MEGABYTE),
        "LONGRUN_MAX_BODIES_BYTES": str(4 * MEGABYTE),
    }
    with servers.replicas(
        1, database.url, schema="attacks_http1", environment=environment
    ) as started:
        yield Target(started[0], heavy, long)


@pytest.fixture
async def replica(target: Target) -> AsyncIterator[Replica]:
    """The replica, on which no client is left; afterwards neither."""
    await eventually(lambda: not open_connections(target.replica))
    yield target.replica
    await eventually(lambda: not open_connections(target.replica))


UNKNOWN = "resp_" + "0" * 32

NOT_READ = {
    "unknown path": ("POST /nothing/here HTTP/1.1\r\nhost: localhost\r\n", 404),
    "wrong method": ("PUT /v1/responses HTTP/1.1\r\nhost: localhost\r\n", 405),
    "not JSON": ("POST /v1/responses HTTP/1.1\r\nhost: localhost\r\n", 415),
    "get": ("GET /healthz HTTP/1.1\r\nhost: localhost\r\n", 200),
    "cancel": (f"POST /v1/responses/{UNKNOWN}/cancel HTTP/1.1\r\nhost: localhost\r\n", 404),
    "delete": (f"DELETE /v1/responses/{UNKNOWN} HTTP/1.1\r\nhost: localhost\r\n", 404),
}


@pytest.fixture(params=NOT_READ.values(), ids=NOT_READ.keys())
def not_read(request: pytest.FixtureRequest) -> tuple[bytes, int]:
    """The head of a request whose body nobody reads, and the status of its answer."""
    head, status = request.param
    return head.encode(), status


class TestBodiesThatNobodyReads:
    async def test_one_that_is_complete_costs_nothing(
        self, replica: Replica, not_read: tuple[bytes, int]
    ) -> None:
        """Held its connection for ever, and the next request on it was never answered."""
        head, status = not_read
        wire = await raw(replica, head + UNREAD + b"0\r\n\r\n")
        async with wire:
            while not wire.complete:
                assert await wire.more()
            assert wire.status == status
            await say(wire.connection, b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
            following = await answer(wire.connection)
            assert following.status == 200

    async def test_its_client_may_close_at_once(
        self, replica: Replica, not_read: tuple[bytes, int]
    ) -> None:
        """145 bytes held a connection for ever: not even its end was noticed."""
        head, _ = not_read
        for _ in range(5):
            connection = await connect(replica)
            await say(connection, head + UNREAD)
            connection.close()
        await eventually(lambda: not open_connections(replica), timeout=10)

    async def test_one_that_never_ends_is_given_up(
        self, replica: Replica, not_read: tuple[bytes, int]
    ) -> None:
        head, status = not_read
        wire = await raw(replica, head + UNREAD)
        async with wire:
            assert wire.status == status
            await ends(wire)

    async def test_a_large_one_is_taken_to_its_end(self, replica: Replica) -> None:
        """Clients that read only when they have sent all saw a reset, and no answer."""
        size = 8 * MEGABYTE
        connection = await connect(replica)
        head = b"POST /nothing HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % size
        await say(connection, head + bytes(size))
        async with await answer(connection) as wire:
            assert wire.status == 404
            check_error(await whole(wire))


class TestBodiesThatDoNotCome:
    HEAD = b"POST /v1/responses HTTP/1.1\r\nhost: localhost\r\n" + JSON

    async def test_one_that_stops_is_answered_with_408(self, replica: Replica) -> None:
        """Was waited for without end."""
        wire = await raw(replica, self.HEAD + b'content-length: 1000\r\n\r\n{"input"')
        async with wire:
            assert wire.status == 408
            check_error(await whole(wire))
            await ends(wire)

    async def test_a_head_that_trickles_is_answered_with_408(self, replica: Replica) -> None:
        connection = await connect(replica)
        reading = asyncio.create_task(answer(connection))
        for byte in b"GET /healthz HTTP/1.1\r\nx-slow: " + b"a" * 1000:
            if reading.done():
                break
            await say(connection, bytes([byte]))
            await asyncio.sleep(0.1)
        async with await reading as wire:
            assert wire.status == 408
            check_error(await whole(wire))

    async def test_all_of_them_have_a_bound_together(self, replica: Replica) -> None:
        """60 bodies of 30 MB held 1.7 GB."""
        watch = MemoryWatch(replica)
        connections = [await connect(replica) for _ in range(12)]
        head = self.HEAD + b"content-length: %d\r\n\r\n" % (3 * MEGABYTE)
        part = b'{"input": "' + b"x" * MEGABYTE
        try:
            answers = [asyncio.create_task(answer(each)) for each in connections]
            for each in connections:
                await say(each, head)
            sending = [asyncio.create_task(say(each, part)) for each in connections]
            # Those that found room stop coming and are answered, too.
            wires = await asyncio.gather(*answers)
            watch.look()
            refused = [wire for wire in wires if wire.status == 503]
            assert len(refused) >= 8
            for wire in refused:
                assert int(wire.headers["retry-after"]) >= 1
                check_error(await whole(wire))
            # A small request has room beside them.
            body = {"model": "scripted", "input": "hi"}
            async with await Wire.open(
                f"{replica.base_url}/responses", method="POST", json=body
            ) as small:
                assert small.status == 200
            await asyncio.gather(*sending, return_exceptions=True)
        finally:
            for each in connections:
                each.close()
        assert watch.growth < 60 * MEGABYTE


class TestConnections:
    async def test_one_that_its_client_closes_is_gone(self, replica: Replica) -> None:
        """Lived on for 75 s: a few requests a second used up all descriptors."""
        for _ in range(5):
            wire = await raw(replica, b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert wire.status == 200
            wire.close()
        await eventually(lambda: not open_connections(replica), timeout=5)

    async def test_what_is_sent_ahead_does_not_hide_that_a_client_is_gone(
        self, replica: Replica
    ) -> None:
        """The run of a foreground request went on for a client that was gone."""
        body = json.dumps(
            {"model": "scripted", "input": script(deltas=5000, pause=0.05), "stream": True}
        ).encode()
        head = b"POST /v1/responses HTTP/1.1\r\nhost: localhost\r\n" + JSON
        ahead = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"
        wire = await raw(replica, head + b"content-length: %d\r\n\r\n" % len(body) + body + ahead)
        await wire.until(lambda got: b"word2" in got)
        response_id = json.loads(bytes(wire.body).split(b"data: ")[1].split(b"\n")[0])["response"][
            "id"
        ]
        wire.close()

        async def is_cancelled() -> bool:
            return (await retrieve(replica, response_id))["status"] == "cancelled"

        await eventually(is_cancelled, timeout=10)

    async def test_requests_that_are_sent_ahead_are_answered_in_turn(
        self, replica: Replica
    ) -> None:
        request = b"POST /nothing/%d HTTP/1.1\r\nhost: localhost\r\n" + UNREAD + b"0\r\n\r\n"
        connection = await connect(replica)
        await say(connection, b"".join(request % number for number in range(50)))
        got = b""
        async with asyncio.timeout(20):
            while got.count(b'"not_found"') < 50:
                got += await asyncio.get_running_loop().sock_recv(connection, 100_000)
        places = [got.index(b"/nothing/%d." % number) for number in range(50)]
        assert places == sorted(places)
        connection.close()

    async def test_more_than_there_may_be(self, database: Server, schema: str) -> None:
        environment = {"LONGRUN_MAX_CONNECTIONS": "3", "LONGRUN_IDLE_TIMEOUT": "1"}
        with servers.replicas(1, database.url, schema=schema, environment=environment) as (few,):
            await eventually(lambda: not open_connections(few))
            kept = [await connect(few) for _ in range(3)]
            await eventually(lambda: open_connections(few) == 3)
            with await connect(few) as one_more:
                assert await asyncio.get_running_loop().sock_recv(one_more, 1) == b""
            # Those on which nothing is asked go by themselves, and make room.
            await eventually(lambda: not open_connections(few))
            async with await raw(few, b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n") as wire:
                assert wire.status == 200
            for each in kept:
                each.close()

    async def test_more_than_there_are_descriptors(self, database: Server) -> None:
        """1,003 of them killed a replica that may have 1,024, without a line in its log."""
        replica = servers.start(database.url, schema="attacks_http1", wait=False)
        process = psutil.Process(replica.process.pid)
        process.rlimit(psutil.RLIMIT_NOFILE, (100, 200))
        connections: list[socket.socket] = []
        try:
            servers.wait_ready(replica)
            assert process.rlimit(psutil.RLIMIT_NOFILE) == (200, 200)
            for _ in range(300):
                connections.append(await connect(replica))
            await eventually(lambda: "connections are open" in replica.output())
            for each in connections:
                each.close()
            await eventually(lambda: open_connections(replica) < 100)
            await answers_others(replica, within=10)
        finally:
            for each in connections:
                each.close()
            replica.end()
            replica.log.unlink()


REFUSED = {
    "no HTTP": (b"\x16\x03\x01 what\r\n\r\n", 400),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "a chunk of no size": (
        b"POST /v1/responses HTTP/1.1\r\nhost: localhost\r\n" + JSON + CHUNKED + b"\r\nzz\r\n",
        400,
    ),
    "two lengths": (
        b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        400,
    ),
    "a length and chunks": (
        b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\n"
        + CHUNKED
        + b"\r\n0\r\n\r\nGET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n",
        400,
    ),
    "a large header": (b"GET / HTTP/1.1\r\nhost: localhost\r\nx: " + b"a" * 70_000, 431),
    "many headers": (
        b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
        + b"x: y\r\n" * 201
        + b"\r\n",
        431,
    ),
    "large headers": (
        b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
        + (b"x: " + b"y" * 997 + b"\r\n") * 66
        + b"\r\n",
        431,
    ),
    "another encoding": (
        b"POST / HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: gzip\r\n\r\n",
        501,
    ),
    "HTTP/2 without TLS": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "WebSocket of another version": (
        b"GET /v1/responses HTTP/1.1\r\nhost: localhost\r\n"
        b"connection: upgrade\r\nupgrade: websocket\r\n"
        b"sec-websocket-version: 8\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
        426,
    ),
    "WebSocket without a key": (
        b"GET /v1/responses HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\n"
        b"upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: A\r\n\r\n",
        400,
    ),
    "WebSocket elsewhere": (
        b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n"
        b"connection: upgrade\r\nupgrade: websocket\r\n"
        b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
        404,
    ),
}


class TestRefusals:
    @pytest.mark.parametrize(("said", "status"), REFUSED.values(), ids=REFUSED.keys())
    async def test_they_have_the_shape_of_all_errors(
        self, replica: Replica, said: bytes, status: int
    ) -> None:
        """They had no body."""
        async with await raw(replica, said) as wire:
            assert wire.status == status
            assert wire.headers["content-type"] == "application/json"
            assert wire.headers["x-content-type-options"] == "nosniff"
            check_error(await whole(wire))
            await ends(wire)

    async def test_an_upgrade_to_http2_is_not_taken(self, replica: Replica) -> None:
        upgrade = b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: \r\n"
        request = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n" + upgrade + b"\r\n"
        async with await raw(replica, request) as wire:
            assert wire.status == 200
            assert await whole(wire) == {"status": "ok"}

    async def test_continue_is_said_when_the_body_is_wanted(self, replica: Replica) -> None:
        """It was said to everybody."""
        expecting = b"expect: 100-continue\r\ncontent-length: 15\r\n\r\n"
        head = b"POST /v1/responses HTTP/1.1\r\nhost: localhost\r\n"
        async with await raw(replica, head + JSON + expecting) as wire:
            assert wire.status == 100
            await say(wire.connection, b'{"input": "hi"}')
            assert (await answer(wire.connection)).status == 200
        async with await raw(replica, head + expecting) as wire:
            assert wire.status == 415
            await whole(wire)
            await ends(wire)


class TestHead:
    async def test_of_a_stream_is_answered_at_once(self, replica: Replica) -> None:
        """Hung until the run had ended."""
        response_id = await in_background(replica, deltas=1000, pause=0.05)
        path = f"/v1/responses/{response_id}?stream=true"
        request = f"HEAD {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode()
        async with await raw(replica, request) as wire:
            assert wire.status == 200
            assert wire.headers["content-type"].startswith("text/event-stream")
            await say(
                wire.connection, f"DELETE {path[:-12]} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode()
            )
            following = await answer(wire.connection, timeout=10)
            assert (await whole(following))["deleted"] is True

    async def test_of_a_response_has_its_headers(self, target: Target) -> None:
        request = f"HEAD /v1/responses/{target.long} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode()
        async with await raw(target.replica, request) as wire:
            assert (wire.status, wire.headers["content-type"]) == (200, "application/json")


class TestWhatIsWrittenDown:
    async def test_invented_methods_share_one_place_in_the_metrics(self, replica: Replica) -> None:
        """3,000 of them made 3,000 series."""
        for number in range(20):
            request = b"INVENTED%d /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n" % number
            async with await raw(replica, request) as wire:
                assert wire.status == 405
        text = (await Wire.fetch(f"{replica.url}/metrics")).decode()
        assert "INVENTED" not in text
        assert 'longrun_http_requests_total{method="other"' in text

    async def test_no_line_of_the_log_is_a_client_s(self, replica: Replica) -> None:
        """A path with %0a wrote lines of its own."""
        forged = b"%0a2026-01-01 00:00:00 INFO longrun: forged%1b[31m%e2%80%a8forged"
        path = b"/a" + forged.replace(b" ", b"%20")
        async with await raw(
            replica, b"GET " + path + b" HTTP/1.1\r\nhost: localhost\r\n\r\n"
        ) as wire:
            assert wire.status == 404
        await eventually(lambda: "/a%0a" in replica.output())
        lines = replica.output().splitlines()
        assert sum("forged" in line for line in lines) == 1
        assert "\x1b" not in replica.output()


class TestSlowClients:
    async def test_one_that_goes_on_reading_gets_all_however_long_it_takes(
        self, target: Target, replica: Replica
    ) -> None:
        """Was cut: an event had to be taken as a whole within the time for a send."""
        url = stream_url(replica, target.heavy)
        async with await Wire.open(url, receive_buffer=64 * 1024) as wire:
            began = time.monotonic()
            while len(wire.body) < 2_000_000 and await wire.more(20_000):
                await asyncio.sleep(0.05)
            # For one event more than twice the time in which something has to be taken.
            assert time.monotonic() - began > 4
            await wire.rest()
        assert wire.complete
        numbers = parse(wire.body).numbers
        assert numbers == list(range(len(numbers)))

    async def test_those_that_read_nothing_cost_little_and_are_cut(
        self, target: Target, replica: Replica
    ) -> None:
        """Each held several copies of what it had been sent."""
        cut = await metric(replica, "longrun_reader_timeouts_total")
        watch = MemoryWatch(replica)
        wires = [
            await Wire.open(stream_url(replica, response_id), receive_buffer=SMALL)
            for response_id in [target.long] * 100 + [target.heavy] * 10
        ]

        async def are_cut() -> bool:
            watch.look()
            return await metric(replica, "longrun_reader_timeouts_total") == cut + len(wires)

        await eventually(are_cut, timeout=30, every=0.2)
        for wire in wires:
            wire.close()
        assert watch.growth < 150 * MEGABYTE

    async def test_one_that_reads_nothing_of_a_plain_answer_is_cut(
        self, target: Target, replica: Replica
    ) -> None:
        """Only streams had a bound."""
        cut = await metric(replica, "longrun_reader_timeouts_total")
        body = {"model": "scripted", "input": script(turns=[[["big", {"size": 8_000_000}]]])}
        url = f"{replica.base_url}/responses"
        async with await Wire.open(url, method="POST", json=body, receive_buffer=SMALL) as wire:
            assert wire.status == 200

            async def is_cut() -> bool:
                return await metric(replica, "longrun_reader_timeouts_total") == cut + 1

            await eventually(is_cut)
            await eventually(lambda: open_connections(replica) == 0)
            await wire.rest()
            assert not wire.complete
