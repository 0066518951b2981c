"""The attempt that code is called in, if it is traced. Needs no OpenTelemetry."""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any


def _nothing() -> None:
    pass


class Attempt:
    """The span of an attempt, under which the SDK's are.

    Attributes:
        span: OpenTelemetry's.
        again: it passes what earlier attempts have done, which is in the trace already.
        does: called when something is done here, and not passed again.
    """

    def __init__(self, span: Any, *, again: bool) -> None:
        self.span = span
        self.again = again
        self.does: Callable[[], None] = _nothing

    @property
    def traceparent(self) -> str:
        """For what is called on behalf of the run (W3C Trace Context)."""
        made = self.span.get_span_context()
        return f"00-{made.trace_id:032x}-{made.span_id:016x}-{int(made.trace_flags):02x}"


_attempt: ContextVar[Attempt | None] = ContextVar("longrun_attempt", default=None)


def attempt_here() -> Attempt | None:
    """The attempt that this code is called in, if it is traced."""
    return _attempt.get()


@contextlib.contextmanager
def within(attempt: Attempt) -> Iterator[None]:
    """Within the block, code is called in this attempt."""
    token = _attempt.set(attempt)
    try:
        yield
    finally:
        _attempt.reset(token)
