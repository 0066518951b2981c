"""Which trace a response belongs to. Every replica knows it without asking: trace id and root are
made from the response's id, or the trace goes on that the client began."""

import hashlib
import re
from dataclasses import dataclass
from typing import Final

_TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


@dataclass(frozen=True, slots=True)
class Caller:
    """The span of a client that asked for a response, as its `traceparent` says (W3C Trace
    Context)."""

    trace_id: int
    span_id: int
    sampled: bool

    @classmethod
    def parse(cls, header: str | None) -> "Caller | None":
        """What a header says; None if it says nothing that is valid."""
        found = _TRACEPARENT.fullmatch(header or "")
        if found is None or found[1] == "ff" or (found[1] == "00" and found[5]):
            return None
        trace_id, span_id = int(found[2], 16), int(found[3], 16)
        if not trace_id or not span_id:
            return None
        return cls(trace_id, span_id, bool(int(found[4], 16) & 1))


@dataclass(frozen=True, slots=True)
class Identity:
    """The trace of a response, and its root span."""

    trace_id: int
    root_id: int
    caller: Caller | None

    @classmethod
    def of(cls, response_id: str, traceparent: str | None) -> "Identity":
        """Of a response whose request had this `traceparent`."""
        caller = Caller.parse(traceparent)
        digest = hashlib.sha256(response_id.encode()).digest()
        trace_id = caller.trace_id if caller else int.from_bytes(digest[8:24], "big")
        return cls(trace_id, int.from_bytes(digest[:8], "big"), caller)
