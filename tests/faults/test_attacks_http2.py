"""Clients over HTTP/2 that do not behave: none of them keeps a replica from the others, nor a
stream its connection from other streams.

What each input did before is in its docstring."""

import asyncio
import functools
import json
import struct
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.attacking import (
    CONTINUATION,
    DATA,
    HEADERS,
    MEGABYTE,
    PING,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    MemoryWatch,
    Peer,
    answers_others,
    frame,
    open_connections,
    over_tls,
)
from tests.postgres import Server
from tests.reading import KEEPALIVE, eventually, parse, script
from tests.servers import Replica
from tests.storing import add_history, migrated

UNKNOWN = "/v1/responses/resp_" + "0" * 32
END_STREAM, END_HEADERS = 1, 4


@dataclass(frozen=True)
class Target:
    """A replica that is soon out of patience, and a response with 12 MB of log."""

    replica: Replica
    long: str

    @property
    def path(self) -> str:
        return f"/v1/responses/{self.long}?stream=true"


@pytest.fixture(scope="module")
def target(database: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    async def history() -> str:
        async with migrated(database.url, "attacks_http2") as store:
            return await add_history(store, 12)

    long = asyncio.run(history())
    folder: Path = tmp_path_factory.mktemp("tls")
    environment = {"LONGRUN_SEND_TIMEOUT": "2", "LONGRUN_RECEIVE_TIMEOUT": "1.5"}
    with over_tls(database.url, folder, schema="attacks_http2", environment=environment) as replica:
        yield Target(replica, long)


@pytest.fixture
async def peer(target: Target) -> AsyncIterator[Peer]:
    """A connection; afterwards it is gone, and the replica answers others."""
    async with await Peer.open(target.replica) as opened:
        yield opened
    await eventually(lambda: not open_connections(target.replica))
    await answers_others(target.replica, within=10)
    assert "Traceback" not in target.replica.output()


class TestStreams:
    async def test_a_whole_one(self, target: Target, peer: Peer) -> None:
        stream = peer.request(target.path)
        await peer.flush()
        await peer.until(lambda: stream in peer.ended, timeout=60)
        reading = parse(peer.bodies[stream])
        assert reading.done
        assert reading.rest == b""
        assert reading.numbers == list(range(len(reading.frames)))

    async def test_many_at_once_get_the_same(self, target: Target, peer: Peer) -> None:
        path = target.path + "&starting_after=11000"
        streams = [peer.request(path) for _ in range(20)]
        await peer.flush()
        await peer.until(lambda: peer.ended.issuperset(streams), timeout=60)
        # But for what is said to one that has to wait.
        bodies = [bytes(peer.bodies[stream]).replace(KEEPALIVE, b"") for stream in streams]
        assert len(set(bodies)) == 1
        assert parse(peer.bodies[streams[0]]).done

    async def test_two_hundred_that_stall_cost_little_and_are_cut(self, target: Target) -> None:
        """Had all of their logs in memory: 40 of them 700 MB, which outlived the connection."""
        watch = MemoryWatch(target.replica)
        async with await Peer.open(target.replica, window=0) as peer:
            streams = [peer.request(target.path) for _ in range(200)]
            await peer.flush()
            await peer.until(lambda: watch.look() and peer.resets.keys() >= set(streams), 60)
            assert not peer.ended
        watch.look()
        assert watch.growth < 200 * MEGABYTE

    async def test_one_that_stalls_does_not_hold_up_the_others(
        self, target: Target, peer: Peer
    ) -> None:
        peer.reading = False
        stalled = peer.request(target.path)
        await peer.flush()
        await peer.until(lambda: len(peer.bodies[stalled]) >= 60_000)
        # The connection's own window is shut by now, which is not the others' fault.
        peer.h2.increment_flow_control_window(MEGABYTE)
        peer.reading = True
        assert await peer.get("/healthz") == 200

    async def test_a_slow_reader_gets_all_however_long_it_takes(self, target: Target) -> None:
        """Was cut when it did not take a send as a whole within the time for it."""
        async with await Peer.open(target.replica, window=20_000) as peer:
            peer.reading = False
            stream = peer.request(target.path + "&starting_after=11500")
            await peer.flush()
            began = time.monotonic()
            while stream not in peer.ended:
                got = len(peer.bodies[stream])
                await peer.until(functools.partial(self._has_more, peer, stream, got))
                await asyncio.sleep(0.1)
                if stream not in peer.ended:
                    peer.h2.acknowledge_received_data(len(peer.bodies[stream]) - got, stream)
                    await peer.flush()
            assert time.monotonic() - began > 2
            assert parse(peer.bodies[stream]).done

    def _has_more(self, peer: Peer, stream: int, got: int) -> bool:
        return stream in peer.ended or len(peer.bodies[stream]) > got

    async def test_one_that_its_client_resets_ends_its_run(
        self, target: Target, peer: Peer
    ) -> None:
        """And other streams go on."""
        body = {"model": "scripted", "input": script(deltas=5000, pause=0.05), "stream": True}
        json_type = [("content-type", "application/json")]
        stream = peer.request("/v1/responses", "POST", end=False, headers=json_type)
        peer.h2.send_data(stream, json.dumps(body).encode(), end_stream=True)
        await peer.flush()
        await peer.until(lambda: b"word2" in peer.bodies[stream])
        response_id = parse(peer.bodies[stream]).events[0]["response"]["id"]
        peer.h2.reset_stream(stream)
        deadline = time.monotonic() + 10
        while True:
            asked = peer.request(f"/v1/responses/{response_id}")
            await peer.flush()
            await peer.until(lambda asked=asked: asked in peer.ended)  # type: ignore[misc]
            if json.loads(peer.bodies[asked])["status"] == "cancelled":
                break
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)


