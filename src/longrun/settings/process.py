"""Settings of the process: what it serves, where, and what it says of it."""

from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from longrun.settings.sections import YEAR, Section, Strings

MOST_WORKERS: Final = 256


def _count(value: Any) -> Any:
    """A number of workers, or `auto`."""
    if value == "auto":
        return value
    if isinstance(value, int | str) and str(value).isascii() and str(value).isdecimal():
        number = int(str(value)[:9])
        if 1 <= number <= MOST_WORKERS:
            return number
    raise PydanticCustomError("workers", f"expected auto, or a number from 1 to {MOST_WORKERS}")


Workers = Annotated[int | Literal["auto"], BeforeValidator(_count)]


class Process(Section):
    """What is served, where, and what is reported about it."""

    agents: Strings = Field(
        default=(),
        description="Import strings of the agents to serve, separated by commas or spaces. "
        "Unset: the demo agents.",
    )
    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(
        default=8000, ge=0, le=65535, description="Port to listen on; 0 picks a free one."
    )
    workers: Workers = Field(
        default=1,
        description="Number of processes that serve on one port, each a replica of its own; "
        "`auto` for one per available core.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Lowest level logged to standard error."
    )
    log_format: Literal["text", "json"] = Field(
        default="text",
        description="`text` for people, or `json`: one object per line with `time`, `level`, "
        "`logger`, `message` and the fields.",
    )
    drain_seconds: float = Field(
        default=20.0,
        ge=0,
        le=YEAR,
        description="How long a stopping server lets its runs and requests finish.",
    )
    show_errors: bool | None = Field(
        default=None,
        description="Tell clients why a run failed: the exception, and where it was raised. "
        "Unset: only for the demo agents, on a loopback address.",
    )
    otel: bool = Field(
        default=False,
        description="Export a trace of each response with OpenTelemetry (OTLP over HTTP). The "
        "standard `OTEL_*` variables determine where to, and how much. Needs the `otel` extra.",
    )
    console: bool = Field(
        default=True, description="Serve the console at `/`. Its API is always served."
    )
    sdk_tracing: bool = Field(
        default=False, description="Let the Agents SDK export its traces to OpenAI."
    )
