"""Tokens of an OpenID Connect provider: JWTs, checked with the keys that it publishes.

The provider's keys are fetched when the first token comes, again when a token names a key that is
not among them (they rotate), and now and then. While the provider is away, the keys that are known
go on being used.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

import httpx2 as httpx

from longrun.access.callers import SCOPES, Caller
from longrun.errors import ConfigurationError, Unauthorized, Unavailable

log = logging.getLogger("longrun.access")

REFRESH: Final = 3600.0
"""Seconds after which the provider's keys are fetched again; one that it has withdrawn is valid
no longer than that."""

SOONEST: Final = 5.0
"""Seconds between two fetches, however many tokens name keys that nobody knows."""

TIMEOUT: Final = 5.0

LEEWAY: Final = 30.0
"""Seconds by which the provider's clock and ours may differ."""

LONGEST_TOKEN: Final = 16 * 1024

_SYMMETRIC: Final = ("HS", "none")


class OIDCTokens:
    """Who is named by a token of one provider.

    Args:
        issuer: the provider's URL, exactly as its tokens have it.
        audience: whom tokens have to be made for.
        algorithms: those of signatures, all asymmetric.
        principal_claim: the claim that is the principal.
        scope_claim: the claim with scopes, as a list or separated by spaces; without those of ours
            a token may read and write.

    Raises:
        ConfigurationError: the `oidc` extra is not installed, or an algorithm is not allowed.
    """

    def __init__(
        self,
        issuer: str,
        audience: str,
        *,
        algorithms: Sequence[str] = ("RS256", "ES256"),
        principal_claim: str = "sub",
        scope_claim: str = "scope",
    ) -> None:
        try:
            import jwt
        except ImportError:
            raise ConfigurationError(
                "LONGRUN_OIDC_ISSUER needs PyJWT: pip install 'longrun[oidc]'"
            ) from None
        if bad := [each for each in algorithms if each.startswith(_SYMMETRIC)]:
            raise ConfigurationError(
                f"LONGRUN_OIDC_ALGORITHMS={','.join(bad)}: only signatures with a private key, "
                "like RS256, ES256 or EdDSA, are allowed"
            )
        self._jwt = jwt
        self._issuer = issuer
        self._audience = audience
        self._algorithms = list(algorithms)
        self._principal_claim = principal_claim
        self._scope_claim = scope_claim
        self._keys: dict[str | None, Any] = {}
        self._fetched = float("-inf")
        self._tried = float("-inf")
        self._fetching = asyncio.Lock()

    async def caller(self, token: str) -> Caller:
        """Who is named by a token.

        Raises:
            Unauthorized: it is not one of this provider for us, or it is too old.
            Unavailable: the provider's keys cannot be fetched.
        """
        if len(token) > LONGEST_TOKEN:
            raise Unauthorized("The token is too long.")
        try:
            header = self._jwt.get_unverified_header(token)
        except self._jwt.PyJWTError:
            raise Unauthorized("Incorrect API key or token provided.") from None
        key = await self._key(header.get("kid"))
        try:
            claims = self._jwt.decode(
                token,
                key,
                algorithms=self._algorithms,
                audience=self._audience,
                issuer=self._issuer,
                leeway=LEEWAY,
                options={"require": ["exp", "iss", "aud", self._principal_claim]},
            )
        except self._jwt.ExpiredSignatureError:
            raise Unauthorized("The token has expired.", code="token_expired") from None
        except self._jwt.PyJWTError:
            raise Unauthorized("Incorrect API key or token provided.") from None
        return self._named(claims)

    def _named(self, claims: Mapping[str, Any]) -> Caller:
        name = claims.get(self._principal_claim)
        if not isinstance(name, str) or not name:
            raise Unauthorized(f"The token's claim {self._principal_claim!r} names nobody.")
        said = claims.get(self._scope_claim) or ()
        listed = said.split() if isinstance(said, str) else said if isinstance(said, list) else ()
        scopes = SCOPES.intersection(each for each in listed if isinstance(each, str))
        try:
            return Caller(f"oidc:{name}", scopes or frozenset({"read", "write"}))
        except ValueError as error:
            raise Unauthorized(f"The token's claim {self._principal_claim!r}: {error}.") from None

    async def _key(self, key_id: str | None) -> Any:
        loop = asyncio.get_running_loop()
        if key_id not in self._keys or loop.time() - self._fetched > REFRESH:
            async with self._fetching:
                now = loop.time()
                stale = key_id not in self._keys or now - self._fetched > REFRESH
                if stale and now - self._tried > SOONEST:
                    self._tried = now
                    await self._fetch()
        if key_id not in self._keys:
            if self._fetched == float("-inf"):
                raise Unavailable("The identity provider does not answer.", retry_after=5)
            raise Unauthorized("Incorrect API key or token provided.")
        return self._keys[key_id]

    async def _fetch(self) -> None:
        where = self._issuer.rstrip("/") + "/.well-known/openid-configuration"
        try:
            async with httpx.AsyncClient(timeout=TIMEOUT) as client:
                found = (await client.get(where)).raise_for_status().json()
                if found.get("issuer") != self._issuer:
                    raise ValueError(f"it calls itself {found.get('issuer')!r}")
                published = (await client.get(found["jwks_uri"])).raise_for_status().json()
            self._keys = self._of(published["keys"])
            self._fetched = asyncio.get_running_loop().time()
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
            log.warning("the keys of %s cannot be fetched: %r", self._issuer, error)

    def _of(self, published: Sequence[Mapping[str, Any]]) -> dict[str | None, Any]:
        """The signing keys by id. One alone may come without an id, and be meant by none."""
        found: dict[str | None, Any] = {}
        for each in published:
            if each.get("use", "sig") != "sig":
                continue
            try:
                found[each.get("kid")] = self._jwt.PyJWK(dict(each))
            except self._jwt.PyJWTError as error:
                log.warning("a key of %s cannot be used: %r", self._issuer, error)
        if len(found) == 1:
            found.setdefault(None, next(iter(found.values())))
        return found
