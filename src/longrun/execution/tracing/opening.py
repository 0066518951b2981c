"""Whether responses are traced, and what makes their traces."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from longrun.errors import ConfigurationError
from longrun.settings import Settings

if TYPE_CHECKING:
    from longrun.execution.tracing.tracer import Tracer


def tracer_of(settings: Settings, replica_id: str) -> "Tracer | None":
    """What makes the traces of a replica; None: they are off. The Agents SDK tells it of its runs
    from now on.

    Raises:
        ConfigurationError: the `otel` extra is not installed.
    """
    if not settings.otel:
        return None
    try:
        from longrun.execution.tracing.sdk_spans import SDKSpans, listen
        from longrun.execution.tracing.tracer import Tracer
    except ImportError:
        raise ConfigurationError(
            "LONGRUN_OTEL needs OpenTelemetry: pip install 'longrun[otel]'"
        ) from None
    tracer = Tracer(replica_id)
    listen(SDKSpans(tracer.tracer), exports=settings.sdk_tracing)
    return tracer


@contextlib.asynccontextmanager
async def sent_at_end(tracer: "Tracer | None") -> AsyncIterator[None]:
    """At the end of the block, what is left of the traces is sent."""
    try:
        yield
    finally:
        if tracer is not None:
            await asyncio.to_thread(tracer.close)
