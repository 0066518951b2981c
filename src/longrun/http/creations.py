"""How a response is created, whatever its request came by: what is checked, counted and read."""

import contextlib
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple, Protocol

from starlette.requests import HTTPConnection

from longrun import ids
from longrun.access.callers import Caller
from longrun.errors import ConversationNotFound, Forbidden, NotFound, Repeated
from longrun.fanout.hub import Hub
from longrun.fanout.tail import Tail
from longrun.http.approvals import Answers
from longrun.http.contexts import Contexts
from longrun.http.forks import Sources
from longrun.http.held import Held
from longrun.http.limits import Limits
from longrun.http.problems import shortened
from longrun.http.requests import CreateResponse
from longrun.http.streams import OpenStreams
from longrun.parameters import TRACEPARENT
from longrun.protocol import Allowance, Once, RunRequest
from longrun.settings import Settings
from longrun.store.events import EventLog
from longrun.store.keys import Keys
from longrun.store.records import Submitted
from longrun.store.responses import Responses

LONGEST_TRACEPARENT: Final = 128
"""Characters; version 00 has 55."""


class Runs(Protocol):
    """What starts and stops runs; the application hands it in.

    Attributes:
        draining: clients leave because this replica stops, and not because they want nothing more.
    """

    @property
    def draining(self) -> bool: ...

    async def submit(self, request: RunRequest) -> Submitted: ...

    async def cancel(self, response_id: str, principal: str) -> bool: ...

    def cancel_soon(self, response_id: str, principal: str) -> None: ...

    def soon(self, work: Coroutine[Any, Any, None]) -> None: ...


class Created(NamedTuple):
    """A response that was just created, and a reader of all of its log."""

    tail: Tail
    submitted: Submitted


