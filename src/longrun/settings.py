"""Settings: one frozen object, read from `LONGRUN_*` at start, checked, and passed down."""

import difflib
import ipaddress
import os
import re
import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from longrun.errors import ConfigurationError
from longrun.key_ring import KeyRing
from longrun.parameters import BOUNDED, NAMES

Strings = Annotated[tuple[str, ...], NoDecode]

YEAR: Final = 366 * 24 * 60 * 60

_PREFIX: Final = "LONGRUN_"

NOT_SETTINGS: Final = frozenset({"LONGRUN_API_KEY"})
"""Variables that begin like settings and are none: `longrun demo` sends this key."""

_OF_KUBERNETES: Final = re.compile(
    r"LONGRUN_(\w+_)?(SERVICE_HOST=|SERVICE_PORT(_\w+)?=|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?=|PORT=tcp://)"
)
"""Set in every container of a namespace in which a service is called `longrun` or `longrun-…`."""


class Settings(BaseSettings):
    """Everything that can be set, each by the variable `LONGRUN_` + its name in capitals.

    Durations are in seconds, sizes in bytes. Flags of `longrun serve` win over the environment.

    Raises:
        ConfigurationError: (from `load`) a value is not allowed, or a name is not a setting; names
            variable and value.
    """

    # mypy takes a default for one only where it has its name.
    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        frozen=True,
        extra="forbid",
        env_ignore_empty=True,
        populate_by_name=True,
        allow_inf_nan=False,
    )

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

    database_url: SecretStr | None = Field(
        default=None,
        description="Postgres, as a libpq URL; with TLS by `sslmode`, `sslrootcert`, `sslcert` and "
        "`sslkey`. Of several hosts the primary is used. Unset: an embedded Postgres.",
    )
    listen_database_url: SecretStr | None = Field(
        default=None,
        description="Direct connection for LISTEN, where database_url goes through a pooler "
        "in transaction mode. Unset: database_url.",
    )
    data_dir: Path = Field(
        default=Path(".longrun"), description="Directory of the embedded Postgres."
    )
    db_schema: str = Field(
        default="longrun",
        validation_alias="LONGRUN_SCHEMA",
        description="Postgres schema that holds all tables.",
    )
    encryption_keys: SecretStr | None = Field(
        default=None,
        description="Keys that encrypt what is stored, as `id:base64` of 32 bytes each. The first "
        "encrypts (`plain` in its place: none does), all decrypt. Unset: nothing is encrypted.",
    )
    encryption_keys_file: Path | None = Field(
        default=None, description="File with encryption_keys, in place of the variable."
    )
    auto_migrate: bool = Field(default=True, description="Apply pending migrations at start.")
    pool_size: int = Field(
        default=10,
        ge=2,
        le=1000,
        description="Maximum number of Postgres connections for requests (the log and the lease "
        "use five more, and a sixth for a run that is written alone).",
    )
    statement_cache_size: int = Field(
        default=100,
        ge=0,
        le=100_000,
        description="Prepared statements cached per connection; 0 for poolers that do not "
        "support them.",
    )

    announce_interval: float = Field(
        default=0.0005,
        ge=0,
        le=1,
        description="Minimum interval between NOTIFYs of a replica; it grows with their number.",
    )
    poll_interval: float = Field(
        default=2.0,
        gt=0,
        le=60,
        description="How often readers check the log when no NOTIFY arrives.",
    )
    chunk_bytes: int = Field(
        default=256 * 1024,
        ge=1024,
        le=64 * 1024 * 1024,
        description="Maximum size of a chunk of the event log, unless one event is larger.",
    )
    page_bytes: int = Field(
        default=128 * 1024,
        ge=1024,
        le=64 * 1024 * 1024,
        description="How much history a reader fetches from the log at a time.",
    )
    ring_bytes: int = Field(
        default=1024 * 1024,
        ge=1024,
        description="Newest events kept in memory for each response that has readers here.",
    )
    run_buffer_bytes: int = Field(
        default=1024 * 1024,
        ge=1024,
        description="Uncommitted events of one run beyond which the run is slowed down.",
    )
    merge_deltas: bool = Field(
        default=True,
        description="Deltas of one part that wait for the same commit become one event; off: each "
        "is an event of its own.",
    )

    max_item_bytes: int = Field(
        default=16 * 1024 * 1024,
        ge=64 * 1024,
        le=128 * 1024 * 1024,
        description="Maximum size of one output item, or one tool output, as JSON. A larger tool "
        "output is replaced by a message; anything else that is larger fails its run.",
    )

    max_runs: int = Field(
        default=100,
        ge=1,
        le=100_000,
        description="Maximum number of runs this replica executes at once; more are queued.",
    )
    max_queued: int = Field(
        default=10_000,
        ge=0,
        le=1_000_000_000,
        description="Maximum number of queued responses across all replicas; beyond it, 429.",
    )
    max_principal_runs: int | None = Field(
        default=None,
        ge=1,
        description="Maximum number of responses of one principal that are queued or running; "
        "beyond it, 429. A key may have a lower one. Unset: no limit.",
    )
    max_principal_requests_per_minute: int | None = Field(
        default=None,
        ge=1,
        le=10_000_000,
        description="Maximum number of `POST /responses` of one principal in a minute, on all "
        "replicas together; beyond it, 429. A key may have a limit of its own besides. Unset: no "
        "limit.",
    )
    max_principal_other_requests_per_minute: int | None = Field(
        default=None,
        ge=1,
        le=10_000_000,
        description="Maximum number of all other requests of one principal in a minute: polls, "
        "streams, lists, cancels. Unset: no limit.",
    )
    max_principal_tokens_per_day: int | None = Field(
        default=None,
        ge=1,
        le=10**15,
        description="Tokens of one principal in a day (UTC) after which it creates no more "
        "responses, but gets 429. A key may have a lower limit. Unset: no limit.",
    )
    max_principal_streams: int | None = Field(
        default=None,
        ge=1,
        description="Maximum number of streams that one principal has open on this replica; "
        "beyond it, 429. Unset: no limit.",
    )
    run_timeout: float = Field(
        default=1800.0,
        gt=0,
        le=YEAR,
        description="Time limit for a response across all attempts, queue time included.",
    )
    max_attempts: int = Field(
        default=3,
        ge=1,
        le=1_000_000,
        description="Attempts at a response after which one more crash fails it.",
    )
    max_handovers: int = Field(
        default=100,
        ge=1,
        le=1_000_000,
        description="Handovers of a run in a row, without a finished step, before it fails.",
    )
    lease_seconds: float = Field(
        default=10.0,
        ge=1,
        le=YEAR,
        description="How long a frozen replica keeps its runs; a killed one loses them at once.",
    )

    keepalive_interval: float = Field(
        default=15.0,
        gt=0,
        le=YEAR,
        description="Silence on a stream after which a comment line is sent.",
    )
    send_timeout: float = Field(
        default=30.0,
        gt=0,
        le=YEAR,
        description="How long a client may take no data before it is disconnected.",
    )
    receive_timeout: float = Field(
        default=30.0,
        gt=0,
        le=YEAR,
        description="How long a client may stop sending in the middle of a request; then 408.",
    )
    drain_seconds: float = Field(
        default=20.0,
        ge=0,
        le=YEAR,
        description="How long a stopping server lets its runs and requests finish.",
    )
    tls_certfile: Path | None = Field(
        default=None,
        description="Certificate chain (PEM). With tls_keyfile: serve TLS, and HTTP/2 with it.",
    )
    tls_keyfile: Path | None = Field(default=None, description="Private key (PEM), unencrypted.")
    http2: bool = Field(default=True, description="Offer HTTP/2 to clients, where TLS is served.")
    max_connections: int | None = Field(
        default=None,
        ge=1,
        description="Maximum number of client connections at once; others are closed. Unset: four "
        "in five of the file descriptors that the process may have.",
    )
    max_header_bytes: int = Field(
        default=64 * 1024,
        ge=4096,
        le=1024 * 1024,
        description="Maximum size of the request line and all headers of a request; beyond it, "
        "431.",
    )
    max_headers: int = Field(
        default=200,
        ge=20,
        le=10_000,
        description="Maximum number of headers of a request; beyond it, 431.",
    )
    idle_timeout: float = Field(
        default=75.0,
        gt=0,
        le=YEAR,
        description="How long a connection may stay open on which nothing is asked.",
    )
    max_body_bytes: int = Field(
        default=32 * 1024 * 1024,
        ge=1024,
        description="Maximum size of a request body; beyond it, 413.",
    )
    max_bodies_bytes: int = Field(
        default=256 * 1024 * 1024,
        ge=1024,
        description="Maximum size of all request bodies being read at once; beyond it, 503.",
    )
    max_json_values: int = Field(
        default=100_000,
        ge=1000,
        description="Maximum number of list elements and object members in a request body.",
    )
    max_json_depth: int = Field(
        default=200,
        ge=10,
        le=200,
        description="Maximum number of levels of lists and objects in a request parameter.",
    )
    max_input_items: int = Field(
        default=10_000, ge=1, description="Maximum number of input items in a request."
    )
    max_tools: int = Field(default=1000, ge=0, description="Maximum number of tools in a request.")
    max_unknown_bytes: int = Field(
        default=256 * 1024,
        ge=0,
        description="Maximum total size of request parameters that longrun does not know, as "
        "JSON. They are echoed in every snapshot of the response.",
    )
    max_echoed_bytes: int = Field(
        default=4 * 1024 * 1024,
        ge=1024,
        description="Maximum total size of the request parameters that a response echoes "
        "(instructions, tools, …), as JSON.",
    )
    forbidden_parameters: Strings = Field(
        default=(),
        description="Request parameters that are refused, as in `service_tier text.format`.",
    )
    parameter_limits: Strings = Field(
        default=(),
        description="Maximum values of request parameters, as in `max_output_tokens=4096 "
        "longrun.timeout=600`. Those of budgets hold for requests that set none, too.",
    )
    forward_headers: Strings = Field(
        default=(),
        description="Request headers that agents see in `longrun.current().headers`. They are "
        "stored with the response: name credentials only if they may be.",
    )
    max_turns: int = Field(
        default=100, ge=1, le=1_000_000, description="Maximum number of model turns in a run."
    )
    cancel_on_disconnect: bool = Field(
        default=True,
        description="Cancel the run of a foreground request when its client disconnects.",
    )
    server_tools: Literal["mcp_call", "function_call"] = Field(
        default="mcp_call",
        description="How calls that the server executes are shown: as one `mcp_call` item each, or "
        "as a `function_call`, which many clients take for theirs to execute, and a "
        "`function_call_output`.",
    )
    retention_days: float = Field(
        default=30.0,
        gt=0,
        le=36_600,
        description="How long a finished response is kept for polls and replays, in days.",
    )
    continue_with: Literal["last", "first"] = Field(
        default="last",
        description="Who takes the next turn of a chain or a conversation with the same `model`: "
        "the agent that had the last word, after handoffs, or the `first` one again.",
    )
    conversation_overlap: Literal["refuse", "queue"] = Field(
        default="refuse",
        description="What happens to a response on a conversation that another one is on: `refuse` "
        "(400, `conversation_locked`), or `queue` behind it.",
    )
    conversation_retention: float | None = Field(
        default=None,
        gt=0,
        le=100 * YEAR,
        description="How long a conversation is kept after its last use, in seconds. Unset: until "
        "it is deleted.",
    )
    cors_origins: Strings = Field(
        default=(), description="Origins whose pages may call this server; `*` for all."
    )
    no_auth: bool = Field(
        default=False,
        description="Ask no caller who they are, on any address: something in front does.",
    )
    key_cache_seconds: float = Field(
        default=5.0,
        ge=0,
        le=60,
        description="How long an API key that was looked up is taken for valid; a revoked one "
        "is usually refused at once, and after this at the latest.",
    )
    stream_token_seconds: float = Field(
        default=300.0,
        ge=1,
        le=86_400,
        description="How long a stream token opens the stream of its response.",
    )
    trusted_header: str | None = Field(
        default=None,
        min_length=1,
        description="Header in which a proxy in front names the caller. Needs trusted_proxies.",
    )
    trusted_proxies: Strings = Field(
        default=(),
        description="Addresses or networks of the proxies whose trusted_header is believed.",
    )
    proxy_headers: Strings = Field(
        default=(),
        description="Addresses or networks of the proxies whose `X-Forwarded-For` and "
        "`X-Forwarded-Proto` are believed.",
    )
    oidc_issuer: str | None = Field(
        default=None,
        pattern=r"^https?://",
        description="URL of an OpenID Connect provider whose tokens are accepted as keys.",
    )
    oidc_audience: str | None = Field(
        default=None, description="The audience (`aud`) that such tokens must be made for."
    )
    oidc_algorithms: Strings = Field(
        default=("RS256", "ES256"), description="Signature algorithms that they may have."
    )
    oidc_principal_claim: str = Field(
        default="sub",
        min_length=1,
        description="Claim that names the principal, which is `oidc:` and its value.",
    )
    oidc_scope_claim: str = Field(
        default="scope",
        min_length=1,
        description="Claim with the scopes read, write and admin; without any of them, a token "
        "may read and write.",
    )
    show_errors: bool | None = Field(
        default=None,
        description="Tell clients why a run failed: the exception, and where it was raised. Unset: "
        "only of the demo agents, on a loopback address.",
    )
    sdk_tracing: bool = Field(
        default=False, description="Let the Agents SDK export its traces to OpenAI."
    )

    @model_validator(mode="before")
    @classmethod
    def _knows_every_name(cls, given: Any) -> Any:
        known = set(cls.model_fields)
        names = [name for name in given if _field(name) not in known]
        problems = [_unknown(name, known) for name in names]
        variables = {variable(name) for name in known}
        problems += [_unknown(name, variables) for name in _unknown_variables(variables)]
        if problems:
            raise PydanticCustomError("unknown", "{said}", {"said": "\n".join(problems)})
        return given

    @field_validator(
        "agents",
        "cors_origins",
        "forbidden_parameters",
        "parameter_limits",
        "forward_headers",
        "trusted_proxies",
        "proxy_headers",
        "oidc_algorithms",
        mode="before",
    )
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(re.split(r"[,\s]+", value.strip())) if isinstance(value, str) else value

    @field_validator("forbidden_parameters")
    @classmethod
    def _are_parameters(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in NAMES - {"input", "model"}:
                raise PydanticCustomError("parameter", "{said}", {"said": no_parameter(name)})
        return value

    @field_validator("parameter_limits")
    @classmethod
    def _are_limits(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for each in value:
            name, _, most = each.partition("=")
            if name not in BOUNDED:
                said = f"{name!r} cannot be bounded; allowed are {', '.join(sorted(BOUNDED))}"
                raise PydanticCustomError("parameter", "{said}", {"said": said})
            if not re.fullmatch(r"\d+(\.\d+)?", most) or not float(most):
                said = f"{each!r}: expected name=number, the number greater than 0"
                raise PydanticCustomError("parameter", "{said}", {"said": said})
        return value

    @field_validator("forward_headers")
    @classmethod
    def _are_headers(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if not re.fullmatch(r"[!#$%&'+.^_`|~0-9A-Za-z-]+", name):
                raise PydanticCustomError(
                    "header", "{said}", {"said": f"{name!r} is not the name of a header"}
                )
        return tuple(name.lower() for name in value)

    @property
    def bounds(self) -> dict[str, float]:
        """`parameter_limits`, by name."""
        pairs = (each.partition("=") for each in self.parameter_limits)
        return {name: float(most) for name, _, most in pairs}

    @field_validator("database_url", "listen_database_url")
    @classmethod
    def _is_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not _is_postgres_url(value.get_secret_value()):
            raise PydanticCustomError(
                "postgres_url",
                "not a Postgres URL like postgresql://user:password@host:5432/database (in user "
                "and password, # is written %23, / %2F, : %3A, ? %3F, @ %40)",
            )
        return value

    @field_validator("db_schema")
    @classmethod
    def _is_identifier(cls, value: str) -> str:
        if not re.fullmatch(r"[a-z_][a-z0-9_]{0,47}", value) or value.startswith("pg_"):
            raise PydanticCustomError(
                "identifier",
                "a schema name has at most 48 characters, all of a-z, 0-9 and _, does not begin "
                "with a digit, and does not begin with pg_",
            )
        return value

    @field_validator("encryption_keys")
    @classmethod
    def _are_keys(cls, value: SecretStr | None) -> SecretStr | None:
        try:
            if value is not None:
                KeyRing.parse(value.get_secret_value())
        except ValueError as error:
            raise PydanticCustomError("keys", "{said}", {"said": str(error)}) from None
        return value

    @model_validator(mode="after")
    def _has_one_key_ring(self) -> Self:
        problem = None
        if self.encryption_keys is not None and self.encryption_keys_file is not None:
            problem = (
                "LONGRUN_ENCRYPTION_KEYS and LONGRUN_ENCRYPTION_KEYS_FILE cannot be used together"
            )
        else:
            try:
                _ = self.key_ring
            except ValueError as error:
                problem = (
                    f"LONGRUN_ENCRYPTION_KEYS_FILE={str(self.encryption_keys_file)!r}: {error}"
                )
        if problem:
            raise PydanticCustomError("keys", "{said}", {"said": problem})
        return self

    @property
    def key_ring(self) -> KeyRing:
        """What encrypts and decrypts what is stored; without keys where that is not set up.

        Raises:
            ValueError: the file cannot be read, or does not hold a key ring.
        """
        if self.encryption_keys is not None:
            return KeyRing.parse(self.encryption_keys.get_secret_value())
        if self.encryption_keys_file is None:
            return KeyRing()
        try:
            text = self.encryption_keys_file.read_text("utf-8")
        except OSError as error:
            raise ValueError(f"cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ValueError("it is not text") from None
        return KeyRing.parse(text)

    @model_validator(mode="after")
    def _has_room_for_a_body(self) -> Self:
        if self.max_bodies_bytes < self.max_body_bytes:
            raise PydanticCustomError(
                "bodies",
                "LONGRUN_MAX_BODIES_BYTES={all} is less than LONGRUN_MAX_BODY_BYTES={one}: no "
                "body of that size could ever be read",
                {"all": self.max_bodies_bytes, "one": self.max_body_bytes},
            )
        return self

    @model_validator(mode="after")
    def _has_whole_tls(self) -> Self:
        problem = _tls_problem(self.tls_certfile, self.tls_keyfile)
        if problem:
            raise PydanticCustomError("tls", "{said}", {"said": problem})
        return self

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for each in value:
            if each != "*" and (said := _origin_problem(each)) is not None:
                raise PydanticCustomError("origin", "{said}", {"said": said})
        return value

    @field_validator("trusted_proxies", "proxy_headers")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for each in value:
            try:
                ipaddress.ip_network(each)
            except ValueError:
                raise PydanticCustomError(
                    "network",
                    "{each} is no address or network like 10.0.0.7 or 10.0.0.0/8",
                    {"each": repr(each)},
                ) from None
        return value

    @model_validator(mode="after")
    def _has_whole_identities(self) -> Self:
        problem = None
        if (self.trusted_header is None) != (not self.trusted_proxies):
            problem = "LONGRUN_TRUSTED_HEADER and LONGRUN_TRUSTED_PROXIES need each other"
        if (self.oidc_issuer is None) != (self.oidc_audience is None):
            problem = "LONGRUN_OIDC_ISSUER and LONGRUN_OIDC_AUDIENCE need each other"
        if problem:
            raise PydanticCustomError("identities", "{said}", {"said": problem})
        return self

    @classmethod
    def load(cls, **given: Any) -> Self:
        """Read the environment; what is given (and not None) wins.

        Raises:
            ConfigurationError: a value is not allowed, or a name is not a setting; names the
                variable and the value.
        """
        try:
            return cls(**{_field(k): v for k, v in given.items() if v is not None})
        except ValidationError as error:
            raise ConfigurationError("\n".join(map(_line, error.errors()))) from None


def variable(name: str) -> str:
    """The environment variable of a field."""
    return "LONGRUN_SCHEMA" if name == "db_schema" else "LONGRUN_" + name.upper()


def _field(name: str) -> str:
    return "db_schema" if name in {"schema", "LONGRUN_SCHEMA"} else name


_POSTGRES_URL: Final = re.compile(
    r"postgres(ql)?://([^/?#@]*@)?"  # user and password
    r"((\[[^]/?#@]*\]|[^][/?#@:,]*)(:\d*)?(,|(?=[/?]|$)))*"  # hosts and ports
    r"(/[^?#@]*)?(\?([^=&#]+=[^&#]*(&|$))*)?"  # database and options
)


def _is_postgres_url(text: str) -> bool:
    """Whether asyncpg can read it. Where it cannot, it says so with a part of the password."""
    return _POSTGRES_URL.fullmatch(text) is not None


_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


def _origin_problem(text: str) -> str | None:
    """Why no browser sends this as its `Origin`, which is compared as it is."""
    example = "an origin is scheme://host or scheme://host:port, such as https://app.example"
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        return f"{text!r} is no origin: {example}"
    if not host or not re.fullmatch(r"[a-z][a-z0-9+.-]*", parts.scheme):
        return f"{text!r} is no origin: {example}"
    if "*" in text:
        return f"{text!r}: each origin is written out; only * alone stands for all"
    try:
        name = host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError:
        return f"{text!r} is no origin: {example}"
    place = f"[{name}]" if ":" in name else name
    if port is not None and port != _DEFAULT_PORTS.get(parts.scheme):
        place += f":{port}"
    right = f"{parts.scheme}://{place}"
    return None if text == right else f"{text!r} is not as browsers send it: write {right}"


def _line(problem: Any) -> str:
    """One problem: the variable, its value, and what is allowed."""
    if not problem["loc"]:
        return str(problem["msg"])
    name = _field(str(problem["loc"][0]))
    shown = "(hidden)" if "url" in name or name == "encryption_keys" else repr(problem["input"])
    line = f"{variable(name)}={shown}: {problem['msg']}"
    if name == "port" and str(problem["input"]).startswith("tcp://"):
        line += " (Kubernetes sets it for a service called longrun: set enableServiceLinks: false)"
    return line


def no_parameter(name: str) -> str:
    """What is said of a name that is no parameter of a request."""
    nearest = difflib.get_close_matches(name, NAMES, 1)
    hint = f"did you mean {nearest[0]}?" if nearest else "the wire contract lists them"
    return f"{name!r} is not a request parameter that can be forbidden; {hint}"


def _unknown_variables(known: set[str]) -> Iterable[str]:
    for name, value in sorted(os.environ.items()):
        upper = name.upper()
        if not upper.startswith(_PREFIX) or not value or upper in known | NOT_SETTINGS:
            continue
        if not _OF_KUBERNETES.match(f"{upper}={value}"):
            yield name


def _unknown(name: str, known: set[str]) -> str:
    # Without what all of them have in common, which would make any two of them alike.
    rests = {each.removeprefix(_PREFIX): each for each in known}
    nearest = difflib.get_close_matches(name.removeprefix(_PREFIX), rests, 1)
    hint = f"did you mean {rests[nearest[0]]}?" if nearest else "see `longrun settings`"
    return f"{name} is not a setting; {hint}"


def _tls_problem(certfile: Path | None, keyfile: Path | None) -> str | None:
    """Why TLS cannot be served with these files; half of it would be served as plain text."""
    files = {"tls_certfile": certfile, "tls_keyfile": keyfile}
    missing = [variable(name) for name, path in files.items() if path is None]
    if len(missing) == 1:
        [given] = [variable(name) for name, path in files.items() if path is not None]
        return (
            f"{missing[0]} is not set: {given} is, and TLS needs both a certificate and its "
            "private key"
        )
    for name, path in files.items():
        try:
            if path is not None:
                path.read_bytes()
        except OSError as error:
            return f"{variable(name)}={str(path)!r}: cannot be read: {error.strerror}"
    if certfile is None or keyfile is None:
        return None
    try:
        # An encrypted key would otherwise be asked about on the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certfile, keyfile, password="")
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None) or str(error)
        return (
            f"LONGRUN_TLS_CERTFILE={str(certfile)!r} and LONGRUN_TLS_KEYFILE={str(keyfile)!r} "
            f"cannot be used: {reason} (both must be PEM, the key that of the certificate and "
            "unencrypted)"
        )
    return None
