"""Settings of webhooks: the endpoint of the service, where others may be, how often is tried."""

import base64
import binascii
from typing import Final, Self, get_args
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_core import PydanticCustomError

from longrun.protocol import WebhookEvent
from longrun.settings.sections import YEAR, Networks, Section, Strings

EVENTS: Final[tuple[str, ...]] = get_args(WebhookEvent)

SECRET_BYTES: Final = range(24, 65)
"""How long a secret may be (Standard Webhooks)."""


class Webhooks(Section):
    """Who is notified when background responses end, and how."""

    webhook_url: SecretStr | None = Field(
        default=None,
        description="URL to which the end of every background response is posted, regardless of "
        "its owner. Any address is allowed. Needs webhook_secret.",
    )
    webhook_secret: SecretStr | None = Field(
        default=None,
        description="Secret that signs these posts: `whsec_` and 24 to 64 bytes in base64. If "
        "there are several, separated by spaces, each of them signs.",
    )
    webhook_events: Strings = Field(
        default=EVENTS, description="The events that are posted to webhook_url."
    )
    webhook_networks: Networks = Field(
        default=(),
        description="Non-public addresses or networks that endpoints created by callers may lead "
        "to, such as 10.1.0.0/16.",
    )
    webhook_timeout: float = Field(
        default=15.0,
        ge=0.1,
        le=300,
        description="Time limit for one delivery attempt; connecting may take a third of it.",
    )
    webhook_retry_first: float = Field(
        default=5.0,
        gt=0,
        le=YEAR,
        description="Pause before the second attempt; each one after it is twice as long.",
    )
    webhook_retry_longest: float = Field(
        default=4 * 3600.0,
        gt=0,
        le=YEAR,
        description="Maximum pause between two attempts, even if the endpoint asks for a longer "
        "one.",
    )
    webhook_retry_for: float = Field(
        default=72 * 3600.0,
        gt=0,
        le=YEAR,
        description="How long delivery is attempted. After that it is given up, and an endpoint "
        "to which nothing could be delivered in all that time is disabled.",
    )
    webhook_concurrency: int = Field(
        default=50,
        ge=1,
        le=10_000,
        description="Maximum number of deliveries in progress on this replica.",
    )
    webhook_endpoint_concurrency: int = Field(
        default=5,
        ge=1,
        le=10_000,
        description="Maximum number of these to one endpoint; one while it is failing.",
    )
    webhook_retention: float = Field(
        default=7 * 86_400.0,
        gt=0,
        le=100 * YEAR,
        description="How long deliveries stay in the list after they were made or given up.",
    )
    max_principal_webhook_endpoints: int = Field(
        default=20,
        ge=0,
        le=10_000,
        description="Maximum number of webhook endpoints of one principal; beyond it, 400.",
    )

    @field_validator("webhook_url")
    @classmethod
    def _is_webhook_url(cls, value: SecretStr | None) -> SecretStr | None:
        try:
            parts = urlsplit("" if value is None else value.get_secret_value())
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if value is not None and not usable:
            raise PydanticCustomError("url", "not a URL like https://app.example/hook")
        return value

    @field_validator("webhook_secret")
    @classmethod
    def _are_secrets(cls, value: SecretStr | None) -> SecretStr | None:
        for secret in value.get_secret_value().split() if value else ():
            if not is_secret(secret):
                raise PydanticCustomError(
                    "webhook_secret", "a secret is whsec_ and 24 to 64 bytes in base64"
                )
        return value

    @field_validator("webhook_events")
    @classmethod
    def _are_events(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for each in value:
            if each not in EVENTS:
                raise PydanticCustomError(
                    "webhook_event",
                    "{each} is no event: allowed are {allowed}",
                    {"each": repr(each), "allowed": ", ".join(EVENTS)},
                )
        return value

    @model_validator(mode="after")
    def _has_webhook_secret(self) -> Self:
        if (self.webhook_url is None) != (self.webhook_secret is None):
            raise PydanticCustomError(
                "webhook", "LONGRUN_WEBHOOK_URL and LONGRUN_WEBHOOK_SECRET need each other"
            )
        return self


def is_secret(text: str) -> bool:
    """Whether a text is a secret that all libraries of Standard Webhooks read alike."""
    if not text.startswith("whsec_"):
        return False
    try:
        return len(base64.b64decode(text.removeprefix("whsec_"), validate=True)) in SECRET_BYTES
    except (binascii.Error, ValueError):
        return False
