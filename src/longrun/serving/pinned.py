"""The Hypercorn that this room is written for. Its protocols are mended here by subclasses, which
stand on how it is made inside; another one is refused at start."""

import hashlib
import inspect
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, Final

from hypercorn.asyncio.task_group import TaskGroup, _handle
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.protocol.http_stream import HTTPStream

from longrun.errors import ConfigurationError

VERSION: Final = "0.18.0"

KNOWN: Final[Mapping[Any, str]] = {
    TCPServer: "3bfa72b319509f2b",
    H11Protocol: "b32a61e0a8ca2127",
    H2Protocol: "7257f8bafccaa2e5",
    HTTPStream: "e0f656feb55ab89c",
    TaskGroup: "1260b105c058872d",
    _handle: "e37cfe3db06eb470",
}
"""Of what is subclassed or called: the beginning of the SHA-256 of its source."""


def fingerprint(thing: Any) -> str | None:
    """What `KNOWN` has of a thing; None where it is installed without its source."""
    try:
        source = inspect.getsource(thing)
    except OSError:
        return None
    return hashlib.sha256(source.encode()).hexdigest()[:16]


def check() -> None:
    """Check that Hypercorn is the one that is known; without sources, by its version.

    Raises:
        ConfigurationError: names what differs.
    """
    installed = version("hypercorn")
    found = {
        thing: fingerprint(thing) or (installed == VERSION and KNOWN[thing]) for thing in KNOWN
    }
    differing = [thing.__name__ for thing, known in KNOWN.items() if found[thing] != known]
    if differing:
        raise ConfigurationError(
            f"Hypercorn {installed} differs from {VERSION}, for which longrun mends it, in "
            f"{', '.join(differing)}. Install hypercorn=={VERSION}."
        )
