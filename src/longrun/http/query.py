"""The query of `GET /responses/{id}`: checked, with an error that names the parameter."""

from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request

from longrun.errors import BadRequest
from longrun.http.problems import bad_request

LARGEST_CURSOR: Final = 2**63 - 1
"""What a bigint of Postgres can hold."""


class GetResponse(BaseModel):
    """The query of `GET /responses/{id}`. `starting_after` is a cursor: N+1 comes next."""

    model_config = ConfigDict(extra="ignore")

    stream: bool = False
    starting_after: Annotated[int, Field(ge=0, le=LARGEST_CURSOR)] | None = None

    @classmethod
    def parse(cls, request: Request) -> "GetResponse":
        """Check a query. `Last-Event-ID` means the same as `starting_after`, and wins: EventSource
        repeats the old query next to the newer header.

        Raises:
            BadRequest: names the parameter.
        """
        query: dict[str, Any] = dict(request.query_params)
        last_event_id = request.headers.get("last-event-id", "").strip()
        if last_event_id:
            query["starting_after"] = last_event_id
        try:
            return cls.model_validate(query)
        except ValidationError as error:
            if last_event_id and any("starting_after" in e["loc"] for e in error.errors()):
                raise BadRequest(
                    "Last-Event-ID must be a sequence number.", param="Last-Event-ID"
                ) from None
            raise bad_request(error, query) from None