class Creations:
    """Makes responses of requests.

    Args:
        models: the names of the served agents, the default one first.
        answers: looks at the answers to requests for approvals.
        sources: looks at what requests go on from, that are forks.
        streams: counts the open streams of each principal.
        own_limits: of some agents, the parameters that are forbidden, and the bounds of others.

    Attributes:
        limits: what a request may hold.
    """

    def __init__(
        self,
        *,
        runs: Runs,
        models: Sequence[str],
        responses: Responses,
        event_log: EventLog,
        hub: Hub,
        keys: Keys,
        answers: Answers,
        sources: Sources,
        streams: OpenStreams,
        settings: Settings,
        own_limits: Mapping[str, tuple[Collection[str], Mapping[str, float]]],
    ) -> None:
        self._runs = runs
        self._models = models
        self._contexts = Contexts(responses, queues=settings.conversation_overlap == "queue")
        self._log = event_log
        self._hub = hub
        self._keys = keys
        self._answers = answers
        self._sources = sources
        self._streams = streams
        self._settings = settings
        self.limits = Limits.of(settings)
        self._own_limits = {name: self.limits.narrowed(*each) for name, each in own_limits.items()}

    def parse(
        self,
        caller: Caller,
        body: Any,
        parse: Callable[[Any, Limits], CreateResponse] = CreateResponse.parse,
    ) -> CreateResponse:
        """Check a body, within the limits of the agent that it asks for. May be called in a
        thread.

        Args:
            parse: reads it, where it is another one than that of `POST /responses`.

        Raises:
            BadRequest: names the parameter.
        """
        model = body.get("model") if isinstance(body, dict) else None
        if model is None:
            model = next(iter(self.models_of(caller)), None)
        own = self._own_limits.get(model) if isinstance(model, str) else None
        return parse(body, own or self.limits)

    async def request_of(
        self,
        body: CreateResponse,
        caller: Caller,
        connection: HTTPConnection,
        held: Held | None = None,
        once: Once | None = None,
    ) -> RunRequest:
        """What is to be run for a body that was parsed.

        Args:
            connection: by which it came; its headers may be for the run to know.
            held: the chain that it continues, where that is not stored.
            once: what creates it once.

        Raises:
            LongrunError: what it asks for, continues or refers to is not there, or not theirs.
        """
        principal = caller.principal
        source = await self._sources.of(body, principal)
        if source is not None and body.model is None:
            of = source.request.agent
            body = body.of_model(of, self._own_limits.get(of, self.limits))
        agent = self.agent(body.model, caller)
        on = body.conversation_id
        if on is not None and not ids.is_conversation_id(on):
            raise ConversationNotFound(shortened(on))
        goes_on = await self._answers.goes_on(body, agent, principal)
        context = await self._contexts.of(body, principal, held)
        headers = forwarded(connection, self._settings.forward_headers)
        run_request = body.run_request(
            principal,
            agent,
            context,
            headers,
            goes_on,
            self._settings.cell,
            self._allowance(caller),
            once,
        )
        if source is not None:
            most = self.limits.input_items
            run_request = await self._sources.forked(source, run_request, body, most)
        if held is not None:
            run_request = held.continued_by(run_request)
        if self._settings.otel:
            run_request = traced(connection, run_request)
        return run_request

    async def create(
        self,
        run_request: RunRequest,
        caller: Caller,
        open_stream: contextlib.ExitStack,
        *,
        streams: bool,
        reads: bool,
    ) -> Created:
        """Create a response, and start its run if there is room.

        Args:
            open_stream: what is entered here is left with it: the stream's count, and the tail.
            streams: its client gets the events.
            reads: the tail is read. It is entered before the response is created, so that it
                reads nothing in the log.

        Raises:
            LongrunError: the caller may start no more runs, or have no more streams; and what
                `Runs.submit` raises.
            Repeated: the request's Idempotency-Key has created a response.
        """
        if streams:
            open_stream.enter_context(self._streams.one_more(caller.limited_as))
        await self.take_run(caller)
        tail = self.tail(run_request.response_id, patient=not streams, coming=True)
        if reads:
            open_stream.enter_context(tail)
        try:
            return Created(tail, await self._runs.submit(run_request))
        except Repeated:
            await self._give_run_back(caller)
            raise

    def tail(
        self,
        response_id: str,
        cursor: int = -1,
        *,
        patient: bool = False,
        coming: bool = False,
        finished: bool = False,
    ) -> Tail:
        """A reader of a response's log; see `Tail`."""
        return Tail(
            self._hub,
            self._log,
            response_id,
            cursor=cursor,
            page_bytes=self._settings.page_bytes,
            patient=patient,
            coming=coming,
            finished=finished,
        )

    async def take_run(self, caller: Caller) -> None:
        """Count a run against those that a chat token may start.

        Raises:
            Forbidden: there are none left.
        """
        if caller.agent is None or caller.key is None:
            return
        if not await self._keys.use_run(caller.key):
            raise Forbidden("This token cannot start any more runs.", code="no_runs_left")

    async def _give_run_back(self, caller: Caller) -> None:
        if caller.agent is not None and caller.key is not None:
            await self._keys.give_run_back(caller.key)

    def _allowance(self, caller: Caller) -> Allowance:
        settings = self._settings
        return Allowance(
            max_live=_closest(caller.max_runs, settings.max_principal_runs),
            max_tokens=_closest(caller.max_tokens, settings.max_principal_tokens_per_day),
            account=None if caller.limited_as == caller.principal else caller.limited_as,
        )

    def models_of(self, caller: Caller) -> Sequence[str]:
        """The names of the agents that a caller may run."""
        if caller.agent is None:
            return self._models
        return [name for name in self._models if name == caller.agent]

    def agent(self, model: str | None, caller: Caller) -> str:
        """The agent that a caller asks for.

        Raises:
            NotFound: there is none of that name for them.
        """
        models = self.models_of(caller)
        if model is None and models:
            return models[0]
        if model is not None and model in models:
            return model
        served = ", ".join(models)
        raise NotFound(
            f"The model {shortened(model or '')!r} does not exist. Served here: {served}.",
            param="model",
            code="model_not_found",
        )


def _closest(*limits: int | None) -> int | None:
    """The lowest of some limits; None: there is none."""
    return min((limit for limit in limits if limit is not None), default=None)


def forwarded(connection: HTTPConnection, names: Iterable[str]) -> dict[str, str]:
    """The headers of these names, for the run to know."""
    found = {name: ", ".join(connection.headers.getlist(name)) for name in names}
    return {name: value for name, value in found.items() if value}


def traced(connection: HTTPConnection, run_request: RunRequest) -> RunRequest:
    """With the client's span, of which it becomes a part."""
    parent = connection.headers.get(TRACEPARENT, "")
    if not 0 < len(parent) <= LONGEST_TRACEPARENT:
        return run_request
    return replace(run_request, parameters={**run_request.parameters, TRACEPARENT: parent})
