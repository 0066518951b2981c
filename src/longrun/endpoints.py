"""The endpoints of one replica, and what each request passes on its way to them."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from longrun.access.authentication import Authentication
from longrun.console import routes as console_routes
from longrun.execution.forking import course_of
from longrun.execution.parked import check_readable
from longrun.execution.registry import Registry
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
from longrun.http.middleware import Errors, RequestLog, Started
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
from longrun.parts import Parts
from longrun.settings import Settings
from longrun.store.forks import Forks
from longrun.store.webhooks import WebhookEndpoints
from longrun.webhooks.targets import networks_of


class _Application(Starlette):
    """Starlette without its own two layers around the middleware and the router. `Errors` answers
    whatever is raised; each layer takes its time of every request, and of each part of an answer.
    """

    def build_middleware_stack(self) -> ASGIApp:
        app: ASGIApp = self.router
        for kind, args, kwargs in reversed(self.user_middleware):
            app = kind(app, *args, **kwargs)
        return app


class Endpoints:
    """All that a replica answers, but for its health.

    Attributes:
        sockets: the open WebSockets, which have to be told of a drain.
    """

    def __init__(
        self, parts: Parts, served: Registry, settings: Settings, authentication: Authentication
    ) -> None:
        self._parts = parts
        self._settings = settings
        self._authentication = authentication
        sources = Sources(Forks(parts.database), course_of)
        api = ResponsesAPI(
            runs=parts.admission,
            models=served.names(),
            responses=parts.responses,
            event_log=parts.event_log,
            hub=parts.hub,
            keys=parts.keys,
            idempotency_keys=parts.idempotency_keys,
            answers=Answers(parts.approvals, check_readable),
            sources=sources,
            settings=settings,
            own_limits={
                each.name: (each.forbidden_parameters, each.parameter_limits)
                for each in served.all()
            },
        )
        self._run_rates = run_rates = RunRates(
            parts.rates, settings.max_principal_requests_per_minute
        )
        self._other_rates = other_rates = OtherRates(
            parts.rates, settings.max_principal_other_requests_per_minute
        )
        steering = Steering(parts.steers, api.bodies, served.is_steerable)
        self.sockets = SocketAPI(
            Shared(
                creations=api.creations,
                bodies=api.bodies,
                runs=parts.admission,
                responses=parts.responses,
                rates=run_rates,
                steers=parts.steers,
            ),
            settings,
            {"response.steer": SteerEvents(steering, other_rates)},
        )
        asked = Asked(api.bodies, api.creations, parts.responses)
        compact = CompactAPI(
            asked=asked,
            models=parts.compactor,
            compactions=parts.responses.histories.compactions,
            limits=parts.shared_limits,
            cell=settings.cell,
            keepalive_interval=settings.keepalive_interval,
        )
        tokens = Tokens(
            keys=parts.keys,
            stream_tokens=parts.stream_tokens,
            responses=parts.responses,
            models=served.names(),
            bodies=api.bodies,
        )
        self._routes: list[BaseRoute] = [
            # First, since a router tries one route after the other.
            *api.routes(),
            *self.sockets.routes(),
            *compact.routes(),
            *InputTokensAPI(asked, parts.token_counter).routes(),
            *Lists(parts.responses, parts.steers, api.polls.room).routes(),
            *steering.routes(),
            *Failures(parts.responses, bool(settings.show_errors)).routes(),
            *OverviewAPI(
                parts.overview,
                parts.responses,
                sources,
                settings,
                authentication.is_required,
            ).routes(),
            *ConversationsAPI(
                parts.conversations, parts.responses, api.bodies, settings.cell, api.polls.room
            ).routes(),
            *tokens.routes(),
            *(console_routes() if settings.console else ()),
            *WebhooksAPI(
                WebhookEndpoints(parts.database),
                api.bodies,
                parts.delivering.test,
                networks_of(settings.webhook_networks),
                settings.max_principal_webhook_endpoints,
                settings.cell,
            ).routes(),
        ]

    def asgi(
        self,
        health: Sequence[BaseRoute],
        *,
        running: Callable[[], bool],
        lifespan: Callable[[Any], contextlib.AbstractAsyncContextManager[None]],
    ) -> Starlette:
        """The ASGI application.

        Args:
            health: the routes that say how the replica is.
            running: whether it has started; until then everything else is a 503.
            lifespan: starts and stops it.
        """
        routes = [*self._routes, *health]
        asgi = _Application(
            routes=[*routes, *OpenAPI(routes).routes()],
            middleware=self._middleware(running),
            lifespan=lifespan,
        )
        # A redirect has no body that a client of the API would understand.
        asgi.router.redirect_slashes = False
        return asgi

    def _middleware(self, running: Callable[[], bool]) -> list[Middleware]:
        middleware = [Middleware(RequestLog)]
        if self._settings.proxy_headers:
            middleware.insert(0, Middleware(ProxyHeaders, trusted=self._settings.proxy_headers))
        if self._settings.cors_origins:
            middleware.append(
                Middleware(
                    CORSMiddleware,
                    allow_origins=self._settings.cors_origins,
                    allow_methods=["*"],
                    allow_headers=["*"],
                )
            )
        middleware.append(Middleware(Errors, cell=self._settings.cell))
        middleware.append(Middleware(Started, running=running))
        middleware.append(
            Middleware(
                Access, authentication=self._authentication, stream_tokens=self._parts.stream_tokens
            )
        )
        middleware.append(
            Middleware(
                RateLimits,
                runs=self._run_rates,
                others=self._other_rates,
            )
        )
        middleware.append(Middleware(Intake, timeout=self._settings.receive_timeout))
        return middleware
