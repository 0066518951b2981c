"""Compacts contexts when clients ask for it: one call of a model, which is no run.

Nothing of it is stored. What dies with its replica is asked for again by its client.
"""

import asyncio
import contextlib
import dataclasses
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from agents import Agent
from openai import APIStatusError

from longrun import metrics
from longrun.assembly.usage import UsageSum
from longrun.errors import BadRequest, ConfigurationError, LongrunError, TooManyRequests
from longrun.execution.application import Application
from longrun.execution.contained import contained
from longrun.execution.current import Current, within
from longrun.execution.handling.handler import Handler
from longrun.execution.parameters import context_of_run
from longrun.execution.registry import Registry
from longrun.execution.replay import sdk
from longrun.execution.replay.border import Border
from longrun.execution.served import made
from longrun.execution.summaries import request_of_summary, summary_in
from longrun.history.continuation import telling
from longrun.pieces import with_turns
from longrun.protocol import RunRequest
from longrun.settings import Settings

if TYPE_CHECKING:
    from longrun.execution.tracing.tracer import Tracer

log = logging.getLogger("longrun.execution.compactor")

_REFUSED: Final = frozenset({400, 413, 422})
"""Statuses with which a provider refuses what it is asked."""


class Summary(NamedTuple):
    """What a model made of a context."""

    text: str
    usage: UsageSum


class Compactor:
    """One per replica.

    Args:
        application: says with which configuration agents run.
        state: gives what its lifespan has given.
        check_open: raises where nothing may begin here.
        tracer: makes a span of each compaction; None: nothing is traced.

    Raises:
        ConfigurationError: LONGRUN_COMPACTION_AGENT is not served, or has no model.
    """

    def __init__(
        self,
        registry: Registry,
        application: Application,
        settings: Settings,
        *,
        state: Callable[[], Any],
        check_open: Callable[[], None],
        tracer: "Tracer | None" = None,
    ) -> None:
        self._registry = registry
        self._application = application
        self._settings = settings
        self._state_now = state
        self._check_open = check_open
        self._tracer = tracer
        self._live: Counter[str] = Counter()
        if settings.compaction_agent not in ("", *registry.names()):
            raise ConfigurationError(
                f"LONGRUN_COMPACTION_AGENT={settings.compaction_agent}: no such agent is served; "
                f"served are {', '.join(registry.names())}"
            )
        if settings.compaction_agent in registry.handlers():
            raise ConfigurationError(
                f"LONGRUN_COMPACTION_AGENT={settings.compaction_agent}: it is a handler, which has "
                "no model"
            )

    async def summarize(self, request: RunRequest) -> Summary:
        """A summary of the context of a request, by the model of its agent or of
        LONGRUN_COMPACTION_AGENT.

        Raises:
            BadRequest: the agent has no model, or its model refuses the context.
            TooManyRequests: as many are being made here as there may be.
            Unavailable: this replica is stopping.
            LongrunError: the model could not be asked, or gave nothing.
        """
        self._check_open()
        outcome = "failed"
        with self._counted(request):
            try:
                summary = await self._traced(request)
                outcome = "done"
            finally:
                metrics.context_compactions.labels(request.agent, "request", outcome).inc()
        return summary

    async def _traced(self, request: RunRequest) -> Summary:
        if self._tracer is None:
            return await self._summarized(request)
        with self._tracer.compaction(request) as note:
            summary = await self._summarized(request)
            note(summary.usage)
        return summary

    async def _summarized(self, request: RunRequest) -> Summary:
        name = self._settings.compaction_agent or request.agent
        served = self._registry.get(name)
        if isinstance(served, Handler):
            raise BadRequest(
                f"The model {name!r} is a handler, which has no model to compact with.",
                param="model",
                code="compaction_not_available",
            )
        try:
            async with asyncio.timeout(self._settings.run_timeout):
                with contained(f"the model of agent {name!r}"):
                    response = await self._ask(served, request)
        except LongrunError:
            raise
        except APIStatusError as error:
            raise self._failed(name, error, refused=error.status_code in _REFUSED) from error
        except Exception as error:
            raise self._failed(name, error, refused=False) from error
        usage = UsageSum()
        usage.add(response.usage)
        return Summary(summary_in(response), usage)

    async def _ask(self, served: Any, request: RunRequest) -> Any:
        current = dataclasses.replace(
            Current.of(request, 1, threading.Event()), state=self._state_now()
        )
        with within(current):
            agent: Agent[Any] = await made(served, current)
            config = await self._application.config_of(current)
            model, settings = sdk.model_of(agent, config)
            context = context_of_run(request)
            items = await with_turns(telling(context))
            border = Border(context, items)
            await asyncio.sleep(0)
            asked = request_of_summary(
                border.going_out(items, sdk.origin_of(model)),
                self._settings.compaction_prompt,
                settings,
                most_tokens=self._settings.compaction_max_tokens,
                instructions=request.parameters.get("instructions"),
            )
            return await model.get_response(**asked)

    def _failed(self, name: str, error: Exception, *, refused: bool) -> LongrunError:
        if refused:
            log.warning("the model of agent %r refuses to compact: %s", name, error)
            return BadRequest(
                "The model refused the context to be compacted; it may be too long.",
                param="input",
                code="compaction_refused",
            )
        log.error("the model of agent %r did not compact", name, exc_info=error)
        return LongrunError(
            "The model for compaction could not be reached.", code="compaction_failed"
        )

    @contextlib.contextmanager
    def _counted(self, request: RunRequest) -> Iterator[None]:
        """Within the block, it is one of those that are made here."""
        allowance = request.allowance
        account = allowance.account or request.principal
        if self._live.total() >= self._settings.max_runs:
            raise TooManyRequests(
                "Too many contexts are being compacted; try again.", retry_after=1
            )
        if allowance.max_live is not None and self._live[account] >= allowance.max_live:
            raise TooManyRequests(
                f"You have {self._live[account]} contexts being compacted, and "
                f"{allowance.max_live} are allowed.",
                code="too_many_runs",
                retry_after=1,
            )
        self._live[account] += 1
        try:
            yield
        finally:
            self._live[account] -= 1
            if not self._live[account]:
                del self._live[account]
