"""Request bodies: read within limits, each and all together, and decoded beside the event loop."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive

from longrun.errors import (
    BadRequest,
    BodyTooLarge,
    Unavailable,
    UnsupportedMediaType,
)
from longrun.http.limits import MOST_DIGITS, MOST_ESCAPES, MOST_PARAMETERS, Limits, Tally
from longrun.http.problems import bad_request, shortened
from longrun.jsontext import NotJSON, loads
from longrun.operations import null_is_absent

T = TypeVar("T")

SMALL_BYTES: Final = 64 * 1024
"""A body up to this size is decoded at once: within a millisecond or two."""

FREE_BYTES: Final = 16 * 1024
"""The part of each body that is not charged to the budget: while large bodies use it up, ordinary
requests are still answered."""


class Body(BaseModel):
    """A body whose parameters are checked one by one. A `null` counts as not given."""

    model_config = ConfigDict(extra="ignore", strict=True, json_schema_extra=null_is_absent)

    @classmethod
    def parse(cls, body: Any) -> Self:
        """Check a decoded body.

        Raises:
            BadRequest: names the parameter.
        """
        if not isinstance(body, dict):
            raise BadRequest("The body must be a JSON object.")
        if len(body) > MOST_PARAMETERS:
            raise BadRequest(
                f"The body has more than {MOST_PARAMETERS} parameters.", code="too_many_parameters"
            )
        try:
            return cls.model_validate({k: v for k, v in body.items() if v is not None})
        except ValidationError as error:
            raise bad_request(error, body) from None


class Budget:
    """Bounds the bytes of all bodies that a replica holds at the same time."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.used = 0

    @contextlib.contextmanager
    def share(self) -> Iterator["Share"]:
        """The share of one body; what it took is given back at the end."""
        share = Share(self)
        try:
            yield share
        finally:
            self.used -= share.charged


class Share:
    """What one body has taken of a budget."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.charged = 0

    def grow_to(self, size: int) -> None:
        """Charge a body that has reached this size.

        Raises:
            Unavailable: the budget does not allow it.
        """
        more = max(0, size - FREE_BYTES) - self.charged
        if more <= 0:
            return
        if self._budget.used + more > self._budget.size:
            raise Unavailable(
                "The server is reading too many large requests; try again shortly.", retry_after=1
            )
        self._budget.used += more
        self.charged += more


NextPart = Callable[[], Awaitable[bytes | None]]
"""Gives the next part of a body; None after the last one."""


class _Parts:
    """The parts of the body of a request, as `Request.stream` gives them, without the generator
    that each request would have for its one part."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._complete = False

    async def next(self) -> bytes | None:
        """The next one; None: there are no more.

        Raises:
            ClientDisconnect: the client is gone before that.
        """
        if self._complete:
            return None
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        self._complete = not message.get("more_body", False)
        return bytes(message.get("body", b""))


class Bodies:
    """Reads and decodes the JSON bodies of a replica's requests.

    Attributes:
        limits: what they may hold.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._budget = Budget(limits.bodies_bytes)
        # One thread: large bodies wait for each other and not for tools, which have the default
        # executor, and take the interpreter from the event loop one at a time.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="longrun-json")

    async def read(self, request: Request, parse: Callable[[Any], T]) -> T:
        """Read a body. It is refused as soon as that can be told, without reading the rest: that
        is for the server to drop, which can do so after the answer.

        Args:
            parse: makes what is returned of the decoded JSON; may be called in a thread.

        Raises:
            UnsupportedMediaType: not `application/json`, or compressed.
            BodyTooLarge: more bytes than one body may have.
            Unavailable: more bytes than all bodies together may have.
            BadRequest: not JSON, too many values, or what `parse` raises.
        """
        _check_media_type(request)
        if _declared(request) > self.limits.body_bytes:
            raise self.too_large()
        with self._budget.share() as share:
            try:
                body = await self._all_of(_Parts(request.receive).next, share)
            except ClientDisconnect:
                raise BadRequest(
                    "The connection was closed before the body was complete."
                ) from None
            return await self.beside(len(body), lambda: parse(_decoded(body)))

    async def message(
        self, parts: AsyncIterator[bytes], kept: contextlib.ExitStack
    ) -> tuple[Any, int]:
        """Read a message of a WebSocket: what it says, and how many bytes it had.

        Args:
            kept: what it takes of the budget is given back with this.

        Raises:
            BodyTooLarge, Unavailable, BadRequest: as of a body.
        """
        share = kept.enter_context(self._budget.share())
        body = await self._all_of(lambda: anext(parts, None), share)
        size = len(body)
        return await self.beside(size, lambda: _decoded(body)), size

    async def beside(self, size: int, parse: Callable[[], T]) -> T:
        """Do what takes as long as so many bytes of JSON do: beside the event loop, if they are
        many."""
        if size <= SMALL_BYTES:
            return parse()
        return await asyncio.get_running_loop().run_in_executor(self._thread, parse)

    def too_large(self) -> BodyTooLarge:
        """What is said of more bytes than one body may have."""
        return BodyTooLarge(f"The body exceeds {self.limits.body_bytes} bytes.")

    async def _all_of(self, next_part: NextPart, share: Share) -> bytearray:
        body, tally = bytearray(), Tally()
        while (part := await next_part()) is not None:
            size = len(body) + len(part)
            if size > self.limits.body_bytes:
                raise self.too_large()
            share.grow_to(size)
            body += part
            tally.add(part)
            if tally.values > self.limits.values or tally.escapes > MOST_ESCAPES:
                raise await asyncio.get_running_loop().run_in_executor(
                    self._thread, _too_much, body, tally, self.limits.values
                )
        return body


def _check_media_type(request: Request) -> None:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise UnsupportedMediaType("The body must be JSON, with Content-Type: application/json.")
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise UnsupportedMediaType(
            f"The body must not be encoded: Content-Encoding {encoding[:50]!r} is not supported.",
            code="unsupported_content_encoding",
        )


def _declared(request: Request) -> int:
    length = request.headers.get("content-length", "")
    return int(length[:19]) if length.isascii() and length.isdigit() else 0


def _decoded(body: bytearray) -> Any:
    try:
        value = loads(body, most_digits=MOST_DIGITS)
    except NotJSON as error:
        raise BadRequest(f"The body is not valid JSON: {error}.", code="invalid_json") from None
    # What is made of it needs the room.
    body.clear()
    return value


_TOKEN: Final = re.compile(rb'("[^"]*+")\s*+(:)?|[\[\]{}]')


def _too_much(body: bytearray, tally: Tally, most_values: int) -> BadRequest:
    """The refusal of a body that holds too much, where its reading stopped."""
    param = _open_parameter(body)
    shown = f"{param}: " if param else ""
    if tally.values > most_values:
        return BadRequest(
            f"{shown}the body has more than {most_values} list elements and object members.",
            param=param,
            code="too_many_values",
        )
    return BadRequest(
        f"{shown}the body has more than {MOST_ESCAPES} escape sequences.",
        param=param,
        code="too_many_escapes",
    )


def _open_parameter(text: bytearray) -> str | None:
    """The member of the outermost object in which a text that is cut somewhere ends."""
    depth, name = 0, None
    # Without escapes, of the same length: every quote begins or ends a string.
    for token in _TOKEN.finditer(text.replace(rb"\\", b"__").replace(rb"\"", b"__")):
        if token[1] is None:
            depth += 1 if token[0] in b"[{" else -1
        elif depth == 1 and token[2]:
            name = text[slice(*token.span(1))]
    try:
        return shortened(loads(name)) if name is not None else None
    except NotJSON:
        return None
