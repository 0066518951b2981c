"""A process that stops gives each connection its last answer, and resets none of them."""

import asyncio
import json
import signal
import ssl
from pathlib import Path

from tests import servers
from tests.attacking import Peer, over_tls, trusting
from tests.postgres import Server
from tests.reading import eventually, parse, script
from tests.servers import Replica

HEADERS = [("content-type", "application/json")]


def asked(**fields: object) -> bytes:
    return json.dumps({"model": "scripted", "stream": True, **fields}).encode()


async def test_goaway_comes_when_nothing_is_under_way(
    database: Server, schema: str, tmp_path: Path
) -> None:
    """On an idle connection at once; after the last stream's end on any other."""
    with over_tls(database.url, tmp_path, schema=schema) as replica:
        async with await Peer.open(replica) as idle, await Peer.open(replica) as busy:
            assert await idle.get("/healthz") == 200
            stream = busy.request("/v1/responses", "POST", end=False, headers=HEADERS)
            busy.h2.send_data(stream, asked(input=script(deltas=40, pause=0.05)), end_stream=True)
            await busy.flush()
            await busy.until(lambda: b"output_text.delta" in busy.bodies[stream])
            replica.signal(signal.SIGTERM)
            await eventually(lambda: "stopping" in replica.output())
            while not idle.closed:
                await idle.more()
            assert stream not in busy.ended
            # What is still asked on it is answered.
            assert await busy.get("/healthz") == 200
            await busy.until(lambda: stream in busy.ended)
            assert parse(bytes(busy.bodies[stream])).done
            async with asyncio.timeout(10):
                while not busy.closed:
                    await busy.more()
            assert replica.wait(15) == 0


async def test_connections_that_are_made_in_the_last_moment_are_answered(
    database: Server, schema: str, tmp_path: Path
) -> None:
    """With TLS too, whose handshake takes a client's time."""
    with over_tls(database.url, tmp_path, schema=schema) as replica:
        await answered_or_refused(replica, trusting("http/1.1"))
    with servers.replicas(1, database.url, schema=schema) as (replica,):
        await answered_or_refused(replica, None)


async def answered_or_refused(replica: Replica, tls: ssl.SSLContext | None) -> None:
    """Connect again and again while it stops, until it refuses."""
    said: list[bytes] = []
    refused = asyncio.Event()

    async def connect() -> None:
        host, port = replica.url.rpartition("/")[2].split(":")
        while not refused.is_set():
            try:
                opened = asyncio.open_connection(host, port, ssl=tls)
                reader, writer = await asyncio.wait_for(opened, 10)
            except ConnectionRefusedError:
                refused.set()
                return
            writer.write(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
            said.append((await reader.readuntil(b"\r\n\r\n")).split(b"\r\n", 1)[0])
            writer.close()

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(connect())
        await eventually(lambda: len(said) > 20)
        replica.signal(signal.SIGTERM)
    assert set(said) == {b"HTTP/1.1 200 "} or set(said) == {b"HTTP/1.1 200 OK"}
    assert await asyncio.to_thread(replica.wait, 15) == 0
