"""`/responses` and `/models`: create, get, stream, delete."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, Final, Literal, NamedTuple

from openai.types import Model
from openai.types.responses import Response as ResponseObject
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from longrun import ids
from longrun.errors import (
    AskAgain,
    BadRequest,
    KeyReused,
    LongrunError,
    NotFound,
    Repeated,
    StillRunning,
    Unavailable,
)
from longrun.fanout import catch_up
from longrun.fanout.hub import Hub
from longrun.fanout.tail import Tail, dropped
from longrun.http import idempotency, sse
from longrun.http.access import caller_of, principal_of, reader_of
from longrun.http.answers import JSONAnswer, as_response
from longrun.http.approvals import Answers
from longrun.http.bodies import Bodies
from longrun.http.creations import Creations, Runs
from longrun.http.forks import Sources
from longrun.http.long_answers import Polls
from longrun.http.problems import response_not_found
from longrun.http.query import GetResponse
from longrun.http.rates import count_repeated, say_tokens
from longrun.http.requests import CreateResponse
from longrun.http.routing import Straight
from longrun.http.streams import EventStream, OpenStreams
from longrun.http.waiting import WaitedAnswer
from longrun.jsontext import loads
from longrun.operations import ListOf, operation
from longrun.protocol import Once, RunRequest, is_terminal
from longrun.settings import Settings
from longrun.store.abridged import end_before
from longrun.store.events import Begun, EventLog
from longrun.store.idempotency import Created, IdempotencyKeys
from longrun.store.keys import Keys
from longrun.store.responses import Responses, StoredResponse

BEGIN_WAIT: Final = 0.5
"""Seconds that a stream waits for its first page before it begins without."""

TRIES: Final = 3
"""How often it is tried to create a response, or to find what its key has created: the second is
enough, unless the key's time is over just then."""

CANCEL_WAIT: Final = 10.0
"""Seconds that the answer to a cancel waits for the terminal event."""


class Deleted(BaseModel):
    """The answer to the deletion of a response."""

    id: str
    object: Literal["response"]
    deleted: Literal[True]


class _Asked(NamedTuple):
    """A response, as whoever asked for it waits for it.

    Attributes:
        key: its Idempotency-Key, by which it may be asked for again; None: there is none.
        document: the Response object as far as it is known, without status and output.
    """

    response_id: str
    principal: str
    background: bool
    stored: bool
    key: str | None
    document: dict[str, Any]

    @classmethod
    def of(cls, request: RunRequest) -> "_Asked":
        return cls(
            request.response_id,
            request.principal,
            request.background,
            request.stored,
            None if request.once is None else request.once.key,
            request.document,
        )

    @property
    def is_forgotten(self) -> bool:
        """Whether it is deleted once its client has all of it. What may be asked for again goes a
        minute after its end, as all that was not to be stored does."""
        return not self.stored and self.key is None


