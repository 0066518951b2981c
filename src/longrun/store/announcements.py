"""Announcements as messages: how they are written and read, and the channels that carry them."""

from collections.abc import Iterable, Iterator
from typing import Final

from longrun.store.interests import MESSAGE_BYTES, joined_within

FLOWING: Final = "~"
"""First in a message about logs that flow. Versions before pass it over: they take what comes for
an announcement."""

LONGEST_NUMBER: Final = 19
"""Digits of a number that Postgres can have as a bigint."""


def events_channel(schema: str) -> str:
    """Carries announcements."""
    return f"{schema}_events"


def own_channel(schema: str, replica_id: str) -> str:
    """Carries announcements to one replica. A name has at most 63 bytes, a schema's 48."""
    return f"{schema}_{replica_id[-14:]}"


def control_channel(schema: str) -> str:
    """Carries what replicas tell each other about runs (see `Announcer.tell`)."""
    return f"{schema}_control"


def encode(reached: Iterable[tuple[str, int]], *, flowing: bool = False) -> Iterator[str]:
    """`id:last,id:last,…`, split into messages that fit."""
    parts = (f"{response_id}:{last}" for response_id, last in reached)
    if not flowing:
        return joined_within(parts, MESSAGE_BYTES)
    head = f"{FLOWING},"
    return (head + message for message in joined_within(parts, MESSAGE_BYTES - len(head)))


def decode(message: str) -> Iterator[tuple[str, int]]:
    """The announcements of a message; what does not parse is skipped, since it is only a hint."""
    for part in message.split(","):
        response_id, _, last = part.rpartition(":")
        if response_id and last.isascii() and last.isdigit() and len(last) <= LONGEST_NUMBER:
            yield response_id, int(last)


def is_flowing(message: str) -> bool:
    """Whether the logs of this message flow."""
    return message.startswith(f"{FLOWING},")
