"""A server without keys is for the machine that it is on: neither for others nor for web pages.

A page of anywhere can have its visitor's browser send requests to 127.0.0.1. It cannot choose
their `Origin`, and where it has its own name lead to 127.0.0.1 (DNS rebinding) not their `Host`.
"""

import functools
import ipaddress
from collections.abc import Sequence
from urllib.parse import SplitResult, urlsplit

from starlette.datastructures import Headers

from longrun.errors import Forbidden


@functools.lru_cache(maxsize=32)
def is_loopback(host: str) -> bool:
    """Whether an address or a name is this machine's, and reaches it from nowhere else."""
    name = host.strip("[]").lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def check_page(headers: Headers, pages: Sequence[str]) -> None:
    """Check that no web page of elsewhere has a browser send this.

    Args:
        pages: origins that may (LONGRUN_CORS_ORIGINS); `*` for all.

    Raises:
        Forbidden: it was sent under another name than this machine's, or by another page.
    """
    host = headers.get("host", "")
    named = _split(f"//{host}")
    if host and not is_loopback(named.hostname or "" if named else ""):
        raise Forbidden(
            f"This server has no keys, so it does not answer to the name {host[:200]!r}: only to "
            "localhost and 127.0.0.1. Behind a proxy it needs keys, or --no-auth."
        )
    origin = headers.get("origin")
    if origin is None or "*" in pages or origin in pages:
        return
    page = _split(origin)
    if page is None or page.netloc.lower() != host.lower() or not host:
        raise Forbidden(
            f"Pages of {origin[:200]!r} may not call this server. Its operator can allow them "
            "with LONGRUN_CORS_ORIGINS."
        )


def _split(url: str) -> SplitResult | None:
    """The parts of a URL; None: it is none."""
    try:
        return urlsplit(url)
    except ValueError:
        return None
