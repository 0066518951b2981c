"""One lane of a WebSocket: responses one after the other, in the order in which they were asked
for (contract, "WebSocket")."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Final, Protocol

from starlette.requests import HTTPConnection

from longrun.access.callers import Caller
from longrun.errors import BadRequest, LongrunError, NotFound, TooManyRequests, Unavailable
from longrun.fanout.tail import Tail
from longrun.http.access import caller_again
from longrun.http.bodies import Bodies
from longrun.http.creations import Creations, Runs
from longrun.http.frames import Frame
from longrun.http.held import Held, Holder, held_after
from longrun.http.rates import RunRates
from longrun.http.requests import CreateResponse
from longrun.http.steers_pending import LaneSteers
from longrun.protocol import GENERATE, RunRequest
from longrun.store.records import Submitted
from longrun.store.responses import Responses
from longrun.store.steers import Steers

SILENCE: Final = 15.0
"""Seconds between two looks of a lane whose response says nothing."""

_FAILED: Final = b'{"type":"response.failed"'

_ENVELOPE: Final = ("type", "stream_id", "stream", "background", "generate")
"""What an event has besides the body of a request, or has not to have."""

_NOTHING_TRIED: Final = (TooManyRequests, Unavailable)
"""Errors after which the same event can be sent again."""


class Connected(Protocol):
    """What a lane needs of its connection."""

    connection: HTTPConnection
    running: asyncio.Semaphore

    async def send(self, event: str) -> None: ...

    async def tell(self, error: Exception, stream_id: str | None, took: float) -> None: ...

    def created(self, took: float) -> None: ...

    def held(self, response_id: str | None, principal: str) -> "tuple[Held, Lane] | None": ...

    def leave(self) -> None: ...


class Shared:
    """What the lanes of all connections of a replica share."""

    def __init__(
        self,
        *,
        creations: Creations,
        bodies: Bodies,
        runs: Runs,
        responses: Responses,
        rates: RunRates,
        steers: Steers,
    ) -> None:
        self.creations = creations
        self.bodies = bodies
        self.runs = runs
        self.responses = responses
        self.rates = rates
        self.steers = steers


class Lane:
    """One at a time; what is asked for meanwhile waits.

    Args:
        name: its `stream_id`; None: events without one.

    Attributes:
        live: the response that is produced on it just now.
        steers: what this connection has put into that one.
        waiting: what was asked for and has not begun.
    """

    def __init__(self, name: str | None, socket: Connected, shared: Shared, holder: Holder) -> None:
        self.name = name
        self.live: str | None = None
        self.waiting: deque[Frame] = deque()
        self.holder = holder
        self.steers = LaneSteers(shared.steers)
        self._socket = socket
        self._shared = shared
        self._suffix = b"" if name is None else b',"stream_id":"%b"}' % name.encode()

    async def work(self) -> None:
        """Answer what waits, until nothing does."""
        while self.waiting:
            async with self._socket.running:
                await self._answer(self.waiting.popleft())

    def drop(self) -> None:
        """Its connection is over: nothing that waits is begun, and nothing is kept."""
        while self.waiting:
            self.waiting.popleft().kept.close()
        self.holder.drop()

    async def _answer(self, frame: Frame) -> None:
        began = time.perf_counter()
        continued = frame.said.get("previous_response_id")
        try:
            with frame.kept:
                caller = await self._admitted()
                body, generates = await self._parsed(frame, caller)
            await self._respond(body, generates, caller, began)
        except Exception as error:
            held = self.holder.held
            tried = not isinstance(error, _NOTHING_TRIED)
            if held is not None and held.id == continued and tried:
                self.holder.drop()
            await self._socket.tell(error, self.name, time.perf_counter() - began)

    async def _admitted(self) -> Caller:
        """Who asks, if they still may, and have not asked too often."""
        caller = await caller_again(self._socket.connection)
        standing = await self._shared.rates.take(caller)
        if standing is not None:
            self._shared.rates.check(standing)
        return caller

    async def _parsed(self, frame: Frame, caller: Caller) -> tuple[CreateResponse, bool]:
        """The request in an event, and whether anything is to be generated for it."""
        said = frame.said
        if said.get("background"):
            raise BadRequest("background is not served on a WebSocket.", param="background")
        if said.get("stream") is False:
            raise BadRequest("On a WebSocket, every response is streamed.", param="stream")
        generate = said.get("generate")
        if generate is not None and not isinstance(generate, bool):
            raise BadRequest("generate: Input should be a valid boolean.", param="generate")
        body = {name: value for name, value in said.items() if name not in _ENVELOPE}
        parse = partial(self._shared.creations.parse, caller, body)
        return await self._shared.bodies.beside(frame.size, parse), generate is not False

    async def _respond(
        self, body: CreateResponse, generates: bool, caller: Caller, began: float
    ) -> None:
        creations, runs = self._shared.creations, self._shared.runs
        found = self._socket.held(body.previous_response_id, caller.principal)
        held = found[0] if found is not None else None
        run_request = await creations.request_of(body, caller, self._socket.connection, held)
        if not generates:
            parameters = {**run_request.parameters, GENERATE: False}
            run_request = replace(run_request, parameters=parameters)
        failed = None
        with contextlib.ExitStack() as open_stream:
            tail, submitted = await creations.create(
                run_request, caller, open_stream, streams=True, reads=True
            )
            open_stream.callback(submitted.answered)
            self.live = run_request.response_id
            self.steers.begin()
            self._socket.created(time.perf_counter() - began)
            ended = partial(self._ended, run_request, body, held)
            try:
                failed = await self._send_all(run_request, tail, submitted, ended)
            finally:
                self.live = None
                if failed is None and not run_request.stored:
                    # Nobody can read it any more.
                    runs.cancel_soon(run_request.response_id, run_request.principal)
        if failed is None and not tail.sent_away:
            raise NotFound("The response was deleted before it ended.")
        if failed is None:
            # It goes on, and so does its client, over HTTP.
            self._socket.leave()

    async def _send_all(
        self,
        run_request: RunRequest,
        tail: Tail,
        submitted: Submitted,
        ended: Callable[[bool], Awaitable[None]],
    ) -> bool | None:
        """Send the events. Whether the response has failed; None: they were not sent to the end.

        Args:
            ended: awaited before the last of them is sent, with whether it failed.
        """
        failed = False
        pending: list[str] = []
        with tail:
            while (block := await tail.next(SILENCE)) is not None:
                lines = [line for chunk in block for line in chunk.data.split(b"\n")]
                # Nothing of the log is held twice while a slow client takes its time.
                del block
                lines.reverse()
                while lines:
                    line = lines.pop()
                    if tail.ended and not lines:
                        failed = line.startswith(_FAILED)
                        pending = await self.steers.pending(
                            run_request.response_id, run_request.principal, line, self.name
                        )
                        await ended(failed)
                    line = line[:-1] + self._suffix if self._suffix else line
                    await self._socket.send(line.decode())
                submitted.answered()
        for event in pending:
            await self._socket.send(event)
        return failed if tail.ended else None

    async def _ended(
        self, run_request: RunRequest, body: CreateResponse, held: Held | None, failed: bool
    ) -> None:
        """What becomes of what is held when a response has ended: before its client hears of it,
        which may continue it on any lane at once."""
        own = self.holder.held
        continued = own is not None and own.id == body.previous_response_id
        if run_request.stored:
            if continued or not failed:
                # It is in Postgres, and the lane's latest.
                self.holder.drop()
            return
        if continued and failed:
            self.holder.drop()
        if not failed and run_request.conversation_id is None:
            await self._hold(run_request, body, held)
        with contextlib.suppress(LongrunError):
            await self._shared.responses.delete_unscoped(run_request.response_id)

    async def _hold(self, run_request: RunRequest, body: CreateResponse, held: Held | None) -> None:
        with contextlib.suppress(LongrunError):
            exchange = await self._shared.responses.histories.exchange(
                run_request.response_id, run_request.principal
            )
            if exchange is not None:
                self.holder.hold(held_after(held, body, run_request, exchange))
