"""`/responses` and `/models`: create, get, stream, delete."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, Final, Literal

from openai.types import Model
from openai.types.responses import Response as ResponseObject
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive

from longrun import ids
from longrun.errors import (
    BadRequest,
    LongrunError,
    NotFound,
    StillRunning,
)
from longrun.fanout import catch_up
from longrun.fanout.hub import Hub
from longrun.fanout.tail import Tail
from longrun.http.access import caller_of, principal_of, reader_of
from longrun.http.answers import JSONAnswer, as_response
from longrun.http.approvals import Answers
from longrun.http.bodies import Bodies
from longrun.http.creations import Creations, Runs
from longrun.http.forks import Sources
from longrun.http.problems import response_not_found
from longrun.http.query import GetResponse
from longrun.http.rates import say_tokens
from longrun.http.requests import CreateResponse
from longrun.http.streams import EventStream, OpenStreams, until_disconnected
from longrun.operations import ListOf, operation
from longrun.protocol import RunRequest, is_terminal
from longrun.settings import Settings
from longrun.store.abridged import end_before
from longrun.store.events import Begun, EventLog
from longrun.store.keys import Keys
from longrun.store.records import Submitted
from longrun.store.responses import Responses, StoredResponse

BEGIN_WAIT: Final = 0.5
"""Seconds that a stream waits for its first page before it begins without."""

CANCEL_WAIT: Final = 10.0
"""Seconds that the answer to a cancel waits for the terminal event."""


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
        creations: makes responses of requests.
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
        settings: Settings,
        own_limits: Mapping[str, tuple[Collection[str], Mapping[str, float]]] | None = None,
    ) -> None:
        self._runs = runs
        self._responses = responses
        self._log = event_log
        self._settings = settings
        self._streams = OpenStreams(settings.max_principal_streams)
        self.creations = Creations(
            runs=runs,
            models=models,
            responses=responses,
            event_log=event_log,
            hub=hub,
            keys=keys,
            answers=answers,
            sources=sources,
            streams=self._streams,
            settings=settings,
            own_limits=own_limits or {},
        )
        self.bodies = Bodies(self.creations.limits)
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
        body = await self.bodies.read(request, partial(self.creations.parse, caller))
        run_request = await self.creations.request_of(body, caller, request)
        reads = body.stream or not body.background
        with contextlib.ExitStack() as open_stream:
            try:
                tail, submitted = await self.creations.create(
                    run_request, caller, open_stream, streams=body.stream, reads=reads
                )
            finally:
                say_tokens(request.scope, run_request.allowance)
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
        if gone and self._settings.cancel_on_disconnect and not self._runs.draining:
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
        if not ids.is_response_id(response_id):
            raise response_not_found(response_id)
        with contextlib.ExitStack() as open_stream:
            # Before the log is read, so that nothing falls between.
            cursor = query.cursor
            tail = open_stream.enter_context(self.creations.tail(response_id, cursor))
            begun = None
            if query.skips:
                begun = await self._skipped(query, await self._known(response_id, reader), tail)
            if begun is None:
                begun = await self._begun(response_id, reader, tail.stored_cursor)
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

    async def _skipped(
        self, query: GetResponse, stored: StoredResponse, tail: Tail
    ) -> Begun | None:
        """Let a tail begin where a query wants it, which is not after a cursor of its own; and what
        it begins with, where that is not of the log."""
        if query.catch_up is not None:
            return await catch_up.snapshot(tail, self._log, stored)
        await catch_up.last_events(tail, self._log, stored.id, query.last)
        return None

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
                await self._until_ended(self.creations.tail(response_id, patient=True))

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
        models = self.creations.models_of(caller_of(request))
        return JSONAnswer({"object": "list", "data": [self._model(name) for name in models]})

    @operation(Model)
    async def get_model(self, request: Request) -> Response:
        """`GET /models/{id}`: a served agent."""
        return JSONAnswer(
            self._model(self.creations.agent(request.path_params["id"], caller_of(request)))
        )

    def _model(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._started, "owned_by": "longrun"}
