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

KNOWN: Final[Mapping[Any, str]] = {
    TCPServer: "3bfa72b319509f2b",
    H11Protocol: "b32a61e0a8ca2127",
    H2Protocol: "7257f8bafccaa2e5",
    HTTPStream: "e0f656feb55ab89c",
    TaskGroup: "1260b105c058872d",
    _handle: "e37cfe3db06eb470",
}
"""Of what is subclassed or called: the beginning of the SHA-256 of its source."""


def fingerprint(thing: Any) -> str:
    """What `KNOWN` has of a thing."""
    return hashlib.sha256(inspect.getsource(thing).encode()).hexdigest()[:16]


def check() -> None:
    """Raises:
    ConfigurationError: Hypercorn is not the one that is known; names what differs.
    """
    differing = [thing.__name__ for thing, known in KNOWN.items() if fingerprint(thing) != known]
    if differing:
        raise ConfigurationError(
            f"Hypercorn {version('hypercorn')} differs from 0.18.0, for which longrun mends it, in "
            f"{', '.join(differing)}. Install hypercorn==0.18.0."
        )
