"""`/responses` and `/models`: create, get, stream, delete."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final, Literal, Protocol

from openai.types import Model
from openai.types.responses import Response as ResponseObject
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive

from longrun import ids
from longrun.access.callers import Caller
from longrun.errors import (
    BadRequest,
    ConversationNotFound,
    Forbidden,
    LongrunError,
    NotFound,
    StillRunning,
)
from longrun.fanout.hub import Hub
from longrun.fanout.tail import Tail
from longrun.http.access import caller_of, principal_of, reader_of
from longrun.http.answers import JSONAnswer, as_response
from longrun.http.approvals import Answers
from longrun.http.bodies import Bodies
from longrun.http.contexts import Contexts
from longrun.http.limits import Limits
from longrun.http.problems import response_not_found, shortened
from longrun.http.query import GetResponse
from longrun.http.rates import say_tokens
from longrun.http.requests import CreateResponse
from longrun.http.streams import EventStream, OpenStreams, until_disconnected
from longrun.operations import ListOf, operation
from longrun.parameters import TRACEPARENT
from longrun.protocol import Allowance, RunRequest, is_terminal
from longrun.settings import Settings
from longrun.store.abridged import end_before
from longrun.store.events import Begun, EventLog
from longrun.store.keys import Keys
from longrun.store.records import Submitted
from longrun.store.responses import Responses, StoredResponse

BEGIN_WAIT: Final = 0.5
"""Seconds that a stream waits for its first page before it begins without."""

LONGEST_TRACEPARENT: Final = 128
"""Characters; version 00 has 55."""

CANCEL_WAIT: Final = 10.0
"""Seconds that the answer to a cancel waits for the terminal event."""


class Runs(Protocol):
    """What starts and stops runs; the application hands it in."""

    async def submit(self, request: RunRequest) -> Submitted: ...

    async def cancel(self, response_id: str, principal: str) -> bool: ...

    def cancel_soon(self, response_id: str, principal: str) -> None: ...


class Deleted(BaseModel):
    """The answer to the deletion of a response."""

    id: str
    object: Literal["response"]
    deleted: Literal[True]


class ResponsesAPI:
    """The endpoints of the Responses API.

    Args:
        models: the names of the served agents, the default one first.
        answers: looks at the answers to requests for approvals.
        own_limits: of some of them, the parameters that are forbidden, and the bounds of others.

    Attributes:
        bodies: reads the bodies of this replica's requests, within one budget.
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
        settings: Settings,
        own_limits: Mapping[str, tuple[Collection[str], Mapping[str, float]]] | None = None,
    ) -> None:
        self._runs = runs
        self._models = models
        self._responses = responses
        self._contexts = Contexts(responses, queues=settings.conversation_overlap == "queue")
        self._log = event_log
        self._hub = hub
        self._keys = keys
        self._answers = answers
        self._settings = settings
        self._limits = Limits.of(settings)
        self._own_limits = {
            name: self._limits.narrowed(*each) for name, each in (own_limits or {}).items()
        }
        self._streams = OpenStreams(settings.max_principal_streams)
        self.bodies = Bodies(self._limits)
        self._started = int(time.time())

    def routes(self) -> list[BaseRoute]:
        """The routes, the same at the root and under `/v1`."""
        endpoints = (
            ("POST", "/responses", self.create),
            ("GET", "/responses/{id}", self.get),
            ("DELETE", "/responses/{id}", self.delete),
            ("POST", "/responses/{id}/cancel", self.cancel),
            ("GET", "/models", self.list_models),
            ("GET", "/models/{id:path}", self.get_model),
        )
        return [
            Route(prefix + path, endpoint, methods=[method])
            for prefix in ("", "/v1")
            for method, path, endpoint in endpoints
        ]

    # -- create ---------------------------------------------------------------------------

    @operation(ResponseObject, body=CreateResponse, streams=True, errors=(404, 421, 429))
    async def create(self, request: Request) -> ASGIApp:
        """`POST /responses`: create a response, which an agent produces."""
        caller = caller_of(request)
        body = await self.bodies.read(request, partial(self._parse, caller))
        agent = self._agent(body.model, caller)
        principal = caller.principal
        on = body.conversation_id
        if on is not None and not ids.is_conversation_id(on):
            raise ConversationNotFound(shortened(on))
        goes_on = await self._answers.goes_on(body, agent, principal)
        context = await self._contexts.of(body, principal)
        headers = forwarded(request, self._settings.forward_headers)
        run_request = body.run_request(
            principal, agent, context, headers, goes_on, self._settings.cell
        )
        allowance = self._allowance(caller)
        run_request = replace(run_request, allowance=allowance)
        if self._settings.otel:
            run_request = traced(request, run_request)
        response_id = run_request.response_id
        with contextlib.ExitStack() as open_stream:
            if body.stream:
                open_stream.enter_context(self._streams.one_more(caller.limited_as))
            await self._take_run(caller)
            reads = body.stream or not body.background
            tail = self._tail(response_id, patient=not body.stream, coming=True)
            if reads:
                # Before it is created, so that it reads nothing in the log.
                open_stream.enter_context(tail)
            try:
                submitted = await self._runs.submit(run_request)
            finally:
                say_tokens(request.scope, allowance)
            if body.stream:
                open_stream.callback(submitted.answered)
                closed = open_stream.pop_all().close
                return self._stream_of_creation(run_request, tail, submitted, closed)
            if reads:
                submitted.answered()
                return await self._wait_for_end(run_request, tail, request.receive)
        # Sent by then, since nothing in between waits.
        asyncio.get_running_loop().call_soon(submitted.answered)
        return JSONAnswer({**run_request.document, "status": submitted.status, "output": []})

    def _parse(self, caller: Caller, body: Any) -> CreateResponse:
        model = body.get("model") if isinstance(body, dict) else None
        if model is None:
            model = next(iter(self._models_of(caller)), None)
        own = self._own_limits.get(model) if isinstance(model, str) else None
        return CreateResponse.parse(body, own or self._limits)

    async def _take_run(self, caller: Caller) -> None:
        """Count a run against those that a chat token may start.

        Raises:
            Forbidden: there are none left.
        """
        if caller.agent is None or caller.key is None:
            return
        if not await self._keys.use_run(caller.key):
            raise Forbidden("This token may start no more runs.", code="no_runs_left")

    def _allowance(self, caller: Caller) -> Allowance:
        settings = self._settings
        return Allowance(
            max_live=_closest(caller.max_runs, settings.max_principal_runs),
            max_tokens=_closest(caller.max_tokens, settings.max_principal_tokens_per_day),
            account=None if caller.limited_as == caller.principal else caller.limited_as,
        )

    def _models_of(self, caller: Caller) -> Sequence[str]:
        if caller.agent is None:
            return self._models
        return [name for name in self._models if name == caller.agent]

    def _agent(self, model: str | None, caller: Caller) -> str:
        models = self._models_of(caller)
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

    def _stream_of_creation(
        self,
        run_request: RunRequest,
        tail: Tail,
        submitted: Submitted,
        closed: Callable[[], object],
    ) -> EventStream:
        response_id = run_request.response_id

        def disconnected() -> None:
            if not run_request.background and self._settings.cancel_on_disconnect:
                self._runs.cancel_soon(response_id, run_request.principal)

        return EventStream(
            tail,
            keepalive_interval=self._settings.keepalive_interval,
            with_ids=False,
            send_timeout=self._settings.send_timeout,
            disconnected=disconnected,
            ended=None if run_request.stored else partial(self._forget, response_id),
            begun=submitted.answered,
            closed=closed,
        )

    async def _wait_for_end(
        self, run_request: RunRequest, tail: Tail, receive: Receive
    ) -> Response:
        """A foreground request without a stream: answer when the run has ended."""
        response_id = run_request.response_id
        async with asyncio.TaskGroup() as group:
            ending = group.create_task(self._until_ended(tail))
            leaving = group.create_task(until_disconnected(receive))
            await asyncio.wait((ending, leaving), return_when=asyncio.FIRST_COMPLETED)
            gone = not ending.done()
            leaving.cancel()
            ending.cancel()
        if gone and self._settings.cancel_on_disconnect:
            # A client that has closed only its half of the connection reads what became of it.
            await self._cancel(response_id, run_request.principal)
        stored = await self._responses.get_unscoped(response_id)
        if not run_request.stored and stored is not None and stored.finished:
            await self._forget(response_id)
        if stored is None:
            raise NotFound("The response was deleted before it ended.")
        if not stored.finished and not gone:
            raise StillRunning(response_id)
        return JSONAnswer(as_response(stored))

    async def _forget(self, response_id: str) -> None:
        """Delete what was not to be stored. If Postgres is away, the retention does it later."""
        with contextlib.suppress(LongrunError):
            await self._responses.delete_unscoped(response_id)

    async def _until_ended(self, tail: Tail) -> None:
        with tail:
            while await tail.next(self._settings.keepalive_interval) is not None:
                pass

    # -- get ------------------------------------------------------------------------------

    @operation(
        ResponseObject,
        query=GetResponse,
        streams=True,
        headers={"last-event-id": "As `starting_after`, and instead of it, from EventSource."},
        statuses={204: "Nothing comes after `last-event-id`: the stream has ended."},
    )
    async def get(self, request: Request) -> ASGIApp:
        """`GET /responses/{id}`: the response as it stands, or its events from the start."""
        query = GetResponse.parse(request)
        response_id = request.path_params["id"]
        reader = await reader_of(request, response_id, self._responses.owner_unscoped)
        if not query.stream and "last-event-id" not in request.headers:
            return JSONAnswer(as_response(await self._known(response_id, reader)))
        cursor = -1 if query.starting_after is None else query.starting_after
        if not ids.is_response_id(response_id):
            raise response_not_found(response_id)
        with contextlib.ExitStack() as open_stream:
            # Before the log is read, so that nothing falls between.
            tail = open_stream.enter_context(self._tail(response_id, cursor))
            begun = await self._begun(response_id, reader, cursor)
            if is_terminal(begun.status) and "last-event-id" in request.headers:
                chunks = begun.chunks
                end = chunks[-1] if chunks else await self._log.end_unscoped(response_id)
                if end is not None and cursor >= end_before(end):
                    # Stops an EventSource, which would otherwise reconnect for ever.
                    return Response(status_code=204)
            tail.begin(begun)
            open_stream.enter_context(self._streams.one_more(caller_of(request).limited_as))
            return EventStream(
                tail,
                keepalive_interval=self._settings.keepalive_interval,
                with_ids=True,
                send_timeout=self._settings.send_timeout,
                closed=open_stream.pop_all().close,
            )

    async def _begun(self, response_id: str, reader: str, cursor: int) -> Begun:
        """What the stream of the reader's response begins with. What takes longer is waited for in
        the stream, which has heartbeats."""
        begun = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(BEGIN_WAIT):
                begun = await self._log.join(response_id, reader, cursor, self._settings.page_bytes)
        if begun is None:
            begun = Begun((await self._known(response_id, reader)).status, [])
        return begun

    async def _known(self, response_id: str, principal: str) -> StoredResponse:
        """The principal's response; the same error whether it is unknown or another's."""
        stored = None
        if ids.is_response_id(response_id):
            stored = await self._responses.get(response_id, principal)
        if stored is None:
            raise response_not_found(response_id)
        return stored

    def _tail(
        self,
        response_id: str,
        cursor: int = -1,
        *,
        patient: bool = False,
        coming: bool = False,
    ) -> Tail:
        return Tail(
            self._hub,
            self._log,
            response_id,
            cursor=cursor,
            page_bytes=self._settings.page_bytes,
            patient=patient,
            coming=coming,
        )

    # -- cancel, delete, models -------------------------------------------------------------------

    @operation(ResponseObject)
    async def cancel(self, request: Request) -> Response:
        """`POST /responses/{id}/cancel`: cancel a background response, on any replica."""
        response_id, principal = request.path_params["id"], principal_of(request)
        stored = await self._known(response_id, principal)
        if not stored.background:
            raise BadRequest(
                "Only background responses can be cancelled; to stop this one, disconnect.",
                param="id",
            )
        if not stored.finished:
            await self._cancel(response_id, principal)
            stored = await self._known(response_id, principal)
        return JSONAnswer(as_response(stored))

    async def _cancel(self, response_id: str, principal: str) -> None:
        """Cancel a run, and wait for the end: for this one, or for another that came first."""
        await self._runs.cancel(response_id, principal)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CANCEL_WAIT):
                await self._until_ended(self._tail(response_id, patient=True))

    @operation(Deleted)
    async def delete(self, request: Request) -> Response:
        """`DELETE /responses/{id}`: cancel a response if it is live, and delete all of it."""
        response_id, principal = request.path_params["id"], principal_of(request)
        stored = await self._known(response_id, principal)
        if not stored.finished:
            await self._runs.cancel(response_id, principal)
        await self._responses.delete(response_id, principal)
        return JSONAnswer({"id": response_id, "object": "response", "deleted": True})

    @operation(ListOf[Model])
    async def list_models(self, request: Request) -> Response:
        """`GET /models`: the served agents."""
        models = self._models_of(caller_of(request))
        return JSONAnswer({"object": "list", "data": [self._model(name) for name in models]})

    @operation(Model)
    async def get_model(self, request: Request) -> Response:
        """`GET /models/{id}`: a served agent."""
        return JSONAnswer(self._model(self._agent(request.path_params["id"], caller_of(request))))

    def _model(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._started, "owned_by": "longrun"}


def _closest(*limits: int | None) -> int | None:
    """The lowest of some limits; None: there is none."""
    return min((limit for limit in limits if limit is not None), default=None)


def forwarded(request: Request, names: Iterable[str]) -> dict[str, str]:
    """The headers of these names, for the run to know."""
    found = {name: ", ".join(request.headers.getlist(name)) for name in names}
    return {name: value for name, value in found.items() if value}


def traced(request: Request, run_request: RunRequest) -> RunRequest:
    """With the client's span, of which it becomes a part."""
    parent = request.headers.get(TRACEPARENT, "")
    if not 0 < len(parent) <= LONGEST_TRACEPARENT:
        return run_request
    return replace(run_request, parameters={**run_request.parameters, TRACEPARENT: parent})
