"""One process, one replica: Hypercorn on uvloop, signals, and the order of stopping."""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final
from weakref import WeakSet

import uvloop
from hypercorn.asyncio import serve as hypercorn_serve
from hypercorn.config import Config
from starlette.types import ASGIApp, Receive, Scope, Send

from longrun.app import Longrun
from longrun.errors import ConfigurationError
from longrun.http.streams import ABORT
from longrun.serving import stubborn
from longrun.serving.threads import NAME, ToolThreads
from longrun.settings import Settings

log = logging.getLogger("longrun.server")

LAST_ANSWERS: Final = 3.0
"""Seconds that answers which are under way have after the drain."""

THREADS_WAIT: Final = 1.0
"""Seconds that tools in threads have at the very end."""


def run(
    make_app: Callable[[], Longrun], settings: Settings, started: Callable[[str], None]
) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        make_app: called in the event loop.
        started: called with the server's URL when it answers requests.

    Raises:
        ConfigurationError: the server cannot start; says why.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, _threads(settings) as pool:
        loop = runner.get_loop()
        loop.set_default_executor(pool)
        with stubborn.left_behind(loop):
            runner.run(_serve(make_app, settings, started))


@contextlib.contextmanager
def _threads(settings: Settings) -> Iterator[ToolThreads]:
    """Where tools run that are plain functions: room for all runs, and no hold on the process.

    Such a tool cannot be stopped, and Python would wait for it at the end.
    """
    pool = ToolThreads(max(32, 2 * settings.max_runs))
    yield pool
    pool.shutdown(wait=False, cancel_futures=True)
    deadline = time.monotonic() + THREADS_WAIT
    while any(thread.name.startswith(NAME) for thread in threading.enumerate()):
        if time.monotonic() > deadline:
            log.warning("tools in threads do not end: exiting without them")
            logging.shutdown()
            os._exit(0)
        time.sleep(0.02)


async def _serve(
    make_app: Callable[[], Longrun], settings: Settings, started: Callable[[str], None]
) -> None:
    stop = asyncio.Event()
    at_once: list[Callable[[], None]] = []
    _on_signals(stop, at_once, settings.drain_seconds)
    with _bound(settings) as listening:
        app = make_app()
        at_once.append(app.abandon)
        connections = Connections(app)
        loop = asyncio.get_running_loop()
        async with app.running():
            url = _url(listening, settings)

            async def until_stopped() -> None:
                await stop.wait()
                log.info("stopping")
                # Until it is done, new connections are taken: a load balancer has to hear from
                # /readyz, and whoever comes meanwhile gets an answer and not a closed port.
                app.drain()
                await app.drained()
                loop.call_later(LAST_ANSWERS, connections.abort_all)

            # What is there by now stays: the collector need not go through it again and again,
            # which under full load is a twelfth of the time.
            gc.collect()
            gc.freeze()
            started(url)
            config = _config(listening, settings)
            # Hypercorn has its own copy, and closes it first of all when it stops. With ours open
            # new connections would still be taken, by nobody.
            listening.close()
            await hypercorn_serve(connections, config, shutdown_trigger=until_stopped)  # type: ignore[arg-type]


def _on_signals(
    stop: asyncio.Event, at_once: list[Callable[[], None]], drain_seconds: float
) -> None:
    """The first signal stops in order; the second at once, but for what `at_once` has to do; the
    third does not wait for that either. An order that comes to no end is cut short."""
    numbers = (signal.SIGTERM, signal.SIGINT)

    def received() -> None:
        if stop.is_set():
            log.warning("second signal: exiting at once")
            for number in numbers:
                signal.signal(number, signal.SIG_DFL)
            for act in at_once:
                act()
            os._exit(1)
        stubborn.exit_after(drain_seconds + stubborn.LAST_RESORT, loop, at_once)
        stop.set()

    loop = asyncio.get_running_loop()
    for number in numbers:
        loop.add_signal_handler(number, received)


@contextlib.contextmanager
def _bound(settings: Settings) -> Any:
    """The listening socket, bound here so that a port in use is a clear error, and 0 is known."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((settings.host, settings.port))
        except OSError as error:
            raise ConfigurationError(
                f"cannot listen on LONGRUN_HOST={settings.host} LONGRUN_PORT={settings.port}: "
                f"{error.strerror}"
            ) from error
        yield listening


def _url(listening: socket.socket, settings: Settings) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    scheme = "https" if settings.tls_certfile else "http"
    return f"{scheme}://{host}:{listening.getsockname()[1]}"


def _config(listening: socket.socket, settings: Settings) -> Config:
    config = Config()
    config.bind = [f"fd://{os.dup(listening.fileno())}"]
    config.graceful_timeout = LAST_ANSWERS + 1
    config.keep_alive_timeout = 75
    config.keep_alive_max_requests = sys.maxsize
    config.h2_max_concurrent_streams = 1000
    config.include_server_header = False
    config.accesslog = None
    config.errorlog = logging.getLogger("longrun.hypercorn")
    config.certfile = str(settings.tls_certfile) if settings.tls_certfile else None
    config.keyfile = str(settings.tls_keyfile) if settings.tls_keyfile else None
    return config


class Connections:
    """The application, with a way to drop connections, which ASGI does not have.

    A client that takes nothing leaves bytes in the transport's buffer; closing waits for it to
    take them, so only an abort frees the connection. The way to the transport is Hypercorn's
    own structure (HTTPStream, H11Protocol, TCPServer); a stream of HTTP/2 shares its connection
    with others and is only ended.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._writers: WeakSet[asyncio.StreamWriter] = WeakSet()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope.get("http_version", "").startswith("1"):
            stream = getattr(send, "__self__", None)
            protocol = getattr(getattr(stream, "send", None), "__self__", None)
            server = getattr(getattr(protocol, "send", None), "__self__", None)
            writer = getattr(server, "writer", None)
            if isinstance(writer, asyncio.StreamWriter):
                self._writers.add(writer)
                extensions = scope.get("extensions") or {}
                scope["extensions"] = {**extensions, ABORT: writer.transport.abort}
        await self._app(scope, receive, send)

    def abort_all(self) -> None:
        """Drop what is still open: Hypercorn would wait for a client that takes nothing."""
        for writer in list(self._writers):
            writer.transport.abort()
