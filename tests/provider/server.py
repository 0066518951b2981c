"""The provider's HTTP server, in a thread of the test's process, on a free port of 127.0.0.1."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

from hypercorn.asyncio import serve
from hypercorn.config import Config
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from tests.provider import chat, responses
from tests.provider.chat import Completion
from tests.provider.memory import Asked, Memory, Mint
from tests.provider.responses import Answer
from tests.provider.script import Turn
from tests.provider.shapes import Refused

KEY = "sk-provider"
"""The API key that it takes; any other is a 401."""


class Cut(Exception):
    """Ends a connection in the middle of an answer."""


class Gates:
    """Where turns wait until the test lets them go on. Called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reached: dict[str, threading.Event] = {}
        self._opened: dict[str, threading.Event] = {}

    def reached(self, name: str, timeout: float = 30) -> None:
        """Wait until a turn stands at the gate.

        Raises:
            TimeoutError: none came.
        """
        if not self._event(self._reached, name).wait(timeout):
            raise TimeoutError(f"no turn reached the gate {name}")

    def open(self, name: str) -> None:
        """Let through whoever waits at the gate, and who comes later."""
        self._event(self._opened, name).set()

    def open_all(self) -> None:
        for name in list(self._reached):
            self.open(name)

    async def wait(self, name: str) -> None:
        """Stand at the gate."""
        self._event(self._reached, name).set()
        opened = self._event(self._opened, name)
        while not opened.is_set():
            await asyncio.sleep(0.01)

    def _event(self, events: dict[str, threading.Event], name: str) -> threading.Event:
        with self._lock:
            return events.setdefault(name, threading.Event())


class Provider:
    """A running provider.

    Attributes:
        url: for `base_url` of the `openai` client, `/v1` included.
        asked: what it was asked so far, refused requests too; the newest last.
        gates: see `Turn.gate`.
    """

    def __init__(self, seed: str = "provider") -> None:
        self.memory = Memory(Mint(seed))
        self.gates = Gates()
        self.url = ""
        self._times: dict[tuple[Any, ...], int] = {}

    @property
    def asked(self) -> list[Asked]:
        return self.memory.asked

    @property
    def refused(self) -> list[str]:
        """The messages of all refusals."""
        return [each.refusal for each in self.asked if each.refusal is not None]

    def forget_requests(self) -> None:
        """Begin the record of requests anew; what was given stays known."""
        self.memory.asked.clear()

    def application(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/responses", self._responses, methods=["POST"]),
                Route("/v1/responses/input_tokens", self._count, methods=["POST"]),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/_requests", self._requests),
                Route("/_gates/{name}", self._open, methods=["POST"]),
            ]
        )

    async def _responses(self, request: Request) -> Response:
        return await self._answer(request, responses)

    async def _count(self, request: Request) -> Response:
        body = await request.json()
        asked = Asked(request.url.path, body, dict(request.headers))
        self.memory.asked.append(asked)
        try:
            _check_key(request)
            return JSONResponse(responses.count(body, self.memory))
        except Refused as refused:
            asked.refusal = refused.message
            return JSONResponse(refused.body(), refused.status)

    async def _chat(self, request: Request) -> Response:
        return await self._answer(request, chat)

    async def _answer(self, request: Request, api: Any) -> Response:
        body = await request.json()
        asked = Asked(request.url.path, body, dict(request.headers))
        self.memory.asked.append(asked)
        try:
            _check_key(request)
            given: Answer | Completion = api.answer(body, self.memory, asked)
            turn = self._turn(given.turn, body)
            if turn.status is not None:
                raise _server_error(turn.status)
        except Refused as refused:
            asked.refusal = refused.message
            return JSONResponse(refused.body(), refused.status)
        given.turn = turn
        if body.get("stream"):
            stream = self._stream(given, api)
            return StreamingResponse(stream, media_type="text/event-stream; charset=utf-8")
        return await self._plain(given)

    async def _plain(self, given: Answer | Completion) -> Response:
        turn = given.turn
        if turn.gate is not None:
            await self.gates.wait(turn.gate)
        if turn.end in ("disconnect", "silence"):
            return _Cut()
        if turn.end == "error" or (turn.end == "failed" and isinstance(given, Completion)):
            return JSONResponse(_server_error(500).body(), 500)
        return JSONResponse(given.whole() if isinstance(given, Completion) else given.finished())

    async def _stream(self, given: Answer | Completion, api: Any) -> AsyncIterator[bytes]:
        turn = given.turn
        frames = [frame async for frame in api.frames(given)]
        broken = turn.end in ("error", "disconnect", "silence")
        broken = broken or (turn.end == "failed" and isinstance(given, Completion))
        after = turn.after if turn.after is not None else len(frames) - (1 if broken else 0)
        for number, frame in enumerate(frames):
            if number == (turn.after or 0) and turn.gate is not None:
                await self.gates.wait(turn.gate)
            if broken and number >= after:
                break
            yield frame
            await asyncio.sleep(turn.pause)
        if turn.end == "disconnect":
            raise Cut
        if broken and turn.end != "silence":
            yield api.error_frame()

    def _turn(self, turn: Turn, body: dict[str, Any]) -> Turn:
        """The turn, or a plain one if it went wrong as often as it should."""
        if turn.times is None:
            return turn
        key = (turn.gate, turn.end, turn.status, str(body.get("input", body.get("messages"))))
        self._times[key] = self._times.get(key, 0) + 1
        return turn if self._times[key] <= turn.times else Turn(items=turn.items)

    async def _requests(self, request: Request) -> Response:
        return JSONResponse([vars(each) for each in self.asked])

    async def _open(self, request: Request) -> Response:
        self.gates.open(request.path_params["name"])
        return JSONResponse({})


class _Cut(Response):
    """An answer that breaks off."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"application/json"), (b"content-length", b"1000")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b'{"id":', "more_body": True})
        raise Cut


def _check_key(request: Request) -> None:
    if request.headers.get("authorization") != f"Bearer {KEY}":
        raise Refused("Incorrect API key provided.", None, "invalid_api_key", 401)


def _server_error(status: int) -> Refused:
    message = "The server had an error while processing your request."
    kind = "rate_limit_error" if status == 429 else "server_error"
    return Refused(message, None, "server_error", status, kind)


@contextlib.contextmanager
def running(seed: str = "provider") -> Iterator[Provider]:
    """A provider that listens until the end of the block."""
    provider = Provider(seed)
    listening = socket.create_server(("127.0.0.1", 0))
    provider.url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    started: threading.Event = threading.Event()
    ends: list[Any] = []

    def run() -> None:
        async def main() -> None:
            stop = asyncio.Event()
            loop = asyncio.get_running_loop()
            ends.append(lambda: loop.call_soon_threadsafe(stop.set))
            started.set()
            await serve(provider.application(), _config(listening), shutdown_trigger=stop.wait)

        asyncio.run(main())

    thread = threading.Thread(target=run, name="provider")
    thread.start()
    started.wait()
    try:
        yield provider
    finally:
        provider.gates.open_all()
        ends[0]()
        thread.join(30)


def _config(listening: socket.socket) -> Config:
    config = Config()
    config.bind = [f"fd://{listening.detach()}"]
    config.loglevel = "CRITICAL"
    config.errorlog = None
    config.graceful_timeout = 0.2
    config.shutdown_timeout = 1
    config.keep_alive_timeout = 60
    return config
