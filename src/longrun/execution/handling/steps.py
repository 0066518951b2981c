"""The steps of a handler: done once, and recorded, so that a takeover does not do them again.

A handler is executed again from its start when its run is taken over. What it did in steps is
given from the record; what it had yielded before the last recorded step is in the log already.
"""

import asyncio
import dataclasses
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from typing import Any, Final

from openai.types.responses import Response, ResponseCompletedEvent
from pydantic import TypeAdapter
from pydantic_core import PydanticSerializationError

from longrun.errors import LongrunError
from longrun.execution.contained import contained
from longrun.execution.current import Current, within
from longrun.execution.handling.approvals import Answer, Approval, Waits
from longrun.execution.handling.hooks import Told
from longrun.execution.handling.sections import Sections
from longrun.execution.handling.yielded import replayed_events
from longrun.execution.replay.journal import fingerprint
from longrun.execution.replay.once import Due, Once
from longrun.execution.replay.results import DEEPEST, decode_response, encode_response, is_json
from longrun.execution.replay.scope import key_of
from longrun.execution.steering import Steering, items_of
from longrun.jsontext import dumps, loads
from longrun.pieces import with_turns
from longrun.store.records import Steer, Step

LONGEST_ERROR: Final = 10_000
"""Characters that are recorded of what a step raised."""

SLICE: Final = 0.5
"""Seconds that a sleeping run goes without looking whether it is to be handed over."""

UNKNOWN: Final = "was interrupted, and its outcome is unknown: it was not done again"


class StepFailed(Exception):
    """A step raised. Says the same now and after a takeover; the first time, what was raised is
    its cause."""


