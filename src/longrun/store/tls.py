"""TLS to Postgres, as the URL asks for it (`sslmode` and its files), and what went wrong in words.

asyncpg reads these options as libpq does and uses them for every connection. What it says of a file
that is missing, or of a certificate that does not fit, names neither.
"""

import os
import ssl
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlsplit

from longrun.errors import ConfigurationError

_FILES: Final = ("sslrootcert", "sslcert", "sslkey", "sslcrl")

_PASSING: Final = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
"""The line broke; nothing is wrong with a certificate."""

_NOT_FOR_THIS_HOST: Final = (62, 64)
_UNTRUSTED: Final = (18, 19, 20, 21)
"""Verification errors of OpenSSL (x509_vfy.h)."""


def check_files(variable: str, url: str) -> None:
    """Check the files that a URL names for TLS, before anything connects.

    Args:
        variable: the setting that the URL comes from, for the message.

    Raises:
        ConfigurationError: one cannot be read, or is not what it must be; names option and path.
    """
    options = _options(url)
    mode = options.get("sslmode", "")
    if mode.startswith("verify-") and not _has_authorities(options):
        raise ConfigurationError(
            f"{variable}: sslmode={mode} needs the certificate of the authority that signed the "
            "server's: name its file with sslrootcert"
        )
    for name in _FILES:
        if name in options:
            _check_readable(variable, name, options[name])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for name in ("sslrootcert", "sslcrl"):
        if name in options:
            try:
                context.load_verify_locations(options[name])
            except ssl.SSLError as error:
                what = "certificate" if name == "sslrootcert" else "revocation list"
                raise ConfigurationError(
                    f"{variable}: {name}={options[name]!r} holds no {what} in PEM format"
                ) from error
    if "sslcert" in options and "sslkey" in options:
        _check_pair(variable, options)


def _options(url: str) -> dict[str, str]:
    return {name: values[-1] for name, values in parse_qs(urlsplit(url).query).items()}


def _has_authorities(options: dict[str, str]) -> bool:
    """Whether there is a file of theirs, also where libpq looks for one by itself."""
    usual = Path("~/.postgresql/root.crt").expanduser()
    return "sslrootcert" in options or "PGSSLROOTCERT" in os.environ or usual.exists()


def _check_readable(variable: str, name: str, path: str) -> None:
    try:
        Path(path).read_bytes()
    except OSError as error:
        hint = ""
        if path == "system":
            hint = ": name the file of the system's authorities, often "
            hint += "/etc/ssl/certs/ca-certificates.crt"
        raise ConfigurationError(
            f"{variable}: {name}={path!r} cannot be read: {error.strerror}{hint}"
        ) from error


def _check_pair(variable: str, options: dict[str, str]) -> None:
    cert, key = options["sslcert"], options["sslkey"]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_cert_chain(cert, key, password=options.get("sslpassword", ""))
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None) or "cannot be used"
        raise ConfigurationError(
            f"{variable}: sslcert={cert!r} and sslkey={key!r} do not belong together, or are not "
            f"in PEM format: {reason} (an encrypted key needs sslpassword)"
        ) from error


def is_refusal(error: BaseException) -> bool:
    """Whether TLS failed for a reason that stays: a certificate, or a server without TLS."""
    if isinstance(error, ssl.SSLError):
        return not isinstance(error, _PASSING)
    # asyncpg has no class for it.
    return isinstance(error, ConnectionError) and "rejected SSL upgrade" in str(error)


def in_words(error: BaseException, url: str) -> str:
    """What is wrong, and what to do, of an error that `is_refusal`."""
    mode = _options(url).get("sslmode", "prefer")
    if isinstance(error, ssl.SSLCertVerificationError):
        return _of_certificate(error, mode)
    if isinstance(error, ssl.SSLError):
        reason = error.reason or str(error)
        return (
            f"TLS failed: {reason}. If the server wants a client certificate, name it with "
            "sslcert and sslkey; if it does not support this version of TLS, update it"
        )
    return (
        f"the server offers no TLS, but sslmode={mode} requires it: enable it there (ssl=on in "
        "postgresql.conf), or, on a network that you trust, set sslmode=disable"
    )


def _of_certificate(error: ssl.SSLCertVerificationError, mode: str) -> str:
    if error.verify_code in _NOT_FOR_THIS_HOST:
        return (
            f"the server's certificate is for another host: {error.verify_message} "
            f"sslmode={mode} checks it: connect by a name that is in the certificate"
        )
    if error.verify_code in _UNTRUSTED:
        return (
            f"the server's certificate is not trusted: {error.verify_message}. Set sslrootcert to "
            "the file with the certificate of the authority that signed it"
        )
    return f"the server's certificate is not accepted: {error.verify_message}"
