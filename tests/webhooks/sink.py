"""Where webhooks come in: a real server on a socket, in a thread, that can answer, refuse,
redirect, hang, break off and be gone."""

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

HANGS_FOR = 60.0


@dataclass(frozen=True)
class Received:
    """One request. `at` is a moment of the monotonic clock."""

    path: str
    headers: dict[str, str]
    body: bytes
    at: float

    @property
    def event(self) -> dict[str, Any]:
        return dict(json.loads(self.body))

    @property
    def response_id(self) -> str:
        return str(self.event["data"]["id"])


class Sink:
    """What came in, and how each path behaves.

    Attributes:
        behaviour: by path: a status, one and a `Retry-After`, or `hang`, `break`, `redirect`,
            `flood`; 200 where none is.
        released: ends what hangs.
    """

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.behaviour: dict[str, int | str | tuple[int, str]] = {}
        self.released = threading.Event()
        self.port = 0
        self._server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def at(self, path: str) -> list[Received]:
        """What came to a path, in order."""
        return [each for each in self.received if each.path == path]

    def of(self, response_id: str, path: str = "/hook") -> list[Received]:
        """What came of one response."""
        return [each for each in self.at(path) if each.response_id == response_id]

    def begin(self) -> None:
        """Listen; again on the same port, after `stop`."""
        self._server = _Server(("127.0.0.1", self.port), _handler(self))
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is what some tests are about."""


def _handler(sink: Sink) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            size = int(self.headers["content-length"])
            body = self.rfile.read(size)
            if len(body) < size:
                # Whoever sent it was killed in the middle of it.
                self.close_connection = True
                return
            headers = {name.lower(): value for name, value in self.headers.items()}
            sink.received.append(Received(self.path, headers, body, time.monotonic()))
            match sink.behaviour.get(self.path, 200):
                case "hang":
                    sink.released.wait(HANGS_FOR)
                    self.close_connection = True
                case "break":
                    self.close_connection = True
                case "redirect":
                    self._answer(307, {"location": f"{sink.url}/elsewhere"})
                case "flood":
                    self.send_response(200)
                    self.end_headers()
                    with contextlib.suppress(OSError):
                        while not sink.released.is_set():
                            self.wfile.write(b"x" * 65536)
                    self.close_connection = True
                case int(status):
                    self._answer(status, {})
                case (status, pause):
                    self._answer(status, {"retry-after": pause})

        def _answer(self, status: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    return Handler


@contextlib.contextmanager
def sinking() -> Iterator[Sink]:
    """A sink that listens within the block."""
    sink = Sink()
    sink.begin()
    try:
        yield sink
    finally:
        sink.released.set()
        sink.stop()
