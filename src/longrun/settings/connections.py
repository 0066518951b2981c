"""Settings of connections: TLS, HTTP/2, and what a client may hold."""

import ssl
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from longrun.settings.names import variable
from longrun.settings.sections import YEAR, Section


class Connections(Section):
    """TLS, HTTP/2, and how much a client may use."""

    tls_certfile: Path | None = Field(
        default=None,
        description="Certificate chain (PEM). With tls_keyfile: serve TLS, and HTTP/2 with it.",
    )
    tls_keyfile: Path | None = Field(default=None, description="Private key (PEM), unencrypted.")
    http2: bool = Field(default=True, description="Offer HTTP/2 to clients if TLS is served.")
    max_connections: int | None = Field(
        default=None,
        ge=1,
        description="Maximum number of client connections at once; others are closed. Unset: four "
        "fifths of the file descriptors available to the process.",
    )
    max_sockets: int | None = Field(
        default=None,
        ge=0,
        description="Maximum number of WebSockets open at once on this replica; others get a 503. "
        "0: WebSocket is not served. Unset: the same as for connections.",
    )
    socket_seconds: float = Field(
        default=3600.0,
        gt=0,
        le=YEAR,
        description="How long a WebSocket may stay open, as with OpenAI; clients then reconnect.",
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
        description="How long a connection may stay open without a request.",
    )
    send_timeout: float = Field(
        default=30.0,
        gt=0,
        le=YEAR,
        description="How long a client may accept no data before it is disconnected.",
    )
    receive_timeout: float = Field(
        default=30.0,
        gt=0,
        le=YEAR,
        description="How long a client may pause in the middle of sending a request; beyond it, "
        "408.",
    )

    @model_validator(mode="after")
    def _has_whole_tls(self) -> Self:
        problem = _tls_problem(self.tls_certfile, self.tls_keyfile)
        if problem:
            raise PydanticCustomError("tls", "{said}", {"said": problem})
        return self


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
