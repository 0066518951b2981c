"""Long answers, of polls and of lists: however many clients ask, and however slowly they read, a
replica holds so many bytes for them at most."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

from starlette.types import ASGIApp, Receive, Scope, Send

from longrun.errors import Unavailable
from longrun.http.answers import JSONAnswer, as_response
from longrun.store.responses import StoredResponse

LONG: Final = 1024 * 1024
"""A response of so many characters is read once there is room for it. Shorter ones are read at
once."""

MOST_KNOWN: Final = 1000
"""Responses of which is remembered here that they are long."""

COPIES: Final = 3
"""How often a response is held at most while it is answered: as it is read, and as it is sent."""

PATIENCE: Final = 20.0
"""Seconds that a poll waits for room: less than clients and proxies wait for an answer."""

PIECE: Final = 256 * 1024
"""Bytes of an answer that are given to the server at once, which waits for its client."""


class Room:
    """Bounds the bytes of all long answers of a replica, which wait for each other in the order in
    which they came. One that is larger than all of it is answered alone.

    Args:
        size: in bytes.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._used = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @contextlib.asynccontextmanager
    async def taken(self, size: int) -> AsyncIterator[Callable[[int], None]]:
        """Within the block there is room for so many bytes, or once what is yielded is called for
        as many as it is called with.

        Raises:
            Unavailable: there was none for `PATIENCE` seconds.
        """
        size = min(size, self._size)
        if self._waiting or self._used + size > self._size:
            await self._wait(size)
        else:
            self._used += size
        held = size

        def keep(less: int) -> None:
            nonlocal held
            self._free(max(0, held - less))
            held = min(held, less)

        try:
            yield keep
        finally:
            self._free(held)

    async def _wait(self, size: int) -> None:
        turn = asyncio.get_running_loop().create_future()
        place = (size, turn)
        self._waiting.append(place)
        try:
            await asyncio.wait_for(asyncio.shield(turn), PATIENCE)
        except BaseException as error:
            if turn.done():
                self._free(size)
            else:
                self._waiting.remove(place)
                # Those behind it may be smaller.
                self._free(0)
            if isinstance(error, TimeoutError):
                raise Unavailable(
                    "Too many long responses are being read here; try again shortly.",
                    retry_after=2,
                ) from None
            raise

    def _free(self, size: int) -> None:
        self._used -= size
        while self._waiting and self._used + self._waiting[0][0] <= self._size:
            more, turn = self._waiting.popleft()
            self._used += more
            turn.set_result(None)


Read = Callable[[], Awaitable[StoredResponse]]
"""Reads a response; raises where it is not there."""


class Polls:
    """Answers polls. That a response is long shows when it is read: who polls one while it is read
    for the first time waits for that, and it is read again once there is room for it.

    Args:
        size: of the room for long ones, in bytes.

    Attributes:
        room: for these and for other long answers.
    """

    def __init__(self, size: int) -> None:
        self.room = Room(size)
        self._long: dict[tuple[str, str], int] = {}
        self._reading: dict[tuple[str, str], asyncio.Future[None]] = {}

    async def answer(self, reader: str, response_id: str, read: Read) -> ASGIApp:
        """The answer to a poll of a reader's response, of which nobody else learns anything: what
        is known of it is known of it as theirs.

        Raises:
            LongrunError: what `read` raises.
        """
        key = (reader, response_id)

        async def noting() -> StoredResponse:
            stored = await read()
            size = len(stored.document) + sum(map(len, stored.output))
            self._long.pop(key, None)
            if size >= LONG:
                self._long[key] = size
                if len(self._long) > MOST_KNOWN:
                    del self._long[next(iter(self._long))]
            return stored

        if key not in self._long and (under_way := self._reading.get(key)) is not None:
            await asyncio.wait((under_way,))
        if key not in self._long:
            stored = await self._first(key, noting)
            if key not in self._long:
                return JSONAnswer(as_response(stored))
            del stored

        async def whole() -> dict[str, Any]:
            return as_response(await noting())

        return LongAnswer(self.room, self._long[key], whole)

    async def _first(self, key: tuple[str, str], read: Read) -> StoredResponse:
        if key in self._reading:
            return await read()
        done = self._reading[key] = asyncio.get_running_loop().create_future()
        try:
            return await read()
        finally:
            del self._reading[key]
            done.set_result(None)


class LongAnswer:
    """Answers with much JSON, as an ASGI application.

    Args:
        size: of what is read for it, in bytes.
        read: reads what is answered, once there is room; what it raises is the answer.
    """

    def __init__(self, room: Room, size: int, read: Callable[[], Awaitable[Any]]) -> None:
        self._room = room
        self._size = size
        self._read = read

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._room.taken(COPIES * self._size) as keep:
            answer = JSONAnswer(await self._read())
            keep(len(answer.body))
            if scope["method"] == "HEAD":
                await answer(scope, receive, send)
                return
            headers = answer.raw_headers
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            body = memoryview(answer.body)
            for at in range(0, len(body), PIECE):
                piece = {"body": bytes(body[at : at + PIECE]), "more_body": True}
                await send({"type": "http.response.body", **piece})
            await send({"type": "http.response.body"})
