"""Queries: checked, with an error that names the parameter."""

import re
from dataclasses import dataclass
from typing import Annotated, Any, Final, Self

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError
from starlette.requests import Request

from longrun.errors import BadRequest

LARGEST_CURSOR: Final = 2**63 - 1
"""What a bigint of Postgres can hold."""

_DIGITS: Final = re.compile("[0-9]{1,19}")


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


@dataclass(frozen=True, slots=True)
class GetResponse:
    """The query of `GET /responses/{id}`. `starting_after` is a cursor: N+1 comes next."""

    stream: bool = False
    starting_after: Annotated[int, Field(ge=0, le=LARGEST_CURSOR)] | None = None

    @classmethod
    def parse(cls, request: Request) -> Self:
        """Check a query. `Last-Event-ID` means the same as `starting_after`, and wins: EventSource
        repeats the old query next to the newer header.

        Raises:
            BadRequest: names the parameter.
        """
        query = request.query_params
        stream = _BOOLEANS.get(query.get("stream", "false").lower())
        if stream is None:
            raise BadRequest("stream must be true or false.", param="stream", code="invalid_type")
        cursor = None
        if last_event_id := request.headers.get("last-event-id", "").strip():
            cursor = _cursor(last_event_id, "Last-Event-ID")
        elif "starting_after" in query:
            cursor = _cursor(query["starting_after"], "starting_after")
        return cls(stream, cursor)


def _cursor(text: str, param: str) -> int:
    """A sequence number: ASCII digits alone, though Python reads `1_0`, ` 1` and `１` too."""
    if not _DIGITS.fullmatch(text) or int(text) > LARGEST_CURSOR:
        raise BadRequest(
            f"{param} must be a sequence number: a non-negative integer in ASCII digits.",
            param=param,
            code="invalid_type",
        )
    return int(text)
