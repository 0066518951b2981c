"""What a tool can know about the run that it is called in: `longrun.current()`."""

import inspect
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from longrun.parameters import FORWARDED_HEADERS
from longrun.protocol import RunRequest

T = TypeVar("T")

_AT_MOST_ONCE: Final = "_longrun_at_most_once"


@dataclass(frozen=True, slots=True)
class Current:
    """The run, and the tool call, that this code is called in.

    Attributes:
        response_id: of the response that is being produced.
        attempt: the n-th run of it, from 1.
        principal: who the request is made for.
        idempotency_key: the same whenever this very tool call is executed again after a crash;
            hand it to payment providers and the like. None outside a tool.
        state: what the application's lifespan yields: pools, clients and the like.
        cancelled: whether the run has ended meanwhile. A tool in a thread cannot be stopped;
            it should look now and then, and stop by itself.
        metadata: of the request.
        user: the `user` of the request, if it has one. What a client says of itself, not a proof.
        traceparent: the trace that the run belongs to, for what is called on its behalf and is not
            instrumented; None where LONGRUN_OTEL is off.
        headers: those of the request that LONGRUN_FORWARD_HEADERS names, by lower-case name.
    """

    response_id: str
    attempt: int
    principal: str
    idempotency_key: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    traceparent: str | None = None
    state: Any = field(default=None, repr=False)
    _stopped: threading.Event = field(default_factory=threading.Event, repr=False)

    @classmethod
    def of(cls, request: RunRequest, attempt: int, stopped: threading.Event) -> "Current":
        """Of an attempt at a request."""
        return cls(
            request.response_id,
            attempt,
            request.principal,
            metadata=request.document.get("metadata") or {},
            user=request.parameters.get("user"),
            headers=request.parameters.get(FORWARDED_HEADERS, {}),
            _stopped=stopped,
        )

    @property
    def cancelled(self) -> bool:
        return self._stopped.is_set()


_current: ContextVar[Current | None] = ContextVar("longrun_current", default=None)


def current_or_none() -> Current | None:
    """The run that this code is called in, if any."""
    return _current.get()


def current() -> Current:
    """The run that this code is called in: in tools, hooks, guardrails and instructions.

    Raises:
        LookupError: not within a run of longrun.
    """
    found = current_or_none()
    if found is None:
        raise LookupError("longrun.current() was called outside a run of longrun")
    return found


def set_current(value: Current) -> None:
    """For the task that this is called in, and what it starts."""
    _current.set(value)


@contextmanager
def within(value: Current) -> Iterator[None]:
    """For what is called within the block."""
    token = _current.set(value)
    try:
        yield
    finally:
        _current.reset(token)


def at_most_once(tool: T) -> T:
    """Mark a tool: a call that was under way when its replica died is not run again.

    For tools that are executed here: function, shell, custom and apply-patch tools. The model
    gets "interrupted, outcome unknown" as its output instead. Without the mark it runs again,
    with the same `current().idempotency_key`.

    Example:
        @longrun.at_most_once
        @agents.function_tool
        def send_mail(to: str) -> str: ...

    Raises:
        TypeError: a computer tool, whose output is a screenshot and cannot say so; or what was
            decorated is still a plain function.
    """
    if inspect.isroutine(tool) or hasattr(tool, "computer"):
        raise TypeError(f"at_most_once is for function and shell tools, not for {tool!r}")
    setattr(tool, _AT_MOST_ONCE, True)
    return tool


def is_at_most_once(tool: Any) -> bool:
    return bool(getattr(tool, _AT_MOST_ONCE, False))