class TestBodies:
    async def test_one_that_nobody_reads_does_not_hold_up_others(self, peer: Peer) -> None:
        """30 small frames to a 404 stopped all other streams of the connection."""
        unread = peer.request("/nothing", "POST", end=False)
        for _ in range(30):
            peer.h2.send_data(unread, b"x")
        assert await peer.get("/healthz") == 200
        await peer.until(lambda: unread in peer.ended)
        assert peer.statuses[unread] == 404

    async def test_what_comes_after_the_answer_is_dropped(self, peer: Peer) -> None:
        """Was a KeyError that ended the connection."""
        late = peer.request("/nothing", "POST", end=False)
        await peer.flush()
        await peer.until(lambda: late in peer.ended)
        for _ in range(40):
            peer.h2.send_data(late, bytes(16_000))
            await peer.flush()
            await peer.until(lambda: peer.h2.local_flow_control_window(late) >= 16_000)
        peer.h2.end_stream(late)
        assert await peer.get("/healthz") == 200
        assert late not in peer.resets

    async def test_one_that_does_not_end_is_given_up(self, peer: Peer) -> None:
        answered = peer.request("/nothing", "POST", end=False)
        read = peer.request(
            "/v1/responses", "POST", end=False, headers=[("content-type", "application/json")]
        )
        await peer.flush()
        await peer.until(lambda: answered in peer.resets and read in peer.resets)
        assert (peer.statuses[answered], peer.statuses[read]) == (404, 408)
        assert peer.resets[answered] == peer.resets[read] == 0
        assert await peer.get("/healthz") == 200

    async def test_a_large_one_is_read(self, peer: Peer) -> None:
        content = b'{"input": "' + b"x" * 2_000_000 + b'", "temperature": "hot"}'
        stream = peer.request(
            "/v1/responses", "POST", end=False, headers=[("content-type", "application/json")]
        )
        while content:
            room = min(peer.h2.local_flow_control_window(stream), 16_000, len(content))
            if room:
                peer.h2.send_data(stream, content[:room])
                content = content[room:]
                await peer.flush()
            else:
                await peer.more()
        peer.h2.end_stream(stream)
        await peer.flush()
        await peer.until(lambda: stream in peer.ended)
        assert peer.statuses[stream] == 400
        assert b"temperature" in peer.bodies[stream]

    async def test_one_connection_cannot_fill_the_memory(self, target: Target) -> None:
        watch = MemoryWatch(target.replica)
        async with await Peer.open(target.replica) as peer:
            for _ in range(100):
                stream = peer.request(
                    "/v1/responses", "POST", end=False, headers=[("content-type", "text/plain")]
                )
                for _ in range(3):
                    if peer.h2.local_flow_control_window(stream) >= 16_000:
                        peer.h2.send_data(stream, bytes(16_000))
                await peer.flush()
                watch.look()
        assert watch.growth < 50 * MEGABYTE


