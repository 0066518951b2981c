"""Events as a log has them, read back for the texts of the items that it leaves open."""

import contextlib
import itertools
from collections.abc import Iterable, Iterator

import orjson

from longrun.assembly.kinds import JSONObject
from longrun.jsontext import loads

_PART = ("type", "output_index", "content_index", "summary_index")
"""What the deltas of one part have in common."""


def events_in(data: bytes) -> Iterator[JSONObject]:
    """The events of a chunk (newline-separated JSON)."""
    return map(_decoded, data.split(b"\n"))


def joined(events: Iterable[JSONObject]) -> Iterator[JSONObject]:
    """These events, consecutive deltas of one part as one: a long text has little else."""
    for part, together in itertools.groupby(events, _part):
        if part is None:
            yield from together
        else:
            deltas = list(together)
            yield {**deltas[0], "delta": "".join(event["delta"] for event in deltas)}


def _part(event: JSONObject) -> tuple[object, ...] | None:
    """What tells a delta's part from others; None for other events."""
    if not isinstance(event.get("delta"), str):
        return None
    return tuple(map(event.get, _PART))


def _decoded(line: bytes) -> JSONObject:
    """An event of a log. Of open items only texts matter, and no number: orjson alone is ten times
    as fast as `loads`."""
    with contextlib.suppress(orjson.JSONDecodeError):
        event: JSONObject = orjson.loads(line)
        return event
    return dict(loads(line))
