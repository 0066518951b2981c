"""The arguments of a call (or its code, or its input) while they are streamed."""

from collections.abc import Iterator, Sequence

from longrun.assembly.gathered import Gathered
from longrun.assembly.kinds import CALL_EVENTS, CALL_KEYS, Event, JSONObject, missing


class Arguments:
    """What was streamed of a call's arguments, and what still has to be.

    Args:
        item_type: one of `CALL_KEYS`: the type that the call is shown as.
        identity: `item_id` and `output_index`, for the events that the model left out.
        always: they are streamed, even if the model does not.
    """

    def __init__(self, item_type: str, identity: JSONObject, *, always: bool) -> None:
        self._type = item_type
        self._key, events = CALL_KEYS[item_type]
        self._delta, self._end = f"{events}.delta", f"{events}.done"
        self._identity = identity
        self._always = always
        self._gathered = Gathered()
        self._done = False
        self._whole: str | None = None

    def event(self, kind: str, fields: JSONObject) -> Sequence[Event]:
        """One event of the item; returns the events to emit for it, in order."""
        what = CALL_EVENTS.get(kind)
        if what is None:
            return ((kind, fields),)
        if self._done:
            return ()
        if what == "delta":
            if fields.get("delta") is None:
                return ()
            fields["delta"] = self._gathered.take(fields["delta"])
            # As one of the type that the call is shown as.
            fields["type"] = self._delta
            return ((self._delta, fields),)
        self._done = True
        self._whole = fields.get(self._key)
        fields["type"] = self._end
        if self._type == "mcp_call":
            fields.pop("name", None)
        events = [*self._catch_up(fields), (self._end, fields)]
        self._settle()
        return events

    def gathered(self, kind: str, fields: JSONObject) -> Gathered | None:
        """Where deltas of this kind are gathered; None: they are not, not now, or not any
        more."""
        if CALL_EVENTS.get(kind) != "delta" or self._done or self._gathered.half:
            return None
        return self._gathered

    def rest(self, raw: JSONObject) -> Iterator[Event]:
        """What is still to be said of a call that the model finished like this."""
        if self._done or not (self._always or self._gathered):
            return
        self._done = True
        yield from self._catch_up(raw)
        self._whole = raw.get(self._key) or ""
        self._settle()
        done = {**self._identity, self._key: self._whole}
        if self._type == "function_call":
            done["name"] = raw.get("name") or ""
        yield self._end, done

    def close(self) -> Sequence[Event]:
        """A call that was never finished has no end of its arguments."""
        return ()

    def so_far(self, raw: JSONObject) -> JSONObject:
        """What was streamed, or said to be the whole of it, by the key of the item."""
        return {self._key: self._gathered.getvalue() if self._whole is None else self._whole}

    def begins(self, raw: JSONObject) -> bool:
        """Calls are told apart by their call ids."""
        return True

    def _settle(self) -> None:
        """Nothing more is gathered, and the whole of it need not be held twice."""
        if self._whole is not None:
            self._gathered = Gathered()

    def _catch_up(self, fields: JSONObject) -> Iterator[Event]:
        rest = missing(fields.get(self._key) or "", self._gathered.getvalue())
        if rest:
            self._gathered.write(rest)
            yield self._delta, {**self._identity, "delta": rest}
