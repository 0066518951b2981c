"""Records of the store: what the tables hold, as everybody else passes it on."""

from typing import NamedTuple

from longrun.protocol import Status


class Chunk(NamedTuple):
    """Events first..last of one response: newline-separated JSON, none at the end."""

    first: int
    last: int
    data: bytes


class Step(NamedTuple):
    """One finished model turn or tool call (table `steps`)."""

    scope: str
    kind: str
    key: str
    fingerprint: str
    result: str


class Ending(NamedTuple):
    """What a response becomes with its terminal event."""

    status: Status
    document: str
