"""Settings of the process: what it serves, where, and what it says of it."""

from typing import Literal

from pydantic import Field

from longrun.settings.sections import YEAR, Section, Strings


class Process(Section):
    """What is served, where, and what is said of it."""

    agents: Strings = Field(
        default=(),
        description="Import strings of the agents to serve, separated by commas or spaces. "
        "Unset: the demo agents.",
    )
    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(
        default=8000, ge=0, le=65535, description="Port to listen on; 0 picks a free one."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Lowest level logged to standard error."
    )
    log_format: Literal["text", "json"] = Field(
        default="text",
        description="Lines to read, or one JSON object a line with `time`, `level`, `logger`, "
        "`message` and the fields.",
    )
    drain_seconds: float = Field(
        default=20.0,
        ge=0,
        le=YEAR,
        description="How long a stopping server lets its runs and requests finish.",
    )
    show_errors: bool | None = Field(
        default=None,
        description="Tell clients why a run failed: the exception, and where it was raised. Unset: "
        "only of the demo agents, on a loopback address.",
    )
    sdk_tracing: bool = Field(
        default=False, description="Let the Agents SDK export its traces to OpenAI."
    )
