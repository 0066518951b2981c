"""Posting: one request to an address that was looked at, within a time, without following where the
answer leads, and without reading what it says."""

import asyncio
import contextlib
import email.utils
import ipaddress
import socket
import ssl
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import httpcore2
import httpx2

from longrun.webhooks.targets import Network, may_connect

READ_AT_MOST: Final = 4096
"""Bytes of an answer that are read, so that its connection can be used again; of a longer one, it
is closed."""

READ_WITHIN: Final = 1.0
"""Seconds within which they have to come."""

KEPT_FOR: Final = 5.0
"""Seconds that an idle connection is kept: an address that was looked at is used no longer."""

CONNECT_PART: Final = 1 / 3
"""The part of the time that connecting may take."""

GONE: Final = 410
"""The status with which an endpoint says that nothing is ever to be posted to it again (Standard
Webhooks)."""

ASKS_FOR_A_PAUSE: Final = (429, 503)
"""Statuses whose `Retry-After` is heeded."""


class NotAllowed(httpcore2.ConnectError):
    """None of the addresses that a name leads to may be posted to."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of an attempt.

    Attributes:
        status_code: that of the answer; None: there was none.
        problem: what was wrong, in words that say nothing of the endpoint; None: it was taken.
        retry_after: seconds for which the endpoint asks to be left alone; 0.0: it does not ask.
    """

    status_code: int | None
    problem: str | None
    retry_after: float = 0.0


class CheckedBackend(httpcore2.AnyIOBackend):
    """Connects to names by an address that was looked at. TLS still asks for the name.

    Args:
        allowed: see `may_connect`; None: any address.
    """

    def __init__(self, allowed: Sequence[Network] | None) -> None:
        self._allowed = allowed

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        try:
            async with asyncio.timeout(timeout):
                return await self._connected(
                    await self.addresses(host, port), port, local_address, socket_options
                )
        except TimeoutError:
            raise httpcore2.ConnectTimeout from None

    async def addresses(self, host: str, port: int) -> list[str]:
        """The addresses of a host that may be connected to.

        Raises:
            NotAllowed: it has none.
            ConnectError: it is not known.
        """
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise httpcore2.ConnectError(str(error)) from None
        given = dict.fromkeys(str(each[4][0]) for each in found)
        usable = [each for each in given if self._may_connect(each)]
        if not usable:
            raise NotAllowed(f"no address of {len(given)} may be connected to")
        return usable

    def _may_connect(self, address: str) -> bool:
        return self._allowed is None or may_connect(ipaddress.ip_address(address), self._allowed)

    async def _connected(
        self,
        addresses: Sequence[str],
        port: int,
        local_address: str | None,
        socket_options: Iterable[Any] | None,
    ) -> httpcore2.AsyncNetworkStream:
        options = list(socket_options or ())
        for address in addresses[:-1]:
            with contextlib.suppress(httpcore2.ConnectError):
                return await super().connect_tcp(address, port, None, local_address, options)
        return await super().connect_tcp(addresses[-1], port, None, local_address, options)


class Sender:
    """Posts what it is given. One per replica and kind of endpoint.

    Args:
        allowed: networks that are not public, and may be posted to all the same; None: all may be.
        timeout: seconds that an attempt may take in all.
        connections: how many at most.
    """

    def __init__(
        self, allowed: Sequence[Network] | None, *, timeout: float, connections: int
    ) -> None:
        self._timeout = timeout
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=ssl_context(),
            max_connections=connections,
            max_keepalive_connections=min(connections, 20),
            keepalive_expiry=KEPT_FOR,
            network_backend=CheckedBackend(allowed),
        )

    async def post(self, url: httpx2.URL, body: bytes, headers: Sequence[tuple[str, str]]) -> Sent:
        """Post to a URL; what fails is told, and not raised."""
        request = httpcore2.Request(
            "POST",
            httpcore2.URL(
                scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
            ),
            headers=[
                ("host", url.netloc.decode("ascii")),
                *headers,
                ("content-length", str(len(body))),
            ],
            content=body,
            extensions={"timeout": {"connect": self._timeout * CONNECT_PART}},
        )
        status: int | None = None
        problem = None
        pause = 0.0
        try:
            async with asyncio.timeout(self._timeout):
                answer = await self._pool.handle_async_request(request)
                status = answer.status
                if status in ASKS_FOR_A_PAUSE:
                    pause = asked_pause(answer.headers, time.time())
                await _finish(answer)
        except NotAllowed:
            problem = "address not allowed"
        except (TimeoutError, httpcore2.TimeoutException):
            problem = "timeout"
        except (httpcore2.ConnectError, ssl.SSLError) as error:
            problem = "TLS failed" if is_of_tls(error) else "connection failed"
        except (httpcore2.NetworkError, httpcore2.ProtocolError, OSError):
            problem = "connection broken"
        # What happens after the status does not change it.
        return Sent(status, problem if status is None else problem_of(status), pause)

    async def close(self) -> None:
        await self._pool.aclose()


def problem_of(status: int) -> str | None:
    """What is wrong with the status of an answer; None: nothing."""
    if 200 <= status < 300:
        return None
    if status == GONE:
        return "gone"
    return "redirect" if 300 <= status < 400 else "refused"


def asked_pause(headers: Iterable[tuple[bytes, bytes]], now: float) -> float:
    """Seconds that `Retry-After` asks for (RFC 9110, section 10.2.3): a number, or a date, which is
    compared with `now`, in seconds since the epoch. 0.0 where it says neither, or what has passed.
    """
    said = next((value for name, value in headers if name.lower() == b"retry-after"), b"")
    text = said.decode("latin-1").strip()
    if text.isascii() and text.isdigit():
        # No date is further away, and no float too small for it.
        return float(text[:10])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, OverflowError):
        return 0.0


def is_of_tls(error: BaseException) -> bool:
    """Whether a connection failed by a certificate, or by what else TLS asks for."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def ssl_context() -> ssl.SSLContext:
    """Certificates are checked against what the system trusts (`SSL_CERT_FILE`), or certifi has."""
    return httpx2.create_ssl_context()


async def _finish(answer: httpcore2.Response) -> None:
    """Read the rest of an answer if it is short and there, and let go of its connection."""
    read = 0
    with contextlib.suppress(TimeoutError, httpcore2.NetworkError, httpcore2.ProtocolError):
        async with asyncio.timeout(READ_WITHIN):
            async for data in answer.aiter_stream():
                read += len(data)
                if read > READ_AT_MOST:
                    break
    await answer.aclose()
