"""What a connection over TLS holds of what comes."""

import asyncio
import ssl
from pathlib import Path
from typing import Any

from longrun.serving.sockets import TLS_BUFFER, slim
from tests.attacking import certificate, trusting


async def test_it_holds_a_record_and_not_256_kib(tmp_path: Path) -> None:
    chain, key = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    sent = bytes(range(256)) * 2000
    held: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        transport: Any = writer.transport
        slim(transport)
        writer.write(await reader.readexactly(len(sent)))
        await writer.drain()
        held.append(len(transport._ssl_protocol._ssl_buffer))
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    async with asyncio.timeout(30), server:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting("http/1.1"))
        writer.write(sent)
        assert await reader.readexactly(len(sent)) == sent
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
    assert held == [TLS_BUFFER]
