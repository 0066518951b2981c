"""Queries: checked, with an error that names the parameter."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError
from starlette.requests import Request

from longrun.errors import BadRequest

LARGEST_CURSOR: Final = 2**63 - 1
"""What a bigint of Postgres can hold."""

_DIGITS: Final = re.compile("[0-9]{1,19}")
_LAST: Final = re.compile("-([1-9][0-9]{0,18})")


def _of_digits(value: Any) -> Any:
    if isinstance(value, str) and not _DIGITS.fullmatch(value):
        raise PydanticCustomError("int_parsing", "Input should be an integer in ASCII digits")
    return value


def _without_nul(value: str) -> str:
    if "\0" in value:
        raise PydanticCustomError("string_nul", "Input should not contain NUL")
    return value


OF_DIGITS: Final = BeforeValidator(_of_digits)
"""An integer, but not all that Python reads as one: `1_0`, `5.0`, ` 1`, `+1`, `１`."""

Text = Annotated[str, AfterValidator(_without_nul)]
"""Text that Postgres can compare; it has no NUL in any text."""

_BOOLEANS: Final = {
    **dict.fromkeys(("true", "1", "t", "yes", "y", "on"), True),
    **dict.fromkeys(("false", "0", "f", "no", "n", "off"), False),
}


CatchUp = Literal["snapshot"]
"""How a stream begins that is to have the present and not the history."""


@dataclass(frozen=True, slots=True)
class GetResponse:
    """The query of `GET /responses/{id}`. `starting_after` is a cursor: N+1 comes next; -K asks for
    the last K events. With `catch_up=snapshot` the stream begins with one event that has the items
    so far."""

    stream: bool = False
    starting_after: Annotated[int, Field(ge=-LARGEST_CURSOR, le=LARGEST_CURSOR)] | None = None
    catch_up: CatchUp | None = None

    @property
    def cursor(self) -> int:
        """The last event that the client has; -1: none, as far as it says."""
        return -1 if self.starting_after is None else max(self.starting_after, -1)

    @property
    def last(self) -> int:
        """How many of the last events are asked for; 0: it is not these."""
        return max(0, -(self.starting_after or 0))

    @property
    def skips(self) -> bool:
        """Whether not everything after the cursor is wanted."""
        return self.last > 0 or self.catch_up is not None

    @classmethod
    def parse(cls, request: Request) -> Self:
        """Check a query. `Last-Event-ID` is a cursor too, and wins: EventSource repeats the old
        query next to the newer header.

        Raises:
            BadRequest: names the parameter.
        """
        query = request.query_params
        stream = _BOOLEANS.get(query.get("stream", "false").lower())
        if stream is None:
            raise BadRequest("stream must be true or false.", param="stream", code="invalid_type")
        if last_event_id := request.headers.get("last-event-id", "").strip():
            return cls(stream, _cursor(last_event_id, "Last-Event-ID"))
        cursor = _start(query["starting_after"]) if "starting_after" in query else None
        return cls(stream, cursor, _catch_up(query, cursor))


def _catch_up(query: Mapping[str, str], cursor: int | None) -> CatchUp | None:
    given = query.get("catch_up")
    if given not in (None, "snapshot"):
        raise BadRequest("catch_up must be snapshot.", param="catch_up", code="invalid_value")
    if given is None:
        return None
    if cursor is not None:
        raise BadRequest("catch_up and starting_after cannot be used together.", param="catch_up")
    return "snapshot"


def _start(text: str) -> int:
    """Where a stream is to begin: after a sequence number, or, from -1 on, at the last events."""
    last = _LAST.fullmatch(text)
    if last is None:
        return _cursor(text, "starting_after")
    return -min(int(last[1]), LARGEST_CURSOR)


def _cursor(text: str, param: str) -> int:
    """A sequence number: ASCII digits alone, though Python reads `1_0`, ` 1` and `１` too."""
    if not _DIGITS.fullmatch(text) or int(text) > LARGEST_CURSOR:
        last = ", or -K for the last K events" if param == "starting_after" else ""
        raise BadRequest(
            f"{param} must be a sequence number: a non-negative integer in ASCII digits{last}.",
            param=param,
            code="invalid_type",
        )
    return int(text)
