"""Events as a log has them, read back for the texts of the items that it leaves open."""

import contextlib
import itertools
import re
from collections.abc import Iterator
from typing import Final, NamedTuple, Self

import orjson

from longrun.assembly.kinds import JSONObject
from longrun.jsontext import loads

_PART: Final = ("type", "output_index", "content_index", "summary_index")
"""What the deltas of one part have in common."""


def events_in(data: bytes) -> Iterator[JSONObject]:
    """The events of a chunk (newline-separated JSON); consecutive deltas of one part as one, since
    a long text has little else."""
    for part, together in itertools.groupby(_events(data), _part):
        if part is None:
            yield from together
        else:
            deltas = list(together)
            yield {**deltas[0], "delta": "".join(event["delta"] for event in deltas)}


def _events(data: bytes) -> Iterator[JSONObject]:
    """The events, but some consecutive deltas of one part as one."""
    alike: _Alike | None = None
    texts: list[bytes] = []
    for line in data.split(b"\n"):
        if alike is not None:
            text = alike.text_of(line)
            if text is not None:
                texts.append(text)
                continue
            yield alike.joined(texts)
        event = _decoded(line)
        texts, alike = [], _Alike.after(line, event)
        if alike is None:
            yield event
    if alike is not None:
        yield alike.joined(texts)


class _Alike(NamedTuple):
    """A delta, and what its line has around its number and its text: in those that follow it in the
    same part nothing else differs, mostly. To find that out takes a fifth of decoding them."""

    event: JSONObject
    head: bytes
    middle: bytes
    tail: bytes

    @classmethod
    def after(cls, line: bytes, event: JSONObject) -> Self | None:
        if not isinstance(event.get("delta"), str):
            return None
        found = _DELTA.fullmatch(line)
        return None if found is None else cls(event, *found.groups())

    def text_of(self, line: bytes) -> bytes | None:
        """The text of a line that is alike, as it stands in JSON; None: it may not be."""
        if not (line.startswith(self.head) and line.endswith(self.tail)):
            return None
        number, found, text = line[len(self.head) : -len(self.tail)].partition(self.middle)
        return text if found and number.isdigit() and b'"' not in text else None

    def joined(self, texts: list[bytes]) -> JSONObject:
        """The delta with the texts of those that followed."""
        if not texts:
            return self.event
        more = _decoded(b'{"delta":"%b"}' % b"".join(texts))["delta"]
        return {**self.event, "delta": self.event["delta"] + more}


_DELTA: Final = re.compile(
    rb'(\{"type":"[a-z_.]+","sequence_number":)[0-9]+(,[^"\\]*(?:"[a-z_]+":(?!")[^"\\]*)*"delta":")'
    rb'[^"\\]*(",.*\})'
)
"""A delta whose text has no quotation mark or backslash: what stands before its number, between
that and its text, and after it."""


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
