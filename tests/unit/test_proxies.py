"""Proxies in front: which of them are believed, and what of what they say."""

from typing import Any

import pytest
from starlette.requests import HTTPConnection

from longrun.access.authentication import Proxy
from longrun.http.proxies import ProxyHeaders

TRUSTED = ("127.0.0.1", "10.0.0.0/8", "::1")


async def seen(peer: str | None, **headers: str) -> dict[str, Any]:
    """The scope of a request as the application gets it."""
    found: dict[str, Any] = {}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        found.update(scope)

    names = [(name.replace("_", "-").encode(), text.encode()) for name, text in headers.items()]
    scope = {"type": "http", "scheme": "http", "headers": names, "path": "/"}
    client = None if peer is None else (peer, 1234)
    await ProxyHeaders(app, TRUSTED)({**scope, "client": client}, None, None)  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("127.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("::ffff:127.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("::1", "[2001:db8::9]:4711", "2001:db8::9"),
        ("127.0.0.1", "203.0.113.9:4711", "203.0.113.9"),
        # What a client has written itself stands first, and is not believed.
        ("127.0.0.1", "127.0.0.1, 203.0.113.9", "203.0.113.9"),
        ("127.0.0.1", "1.1.1.1, 203.0.113.9, 10.1.2.3", "203.0.113.9"),
        # All of them are proxies: a client of their own network.
        ("127.0.0.1", "10.0.0.1, 10.1.2.3", "10.0.0.1"),
        ("127.0.0.1", "127.0.0.1, unknown", "unknown"),
        ("127.0.0.1", " , ", "127.0.0.1"),
        ("203.0.113.1", "127.0.0.1", "203.0.113.1"),
    ],
)
async def test_the_client_is_the_last_that_is_no_proxy(
    peer: str, forwarded: str, client: str
) -> None:
    found = await seen(peer, x_forwarded_for=forwarded)
    assert found["client"][0] == client


@pytest.mark.parametrize(
    ("peer", "said", "scheme"),
    [
        ("127.0.0.1", "https", "https"),
        ("127.0.0.1", "http, HTTPS", "https"),
        ("127.0.0.1", "gopher", "http"),
        ("203.0.113.1", "https", "http"),
        (None, "https", "http"),
    ],
)
async def test_the_scheme(peer: str | None, said: str, scheme: str) -> None:
    assert (await seen(peer, x_forwarded_proto=said))["scheme"] == scheme


async def test_a_trusted_header_is_believed_by_the_peer_and_not_by_the_client() -> None:
    header = {"x_user": "alice", "x_forwarded_for": "203.0.113.9"}
    found = HTTPConnection(await seen("10.0.0.1", **header))
    caller = Proxy("x-user", ("10.0.0.1",)).caller(found)
    assert caller is not None
    assert caller.principal == "proxy:alice"
    forged = HTTPConnection(await seen("127.0.0.1", x_user="alice", x_forwarded_for="10.0.0.1"))
    assert Proxy("x-user", ("10.0.0.1",)).caller(forged) is None
