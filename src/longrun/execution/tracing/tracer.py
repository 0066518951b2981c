"""Makes the spans of responses and of their attempts, and sends them where OTEL_* variables say."""

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from importlib.metadata import version
from typing import Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from longrun import ids
from longrun.assembly.usage import UsageSum
from longrun.errors import LongrunError
from longrun.execution.outcomes import Outcome
from longrun.execution.tracing.attempt import Attempt, within
from longrun.execution.tracing.identity import Identity
from longrun.parameters import TRACEPARENT
from longrun.protocol import RunRequest

FLUSH_MS: Final = 2000
"""How long a replica that stops waits for spans to leave."""

_RESPONSE: Final = "longrun.response.id"


_chosen: ContextVar[Identity | None] = ContextVar("longrun_trace_identity", default=None)


class _Ids(RandomIdGenerator):
    """As any, but for the roots of responses, which are known before they are made."""

    def generate_trace_id(self) -> int:
        chosen = _chosen.get()
        return super().generate_trace_id() if chosen is None else chosen.trace_id

    def generate_span_id(self) -> int:
        chosen = _chosen.get()
        return super().generate_span_id() if chosen is None else chosen.root_id


class Tracer:
    """One per replica."""

    def __init__(self, replica_id: str) -> None:
        resource = Resource.create(
            {
                "service.version": version("longrun"),
                "service.instance.id": replica_id,
                "host.name": socket.gethostname(),
            }
        )
        if resource.attributes.get("service.name") == "unknown_service":
            resource = resource.merge(Resource({"service.name": "longrun"}))
        self._replica_id = replica_id
        self._exporter: SpanExporter = OTLPSpanExporter()
        self._provider = TracerProvider(resource=resource, id_generator=_Ids())
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self.tracer = self._provider.get_tracer("longrun", version("longrun"))

    @contextlib.contextmanager
    def attempt(self, request: RunRequest, attempt: int) -> Iterator[Attempt]:
        """Within the block, an attempt at a response is made here. What instrumented clients send
        meanwhile goes on its trace."""
        parent = set_span_in_context(NonRecordingSpan(self._root_of(request)), Context())
        span = self.tracer.start_span(
            f"attempt {attempt}",
            context=parent,
            attributes={
                _RESPONSE: request.response_id,
                "gen_ai.agent.name": request.agent,
                "longrun.attempt": attempt,
                "longrun.takeover": attempt > 1,
                "longrun.replica": self._replica_id,
            },
        )
        made = Attempt(span, again=attempt > 1)
        with (
            within(made),
            trace.use_span(
                span, end_on_exit=True, record_exception=False, set_status_on_exception=False
            ),
        ):
            yield made

    def _root_of(self, request: RunRequest) -> SpanContext:
        """The span of a response that has not ended yet, as it will be."""
        identity = _identity_of(request)
        sampled = identity.caller.sampled if identity.caller else self._samples(identity.trace_id)
        flags = TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT)
        return SpanContext(identity.trace_id, identity.root_id, is_remote=True, trace_flags=flags)

    def _samples(self, trace_id: int) -> bool:
        result = self._provider.sampler.should_sample(None, trace_id, "response")
        return result.decision is Decision.RECORD_AND_SAMPLE

    def ended(self, request: RunRequest, attempt: int, outcome: Outcome, usage: UsageSum) -> None:
        """A response has ended: its span, from its creation to now."""
        identity = _identity_of(request)
        began = time.time() - ids.age(request.response_id)
        token = _chosen.set(identity)
        try:
            span = self.tracer.start_span(
                f"invoke_agent {request.agent}",
                context=_above(identity),
                kind=SpanKind.SERVER,
                start_time=int(began * 1e9),
                attributes={
                    "gen_ai.operation.name": "invoke_agent",
                    "gen_ai.agent.name": request.agent,
                    "gen_ai.response.id": request.response_id,
                    "gen_ai.usage.input_tokens": usage.input_tokens,
                    "gen_ai.usage.output_tokens": usage.output_tokens,
                    _RESPONSE: request.response_id,
                    "longrun.status": outcome.status,
                    "longrun.attempts": attempt,
                    "longrun.background": request.background,
                },
            )
        finally:
            _chosen.reset(token)
        if request.conversation_id is not None:
            span.set_attribute("gen_ai.conversation.id", request.conversation_id)
        if outcome.status == "failed":
            code = (outcome.error or {}).get("code", "server_error")
            span.set_attribute("error.type", code)
            span.set_status(Status(StatusCode.ERROR))
        span.end()

    @contextlib.contextmanager
    def compaction(self, request: RunRequest) -> Iterator[Callable[[UsageSum], None]]:
        """Within the block, a context is compacted for a client, which is no run. What is yielded
        is called with what that took. Its trace is that of the client, or its own."""
        span = self.tracer.start_span(
            f"compact {request.agent}",
            context=_above(_identity_of(request)),
            kind=SpanKind.SERVER,
            attributes={
                "gen_ai.agent.name": request.agent,
                "longrun.compaction.id": request.response_id,
                "longrun.replica": self._replica_id,
            },
        )

        def note(usage: UsageSum) -> None:
            span.set_attribute("gen_ai.usage.input_tokens", usage.input_tokens)
            span.set_attribute("gen_ai.usage.output_tokens", usage.output_tokens)

        with trace.use_span(
            span, end_on_exit=True, record_exception=False, set_status_on_exception=False
        ):
            try:
                yield note
            except BaseException as error:
                # Its message may have what was said.
                code = error.code if isinstance(error, LongrunError) else type(error).__name__
                span.set_attribute("error.type", code or "server_error")
                span.set_status(Status(StatusCode.ERROR))
                raise

    def close(self) -> None:
        """Send what is left. Blocks, but not for long: what no collector takes is given up."""
        # The exporter goes on trying for longer than it is told.
        flush = threading.Thread(target=self._provider.force_flush, args=(FLUSH_MS,), daemon=True)
        flush.start()
        flush.join(FLUSH_MS / 1000)
        # Each span that is given up would be logged.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        self._exporter.shutdown()
        self._provider.shutdown()


def _above(identity: Identity) -> Context:
    """With the span of the client that asked, if it said which."""
    if identity.caller is None:
        return Context()
    flags = TraceFlags(TraceFlags.SAMPLED if identity.caller.sampled else 0)
    remote = SpanContext(
        identity.trace_id, identity.caller.span_id, is_remote=True, trace_flags=flags
    )
    return set_span_in_context(NonRecordingSpan(remote), Context())


def _identity_of(request: RunRequest) -> Identity:
    return Identity.of(request.response_id, request.parameters.get(TRACEPARENT))
