"""Reading a response over connections that do not last: cut by us, or dropped by themselves."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import httpx2
from openai import (
    APIConnectionError,
    AsyncOpenAI,
    DefaultAsyncHttpxClient,
    InternalServerError,
    omit,
)

from longrun.demo.proof import Event
from longrun.protocol import TERMINAL_EVENTS

MODEL = "demo"
MOST_FAILURES = 10
LONGEST_SILENCE = 90.0
DROPPED = (httpx2.TransportError, APIConnectionError, InternalServerError)


class GaveUp(ConnectionError):
    """Too many connections in a row failed, or too long nothing came."""


@dataclass(frozen=True, slots=True)
class Replica:
    """One server, by the letter that readers know it by."""

    name: str
    url: str
    client: AsyncOpenAI

    @classmethod
    def at(cls, name: str, url: str, *, api_key: str, own: bool) -> "Replica":
        """Args: `own` for one that was started here, where no proxy must come between."""
        root = url.rstrip("/").removesuffix("/v1")
        client = AsyncOpenAI(
            base_url=f"{root}/v1",
            api_key=api_key,
            max_retries=0,
            # The server breaks its silence every 15 s.
            timeout=httpx2.Timeout(40.0, connect=10.0),
            http_client=DefaultAsyncHttpxClient(trust_env=not own),
        )
        return cls(name, root, client)


@dataclass(frozen=True, slots=True)
class Connection:
    """One connection that has ended."""

    replica: str
    starting_after: int | None
    """None for the one that created the response."""
    events: int
    seconds: float
    end: Literal["cut", "dropped", "done"]
    reason: str | None
    """Why it was dropped."""


class Watcher(Protocol):
    """Who wants to see it happen."""

    def opening(self, replica: Replica, starting_after: int | None) -> None: ...

    def event(self, kind: str, fields: dict[str, Any]) -> None: ...

    def closed(self, connection: Connection, last: int | None) -> None: ...


class Reader:
    """Reads one background response to its end, whatever happens to the connections.

    Args:
        replicas: each connection goes to the next of them.
        question: what to ask the demonstration agent.
        cut_after: seconds after which a connection is closed from this side.
        watcher: is told of everything as it happens.
    """

    def __init__(
        self, replicas: Sequence[Replica], question: str, cut_after: float, watcher: Watcher
    ) -> None:
        self.events: list[Event] = []
        self.connections: list[Connection] = []
        self.response_id: str | None = None
        self._replicas = replicas
        self._question = question
        self._cut_after = cut_after
        self._watcher = watcher
        # With a key the creating request, too, can be sent again when its answer was lost.
        self._key = str(uuid.uuid4())

    async def read(self) -> None:
        """Read until the terminal event.

        Raises:
            GaveUp: `MOST_FAILURES` connections ended by themselves and brought no event, or
                there was none for `LONGEST_SILENCE`.
            openai.APIStatusError: the server refuses the request.
        """
        clock = asyncio.get_running_loop()
        failures, heard = 0, clock.time()
        while not self._done:
            replica = self._replicas[len(self.connections) % len(self._replicas)]
            connection = await self._connect(replica)
            self.connections.append(connection)
            self._watcher.closed(connection, self._cursor)
            if connection.events:
                failures, heard = 0, clock.time()
            if clock.time() - heard > LONGEST_SILENCE:
                raise GaveUp(f"no event for {LONGEST_SILENCE:g} s")
            # A connection that was cut before anything came is no failure: tools take time.
            if connection.end == "dropped":
                failures += 1
                if failures >= MOST_FAILURES:
                    raise GaveUp(f"{failures} connections failed: {connection.reason}")
                await asyncio.sleep(min(0.1 * 2**failures, 2.0))

    @property
    def _cursor(self) -> int | None:
        return self.events[-1].number if self.events else None

    @property
    def _done(self) -> bool:
        return bool(self.events) and self.events[-1].type in TERMINAL_EVENTS

    async def _connect(self, replica: Replica) -> Connection:
        clock = asyncio.get_running_loop()
        cursor, before, started = self._cursor, len(self.events), clock.time()
        self._watcher.opening(replica, cursor)
        end: Literal["cut", "dropped", "done"] = "dropped"
        reason: str | None = "the stream ended before its terminal event"
        try:
            async with self._open(replica) as body:
                # A response has no id before its first event: not cut before that.
                cut = asyncio.timeout(None if cursor is None else self._cut_after)
                async with cut:
                    async for text in event_texts(body):
                        self._take(text)
                        if cursor is None and len(self.events) == 1:
                            cut.reschedule(started + self._cut_after)
        except TimeoutError:  # ours: those of the connection are of httpx
            end, reason = "cut", None
        except DROPPED as error:
            reason = f"{type(error).__name__}: {error}"
        if self._done:
            end, reason = "done", None
        seconds = round(clock.time() - started, 3)
        return Connection(replica.name, cursor, len(self.events) - before, seconds, end, reason)

    @contextlib.asynccontextmanager
    async def _open(self, replica: Replica) -> AsyncIterator[AsyncIterable[bytes]]:
        if self.response_id is not None:
            async with stored(replica, self.response_id, self._cursor) as body:
                yield body
            return
        async with replica.client.responses.with_streaming_response.create(
            model=MODEL,
            input=self._question,
            background=True,
            stream=True,
            extra_headers={"Idempotency-Key": self._key},
        ) as response:
            yield response.iter_bytes()

    def _take(self, text: bytes) -> None:
        event = Event.parse(text)
        fields = event.fields()
        self.events.append(event)
        if self.response_id is None:
            self.response_id = fields["response"]["id"]
        self._watcher.event(event.type, fields)


@contextlib.asynccontextmanager
async def stored(
    replica: Replica, response_id: str, starting_after: int | None
) -> AsyncIterator[AsyncIterable[bytes]]:
    """A stream of what a replica has of a response, from the start or after a cursor."""
    responses = replica.client.responses.with_streaming_response
    cursor = omit if starting_after is None else starting_after
    async with responses.retrieve(response_id, stream=True, starting_after=cursor) as response:
        yield response.iter_bytes()


async def replay(replica: Replica, response_id: str) -> list[Event]:
    """The whole log of a finished response, as one replica has it."""
    async with stored(replica, response_id, None) as body:
        return [Event.parse(text) async for text in event_texts(body)]


async def event_texts(body: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """The JSON text of each whole server-sent event, until `[DONE]`.

    Not openai's own decoder: the proof compares the bytes that came, not what was made of them.
    """
    rest = b""
    async for chunk in body:
        *frames, rest = (rest + chunk).split(b"\n\n")
        for frame in frames:
            lines = (line for line in frame.split(b"\n") if line.startswith(b"data:"))
            data = b"\n".join(line[5:].removeprefix(b" ") for line in lines)
            if data == b"[DONE]":
                return
            if data:
                yield data
