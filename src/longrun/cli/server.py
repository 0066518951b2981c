"""The server that a command talks to: where it is, with which key, and what it answers in words."""

import contextlib
import os
from collections.abc import Iterator

import openai

from longrun.cli.options import DEFAULT_URL
from longrun.client import GaveUp
from longrun.errors import ConfigurationError


def connected(url: str | None) -> openai.OpenAI:
    """A client of the server at `url`, or the one that the environment names.

    `LONGRUN_API_KEY` is its key. Nothing is sent yet.

    Raises:
        ConfigurationError: that is no URL of a server.
    """
    base = (url or os.environ.get("LONGRUN_URL") or DEFAULT_URL).rstrip("/")
    if not base.startswith(("http://", "https://")):
        raise ConfigurationError(f"{base!r} is no URL of a server, such as {DEFAULT_URL}")
    return openai.OpenAI(
        base_url=base if base.endswith("/v1") else f"{base}/v1",
        api_key=os.environ.get("LONGRUN_API_KEY") or "none",
    )


@contextlib.contextmanager
def in_words(client: openai.OpenAI) -> Iterator[None]:
    """Say what a server refused, or that there is none, as a message.

    Raises:
        ConfigurationError: it cannot be reached, or it refused.
    """
    server = str(client.base_url).rstrip("/").removesuffix("/v1")
    try:
        yield
    except openai.APIStatusError as error:
        raise ConfigurationError(f"{server}: {_message(error)}{_hint(error)}") from error
    except (openai.APIConnectionError, GaveUp) as error:
        raise ConfigurationError(
            f"no server answers at {server}: start one with `longrun serve`, or name another with "
            "--url or LONGRUN_URL"
        ) from error


def _message(error: openai.APIStatusError) -> str:
    body = error.body
    if isinstance(body, dict) and isinstance(body.get("message"), str):
        return str(body["message"])
    return f"HTTP {error.status_code}; this may be no longrun server"


def _hint(error: openai.APIStatusError) -> str:
    return " (the key is read from LONGRUN_API_KEY)" if error.status_code == 401 else ""
