"""One process, one replica: Hypercorn's protocols on uvloop, signals, and the order of stopping."""

import asyncio
import contextlib
import functools
import gc
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

import uvloop
from hypercorn.app_wrappers import ASGIWrapper

from longrun.app import Longrun
from longrun.errors import ConfigurationError
from longrun.serving import allocator, blocked, sockets, stubborn
from longrun.serving.bounds import Bounds, Context
from longrun.serving.connection import Connection, Connections
from longrun.serving.pinned import check
from longrun.serving.stopping import LAST_REQUESTS, Stopping
from longrun.serving.taking import Connected, Taking, handed_over, kept_by
from longrun.serving.threads import NAME, ToolThreads
from longrun.serving.worker import Worker
from longrun.settings import Settings

log = logging.getLogger("longrun.server")

BACKLOG: Final = 1024
"""Connections that the kernel keeps until they are taken."""

LAST_ANSWERS: Final = 3.0
"""Seconds that answers which are under way have after the drain."""

COLLECTED_AFTER: Final = (5_000, 4, 50) if sys.version_info < (3, 14) else (5_000,)
"""When the garbage collector looks for cycles: after so many new objects, beyond those that are
gone again; after so many of these looks, through what they left; after so many of those, through
all. With Python's 700 the first takes 4 % of the time at full speed, with these 1.2 %; with 10,000
no less, and its pauses are longer. The second pauses everything for 15 ms, for 30 with Python's 10.
The last takes 0.4 s with 3,000 open streams, and longer with more: so it comes after 1.3 million
objects that stayed, and not after half of that. Cycles are rare here: a run, which is one, is taken
apart at its end, and streams leave none. From 3.14 on Python goes through the oldest in parts."""

THREADS_WAIT: Final = 1.0
"""Seconds that tools in threads have at the very end."""


def run(
    make_app: Callable[[], Longrun],
    settings: Settings,
    started: Callable[[str], None],
    worker: Worker | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        make_app: called in the event loop.
        started: called with the server's URL when it answers requests.
        worker: this process, if it is one of several.

    Raises:
        ConfigurationError: the server cannot start; says why.
    """
    check()
    allocator.bound()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, _threads(settings) as pool:
        loop = runner.get_loop()
        loop.set_default_executor(pool)
        with stubborn.left_behind(loop), blocked.named(loop):
            runner.run(_serve(make_app, settings, started, worker))


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
    make_app: Callable[[], Longrun],
    settings: Settings,
    started: Callable[[str], None],
    worker: Worker | None,
) -> None:
    stopping = Stopping(settings.drain_seconds, worker)
    with sockets.bound(settings) if worker is None else worker.listening as listening:
        app = make_app()
        stopping.at_once.append(app.abandon)
        url = sockets.url(listening, settings)
        async with app.running(heeds_signals=False):
            # Raised below: a task group would wrap it.
            refusal = await app.authentication.refusal_of(settings.host)
            if refusal is None:
                taking = _taking(app, listening, settings, worker, stopping)
                await _until_stopped(app, taking, lambda: started(url), stopping.asked)
        if refusal is not None:
            raise ConfigurationError(refusal)


async def _until_stopped(
    app: Longrun,
    taking: AbstractAsyncContextManager[Connections],
    started: Callable[[], None],
    stop: asyncio.Event,
) -> None:
    # What is there by now stays: the collector need not go through it again and again, which
    # under full load is a twelfth of the time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTED_AFTER)
    async with taking as connections:
        started()
        await stop.wait()
        log.info("stopping")
        # For some time new connections are taken: a load balancer has to hear from /readyz, and
        # whoever comes meanwhile gets an answer and not a closed port. Then a closed port is what
        # tells those that ask nobody.
        app.drain()
        connections.leave()
        await app.taken_all()


@contextlib.asynccontextmanager
async def _taking(
    app: Longrun,
    listening: socket.socket,
    settings: Settings,
    worker: Worker | None,
    stopping: Stopping,
) -> AsyncIterator[Connections]:
    """Serve on a socket. At the end take nothing new, and wait for the answers under way."""
    loop, context, config = asyncio.get_running_loop(), Context(None), _config(settings)
    most = sockets.raise_limit()
    connections = Connections(min(most, settings.max_connections or most), context)
    wrapped = ASGIWrapper(app)  # type: ignore[arg-type]

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await Connection(connections, wrapped, loop, config, context, {}, reader, writer)

    taken = (
        _alone
        if worker is None
        else functools.partial(_beside_others, worker, stopping, lambda: app.live)
    )
    try:
        async with taken(connections, listening, connected, config):
            yield connections
        connections.retire()
        await app.drained()
    finally:
        await context.terminated.set()
        loop.call_later(LAST_ANSWERS, connections.abort_all)
        await connections.end(LAST_ANSWERS + 1)


@contextlib.asynccontextmanager
async def _alone(
    connections: Connections, listening: socket.socket, connected: Connected, config: Bounds
) -> AsyncIterator[None]:
    tls = _tls(config)
    server = await asyncio.start_server(connected, sock=listening, backlog=BACKLOG, **tls)
    try:
        yield
    finally:
        last = kept_by(listening)
        server.close()
        await handed_over(last, connected, **tls)


@contextlib.asynccontextmanager
async def _beside_others(
    worker: Worker,
    stopping: Stopping,
    work: Callable[[], int],
    connections: Connections,
    listening: socket.socket,
    connected: Connected,
    config: Bounds,
) -> AsyncIterator[None]:
    taking = Taking(listening, worker.shares, worker.place, connected, work, **_tls(config))

    def leave() -> None:
        taking.end()
        connections.leave()
        asyncio.get_running_loop().call_later(LAST_REQUESTS, connections.retire)

    async with taking.taken(BACKLOG):
        stopping.leave = leave
        yield
    # The last worker that closes it closes the port.
    listening.close()


def _tls(config: Bounds) -> dict[str, Any]:
    """As `asyncio.start_server` has it."""
    if not config.ssl_enabled:
        return {"ssl": None, "ssl_handshake_timeout": None}
    return {
        "ssl": config.create_ssl_context(),
        "ssl_handshake_timeout": config.ssl_handshake_timeout,
    }


def _config(settings: Settings) -> Bounds:
    config = Bounds()
    config.send_timeout = settings.send_timeout
    config.receive_timeout = settings.receive_timeout
    config.ping_interval = settings.keepalive_interval
    config.keep_alive_timeout = settings.idle_timeout
    config.max_headers = settings.max_headers
    config.max_header_bytes = settings.max_header_bytes
    config.h11_max_incomplete_size = settings.max_header_bytes
    config.h2_max_header_list_size = settings.max_header_bytes
    config.errorlog = logging.getLogger("longrun.hypercorn")
    config.alpn_protocols = ["h2", "http/1.1"] if settings.http2 else ["http/1.1"]
    config.certfile = str(settings.tls_certfile) if settings.tls_certfile else None
    config.keyfile = str(settings.tls_keyfile) if settings.tls_keyfile else None
    return config
