"""The composition root: wires the parts of one replica, and decides nothing else."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from importlib.metadata import version
from typing import Any

from agents import RunConfig, RunHooks
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute
from starlette.types import Receive, Scope, Send

from longrun import ids, metrics, signals
from longrun.access.authentication import Authenticate, configured
from longrun.access.known_keys import KnownKeys
from longrun.access.rates import Rates
from longrun.access.stream_tokens import StreamTokens
from longrun.console import routes as console_routes
from longrun.execution import registry
from longrun.execution.admission import Admission
from longrun.execution.agreement import check_agreement
from longrun.execution.application import (
    Application,
    ContextFactory,
    HooksFactory,
    Lifespan,
    RunConfigFactory,
    SessionFactory,
    of_modules,
)
from longrun.execution.attempts import Attempts
from longrun.execution.compactor import Compactor
from longrun.execution.ending import Ends
from longrun.execution.forking import course_of
from longrun.execution.host import Host
from longrun.execution.mcp_servers import MCPServers
from longrun.execution.parked import check_readable
from longrun.execution.registry import Registry
from longrun.execution.replay import taps
from longrun.execution.token_counter import TokenCounter
from longrun.execution.tracing.opening import sent_at_end, tracer_of
from longrun.execution.watch import Watch
from longrun.fanout.hub import Hub
from longrun.http import health
from longrun.http.access import Access
from longrun.http.approvals import Answers
from longrun.http.asked import Asked
from longrun.http.compact import CompactAPI
from longrun.http.conversations import ConversationsAPI
from longrun.http.failures import Failures
from longrun.http.forks import Sources
from longrun.http.input_tokens import InputTokensAPI
from longrun.http.intake import Intake
from longrun.http.lanes import Shared
from longrun.http.lists import Lists
from longrun.http.middleware import Errors, RequestLog, Started, of_routing
from longrun.http.openapi import OpenAPI
from longrun.http.overview import OverviewAPI
from longrun.http.proxies import ProxyHeaders
from longrun.http.rates import OtherRates, RateLimits, RunRates
from longrun.http.responses import ResponsesAPI
from longrun.http.sockets import SocketAPI
from longrun.http.steer_events import SteerEvents
from longrun.http.steering import Steering
from longrun.http.tokens import Tokens
from longrun.http.webhooks import WebhooksAPI
from longrun.settings import Settings
from longrun.store.abridging import Abridging
from longrun.store.announcer import Announcer
from longrun.store.approvals import Approvals
from longrun.store.claims import Claims
from longrun.store.compaction import Compaction
from longrun.store.conversations import Conversations
from longrun.store.creation_writer import CreationWriter
from longrun.store.database import Database
from longrun.store.deliveries import Deliveries
from longrun.store.events import EventLog
from longrun.store.forks import Forks
from longrun.store.grants import check_rights
from longrun.store.idempotency import IdempotencyKeys
from longrun.store.interests import Interests
from longrun.store.keys import KEYS_CHANGED, Keys
from longrun.store.lease import Lease
from longrun.store.limits import SharedLimits
from longrun.store.listener import Listener
from longrun.store.log_writer import LogWriter
from longrun.store.migrate import check_migrated, migrate
from longrun.store.opening import Opening
from longrun.store.overview import Overview
from longrun.store.pulse import Pulse
from longrun.store.records import Chunk
from longrun.store.responses import Responses
from longrun.store.retention import Retention
from longrun.store.ring_check import RingCheck
from longrun.store.sampling import Sampling
from longrun.store.steers import Steers
from longrun.store.webhooks import WebhookEndpoints
from longrun.supervision import Supervisor
from longrun.webhooks.delivering import Delivering
from longrun.webhooks.targets import networks_of

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
        taps.install(tracing=settings.sdk_tracing or settings.otel)
        self.settings = settings
        self.models = served.names()
        self.exposition = _own_metrics
        """Gives what `/metrics` answers."""
        self._draining = False
        self._drained_by: float | None = None
        self._running = False
        self._stop_work = asyncio.Event()
        self._stop_store = asyncio.Event()
        self._work_done = asyncio.Event()
        self._application = application or Application()
        self._application.warn_of(served.handlers())
        self._registry = served
        self._wire(served, settings)
        self.authentication = configured(settings, self._known_keys, self._application.authenticate)
        self._asgi = self._build_asgi(settings)

    def _wire(self, served: Registry, settings: Settings) -> None:
        replica_id = ids.new_replica_id()
        self._database = Database(settings)
        self._opening = Opening(self._database)
        self._lease = Lease(self._database, replica_id, version("longrun"))
        self._claims = Claims(self._database, replica_id, self.models)
        self._overview = Overview(self._database)
        self._approvals = Approvals(self._database)
        self._steers = Steers(self._database)
        self._conversations = Conversations(self._database)
        self._keys = Keys(self._database)
        self._idempotency_keys = IdempotencyKeys(self._database)
        self._known_keys = KnownKeys(self._keys, settings.key_cache_seconds)
        self._stream_tokens = StreamTokens(self._keys, settings.stream_token_seconds)
        self._shared_limits = SharedLimits(self._database)
        self._rates = Rates(self._shared_limits)
        self._event_log = EventLog(self._database)
        self._hub = Hub(
            self._event_log,
            ring_bytes=settings.ring_bytes,
            poll_interval=settings.poll_interval,
            deaf=lambda: not self._listener.connected,
            join=lambda response_id: self._interests.join(response_id),
            leave=lambda response_id: self._interests.leave(response_id),
        )
        self._interests = Interests(
            replica_id,
            reading=self._hub.reading,
            local=lambda response_id: self._host.find(response_id) is not None,
            hears=lambda: self._listener.connected,
            wanted=lambda response_id: self._announcer.announce_again(response_id),
            moved=self._hub.moved,
            strangers=lambda: self._announcer.announce_recent(),
            wake=lambda: self._announcer.wake(),
        )
        self._creations = CreationWriter(self._database, self._hub.committed)
        self._responses = Responses(self._database, self._creations)
        self._ring_check = RingCheck(self._database)
        self._pulse = Pulse(self._database, lost=self._hub.send_elsewhere)
        self._announcer = Announcer(self._database, self._interests)
        self._writer = LogWriter(self._database, self._committed)
        self._host = Host(settings.max_runs, settings.drain_seconds)
        self._tracer = tracer_of(settings, replica_id)
        self._delivering = Delivering(Deliveries(self._database), settings)
        ends = Ends(
            self._claims,
            self._event_log,
            self._writer,
            self._announcer,
            self._steers,
            self._tracer,
            ended=self._delivering.wake,
        )
        self._servers = MCPServers(served.agents())
        self._attempts = Attempts(
            served,
            responses=self._responses,
            approvals=self._approvals,
            claims=self._claims,
            event_log=self._event_log,
            writer=self._writer,
            announcer=self._announcer,
            ends=ends,
            settings=settings,
            application=self._application,
            servers=self._servers,
            steers=self._steers,
            tracer=self._tracer,
        )
        self._admission = Admission(
            host=self._host,
            attempts=self._attempts,
            ends=ends,
            responses=self._responses,
            claims=self._claims,
            writer=self._writer,
            announcer=self._announcer,
            replica_id=replica_id,
            settings=settings,
            check=lambda request: check_agreement(served.get(request.agent), request),
            registry=served,
        )
        self._compactor = Compactor(
            served,
            self._application,
            settings,
            state=lambda: self._attempts.state,
            check_open=self._host.check_open,
        )
        self._token_counter = TokenCounter(
            served,
            self._application,
            settings,
            self._responses,
            self._servers,
            state=lambda: self._attempts.state,
            check_open=self._host.check_open,
        )
        self._watch = Watch(
            self._admission,
            self._host,
            self._claims,
            lease_seconds=settings.lease_seconds,
            fit=lambda: (
                self._listener.connected and self._lease.held and self._ring_check.problem is None
            ),
            looked=self._looked,
        )
        self._listener = Listener(
            self._database,
            replica_id,
            announced=self._hub.announced,
            told=self._told,
            caught_up=self._caught_up,
        )
        self._store_parts = Supervisor()
        self._store_parts.add("log_writer", self._writer.run)
        self._store_parts.add("creation_writer", self._creations.run)
        self._store_parts.add("announcer", self._announcer.run)
        self._store_parts.add("listener", self._listener.run)
        self._store_parts.add("hub", self._hub.run)
        self._store_parts.add("pulse", self._pulse.run)
        self._store_parts.add("ring_check", self._ring_check.run)
        self._store_parts.add("rates", self._rates.run)
        self._store_parts.add("webhooks", self._delivering.run)
        self._store_parts.add("errands", self._host.run_errands)
        self._store_parts.add("sampling", Sampling(self._database).run)
        self._server_parts = Supervisor()
        self._server_parts.add("mcp_servers", self._servers.run)
        self._work_parts = Supervisor()
        self._work_parts.add("host", self._host.run)
        self._work_parts.add("watch", self._watch.run)
        self._work_parts.add(
            "retention",
            Retention(
                self._responses,
                self._conversations,
                self._keys,
                self._shared_limits,
                settings,
                self._hub.reading,
                None
                if settings.event_retention is None
                else Abridging(self._database, settings.event_retention),
                self._idempotency_keys,
            ).run,
        )
        compaction = Compaction(self._database, fit=lambda: self._ring_check.problem is None)
        self._work_parts.add("compaction", compaction.run)

    def _committed(self, response_id: str, chunks: list[Chunk]) -> None:
        self._hub.committed(response_id, chunks)
        self._announcer.announce(response_id, chunks[-1].last)

    def _looked(self, alive: list[str]) -> None:
        self._announcer.replicas = len(alive)
        self._interests.looked(alive)

    def _told(self, message: str) -> None:
        if message == KEYS_CHANGED:
            self._known_keys.forget()
        else:
            self._watch.told(message)
            self._interests.heard(message)

    def _caught_up(self) -> None:
        self._known_keys.forget()
        self._hub.look_again()
        self._interests.reconnected()
        self._watch.reconnected()

    def _build_asgi(self, settings: Settings) -> Starlette:
        sources = Sources(Forks(self._database), course_of)
        api = ResponsesAPI(
            runs=self._admission,
            models=self.models,
            responses=self._responses,
            event_log=self._event_log,
            hub=self._hub,
            keys=self._keys,
            idempotency_keys=self._idempotency_keys,
            answers=Answers(self._approvals, check_readable),
            sources=sources,
            settings=settings,
            own_limits={
                each.name: (each.forbidden_parameters, each.parameter_limits)
                for each in self._registry.all()
            },
        )
        run_rates = RunRates(self._rates, settings.max_principal_requests_per_minute)
        other_rates = OtherRates(self._rates, settings.max_principal_other_requests_per_minute)
        steering = Steering(self._steers, api.bodies, self._registry.is_steerable)
        self._sockets = SocketAPI(
            Shared(
                creations=api.creations,
                bodies=api.bodies,
                runs=self._admission,
                responses=self._responses,
                rates=run_rates,
            ),
            settings,
            {"response.steer": SteerEvents(steering, other_rates)},
        )
        asked = Asked(api.bodies, api.creations, self._responses)
        compact = CompactAPI(
            asked=asked,
            models=self._compactor,
            compactions=self._responses.compactions,
            limits=self._shared_limits,
            cell=settings.cell,
        )
        tokens = Tokens(
            keys=self._keys,
            stream_tokens=self._stream_tokens,
            responses=self._responses,
            models=self.models,
            bodies=api.bodies,
        )
        middleware = [Middleware(RequestLog)]
        if settings.proxy_headers:
            middleware.insert(0, Middleware(ProxyHeaders, trusted=settings.proxy_headers))
        if settings.cors_origins:
            middleware.append(
                Middleware(
                    CORSMiddleware,
                    allow_origins=settings.cors_origins,
                    allow_methods=["*"],
                    allow_headers=["*"],
                )
            )
        middleware.append(Middleware(Errors, cell=settings.cell))
        middleware.append(Middleware(Started, running=lambda: self._running))
        middleware.append(
            Middleware(
                Access, authentication=self.authentication, stream_tokens=self._stream_tokens
            )
        )
        middleware.append(
            Middleware(
                RateLimits,
                runs=run_rates,
                others=other_rates,
            )
        )
        middleware.append(Middleware(Intake, timeout=settings.receive_timeout))
        routes = [
            *health.routes(self.problems, self.warnings, lambda: self.exposition()),
            *(console_routes() if settings.console else ()),
            *api.routes(),
            *self._sockets.routes(),
            *compact.routes(),
            *InputTokensAPI(asked, self._token_counter).routes(),
            *Lists(self._responses, self._steers).routes(),
            *steering.routes(),
            *Failures(self._responses, bool(settings.show_errors)).routes(),
            *OverviewAPI(
                self._overview,
                self._responses,
                sources,
                settings,
                self.authentication.is_required,
            ).routes(),
            *ConversationsAPI(
                self._conversations, self._responses, api.bodies, settings.cell
            ).routes(),
            *tokens.routes(),
            *WebhooksAPI(
                WebhookEndpoints(self._database),
                api.bodies,
                self._delivering.test,
                networks_of(settings.webhook_networks),
                settings.max_principal_webhook_endpoints,
                settings.cell,
            ).routes(),
        ]
        asgi = Starlette(
            routes=[*routes, *OpenAPI(routes).routes()],
            middleware=middleware,
            exception_handlers={HTTPException: of_routing},
            lifespan=self.lifespan,
        )
        # A redirect has no body that a client of the API would understand.
        asgi.router.redirect_slashes = False
        return asgi

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._asgi(scope, receive, send)

    @property
    def routes(self) -> list[BaseRoute]:
        """All that is served."""
        return self._asgi.routes

    @property
    def live(self) -> int:
        """How many runs it executes."""
        return self._host.live

    def problems(self) -> list[str]:
        """Why this replica should get no requests just now; empty when it should."""
        found = ["draining"] if self._draining else []
        if not self._running:
            found.append("not running")
        if self._pulse.silent_since is not None:
            found.append("Postgres does not answer")
        if not self._listener.connected:
            found.append("LISTEN connection down")
        if not self._lease.held:
            found.append("lease not renewed")
        if self._writer.failing_since is not None:
            found.append("event log cannot be written")
        if self._ring_check.problem is not None:
            found.append("the ring of encryption keys lacks a key")
        parts = [*self._store_parts.failing(), *self._work_parts.failing()]
        return [*found, *(f"part {name} failing" for name in parts)]

    def warnings(self) -> list[str]:
        """What is amiss though this replica can serve: what is away that only some runs need."""
        found = [f"MCP server {name} is away" for name in self._servers.away()]
        if disabled := self._delivering.disabled:
            found.append(f"webhook endpoints that were given up: {disabled}")
        return found

    def drain(self) -> None:
        """Stop taking work: readers resume elsewhere, runs get `drain_seconds` to finish, and what
        is asked for meanwhile is left to the other replicas."""
        if not self._draining:
            self._draining = True
            self._drained_by = asyncio.get_running_loop().time() + self.settings.drain_seconds
            self._stop_work.set()
            self._hub.send_away(self.settings.drain_seconds * READERS_LEAVE_WITHIN)
            self._sockets.send_away(self.settings.drain_seconds * READERS_LEAVE_WITHIN)

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
                await self._hub.deserted()
                await self._sockets.deserted()

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
            sent_at_end(self._tracer),
            self._application.opened(self) as self._attempts.state,
            self._open_database(),
            asyncio.TaskGroup() as group,
        ):
            store = group.create_task(self._store_parts.run(self._stop_store))
            servers = group.create_task(self._server_parts.run(self._stop_store))
            await self._servers.settled()
            work = group.create_task(self._work_parts.run(self._stop_work))
            work.add_done_callback(lambda _: self._work_done.set())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._listener.ready.wait(), LISTEN_WAIT)
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
        async with self._opening.opened():
            await self._prepare_database()
            try:
                yield
            finally:
                await self._lease.end()

    def abandon(self) -> None:
        """For a process that exits at once, in the middle of anything: leave no Postgres behind
        that was started for it. Everything else is safe in the log. Blocks for some seconds."""
        self._opening.abandon()

    async def _prepare_database(self) -> None:
        if self.settings.auto_migrate:
            for migration in await migrate(self._database):
                log.info("applied migration %04d_%s", migration.version, migration.name)
        else:
            await check_migrated(self._database)
        await check_rights(self._database)
        await self._ring_check.begin()
        await self._delivering.begin()
        await self._lease.begin()


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
