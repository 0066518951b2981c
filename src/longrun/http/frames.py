"""What a client says on a WebSocket: a JSON object a message, read within the bounds of bodies."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Final

from starlette.types import Message
from starlette.websockets import WebSocket

from longrun.errors import BadRequest, BodyTooLarge, LongrunError, RequestTimeout
from longrun.http.answers import error_answer
from longrun.http.bodies import Bodies
from longrun.http.problems import shortened
from longrun.jsontext import dumps, loads

IN_PARTS: Final = "longrun.message_in_parts"
"""The key in the scope's extensions by which the server says that it hands on a message as its
parts come, each with MORE. Other servers give whole messages, within bounds of their own."""

MORE: Final = "longrun.more"
"""Of a part of a message: whether more of it follows."""

LONGEST_NAME: Final = 200
"""Characters of a client's text that an error repeats."""


class Left(Exception):
    """The client is gone."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What a client sent: a JSON object, of so many bytes. `kept` gives back what it takes of the
    budget of bodies, and is to be closed when what the object says was understood."""

    said: dict[str, Any]
    size: int
    kept: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)


class Frames:
    """Reads the messages of one WebSocket.

    Args:
        bodies: the budget that they share with the bodies of requests.
        receive_timeout: seconds in which the next part of a message that has begun has to come.
    """

    def __init__(self, websocket: WebSocket, bodies: Bodies, receive_timeout: float) -> None:
        self._websocket = websocket
        self._bodies = bodies
        self._receive_timeout = receive_timeout
        self._has_more = False

    async def next(self) -> Frame:
        """The next message. What is left of one that was refused is read and dropped.

        Raises:
            Left: there will be none.
            BodyTooLarge, RequestTimeout: there is no next message after this one.
            LongrunError: this one is not what it should be; see `Bodies.message`.
        """
        dropped = 0
        while self._has_more:
            part = await self._part()
            dropped += len(part.get("text") or part.get("bytes") or "")
            if dropped > self._bodies.limits.body_bytes:
                raise self._bodies.too_large()
        first = await self._part()
        kept = contextlib.ExitStack()
        try:
            said, size = await self._bodies.message(self._texts(first), kept)
            if not isinstance(said, dict):
                raise BadRequest("An event must be a JSON object.", code="invalid_event")
        except BaseException:
            kept.close()
            raise
        return Frame(said, size, kept)

    async def _texts(self, message: Message) -> AsyncIterator[bytes]:
        while True:
            text = message.get("text")
            if text is None:
                raise BadRequest("Events must come as text, not binary.", code="invalid_event")
            yield text.encode()
            if not self._has_more:
                return
            message = await self._part()

    async def _part(self) -> Message:
        within = self._receive_timeout if self._has_more else None
        try:
            async with asyncio.timeout(within):
                message = await self._websocket.receive()
        except TimeoutError:
            raise RequestTimeout("The rest of the message did not arrive in time.") from None
        if message["type"] == "websocket.disconnect":
            raise Left
        self._has_more = message.get(MORE, False)
        return message


ENDS_CONNECTION: Final = (BodyTooLarge, RequestTimeout)
"""Errors after which no other message can be told from the rest of this one."""


def error_event(error: LongrunError, stream_id: str | None = None) -> str:
    """An error as OpenAI's WebSocket mode tells it: the body and the status of the answer that a
    request would get, and what its headers say of trying again."""
    answer = error_answer(error)
    of_body = {"content-length", "content-type"}
    headers = {name: value for name, value in answer.headers.items() if name not in of_body}
    told = {**loads(bytes(answer.body))["error"], **({"headers": headers} if headers else {})}
    event = {"type": "error", "status": answer.status_code, "error": told}
    return dumps({**event, **({"stream_id": stream_id} if stream_id else {})}).decode()


def unknown_event(kind: Any, known: list[str]) -> BadRequest:
    """What is said of an event of a type that is not served."""
    said = "An event must have a type"
    if isinstance(kind, str):
        said = f"Unknown event type {shortened(kind, LONGEST_NAME)!r}"
    return BadRequest(
        f"{said}; allowed here: {', '.join(known)}.",
        param="type",
        code="unknown_event_type",
    )