class ResponsesAPI:
    """The endpoints of the Responses API.

    Args:
        models: the names of the served agents, the default one first.
        answers: looks at the answers to requests for approvals.
        own_limits: of some of them, the parameters that are forbidden, and the bounds of others.

    Attributes:
        bodies: reads the bodies of this replica's requests, within one budget.
        creations: makes responses of requests.
        polls: answers polls, within the room for long answers.
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
        idempotency_keys: IdempotencyKeys,
        answers: Answers,
        sources: Sources,
        settings: Settings,
        own_limits: Mapping[str, tuple[Collection[str], Mapping[str, float]]] | None = None,
    ) -> None:
        self._runs = runs
        self._responses = responses
        self._idempotency_keys = idempotency_keys
        self._awaited = idempotency.Awaited(idempotency_keys, runs, settings.retry_window)
        self._log = event_log
        self._settings = settings
        self._streams = OpenStreams(settings.max_principal_streams)
        self._framed = {with_ids: sse.Framed(with_ids=with_ids) for with_ids in (False, True)}
        self.polls = Polls(settings.max_bodies_bytes)
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
            Straight(prefix + path, endpoint, method=method)
            for method, path, endpoint in endpoints
            for prefix in ("/v1", "")
        ]

    # -- create ---------------------------------------------------------------------------

    @operation(
        ResponseObject,
        body=CreateResponse,
        streams=True,
        headers={"idempotency-key": idempotency.DOES},
        errors=(404, 421, 422, 429),
    )
    async def create(self, request: Request) -> ASGIApp:
        """`POST /responses`: create a response, which an agent produces."""
        caller, key = caller_of(request), idempotency.key_of(request)
        keys = self._idempotency_keys
        found = None if key is None else await idempotency.earlier(request, key, keys)
        parse = partial(self.creations.parse, caller)
        body, once = await self.bodies.read(request, partial(idempotency.parsed, parse, key))
        if once is None:
            return await self._create(request, body)
        for _ in range(TRIES):
            if found is not None:
                return await self._again(request, body, once, found)
            try:
                return await self._create(request, body, once)
            except LongrunError as error:
                # What refuses it may be what its own key has created meanwhile.
                found = await keys.find(caller.principal, once.key)
                if found is None and not isinstance(error, Repeated):
                    raise
            if found is not None:
                await count_repeated(request.scope)
        raise Unavailable("The server could not finish this; try again.", retry_after=1)

    async def _create(
        self, request: Request, body: CreateResponse, once: Once | None = None
    ) -> ASGIApp:
        """Create a response, and answer as the request wants.

        Raises:
            Repeated: its key has created one.
        """
        caller = caller_of(request)
        run_request = await self.creations.request_of(body, caller, request, once=once)
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
        asked = _Asked.of(run_request)
        if body.stream:
            return self._streamed(asked, tail, submitted.answered, closed)
        if reads:
            submitted.answered()
            return self._waited(asked, tail)
        # Sent by then, since nothing in between waits.
        asyncio.get_running_loop().call_soon(submitted.answered)
        return JSONAnswer({**run_request.document, "status": submitted.status, "output": []})

    async def _again(
        self, request: Request, body: CreateResponse, once: Once, created: Created
    ) -> ASGIApp:
        """Answer a request that was sent before with what it has created.

        Raises:
            KeyReused: it was another request.
            NotFound: that is gone.
        """
        caller, response_id = caller_of(request), created.response_id
        stored = None
        if created.status is not None:
            if not self._idempotency_keys.is_same(created, once):
                raise KeyReused()
            stored = await self._responses.get_unscoped(response_id)
        if stored is None:
            raise NotFound(
                f"The response {response_id!r}, which was created with this Idempotency-Key, is "
                "not stored any more.",
                param=idempotency.HEADER,
            )
        if not body.stream and (stored.finished or stored.background):
            return JSONAnswer(as_response(stored))
        document = loads(stored.document)
        asked = _Asked(
            response_id, caller.principal, body.background, body.store, once.key, document
        )
        if not (stored.background or stored.finished):
            await self._awaited.joined(caller.principal, once.key, response_id)
        with contextlib.ExitStack() as open_stream:
            if body.stream:
                open_stream.enter_context(self._streams.one_more(caller.limited_as))
            tail = self.creations.tail(
                response_id, patient=not body.stream, finished=stored.finished
            )
            open_stream.enter_context(tail)
            closed = open_stream.pop_all().close
        if body.stream:
            return self._streamed(asked, tail, lambda: None, closed)
        return self._waited(asked, tail)

    def _streamed(
        self,
        asked: "_Asked",
        tail: Tail,
        begun: Callable[[], object],
        closed: Callable[[], object],
    ) -> EventStream:
        """The answer to a request with a stream: all events of the response."""

        def disconnected() -> None:
            if self._is_over_with_client(asked):
                self._runs.cancel_soon(asked.response_id, asked.principal)

        return EventStream(
            tail,
            keepalive_interval=self._settings.keepalive_interval,
            framed=self._framed[False],
            send_timeout=self._settings.send_timeout,
            disconnected=disconnected,
            ended=partial(self._forget, asked.response_id) if asked.is_forgotten else None,
            begun=begun,
            closed=closed,
        )

    def _waited(self, asked: "_Asked", tail: Tail) -> WaitedAnswer:
        """The answer to a foreground request without a stream: when the run has ended."""
        response_id = asked.response_id

        async def left() -> None:
            if self._is_over_with_client(asked):
                await self._cancel(response_id, asked.principal)

        return WaitedAnswer(
            tail,
            keepalive_interval=self._settings.keepalive_interval,
            document=asked.document,
            read=partial(self._responses.get_unscoped, response_id),
            left=left,
            ended=partial(self._forget, response_id) if asked.is_forgotten else None,
            unfinished=AskAgain(response_id) if asked.key else StillRunning(response_id),
        )

    def _is_over_with_client(self, asked: "_Asked") -> bool:
        """Whether nobody wants the run any more, whose client has gone just now."""
        if asked.background or self._runs.draining or not self._settings.cancel_on_disconnect:
            return False
        if asked.key is None:
            return True
        self._awaited.left(asked.principal, asked.key, asked.response_id)
        return False

    async def _forget(self, response_id: str) -> None:
        """Delete what was not to be stored. If Postgres is away, the retention does it later."""
        with contextlib.suppress(LongrunError):
            await self._responses.delete_unscoped(response_id)

    async def _until_ended(self, tail: Tail) -> None:
        with tail:
            while await tail.next(self._settings.keepalive_interval, dropped) is not None:
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
            return await self._polled(response_id, reader)
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
                begun = await self._begun(response_id, reader, tail)
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
                framed=self._framed[True],
                send_timeout=self._settings.send_timeout,
                closed=open_stream.pop_all().close,
            )

    async def _polled(self, response_id: str, reader: str) -> ASGIApp:
        """The answer to a poll: the reader's response as it stands."""
        read = partial(self._known, response_id, reader)
        return await self.polls.answer(reader, response_id, read)

    async def _skipped(
        self, query: GetResponse, stored: StoredResponse, tail: Tail
    ) -> Begun | None:
        """Let a tail begin where a query wants it, which is not after a cursor of its own; and what
        it begins with, where that is not of the log."""
        if query.catch_up is not None:
            return await catch_up.snapshot(tail, self._log, stored)
        await catch_up.last_events(tail, self._log, stored.id, query.last)
        return None

    async def _begun(self, response_id: str, reader: str, tail: Tail) -> Begun:
        """What the stream of the reader's response begins with, or nothing where the ring has that.
        What takes longer is waited for in the stream, which has heartbeats.

        Raises:
            NotFound: there is no such response now, or it is another's. Nothing that is known here
                says that it is there: it may have been deleted by another replica.
        """
        begun = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(BEGIN_WAIT):
                if tail.is_covered:
                    begun = await self._log.join(response_id, reader, None, 0)
                    if begun is None:
                        raise response_not_found(response_id)
                    if not is_terminal(begun.status):
                        return begun
                begun = await self._log.join(
                    response_id, reader, tail.stored_cursor, self._settings.page_bytes
                )
                if begun is None:
                    raise response_not_found(response_id)
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
        """`POST /responses/{id}/cancel`: cancel a background response, or a foreground one that is
        live, on any replica."""
        response_id, principal = request.path_params["id"], principal_of(request)
        stored = await self._known(response_id, principal)
        if stored.finished and not (stored.background or stored.status == "cancelled"):
            # Of a live one nobody can tell here whether its client has gone, whom it goes on
            # without after a takeover, over a WebSocket, or where that is set.
            raise BadRequest(
                "Only background responses can be cancelled, and foreground ones while they are "
                f"live: this one has ended ({stored.status}).",
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
