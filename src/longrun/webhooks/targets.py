"""Where is posted to: which URLs may be given, and which addresses are connected to.

A name says nothing of where it leads, and may lead elsewhere a moment later. So addresses are
looked at when a connection is made, and it goes to the very address that was looked at.
"""

import ipaddress
from collections.abc import Sequence
from typing import Final

import httpx2

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

LONGEST_URL: Final = 2048

_GLOBAL_UNICAST: Final = ipaddress.IPv6Network("2000::/3")
_TRANSLATED: Final = ipaddress.IPv6Network("64:ff9b::/96")
"""What a NAT64 makes of an IPv4 address, which are the last 32 bits (RFC 6052)."""

_NOT_PUBLIC: Final = (
    ipaddress.ip_network("3fff::/20"),
    ipaddress.ip_network("192.88.99.0/24"),
)
"""What not every version of Python knows: documentation (RFC 9637), relays that are gone."""


class UnusableURL(ValueError):
    """A URL that nothing can be posted to; says why, for whoever gave it."""


def networks_of(texts: Sequence[str]) -> tuple[Network, ...]:
    """Networks by their names, as in `10.1.0.0/16`."""
    return tuple(ipaddress.ip_network(each) for each in texts)


def read_url(text: str, allowed: Sequence[Network] = ()) -> httpx2.URL:
    """A URL that something can be posted to. Where it has an address in place of a name, that is
    looked at already.

    Args:
        allowed: networks that are not public, and may be posted to all the same.

    Raises:
        UnusableURL: says why.
    """
    if len(text) > LONGEST_URL:
        raise UnusableURL(f"it has more than {LONGEST_URL} characters")
    try:
        url = httpx2.URL(text)
    except (httpx2.InvalidURL, ValueError):
        raise UnusableURL("it cannot be read as a URL") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise UnusableURL("it is not http:// or https:// and a host")
    if url.userinfo or url.fragment:
        raise UnusableURL("it has a user, a password or a fragment")
    if url.port is not None and not 0 < url.port < 65536:
        raise UnusableURL("it has no port from 1 to 65535")
    address = _address(url.host)
    if (address is not None and not may_connect(address, allowed)) or (
        url.host.rstrip(".").lower() == "localhost" and not allowed
    ):
        raise UnusableURL("its address is not public")
    return url


def may_connect(address: Address, allowed: Sequence[Network] = ()) -> bool:
    """Whether an address may be posted to: a public one, or one of `allowed`. Addresses in which
    others are wrapped, of IPv4 in IPv6, count as those."""
    wrapped = _wrapped(address)
    if wrapped is not None:
        return may_connect(wrapped, allowed)
    if _within(address, allowed):
        return True
    if address.is_multicast or address.is_reserved or address.is_unspecified:
        return False
    if isinstance(address, ipaddress.IPv6Address) and (
        address not in _GLOBAL_UNICAST or address.sixtofour or address.teredo
    ):
        return False
    return address.is_global and not _within(address, _NOT_PUBLIC)


def _within(address: Address, networks: Sequence[Network]) -> bool:
    return any(address in each for each in networks if each.version == address.version)


def _wrapped(address: Address) -> ipaddress.IPv4Address | None:
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _TRANSLATED:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped


def _address(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