class TestFrames:
    async def test_resets_without_end(self, target: Target, peer: Peer) -> None:
        """Each ran its application: what is reset at once does not count as open."""
        flood = asyncio.create_task(self._open_and_reset(peer))
        for _ in range(5):
            await answers_others(target.replica, within=5)
        await peer.until(lambda: peer.closed)
        flood.cancel()
        await asyncio.gather(flood, return_exceptions=True)

    async def _open_and_reset(self, peer: Peer) -> None:
        while True:
            for _ in range(50):
                stream = peer.request(UNKNOWN)
                peer.h2.reset_stream(stream)
            await peer.flush()
            await asyncio.sleep(0)

    @pytest.mark.parametrize(
        "said",
        [
            frame(PING, 0, b"12345678"),
            frame(SETTINGS, 0, struct.pack(">HI", 4, 65535)),
            frame(PRIORITY, 3, struct.pack(">IB", 5, 1))
            + frame(PRIORITY, 5, struct.pack(">IB", 3, 1)),
            frame(WINDOW_UPDATE, 0, struct.pack(">I", 1)),
            frame(DATA, 1, b""),
            frame(RST_STREAM, 1, struct.pack(">I", 8)),
            frame(0xFF, 1, b"?"),
        ],
        ids=["pings", "settings", "priorities", "windows", "no data", "resets", "unknown"],
    )
    async def test_a_flood_of_small_ones(self, target: Target, said: bytes) -> None:
        watch = MemoryWatch(target.replica)
        async with await Peer.open(target.replica) as peer:
            first = peer.request("/nothing", "POST", end=False)
            assert first == 1
            flood = asyncio.create_task(self._repeat(peer, said * 200))
            for _ in range(5):
                await answers_others(target.replica, within=5)
                watch.look()
            flood.cancel()
            await asyncio.gather(flood, return_exceptions=True)
        await eventually(lambda: not open_connections(target.replica))
        assert watch.growth < 30 * MEGABYTE
        assert "Traceback" not in target.replica.output()

    async def _repeat(self, peer: Peer, said: bytes) -> None:
        while True:
            await peer.send(said)

    async def test_headers_that_go_on_for_ever(self, target: Target, peer: Peer) -> None:
        await peer.send(frame(HEADERS, 1, b"\x82\x86\x84"))
        for _ in range(200):
            await peer.send(frame(CONTINUATION, 1, b"\x40\x01a\x7f\x80\x20" + b"x" * 4000))
        await peer.until(lambda: peer.closed)

    async def test_many_headers_are_refused(self, peer: Peer) -> None:
        many = peer.request("/healthz", headers=[(f"x-{n}", "y") for n in range(201)])
        await peer.flush()
        await peer.until(lambda: many in peer.ended)
        assert peer.statuses[many] == 431
        assert await peer.get("/healthz") == 200

    async def test_priorities_in_circles_and_chains(self, target: Target, peer: Peer) -> None:
        """The tree of priorities could be led into loops, and into a chain too deep to go down."""
        chain = b"".join(
            frame(PRIORITY, 2 * n + 3, struct.pack(">IB", 2 * n + 1, 1)) for n in range(900)
        )
        circle = b"".join(
            frame(PRIORITY, n, struct.pack(">IB", (n + 2) | 1 << 31, 1)) for n in range(1, 400, 2)
        )
        await peer.send(chain + circle)
        assert await peer.get("/healthz") == 200

    async def test_paths_and_methods_that_are_none(self, peer: Peer) -> None:
        """Bytes that are no ASCII ended the connection."""
        odd = [peer.request(path) for path in ("/caf\u00e9", "/%ff%fe", "*", "/a?%00")]
        odd.append(peer.request("/v1/responses", "INVENTED"))
        odd.append(peer.request("/", "CONNECT"))
        await peer.flush()
        await peer.until(lambda: peer.ended.issuperset(odd))
        assert {peer.statuses[stream] for stream in odd} == {404, 405}
        assert await peer.get("/healthz") == 200

    async def test_more_streams_than_there_may_be(self, target: Target, peer: Peer) -> None:
        await peer.until(lambda: peer.h2.remote_settings.max_concurrent_streams < 1000)
        most = peer.h2.remote_settings.max_concurrent_streams
        peer.h2.remote_settings.update({3: 10_000})
        peer.h2.remote_settings.acknowledge()
        for _ in range(most + 50):
            peer.request(target.path)
        await peer.flush()
        await peer.until(lambda: peer.closed)

    async def test_an_idle_connection_is_ended_with_its_client(self, target: Target) -> None:
        async with await Peer.open(target.replica) as peer:
            assert await peer.get("/healthz") == 200
        await eventually(lambda: not open_connections(target.replica), timeout=5)
