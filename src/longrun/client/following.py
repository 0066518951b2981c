"""Following a response with OpenAI's clients, sync and async: each step is decided by `Course`."""

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Generator
from typing import Any, Final, Literal, overload

from openai import APIError, AsyncOpenAI, OpenAI, Timeout
from openai.types.responses import ResponseStreamEvent

from longrun.client.course import Course

GIVE_UP_AFTER: Final = 300.0
"""Seconds: a rolling deployment, or a Postgres that fails over, is done by then."""

TIMEOUT: Final = Timeout(60.0, connect=5.0)
"""Of a request. Servers send something every `LONGRUN_KEEPALIVE_INTERVAL` (15 s): a connection that
is silent for longer leads nowhere."""

_KEY: Final = "Idempotency-Key"

_Events = Generator[ResponseStreamEvent, None, None] | AsyncGenerator[ResponseStreamEvent, None]

_OF_BOTH: Final = frozenset({"include", "extra_headers", "extra_query", "timeout"})
"""Arguments of `create` that its continuations are given, too."""


@overload
def follow(
    client: OpenAI,
    response_id: str,
    *,
    after: int | None = None,
    catch_up: Literal["snapshot"] | None = None,
    give_up_after: float | None = GIVE_UP_AFTER,
    **arguments: Any,
) -> Generator[ResponseStreamEvent, None, None]: ...


@overload
def follow(
    client: AsyncOpenAI,
    response_id: str,
    *,
    after: int | None = None,
    catch_up: Literal["snapshot"] | None = None,
    give_up_after: float | None = GIVE_UP_AFTER,
    **arguments: Any,
) -> AsyncGenerator[ResponseStreamEvent, None]: ...


def follow(
    client: OpenAI | AsyncOpenAI,
    response_id: str,
    *,
    after: int | None = None,
    catch_up: Literal["snapshot"] | None = None,
    give_up_after: float | None = GIVE_UP_AFTER,
    **arguments: Any,
) -> _Events:
    """The events of a response, each once and in order, up to the terminal one.

    When a connection drops, ends, is refused or answered 429 or 5xx, the next one goes on at the
    next event, after a pause of 0.25 to 8 seconds or what `Retry-After` asks for.

    Args:
        client: where each connection goes, so that its `base_url` should lead to any replica.
        after: the `sequence_number` of the last event that is known; None: from the start.
        catch_up: "snapshot": begin with one `response.in_progress` that has the items so far, in
            place of all events until then. For readers who want the present and not the history;
            `Transcript` takes it.
        give_up_after: seconds without a working connection after which to stop trying; None:
            never. A run that says nothing for hours is no reason.
        arguments: others of `client.responses.retrieve`: `extra_headers`, `timeout`, ….

    Raises:
        openai.APIStatusError: 400, 401, 403, 404 and others that no further try changes. A response
            that is deleted meanwhile is a 404.
        GaveUp: see `give_up_after`.
    """
    if not response_id:
        raise ValueError("response_id must not be empty")
    if catch_up is not None and after is not None:
        raise ValueError("after and catch_up cannot be used together")
    course = Course(response_id, -1 if after is None else after, give_up_after, catch_up)
    return _followed(client, course, {}, arguments)


@overload
def create_and_follow(
    client: OpenAI, *, give_up_after: float | None = GIVE_UP_AFTER, **create: Any
) -> Generator[ResponseStreamEvent, None, None]: ...


@overload
def create_and_follow(
    client: AsyncOpenAI, *, give_up_after: float | None = GIVE_UP_AFTER, **create: Any
) -> AsyncGenerator[ResponseStreamEvent, None]: ...


def create_and_follow(
    client: OpenAI | AsyncOpenAI, *, give_up_after: float | None = GIVE_UP_AFTER, **create: Any
) -> _Events:
    """Create a response, in the background unless said otherwise, and `follow` it from its start.

    It is created when the first event is asked for, and once, however often that has to be tried:
    each try has the same `Idempotency-Key`, a new one, or the one in `extra_headers`. With
    `openai.omit` there, none is sent; then creating it is tried again only where it is certain that
    there is none yet: where the server cannot be reached, or says 429 or 503.

    Args:
        create: the arguments of `client.responses.create`.

    Raises:
        openai.APIConnectionError: without a key, the connection broke before the first event. The
            response may be there: look for it, or create another.
        GaveUp: as `follow`; with `response_id` None, there was no first event.
    """
    headers = create.get("extra_headers") or {}
    told = [value for name, value in headers.items() if name.lower() == _KEY.lower()]
    repeatable = not told or isinstance(told[0], str)
    course = Course(None, give_up_after=give_up_after, repeatable=repeatable)
    shared = {name: create[name] for name in _OF_BOTH & create.keys()}
    if not told:
        create = {**create, "extra_headers": {**headers, _KEY: str(uuid.uuid4())}}
    return _followed(client, course, {"background": True, **create}, shared)


def _followed(
    client: OpenAI | AsyncOpenAI, course: Course, create: dict[str, Any], retrieve: dict[str, Any]
) -> _Events:
    # All tries are the course's: the SDK's own would create a response twice.
    if isinstance(client, AsyncOpenAI):
        return _async(client.with_options(max_retries=0), course, create, retrieve)
    return _sync(client.with_options(max_retries=0), course, create, retrieve)


def _sync(
    client: OpenAI, course: Course, create: dict[str, Any], retrieve: dict[str, Any]
) -> Generator[ResponseStreamEvent, None, None]:
    while True:
        failure = None
        try:
            with _request(client, course, create, retrieve) as stream:
                course.opened(time.monotonic())
                for event in stream:
                    if course.takes(event):
                        yield event
                    if course.ended:
                        return
        except APIError as error:
            failure = error
        time.sleep(course.pause(failure, time.monotonic()))


async def _async(
    client: AsyncOpenAI, course: Course, create: dict[str, Any], retrieve: dict[str, Any]
) -> AsyncGenerator[ResponseStreamEvent, None]:
    while True:
        failure = None
        try:
            async with await _request(client, course, create, retrieve) as stream:
                course.opened(time.monotonic())
                async for event in stream:
                    if course.takes(event):
                        yield event
                    if course.ended:
                        return
        except APIError as error:
            failure = error
        await asyncio.sleep(course.pause(failure, time.monotonic()))


def _request(
    client: OpenAI | AsyncOpenAI, course: Course, create: dict[str, Any], retrieve: dict[str, Any]
) -> Any:
    """The stream that comes next; of an async client, to be awaited."""
    if course.response_id is None:
        return client.responses.create(**{"timeout": TIMEOUT, **create, "stream": True})
    after = course.starting_after()
    asked: dict[str, Any] = {"timeout": TIMEOUT, **retrieve, "stream": True}
    if after is not None:
        asked["starting_after"] = after
    elif course.catch_up is not None:
        asked["extra_query"] = {**retrieve.get("extra_query", {}), "catch_up": course.catch_up}
    return client.responses.retrieve(course.response_id, **asked)
