"""Who a request comes from, and how it was sent, as a trusted proxy in front says it."""

import ipaddress
from collections.abc import Iterable, Sequence
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from longrun.access.authentication import PEER

_SCHEMES: Final = frozenset({"http", "https"})


class ProxyHeaders:
    """Puts the client that `X-Forwarded-For` names, and the scheme of `X-Forwarded-Proto`, in the
    place of the proxy's own. What the peer really is stays beside it (PEER).

    Each proxy adds the address that it was called from at the end. So the client is the last one
    that is no trusted proxy: what stands before it, anybody can have written.

    Args:
        trusted: addresses and networks of proxies; of others the headers say nothing.
    """

    def __init__(self, app: ASGIApp, trusted: Sequence[str]) -> None:
        self._app = app
        self._networks = [ipaddress.ip_network(each) for each in trusted]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = scope.get("client")
        kinds = ("http", "websocket")
        if scope["type"] in kinds and client is not None and self._trusts(client[0]):
            headers = Headers(scope=scope)
            scope = {**scope, PEER: client}
            if found := self._client(_listed(headers.getlist("x-forwarded-for"))):
                scope["client"] = (found, 0)
            schemes = _listed(headers.getlist("x-forwarded-proto"))
            if schemes and schemes[-1].lower() in _SCHEMES:
                scheme = schemes[-1].lower()
                is_socket = scope["type"] == "websocket"
                scope["scheme"] = scheme.replace("http", "ws") if is_socket else scheme
        await self._app(scope, receive, send)

    def _client(self, addresses: Sequence[str]) -> str | None:
        for each in reversed(addresses):
            if not self._trusts(each):
                return each
        return addresses[0] if addresses else None

    def _trusts(self, host: str) -> bool:
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        return any((mapped or address) in network for network in self._networks)


def _listed(values: Iterable[str]) -> list[str]:
    """The elements of a header that is a list, which may come in several lines; without ports."""
    elements = (each.strip() for value in values for each in value.split(","))
    return [_without_port(each) for each in elements if each]


def _without_port(text: str) -> str:
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0] if text.count(":") == 1 else text
