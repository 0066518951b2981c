"""Settings: one frozen object, read from `LONGRUN_*` at start, checked, and passed down."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from longrun.errors import ConfigurationError

Strings = Annotated[tuple[str, ...], NoDecode]


class Settings(BaseSettings):
    """Everything that can be set, each by the variable `LONGRUN_` + its name in capitals.

    Durations are in seconds, sizes in bytes. Flags of `longrun serve` win over the environment.

    Raises:
        ConfigurationError: (from `load`) a value is not allowed; names variable and value.
    """

    model_config = SettingsConfigDict(
        env_prefix="LONGRUN_", frozen=True, extra="ignore", env_ignore_empty=True
    )

    agents: Strings = Field(
        (), description="Import strings of the agents to serve, separated by commas or spaces."
    )
    host: str = Field("127.0.0.1", description="The address to listen on.")
    port: int = Field(
        8000, ge=0, le=65535, description="The port to listen on; 0 takes a free one."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="What is logged to standard error."
    )

    database_url: SecretStr | None = Field(
        None,
        description="Postgres, as a libpq URL (several hosts allowed). Unset: an embedded one.",
    )
    listen_database_url: SecretStr | None = Field(
        None,
        description="A direct connection for LISTEN, where database_url goes through a pooler "
        "in transaction mode. Unset: database_url.",
    )
    data_dir: Path = Field(Path(".longrun"), description="Where the embedded Postgres lives.")
    db_schema: str = Field(
        "longrun", alias="LONGRUN_SCHEMA", description="The Postgres schema of all tables."
    )
    auto_migrate: bool = Field(True, description="Apply pending migrations at start.")
    pool_size: int = Field(
        10,
        ge=2,
        le=1000,
        description="Connections for requests (five more serve the log and the lease).",
    )
    statement_cache_size: int = Field(
        100,
        ge=0,
        description="Prepared statements kept a connection; 0 for poolers that cannot keep them.",
    )

    announce_interval: float = Field(
        0.0005,
        ge=0,
        le=1,
        description="The least time between two NOTIFYs of a replica; it grows with their number.",
    )
    poll_interval: float = Field(
        2.0, gt=0, le=60, description="How often readers look by themselves; NOTIFY is a hint."
    )
    chunk_bytes: int = Field(
        256 * 1024, ge=1024, description="The size of a chunk of the event log."
    )
    page_bytes: int = Field(
        128 * 1024, ge=1024, description="How much history a reader takes from the log at once."
    )
    ring_bytes: int = Field(
        1024 * 1024,
        ge=1024,
        description="The newest events kept in memory for each response that has local readers.",
    )
    run_buffer_bytes: int = Field(
        1024 * 1024,
        ge=1024,
        description="Events of one run that may wait for their commit before the run is slowed.",
    )

    max_item_bytes: int = Field(
        16 * 1024 * 1024,
        ge=64 * 1024,
        le=128 * 1024 * 1024,
        description="Maximum size of one output item, or one tool output, as JSON. A larger tool "
        "output is replaced by a message; anything else that is larger fails its run.",
    )

    max_runs: int = Field(
        100, ge=1, description="Runs that this replica executes at once; more are queued."
    )
    max_queued: int = Field(
        10_000, ge=0, description="Responses that may be queued, over all replicas; then 429."
    )
    run_timeout: float = Field(
        1800.0, gt=0, description="The time of a response, over all attempts, queued or running."
    )
    max_attempts: int = Field(
        3, ge=1, description="Attempts at a response before a crash makes it fail."
    )
    lease_seconds: float = Field(
        10.0,
        ge=1,
        description="How long a frozen replica keeps its runs; a killed one loses them at once.",
    )

    keepalive_interval: float = Field(
        15.0, gt=0, description="Silence on a stream before a comment line is sent."
    )
    send_timeout: float = Field(
        30.0, gt=0, description="A reader that takes nothing for so long is disconnected."
    )
    drain_seconds: float = Field(
        20.0, ge=0, description="How long a stopping server lets its runs and requests finish."
    )
    tls_certfile: Path | None = Field(
        None, description="Serve TLS, and with it HTTP/2, with this certificate chain (PEM)."
    )
    tls_keyfile: Path | None = Field(None, description="The certificate's private key (PEM).")
    max_body_bytes: int = Field(
        32 * 1024 * 1024, ge=1024, description="Maximum size of a request body; then 413."
    )
    max_bodies_bytes: int = Field(
        256 * 1024 * 1024,
        ge=1024,
        description="Maximum size of all request bodies being read at once; then 503.",
    )
    max_json_values: int = Field(
        100_000,
        ge=1000,
        description="Maximum number of list elements and object members in a request body.",
    )
    max_input_items: int = Field(
        10_000, ge=1, description="Maximum number of input items in a request."
    )
    max_tools: int = Field(1000, ge=0, description="Maximum number of tools in a request.")
    max_unknown_bytes: int = Field(
        256 * 1024,
        ge=0,
        description="Maximum size of all request parameters that longrun does not know, as JSON. "
        "They are echoed in every snapshot of the response.",
    )
    max_echoed_bytes: int = Field(
        4 * 1024 * 1024,
        ge=1024,
        description="Maximum size of everything that a response echoes of its request "
        "(instructions, tools, …), as JSON.",
    )
    max_turns: int = Field(100, ge=1, description="Model turns that one run may take.")
    cancel_on_disconnect: bool = Field(
        True,
        description="Cancel the run of a foreground request when its client goes away.",
    )
    retention_days: float = Field(
        30.0, gt=0, description="How long a finished response is kept for polls and replays."
    )
    cors_origins: Strings = Field(
        (), description="Origins whose pages may call this server; `*` for all."
    )
    sdk_tracing: bool = Field(False, description="Let the Agents SDK export its traces to OpenAI.")

    @field_validator("agents", "cors_origins", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(re.split(r"[,\s]+", value.strip())) if isinstance(value, str) else value

    @field_validator("db_schema")
    @classmethod
    def _is_identifier(cls, value: str) -> str:
        if not re.fullmatch(r"[a-z_][a-z0-9_]{0,47}", value) or value.startswith("pg_"):
            raise ValueError(
                "a schema name has at most 48 of a-z, 0-9 and _, no digit first, and no pg_ first"
            )
        return value

    @classmethod
    def load(cls, **given: Any) -> Self:
        """Read the environment; what is given (and not None) wins.

        Raises:
            ConfigurationError: a value is not allowed; names the variable and the value.
        """
        try:
            return cls(**{_key(k): v for k, v in given.items() if v is not None})
        except ValidationError as error:
            lines = []
            for problem in error.errors():
                name = str(problem["loc"][0]) if problem["loc"] else "?"
                variable = name if name.startswith("LONGRUN_") else "LONGRUN_" + name.upper()
                shown = "(hidden)" if "url" in name else repr(problem["input"])
                lines.append(f"{variable}={shown}: {problem['msg']}")
            raise ConfigurationError("\n".join(lines)) from None

    @property
    def listen_url(self) -> SecretStr | None:
        return self.listen_database_url or self.database_url


def _key(name: str) -> str:
    return "LONGRUN_SCHEMA" if name in {"schema", "db_schema"} else name


def variable(name: str) -> str:
    """The environment variable of a field."""
    return "LONGRUN_SCHEMA" if name == "db_schema" else "LONGRUN_" + name.upper()


def as_markdown() -> str:
    """The settings table of the README, made from the fields themselves."""
    rows = ["| variable | default | what |", "| --- | --- | --- |"]
    for name, field in Settings.model_fields.items():
        default = field.default
        shown = "" if default is None or default == () else f"`{_shown(default)}`"
        rows.append(f"| `{variable(name)}` | {shown} | {field.description} |")
    return "\n".join(rows) + "\n"


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
