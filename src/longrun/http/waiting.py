"""Plain answers that take long: spaces come before them, which JSON may begin with. And the one to
a foreground request, as an ASGI application, which comes when the run has ended."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from longrun.backoff import jittered
from longrun.errors import LongrunError, NotFound, Unavailable, Unreadable
from longrun.fanout.tail import RETRY, Tail, dropped
from longrun.http.answers import JSONAnswer, as_response, error_answer
from longrun.http.streams import until_disconnected
from longrun.store.responses import StoredResponse

T = TypeVar("T")

SPACE: Final = b" "

_HEADERS: Final = [
    (b"content-type", b"application/json"),
    (b"cache-control", b"no-cache"),
    # Else nginx keeps the spaces to itself.
    (b"x-accel-buffering", b"no"),
]


class Spaces:
    """Keeps the connection of an answer that is waited for. Until the first interval is over
    nothing is sent; then the answer begins, with status 200, and each interval brings a space.

    Args:
        interval: seconds of silence after which a space is sent.

    Attributes:
        begun: the answer has begun.
    """

    def __init__(self, interval: float) -> None:
        self.begun = False
        self._interval = interval

    async def wait(
        self, coming: Coroutine[Any, Any, T], receive: Receive, send: Send
    ) -> tuple[bool, T | None]:
        """Wait for what raises nothing. Whether the client has gone before it; else what came."""
        async with asyncio.TaskGroup() as group:
            made = group.create_task(coming)
            leaving = group.create_task(until_disconnected(receive))
            while not (made.done() or leaving.done()):
                done, _ = await asyncio.wait(
                    (made, leaving), timeout=self._interval, return_when=asyncio.FIRST_COMPLETED
                )
                if not done:
                    await self._send_one(send)
            gone = not made.done()
            leaving.cancel()
            made.cancel()
        return gone, None if gone else made.result()

    async def _send_one(self, send: Send) -> None:
        if not self.begun:
            self.begun = True
            await send({"type": "http.response.start", "status": 200, "headers": list(_HEADERS)})
        await send({"type": "http.response.body", "body": SPACE, "more_body": True})

    async def end_with(self, answer: Response, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer, or of one that has begun its body."""
        if self.begun:
            await send({"type": "http.response.body", "body": bytes(answer.body)})
        else:
            await answer(scope, receive, send)


class WaitedAnswer:
    """Answers with the Response object once the run has ended.

    Until the first interval is over nothing is sent, so that whatever goes wrong has a status of
    its own. After that the answer is a 200 that has begun: each interval brings a space, and what
    comes then is a Response object whatever happened, since a connection that broke would have an
    SDK ask for another run.

    Args:
        tail: of the response, patient.
        keepalive_interval: seconds of silence after which a space is sent.
        document: the Response object as far as it is known, without status and output.
        read: reads the response; None: it is gone.
        left: called when the client has gone before the end; returns when its run was ended, where
            it is to be.
        ended: called when the run has ended, and its response was read.
        unfinished: what is said where this replica stops before the run has ended.
    """

    def __init__(
        self,
        tail: Tail,
        *,
        keepalive_interval: float,
        document: dict[str, Any],
        read: Callable[[], Awaitable[StoredResponse | None]],
        left: Callable[[], Awaitable[None]],
        ended: Callable[[], Awaitable[None]] | None,
        unfinished: LongrunError,
    ) -> None:
        self._tail = tail
        self._keepalive_interval = keepalive_interval
        self._document = document
        self._read = read
        self._left = left
        self._ended = ended
        self._unfinished = unfinished
        self._spaces = Spaces(keepalive_interval)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._tail:
            gone, stored = await self._spaces.wait(self._until_ended(), receive, send)
        if gone:
            await self._left()
            stored = await self._read()
        answer = await self._answer(stored, gone=gone)
        await self._spaces.end_with(answer, scope, receive, send)

    async def _until_ended(self) -> StoredResponse | LongrunError | None:
        """Wait until the run has ended, or this replica stops, and read what is there: while
        Postgres is away that waits, too, since an error would have an SDK ask again."""
        while await self._tail.next(self._keepalive_interval, dropped) is not None:
            pass
        while True:
            try:
                return await self._read()
            except Unavailable:
                if self._tail.sent_away:
                    return self._unfinished
                await asyncio.sleep(jittered(RETRY))
            except LongrunError as error:
                return error

    async def _answer(self, found: StoredResponse | LongrunError | None, *, gone: bool) -> Response:
        """The answer to what was found; of a client that has closed only its half of the
        connection, however it stands."""
        if isinstance(found, StoredResponse):
            if found.finished and self._ended is not None:
                await self._ended()
            if found.finished or gone or self._spaces.begun:
                return JSONAnswer(as_response(found))
            raise self._unfinished
        error = found or NotFound("The response was deleted before it ended.")
        if self._spaces.begun:
            return JSONAnswer(self._instead_of(error))
        if isinstance(error, Unreadable):
            return error_answer(error, {"x-should-retry": "false"})
        raise error

    def _instead_of(self, error: LongrunError) -> dict[str, Any]:
        """The Response object that stands for an error, whose status was sent before."""
        known = {**self._document, "output": []}
        if error is self._unfinished:
            return {**known, "status": "in_progress"}
        if isinstance(error, NotFound):
            return {**known, "status": "cancelled"}
        said = {"code": "server_error", "message": error.message}
        return {**known, "status": "failed", "error": said}
