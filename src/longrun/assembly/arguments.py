"""The arguments of a call (or its code, or its input) while they are streamed."""

from collections.abc import Iterator, Sequence

from longrun.assembly.kinds import CALL_EVENTS, CALL_KEYS, OWN_CALLS, Event, JSONObject, missing


class Arguments:
    """What was streamed of a call's arguments, and what still has to be.

    Args:
        item_type: one of `CALL_KEYS`.
        identity: `item_id` and `output_index`, for the events that the model left out.
    """

    def __init__(self, item_type: str, identity: JSONObject) -> None:
        self._type = item_type
        self._key, self._events = CALL_KEYS[item_type]
        self._identity = identity
        self._pieces: list[str] = []
        self._done = False

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
            self._pieces.append(fields["delta"])
            return ((kind, fields),)
        self._done = True
        return [*self._catch_up(fields), (kind, fields)]

    def rest(self, raw: JSONObject) -> Iterator[Event]:
        """What is still to be said of a call that the model finished like this."""
        if self._done or not (self._type in OWN_CALLS or self._pieces):
            return
        self._done = True
        yield from self._catch_up(raw)
        done = {**self._identity, self._key: raw.get(self._key) or ""}
        if self._type == "function_call":
            done["name"] = raw.get("name") or ""
        yield f"{self._events}.done", done

    def close(self) -> Sequence[Event]:
        """A call that was never finished has no end of its arguments."""
        return ()

    def so_far(self, raw: JSONObject) -> JSONObject:
        """What was streamed, by the key of the item."""
        return {self._key: "".join(self._pieces)}

    def begins(self, raw: JSONObject) -> bool:
        """Calls are told apart by their call ids."""
        return True

    def _catch_up(self, fields: JSONObject) -> Iterator[Event]:
        rest = missing(fields.get(self._key) or "", "".join(self._pieces))
        if rest:
            self._pieces.append(rest)
            yield f"{self._events}.delta", {**self._identity, "delta": rest}