class Steps:
    """What a handler does durably. `longrun.step` and the others are these, of the run that they
    are called in."""

    def __init__(
        self,
        once: Once,
        current: Current,
        sections: Sections,
        at_boundary: Callable[[], Awaitable[None]],
        check_budget: Callable[[], None],
        told: Told,
        waits: Waits,
        steering: Steering,
    ) -> None:
        self._once = once
        self._current = current
        self._sections = sections
        self._at_boundary = at_boundary
        self._check_budget = check_budget
        self._told = told
        self._waits = waits
        self._steering = steering
        self._streams = 0
        self._times: dict[str, int] = {}
        self._causes: dict[str, Exception] = {}

    async def step(
        self,
        name: str,
        function: Callable[..., Any],
        /,
        *args: Any,
        returns: Any = None,
        at_most_once: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Call a function, once: its result is recorded before this returns.

        Args:
            name: of the step; the n-th one of a name is the n-th one after a takeover too.
            function: sync (called in a thread) or async.
            returns: the type of the result, where that is more than JSON: a pydantic model, a
                dataclass, a list of them. What comes back is made of the record, now as later.
            at_most_once: if the replica dies while it is done, it is not done again; this raises
                StepFailed then. Otherwise it is, with the same
                `longrun.current().idempotency_key`.

        Raises:
            StepFailed: the function raised. That is recorded too.
            TypeError: the result cannot be recorded; says why.
        """
        await self._sections.end()
        due = self._due(name, "step")
        adapter = TypeAdapter(Any if returns is None else returns)
        await self._told.step_begins(name, due.key)

        async def call() -> str:
            if at_most_once and not await self._once.may_begin(due):
                return _raised(f"step {name!r} {UNKNOWN}")
            try:
                with within(self._inside(due)), contained(f"step {name!r}"):
                    result = await _called(function, args, kwargs)
            except LongrunError:
                raise
            except Exception as error:
                self._causes[due.key] = error
                return _raised(_said(error))
            return _encoded(name, result, adapter, typed=returns is not None)

        recorded = loads(await self._once.value(due, call, encode=str, decode=str))
        if "raised" in recorded:
            await self._told.step_ended(name, due.key, recorded["raised"])
            raise StepFailed(recorded["raised"]) from self._causes.pop(due.key, None)
        result = adapter.validate_python(recorded["value"])
        await self._told.step_ended(name, due.key, result)
        return result

    async def stream(
        self, name: str, ask: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> AsyncIterator[Any]:
        """A model's stream, asked once: the events of `client.responses.create(stream=True)`.

        Yield them on as they are, or make something of them. After a takeover a stream that had
        ended is given again from its record, with one delta for each message.

        Args:
            name: of the step.
            ask: gives the stream, or a coroutine of it.
        """
        await self._sections.end()
        due = self._due(name, "stream")
        await self._told.stream_begins(kwargs.get("input"))
        self._streams += 1
        try:
            async for event in self._streamed(due, ask, args, kwargs):
                yield event
        finally:
            self._streams -= 1

    async def _streamed(
        self, due: Due, ask: Callable[..., Any], args: Any, kwargs: Any
    ) -> AsyncIterator[Any]:
        async with self._once.passage(due) as recorded:
            if recorded is not None:
                response, indexes = decode_response(recorded)
                again = replayed_events(response, self._sections.name)
                if indexes:
                    self._sections.pass_over(again)
                for event in again:
                    yield event
                await self._told.stream_ended(response)
                return
            self._check_budget()
            self._sections.streamed = due
            try:
                async for event in await _opened(ask, args, kwargs):
                    yield event
                    if isinstance(event, ResponseCompletedEvent):
                        await self._record_unshown(due, event.response)
                        await self._told.stream_ended(event.response)
            finally:
                self._sections.streamed = None

    async def sleep(self, seconds: float) -> None:
        """Wait. After a takeover, for what was left of it."""
        await self._sections.end()
        due = self._due("sleep", "sleep")

        async def until() -> float:
            return time.time() + seconds

        end = await self._once.value(due, until, encode=repr, decode=float)
        while (left := end - time.time()) > 0:
            await self._at_boundary()
            await asyncio.sleep(min(left, SLICE))

    async def wait_for(self, approval: Approval) -> Answer:
        """Ask whether something may be done, and wait for the answer, for days if need be.

        The response ends with an `mcp_approval_request`. The request that answers it executes the
        handler again, on any replica: what was done in steps is not done again, and this returns.

        Returns:
            The answer: true if it was granted, else with the `reason`.

        Raises:
            LongrunError: the response is not stored, so nothing can wait for it.
            RuntimeError: it was called while a stream of `Steps.stream` is being read.
        """
        if self._streams:
            raise RuntimeError("longrun.wait_for within a stream: read that to its end first")
        await self._sections.end()
        asked = dumps(approval.arguments).decode()
        due = self._due(f"wait {approval.name}", "wait", arguments=asked)
        if not self._once.is_recorded(due) and not self._waits.is_answered(due.key):
            await self._waits.ask(due.key, approval)

        async def answer() -> Answer:
            return self._waits.take(due.key)

        answered = await self._once.value(
            due,
            answer,
            encode=lambda given: dumps([given.granted, given.reason]).decode(),
            decode=lambda recorded: Answer(*loads(recorded)),
        )
        self._waits.passed(due.key)
        return answered

    async def steered(self) -> list[dict[str, Any]]:
        """The messages that were put into the run since this was last called, as input items. What
        was given once is given again after a takeover. For handlers that are served as `steerable`.

        What comes after the last call is not lost: it is input of the response, and whatever
        continues the response has it, behind the output.
        """
        await self._sections.end()
        due = self._due("steered", "steered")

        async def keep(step: Step, found: list[Steer]) -> None:
            await self._steering.took(found, None, [step])

        given = await self._once.value(
            due,
            self._steering.waiting,
            encode=lambda found: dumps([[*each[:2]] for each in found]).decode(),
            decode=lambda recorded: [Steer(*each) for each in loads(recorded)],
            keep=keep,
        )
        return items_of(given)

    # -- how -------------------------------------------------------------------------------

    def _due(self, name: str, what: str, **asked: str) -> Due:
        self._times[name] = times = self._times.get(name, 0) + 1
        kind = "model" if what == "stream" else "tool"
        return Due("", kind, f"{key_of(name)}#{times}", fingerprint(step=what, **asked))

    def _inside(self, due: Due) -> Current:
        key = f"{self._current.response_id}/{due.key}"
        return dataclasses.replace(self._current, idempotency_key=key)

    async def _record_unshown(self, due: Due, response: Response) -> None:
        """Record a stream that has ended, unless that was done with its last event: the handler
        has not yielded it on."""
        if self._sections.streamed is due:
            self._sections.streamed = None
            result = await with_turns(encode_response(response, [], {}))
            await self._once.record(due.finished(result))


_steps: ContextVar[Steps | None] = ContextVar("longrun_steps", default=None)


def enter(steps: Steps) -> None:
    """This task, and all that it starts, is the handler whose steps these are."""
    _steps.set(steps)


def _here(name: str) -> Steps:
    found = _steps.get()
    if found is None:
        raise LookupError(f"longrun.{name} was called outside a handler of longrun")
    return found


async def step(name: str, function: Callable[..., Any], /, *args: Any, **more: Any) -> Any:
    """`Steps.step` of the handler that this is called in.

    Raises:
        LookupError: it is called elsewhere.
    """
    return await _here("step").step(name, function, *args, **more)


def stream(name: str, ask: Callable[..., Any], /, *args: Any, **more: Any) -> AsyncIterator[Any]:
    """`Steps.stream` of the handler that this is called in.

    Raises:
        LookupError: it is called elsewhere.
    """
    return _here("stream").stream(name, ask, *args, **more)


async def wait_for(approval: Approval) -> Answer:
    """`Steps.wait_for` of the handler that this is called in.

    Raises:
        LookupError: it is called elsewhere.
    """
    return await _here("wait_for").wait_for(approval)


async def steered() -> list[dict[str, Any]]:
    """`Steps.steered` of the handler that this is called in.

    Raises:
        LookupError: it is called elsewhere.
    """
    return await _here("steered").steered()


async def sleep(seconds: float) -> None:
    """`Steps.sleep` of the handler that this is called in.

    Raises:
        LookupError: it is called elsewhere.
    """
    await _here("sleep").sleep(seconds)


async def _called(function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    if inspect.iscoroutinefunction(function):
        return await function(*args, **kwargs)
    result = await asyncio.to_thread(function, *args, **kwargs)
    return await result if inspect.isawaitable(result) else result


async def _opened(ask: Callable[..., Any], args: Any, kwargs: Any) -> AsyncIterator[Any]:
    """The stream itself, however it is given."""
    given = ask(*args, **kwargs)
    events: AsyncIterator[Any] = await given if inspect.isawaitable(given) else given
    return events


def _encoded(name: str, result: Any, adapter: TypeAdapter[Any], *, typed: bool) -> str:
    try:
        value = adapter.dump_python(result, mode="json") if typed else result
        if not typed and not is_json(result, DEEPEST):
            raise TypeError(f"give its type: step({name!r}, …, returns={type(result).__name__})")
        return dumps({"value": value}).decode()
    except (TypeError, ValueError, PydanticSerializationError) as error:
        raise TypeError(
            f"step {name!r} gave {type(result).__name__}, which cannot be recorded: {error}"
        ) from error


def _raised(what: str) -> str:
    return dumps({"raised": what[:LONGEST_ERROR]}).decode()


def _said(error: Exception) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:
        return type(error).__name__
