"""Who is calling: the application's own answer, a proxy's header, a key, or a token; in this order.

Where nothing of the kind is configured, whoever is on this machine may do anything, and nobody
else may do a thing.
"""

import inspect
import ipaddress
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from starlette.requests import HTTPConnection

from longrun.access.callers import ANYONE, Caller
from longrun.access.known_keys import KnownKeys
from longrun.access.loopback import check_page, is_loopback
from longrun.access.oidc import OIDCTokens
from longrun.errors import Unauthorized
from longrun.settings import Settings

Authenticate = Callable[[HTTPConnection], Caller | Awaitable[Caller | None] | None]
"""An application's own: the caller of a request, or None for nobody it knows."""

PEER: Final = "longrun.peer"
"""Where a request's ASGI scope has who is at the other end of the connection, if the client of the
scope is another, whom that one names."""

_LOOKS_LIKE_A_KEY: Final = "lr_"

_HOW: Final = "Send it as `Authorization: Bearer KEY`, as OpenAI's SDKs do with their api_key."


class Proxy:
    """A proxy in front that has found out who is calling, and says so in a header.

    Args:
        header: its name.
        addresses: networks of such proxies; from elsewhere the header says nothing.
    """

    def __init__(self, header: str, addresses: Sequence[str]) -> None:
        self._header = header
        self._networks = [ipaddress.ip_network(each) for each in addresses]

    def caller(self, connection: HTTPConnection) -> Caller | None:
        said = connection.headers.getlist(self._header)
        peer = connection.scope.get(PEER) or connection.client
        if not said or peer is None or not self._trusts(peer[0]):
            return None
        if len(said) > 1 or not said[0].strip():
            raise Unauthorized(f"The header {self._header} must name one caller.")
        try:
            return Caller(f"proxy:{said[0].strip()}")
        except ValueError as error:
            raise Unauthorized(f"The header {self._header}: {error}.") from None

    def _trusts(self, host: str) -> bool:
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        return any((mapped or address) in network for network in self._networks)


def configured(
    settings: Settings, keys: KnownKeys, own: Authenticate | None = None
) -> "Authentication":
    """What the settings say about who may call.

    Raises:
        ConfigurationError: tokens are to be accepted, and what that needs is not installed.
    """
    proxy, tokens = None, None
    if settings.trusted_header is not None:
        proxy = Proxy(settings.trusted_header, settings.trusted_proxies)
    if settings.oidc_issuer is not None and settings.oidc_audience is not None:
        tokens = OIDCTokens(
            settings.oidc_issuer,
            settings.oidc_audience,
            algorithms=settings.oidc_algorithms,
            principal_claim=settings.oidc_principal_claim,
            scope_claim=settings.oidc_scope_claim,
        )
    return Authentication(
        keys,
        own=own,
        proxy=proxy,
        tokens=tokens,
        off=settings.no_auth,
        pages=settings.cors_origins,
    )


class Authentication:
    """Finds out who sent a request.

    Args:
        off: ask nobody (`--no-auth`): something in front does.
        pages: origins whose pages may call, on a server that asks nobody.
    """

    def __init__(
        self,
        keys: KnownKeys,
        *,
        own: Authenticate | None = None,
        proxy: Proxy | None = None,
        tokens: OIDCTokens | None = None,
        off: bool = False,
        pages: Sequence[str] = (),
    ) -> None:
        self._keys = keys
        self._own = own
        self._proxy = proxy
        self._tokens = tokens
        self._off = off
        self._pages = pages

    async def is_required(self) -> bool:
        """Whether callers have to say who they are.

        Raises:
            Unavailable: Postgres is away, and whether there are keys is not known.
        """
        if self._off:
            return False
        if self._own or self._proxy or self._tokens:
            return True
        return await self._keys.exist()

    async def refusal_of(self, host: str) -> str | None:
        """Why a server may not listen on an address, if others reach it and nobody would be asked
        who they are; None where it may."""
        if self._off or is_loopback(host) or await self.is_required():
            return None
        return (
            f"LONGRUN_HOST={host}: anyone who can reach this address could read and cancel every "
            "run, since there are no keys. Create one with `longrun keys create NAME`, or listen "
            "on 127.0.0.1, or use --no-auth if something in front authenticates callers."
        )

    async def caller(self, connection: HTTPConnection) -> Caller:
        """Who sent a request.

        Raises:
            Unauthorized: nobody who may call.
            Forbidden: a page of somewhere else, on a server that asks nobody.
            Unavailable: this cannot be found out just now.
        """
        if self._off:
            return ANYONE
        if not await self.is_required():
            return self._of_this_machine(connection)
        if self._own is not None and (found := await self._of_application(connection)):
            return found
        if self._proxy is not None and (found := self._proxy.caller(connection)):
            return found
        return await self._of_bearer(connection)

    def _of_this_machine(self, connection: HTTPConnection) -> Caller:
        if connection.client is not None and not is_loopback(connection.client.host):
            raise Unauthorized(
                "This server has no keys yet, so it serves only callers on its own machine. "
                "Its operator can create one with `longrun keys create NAME`."
            )
        check_page(connection.headers, self._pages)
        return ANYONE

    async def _of_application(self, connection: HTTPConnection) -> Caller | None:
        assert self._own is not None
        found = self._own(connection)
        caller = await found if inspect.isawaitable(found) else found
        if caller is not None and not isinstance(caller, Caller):
            raise TypeError(
                f"authenticate returned a {type(caller).__name__}, not a Caller or None"
            )
        return caller

    async def _of_bearer(self, connection: HTTPConnection) -> Caller:
        said = connection.headers.getlist("authorization")
        if len(said) > 1:
            # Which of them a proxy in front has looked at is not known.
            raise Unauthorized(f"The Authorization header must be sent once. {_HOW}")
        kind, _, text = "".join(said).strip().partition(" ")
        text = text.strip()
        if not kind:
            raise Unauthorized(f"You did not provide an API key. {_HOW}", code="no_api_key")
        if kind.lower() != "bearer" or not text:
            raise Unauthorized(f"The Authorization header has no bearer token. {_HOW}")
        if self._tokens is not None and not text.startswith(_LOOKS_LIKE_A_KEY):
            return await self._tokens.caller(text)
        caller = await self._keys.caller(text)
        if caller is None:
            # Never which of the reasons it is: unknown, revoked and expired keys look the same.
            raise Unauthorized("Incorrect API key provided.")
        return caller
