"""What is posted: the body of an event, and the headers that sign it (Standard Webhooks)."""

import base64
import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Final

from standardwebhooks import Webhook

from longrun.jsontext import dumps

SECRET_BYTES: Final = 32

USER_AGENT: Final = f"longrun/{version('longrun')}"


def new_secret() -> str:
    """A secret to sign with; the clients of OpenAI decode what follows `whsec_` from base64."""
    return "whsec_" + base64.b64encode(os.urandom(SECRET_BYTES)).decode("ascii")


def body_of(event_id: str, type_: str, response_id: str, created_at: int) -> bytes:
    """An event as JSON, always the same bytes. It names the response, and says nothing of it.

    Args:
        created_at: when the response ended, in seconds since the epoch.
    """
    return dumps(
        {
            "id": event_id,
            "object": "event",
            "type": type_,
            "created_at": created_at,
            "data": {"id": response_id},
        }
    )


def headers_of(delivery_id: str, body: bytes, secrets: Sequence[str]) -> list[tuple[str, str]]:
    """The headers of one attempt. Receivers refuse what was signed some minutes ago, so each
    attempt is signed anew.

    Args:
        delivery_id: the same at each attempt, by which receivers tell what they have.
        secrets: each signs.
    """
    now = int(time.time())
    at, text = datetime.fromtimestamp(now, UTC), body.decode()
    signatures = [Webhook(secret).sign(delivery_id, at, text) for secret in secrets]
    return [
        ("content-type", "application/json"),
        ("user-agent", USER_AGENT),
        ("webhook-id", delivery_id),
        ("webhook-timestamp", str(now)),
        ("webhook-signature", " ".join(signatures)),
    ]
