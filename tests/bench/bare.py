"""The floor of a stream: a bare ASGI application, under the same Hypercorn and uvloop as ours.

No database, no agent, no router: one frame a send, with frames of the size of ours.
`/paced?…` emits as `agents.Pace` says; `/frames` sends what it was given at its start.
"""

import contextlib
import logging
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from hypercorn.asyncio import serve
from hypercorn.config import Config

from tests.bench import processes
from tests.bench.agents import Pace

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
_DELTA = (
    "event: response.output_text.delta\nid: {n}\n"
    'data: {{"type":"response.output_text.delta","sequence_number":{n},"content_index":0,'
    '"delta":"{text} ","item_id":"msg_' + 38 * "0" + '","logprobs":[],"output_index":0}}\n\n'
)
_END = (
    "event: response.completed\nid: {n}\n"
    'data: {{"type":"response.completed","sequence_number":{n},"response":{{}}}}\n\n'
)


def paced_path(pace: Pace) -> str:
    """Where the application emits at this pace."""
    return "/paced?" + quote(pace.as_text())


@contextlib.contextmanager
def serving(frames: Path | None = None) -> Iterator[int]:
    """The application in a process of its own.

    Args:
        frames: a file with what `/frames` sends.

    Yields:
        Its port.
    """
    with processes.started(_serve, frames=str(frames) if frames else None) as child:
        yield child.ready()


async def _serve(parent: processes.Parent, frames: str | None) -> None:
    held = Path(frames).read_bytes().split(b"\n\n")[:-1] if frames else []
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(100)
    port = int(listening.getsockname()[1])
    config = Config()
    config.bind = [f"fd://{listening.detach()}"]
    config.keep_alive_max_requests = sys.maxsize
    config.accesslog = None
    config.errorlog = logging.getLogger("bare")
    parent.ready(port)
    app: Any = _application([frame + b"\n\n" for frame in held])
    await serve(app, config, shutdown_trigger=parent.stopped)


def _application(frames: list[bytes]) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        if scope["path"] == "/frames":
            for frame in frames:
                await send({"type": "http.response.body", "body": frame, "more_body": True})
        else:
            await _emit(Pace.parse(unquote(scope["query_string"].decode())), send)
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})

    return app


async def _emit(pace: Pace, send: Any) -> None:
    # At once, as ours do: Hypercorn sends the head of an answer with the first of its body.
    await send({"type": "http.response.body", "body": b": keepalive\n", "more_body": True})
    async for number in pace.ticks():
        text = time.monotonic_ns() if pace.clock else "some words"
        frame = _DELTA.format(n=number, text=text).encode()
        await send({"type": "http.response.body", "body": frame, "more_body": True})
    end = _END.format(n=pace.deltas).encode()
    await send({"type": "http.response.body", "body": end, "more_body": True})
