"""The floor of a stream: a bare ASGI application, under the same Hypercorn and uvloop as ours.

No database, no agent, no router: one frame a send, with frames of the size of ours.
`/paced?…` emits as `agents.Pace` says, `/begun?…` too, after an event at once, and so does a POST
whose JSON has the pace as its input; `/shared?…` emits once for all streams that ask for the same;
`/frames` sends what it was given at its start.
"""

import asyncio
import contextlib
import json
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
_CREATED = (
    'event: response.created\nid: 0\ndata: {"type":"response.created","sequence_number":0,'
    '"response":{"id":"resp_' + 32 * "0" + '","padding":"' + 800 * "x" + '"}}\n\n'
)
_DELTA = (
    "event: response.output_text.delta\nid: {n}\n"
    'data: {{"type":"response.output_text.delta","sequence_number":{n},"content_index":0,'
    '"delta":"{text} ","item_id":"msg_' + 38 * "0" + '","logprobs":[],"output_index":0}}\n\n'
)
_END = (
    "event: response.completed\nid: {n}\n"
    'data: {{"type":"response.completed","sequence_number":{n},"response":{{}}}}\n\n'
)


def paced_path(pace: Pace, at: str = "paced") -> str:
    """Where the application emits at this pace."""
    return f"/{at}?" + quote(pace.as_text())


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
    shared: dict[str, _Shared] = {}

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
        elif scope["path"] == "/shared":
            asked = unquote(scope["query_string"].decode())
            if asked not in shared:
                shared[asked] = _Shared(Pace.parse(asked))
            await shared[asked].send_all(send)
        elif scope["method"] == "POST":
            asked = json.loads(await _body(receive))["input"]
            await _emit(Pace.parse(asked), send, _CREATED.encode())
        else:
            pace = Pace.parse(unquote(scope["query_string"].decode()))
            begins = scope["path"] == "/begun"
            await _emit(pace, send, _CREATED.encode() if begins else b"")
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})

    return app


async def _body(receive: Any) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message["body"], message.get("more_body", False)
    return body


class _Shared:
    """What is emitted once, for any number of streams."""

    def __init__(self, pace: Pace) -> None:
        self._frames: list[bytes] = []
        self._changed = asyncio.Event()
        self._emitting = asyncio.ensure_future(_emit(pace, self._keep))

    async def _keep(self, message: Any) -> None:
        self._frames.append(message["body"])
        self._changed.set()

    async def send_all(self, send: Any) -> None:
        sent = 0
        while not (self._emitting.done() and sent == len(self._frames)):
            while sent == len(self._frames):
                self._changed.clear()
                await self._changed.wait()
            body = b"".join(self._frames[sent:])
            sent = len(self._frames)
            await send({"type": "http.response.body", "body": body, "more_body": True})


async def _emit(pace: Pace, send: Any, created: bytes = b"") -> None:
    # At once, as ours do: Hypercorn sends the head of an answer with the first of its body.
    first = created or b": keepalive\n"
    await send({"type": "http.response.body", "body": first, "more_body": True})
    before = 1 if created else 0
    async for tick in pace.ticks():
        number = before + tick
        text = time.monotonic_ns() if pace.clock else "some words"
        frame = _DELTA.format(n=number, text=text).encode()
        await send({"type": "http.response.body", "body": frame, "more_body": True})
    end = _END.format(n=before + pace.deltas).encode()
    await send({"type": "http.response.body", "body": end, "more_body": True})
