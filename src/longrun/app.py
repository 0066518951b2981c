"""A replica: starts and stops its parts in order, and says how they are. `create_app` makes it."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

from agents import RunConfig, RunHooks
from starlette.routing import BaseRoute
from starlette.types import Receive, Scope, Send

from longrun import metrics, signals
from longrun.access.authentication import Authenticate, configured
from longrun.endpoints import Endpoints
from longrun.execution import event_types, registry
from longrun.execution.application import (
    Application,
    ContextFactory,
    HooksFactory,
    Lifespan,
    RunConfigFactory,
    SessionFactory,
    of_modules,
)
from longrun.execution.registry import Registry
from longrun.execution.replay import taps
from longrun.execution.tracing.opening import sent_at_end
from longrun.http import health
from longrun.parts import Parts
from longrun.settings import Settings
from longrun.store.grants import check_rights
from longrun.store.migrate import check_migrated, migrate

log = logging.getLogger("longrun")

READERS_LEAVE_WITHIN = 0.9
"""The part of a drain by whose end all readers are gone."""

TAKES_WITHIN = 0.5
"""The part of a drain in which connections are taken; who comes last has the rest for an answer."""

STORE_WAIT = 2.0
"""Seconds after a drain in which the log is written to its end. What does not get into it is
done again by whoever carries the run on, as if this process had been killed."""

SERVERS_WAIT = 2.0
"""Seconds after that in which MCP servers are closed."""

LISTEN_WAIT = 5.0
"""Seconds that a start waits for LISTEN; without it readers would only be slower."""


class Longrun:
    """One replica, as an ASGI application for any server.

    It starts and stops with ASGI's lifespan, or within `running()`, whichever comes first.
    """

    def __init__(
        self, served: Registry, settings: Settings, application: Application | None = None
    ) -> None:
        for each in served.all():
            each.check_within(settings)
        event_types.build()
        taps.install(tracing=settings.sdk_tracing or settings.otel)
        self.settings = settings
        self.models = served.names()
        self.exposition = _own_metrics
        """Gives what `/metrics` answers."""
        self.beside: Callable[[], list[str]] = list
        """Gives what is amiss with processes beside this one, of the same command."""
        self._draining = False
        self._drained_by: float | None = None
        self._running = False
        self._stop_work = asyncio.Event()
        self._stop_store = asyncio.Event()
        self._work_done = asyncio.Event()
        self._application = application or Application()
        self._application.warn_of(served.handlers())
        self.parts = Parts(served, settings, self._application)
        self.authentication = configured(
            settings, self.parts.known_keys, self._application.authenticate
        )
        self._endpoints = Endpoints(self.parts, served, settings, self.authentication)
        self._asgi = self._endpoints.asgi(
            health.routes(self.problems, self.warnings, lambda: self.exposition()),
            running=lambda: self._running,
            lifespan=self.lifespan,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._asgi(scope, receive, send)

    @property
    def routes(self) -> list[BaseRoute]:
        """All that is served."""
        return self._asgi.routes

    @property
    def live(self) -> int:
        """How many runs it executes."""
        return self.parts.host.live

    def problems(self) -> list[str]:
        """Why this replica should get no requests just now; empty when it should."""
        found = ["draining"] if self._draining else []
        if not self._running:
            found.append("not running")
        if self.parts.pulse.silent_since is not None:
            found.append("Postgres does not answer")
        if not self.parts.listener.connected:
            found.append("LISTEN connection down")
        if not self.parts.lease.held:
            found.append("lease not renewed")
        if self.parts.writer.failing_since is not None:
            found.append("event log cannot be written")
        if self.parts.ring_check.problem is not None:
            found.append("the ring of encryption keys lacks a key")
        parts = [*self.parts.store_parts.failing(), *self.parts.work_parts.failing()]
        return [*found, *(f"part {name} failing" for name in parts)]

    def warnings(self) -> list[str]:
        """What is amiss though this replica can serve: what is away that only some runs need."""
        found = [f"MCP server {name} is away" for name in self.parts.servers.away()]
        if disabled := self.parts.delivering.disabled:
            found.append(f"webhook endpoints that are disabled: {disabled}")
        if (problem := self.parts.partitions.problem) is not None:
            found.append(problem)
        if (waiting := self.parts.sampling.unserved.waiting) > 0:
            found.append(f"responses that wait for agents which no replica serves: {waiting}")
        return [*found, *self.beside()]

    def drain(self) -> None:
        """Stop taking work: readers resume elsewhere, runs get `drain_seconds` to finish, and what
        is asked for meanwhile is left to the other replicas."""
        if not self._draining:
            self._draining = True
            self._drained_by = asyncio.get_running_loop().time() + self.settings.drain_seconds
            self._stop_work.set()
            self.parts.hub.send_away(self.settings.drain_seconds * READERS_LEAVE_WITHIN)
            self._endpoints.sockets.send_away(self.settings.drain_seconds * READERS_LEAVE_WITHIN)

    async def taken_all(self) -> None:
        """Wait until a drain is so far that others are to take what comes: no run is left here, or
        there would soon be too little time for an answer."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.settings.drain_seconds * TAKES_WITHIN):
                await self._work_done.wait()

    async def drained(self) -> None:
        """Wait until the drain is done: no run and no reader left, or its time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(self._drained_by):
                await self._work_done.wait()
                await self.parts.hub.deserted()
                await self._endpoints.sockets.deserted()

    def lifespan(self, app: Any = None) -> contextlib.AbstractAsyncContextManager[None]:
        """`running()` as the lifespan of an application that this one is mounted in, which would
        not start it: `FastAPI(lifespan=agents_app.lifespan)`."""
        return self.running()

    @contextlib.asynccontextmanager
    async def running(self, *, heeds_signals: bool = True) -> AsyncIterator[None]:
        """Start everything; at the end stop it in order: readers, runs, the log and MCP servers,
        then the application's lifespan.

        Args:
            heeds_signals: SIGTERM and SIGINT begin the drain, besides what others do at them.

        Raises:
            ConfigurationError: the database cannot be used, or the lifespan failed; says why.
        """
        if self._running:
            yield
            return
        async with (
            sent_at_end(self.parts.tracer),
            self._application.opened(self) as self.parts.attempts.state,
            self._open_database(),
            asyncio.TaskGroup() as group,
        ):
            store = group.create_task(self.parts.store_parts.run(self._stop_store))
            servers = group.create_task(self.parts.server_parts.run(self._stop_store))
            await self.parts.servers.settled()
            work = group.create_task(self.parts.work_parts.run(self._stop_work))
            work.add_done_callback(lambda _: self._work_done.set())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.parts.listener.ready.wait(), LISTEN_WAIT)
            metrics.tell_build()
            self._running = True
            hearing = signals.heard(self.drain) if heeds_signals else contextlib.nullcontext()
            try:
                with hearing:
                    yield
            finally:
                self.drain()
                await work
                self._stop_store.set()
                await asyncio.wait([store], timeout=STORE_WAIT)
                await asyncio.wait([servers], timeout=SERVERS_WAIT)
                store.cancel()
                servers.cancel()
                self._running = False

    @contextlib.asynccontextmanager
    async def _open_database(self) -> AsyncIterator[None]:
        async with self.parts.opening.opened():
            await self._prepare_database()
            try:
                yield
            finally:
                await self.parts.lease.end()

    def abandon(self) -> None:
        """For a process that exits at once, in the middle of anything: leave no Postgres behind
        that was started for it. Everything else is safe in the log. Blocks for some seconds."""
        self.parts.opening.abandon()

    async def _prepare_database(self) -> None:
        if self.settings.auto_migrate:
            for migration in await migrate(self.parts.database):
                log.info("applied migration %04d_%s", migration.version, migration.name)
        else:
            await check_migrated(self.parts.database)
        await check_rights(self.parts.database)
        await self.parts.partitions.begin()
        await self.parts.ring_check.begin()
        await self.parts.delivering.begin()
        await self.parts.writer.prepare()
        await self.parts.event_log.prepare()
        await self.parts.lease.begin()


async def _own_metrics() -> bytes:
    return metrics.exposition()


def create_app(
    agents: Any = None,
    settings: Settings | None = None,
    *,
    context: ContextFactory | None = None,
    run_config: RunConfig | RunConfigFactory | None = None,
    hooks: RunHooks[Any] | HooksFactory | None = None,
    session: SessionFactory | None = None,
    lifespan: Lifespan | None = None,
    authenticate: Authenticate | None = None,
) -> Longrun:
    """An ASGI application that serves agents, each under its name as `model`.

    The functions among the arguments may be sync or async, and get `longrun.current()` if they
    have a parameter. All but `lifespan` are called once for each attempt of a run: after a
    takeover again, on another replica.

    Args:
        agents: an Agent, a `Served`, an import string, a list or dict of these, or a function that
            returns one of these, which is called now. A function in a list or dict, or in a
            `Served`, makes an agent anew for each attempt, and is served under its own name, or
            its key. Left out: what the settings name, or else the demo agents.
        settings: left out, read from the environment.
        context: makes the Agents SDK's context of a run. If it is an async context manager, it is
            entered, and left when the run ends. Handlers have it as `request.context`.
        run_config: an `agents.RunConfig`, or a function that gives one. `group_id` and `sandbox`
            cannot be set; model settings of a request win over its own. Not for handlers.
        hooks: `agents.RunHooks`, or a function that gives some. Those of a handler are told of
            its start and end, of its steps as of tools, and of its streams as of model turns.
        session: makes an Agents SDK Session for a run. What a run does with it is recorded, so
            that a run that is taken over finds what it found before. It is closed when the run
            ends, if it can be. Not for handlers.
        lifespan: a function that gives an async context manager, entered when this process starts
            and left when it has stopped; it gets this application if it has a parameter. What it
            yields is `longrun.current().state`.
        authenticate: says who sent a request, as a `longrun.Caller`, before keys and tokens are
            looked at; None: it does not know them. It gets Starlette's HTTPConnection, and may be
            async.

    Raises:
        ConfigurationError: a setting is not allowed, an agent cannot be served, a name is twice,
            or an argument has a wrong type.
    """
    settings = settings or Settings.load()
    given: dict[str, Any] = {
        "context": context,
        "run_config": run_config,
        "hooks": hooks,
        "session": session,
        "lifespan": lifespan,
        "authenticate": authenticate,
    }
    strings = registry.import_strings(agents, settings.agents)
    served = registry.load(strings) if strings else registry.given(agents)
    if settings.show_errors is None:
        to_this_machine = settings.host in ("127.0.0.1", "::1", "localhost")
        shown = strings == [registry.DEMO_AGENTS] and to_this_machine
        settings = settings.model_copy(update={"show_errors": shown})
    beside = of_modules(strings)
    given = {name: beside.get(name) if each is None else each for name, each in given.items()}
    return Longrun(Registry(served), settings, Application(**given))
