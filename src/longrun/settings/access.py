"""Settings of access: who may call, and how much."""

import re
from typing import Final, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from longrun.settings.sections import Networks, Section, Strings


class Access(Section):
    """Who may call, and how much."""

    no_auth: bool = Field(
        default=False,
        description="Do not authenticate callers, on any address, because something in front does.",
    )
    key_cache_seconds: float = Field(
        default=5.0,
        ge=0,
        le=60,
        description="How long an API key is considered valid after it was looked up. A revoked "
        "one is usually refused at once, and after this time at the latest.",
    )
    stream_token_seconds: float = Field(
        default=300.0,
        ge=1,
        le=86_400,
        description="How long a stream token opens the stream of its response.",
    )
    cors_origins: Strings = Field(
        default=(), description="Origins whose pages may call this server; `*` for all."
    )
    trusted_header: str | None = Field(
        default=None,
        min_length=1,
        description="Header in which a proxy in front names the caller. Needs trusted_proxies.",
    )
    trusted_proxies: Networks = Field(
        default=(),
        description="Addresses or networks of the proxies whose trusted_header is trusted.",
    )
    proxy_headers: Networks = Field(
        default=(),
        description="Addresses or networks of the proxies whose `X-Forwarded-For` and "
        "`X-Forwarded-Proto` are trusted.",
    )
    oidc_issuer: str | None = Field(
        default=None,
        pattern=r"^https?://",
        description="URL of an OpenID Connect provider whose tokens are accepted as keys.",
    )
    oidc_audience: str | None = Field(
        default=None, description="The audience (`aud`) that such tokens must be issued for."
    )
    oidc_algorithms: Strings = Field(
        default=("RS256", "ES256"), description="Signature algorithms that are accepted for them."
    )
    oidc_principal_claim: str = Field(
        default="sub",
        min_length=1,
        description="Claim that names the principal, which is `oidc:` followed by its value.",
    )
    oidc_scope_claim: str = Field(
        default="scope",
        min_length=1,
        description="Claim with the scopes read, write and admin; without any of them, a token "
        "may read and write.",
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
        description="Maximum number of `POST /responses` of one principal per minute, across all "
        "replicas; beyond it, 429. A key may have its own limit in addition. Unset: no limit.",
    )
    max_principal_other_requests_per_minute: int | None = Field(
        default=None,
        ge=1,
        le=10_000_000,
        description="Maximum number of all other requests of one principal per minute: polls, "
        "streams, lists, cancels. Unset: no limit.",
    )
    max_principal_tokens_per_day: int | None = Field(
        default=None,
        ge=1,
        le=10**15,
        description="Tokens of one principal per day (UTC), after which it gets a 429 instead of "
        "new responses. A key may have a lower limit. Unset: no limit.",
    )
    max_principal_streams: int | None = Field(
        default=None,
        ge=1,
        description="Maximum number of streams that one principal has open on this replica; "
        "beyond it, 429. Unset: no limit.",
    )

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for each in value:
            if each != "*" and (said := _origin_problem(each)) is not None:
                raise PydanticCustomError("origin", "{said}", {"said": said})
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
