"""What the Agents SDK tells of a run, as spans with the names of the GenAI semantic conventions."""

import threading
import time
from dataclasses import dataclass
from typing import Any, Final

from agents.tracing import (
    Span,
    Trace,
    TracingProcessor,
    get_current_span,
    get_trace_provider,
    set_trace_processors,
)
from agents.tracing.processors import default_processor
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Status, StatusCode, Tracer, set_span_in_context

from longrun.execution.tracing.attempt import Attempt, attempt_here

_UNSEEN: Final = frozenset({"task", "turn", "speech_group", "transcription", "speech"})
"""Spans of the SDK that say nothing which those below and above them do not."""


_DONE: Final = frozenset({"generation", "response"})
"""Nothing of the kind is there while a model's turn is passed again."""


@dataclass(slots=True)
class _Known:
    """A span of the SDK that has not ended.

    Attributes:
        began: nanoseconds since the epoch.
        made: what stands for it in the trace; None: nothing was done within it yet.
        own: that stands for nothing else.
    """

    span: Span[Any]
    attempt: Attempt
    began: int
    made: trace.Span | None = None
    own: bool = False


class SDKSpans(TracingProcessor):
    """Turns the SDK's spans of traced attempts into OpenTelemetry's.

    Of an attempt that passes what others have done, a span is made once something is done within
    it.
    """

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._lock = threading.RLock()
        self._attempts: dict[str, Attempt] = {}
        self._known: dict[str, _Known] = {}

    def on_trace_start(self, trace: Trace) -> None:
        attempt = attempt_here()
        if attempt is not None:
            attempt.does = self._does
            with self._lock:
                self._attempts[trace.trace_id] = attempt

    def on_trace_end(self, trace: Trace) -> None:
        with self._lock:
            self._attempts.pop(trace.trace_id, None)

    def on_span_start(self, span: Span[Any]) -> None:
        with self._lock:
            attempt = self._attempts.get(span.trace_id)
            if attempt is None:
                return
            known = self._known[span.span_id] = _Known(span, attempt, time.time_ns())
            if not attempt.again or span.span_data.type in _DONE:
                self._made(known)

    def on_span_end(self, span: Span[Any]) -> None:
        with self._lock:
            known = self._known.pop(span.span_id, None)
        if known is None or known.made is None or not known.own:
            return
        known.made.set_attributes(_results(span.span_data))
        if span.error is not None:
            # Its message may have what a tool was given.
            known.made.set_status(Status(StatusCode.ERROR))
        known.made.end()

    def _does(self) -> None:
        """Something is done in the span that is the current one."""
        span = get_current_span()
        with self._lock:
            known = self._known.get(span.span_id) if span is not None else None
            if known is not None:
                self._made(known)

    def _made(self, known: _Known) -> trace.Span:
        """The span, and those above it, which are made by now at the latest."""
        if known.made is None:
            above = self._known.get(known.span.parent_id or "")
            parent: trace.Span = known.attempt.span if above is None else self._made(above)
            data = known.span.span_data
            if data.type in _UNSEEN:
                known.made = parent
            else:
                known.made, known.own = self._start(data, parent, known.began), True
        return known.made

    def _start(self, data: Any, parent: trace.Span, began: int) -> trace.Span:
        return self._tracer.start_span(
            _name(data),
            context=set_span_in_context(parent, Context()),
            attributes=_attributes(data),
            start_time=began,
        )

    def shutdown(self) -> None:
        pass

    def force_flush(self) -> None:
        pass


def listen(spans: SDKSpans, *, exports: bool) -> None:
    """Have the SDK tell these. `exports`: OpenAI is told too, as it is by default."""
    multi = getattr(get_trace_provider(), "_multi_processor", None)
    present = list(getattr(multi, "_processors", ()))
    others = [each for each in present if not isinstance(each, SDKSpans)]
    if not exports:
        others = [each for each in others if each is not default_processor()]
    set_trace_processors([*others, spans])


def _name(data: Any) -> str:
    match data.type:
        case "agent":
            return f"invoke_agent {data.name}"
        case "function":
            return f"execute_tool {data.name}"
        case "generation" | "response":
            return "chat"
        case "handoff":
            return "handoff"
        case "guardrail":
            return f"guardrail {data.name}"
        case "mcp_tools":
            return "mcp_list_tools"
        case "custom":
            return str(data.name)
    return str(data.type)


def _attributes(data: Any) -> dict[str, str]:
    match data.type:
        case "agent":
            return {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": data.name}
        case "function":
            return {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": data.name}
        case "generation" | "response":
            return {"gen_ai.operation.name": "chat"}
    return {}


def _results(data: Any) -> dict[str, Any]:
    """What is known at the end."""
    found: dict[str, Any] = {}
    if data.type in ("generation", "response"):
        response = getattr(data, "response", None)
        model = getattr(data, "model", None) or getattr(response, "model", None)
        usage = getattr(data, "usage", None) or getattr(response, "usage", None)
        found = {
            "gen_ai.request.model": model,
            "gen_ai.usage.input_tokens": _of(usage, "input_tokens"),
            "gen_ai.usage.output_tokens": _of(usage, "output_tokens"),
        }
    elif data.type == "handoff":
        found = {"longrun.handoff.from": data.from_agent, "longrun.handoff.to": data.to_agent}
    elif data.type == "guardrail":
        found = {"longrun.guardrail.triggered": data.triggered}
    return {name: value for name, value in found.items() if value is not None}


def _of(usage: Any, name: str) -> Any:
    return usage.get(name) if isinstance(usage, dict) else getattr(usage, name, None)
