"""`/responses/{id}/failure`: why a response failed, for those who may see it."""

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from longrun import ids
from longrun.errors import Forbidden
from longrun.http.access import caller_of, reader_of
from longrun.http.answers import JSONAnswer
from longrun.http.problems import response_not_found
from longrun.jsontext import loads
from longrun.operations import operation
from longrun.store.responses import Responses


class Reason(BaseModel):
    """An exception that ended a run, as `longrun show` has it."""

    exception: str
    message: str
    step: str | None
    attempt: int
    traceback: str


class Failure(BaseModel):
    """Why a response failed. `reason` is null of one that did not, or not for an exception."""

    object: Literal["response.failure"]
    id: str
    status: str
    attempts: int
    deaths: int
    reason: Reason | None


@dataclass(frozen=True, slots=True)
class Failures:
    """The endpoint.

    Args:
        shown: everybody may see why their own responses failed (LONGRUN_SHOW_ERRORS); else only
            admins may.
    """

    responses: Responses
    shown: bool

    def routes(self) -> list[BaseRoute]:
        """The route, the same at the root and under `/v1`."""
        path = "/responses/{id}/failure"
        return [Route(prefix + path, self.get, methods=["GET"]) for prefix in ("", "/v1")]

    @operation(Failure)
    async def get(self, request: Request) -> Response:
        """`GET /responses/{id}/failure`: why a response failed, for its operator."""
        if not self.shown and not caller_of(request).is_admin:
            raise Forbidden(
                "Only admins can see why a response failed, unless LONGRUN_SHOW_ERRORS is set."
            )
        response_id = request.path_params["id"]
        found = None
        if ids.is_response_id(response_id):
            reader = await reader_of(request, response_id, self.responses.owner_unscoped)
            found = await self.responses.failure(response_id, reader)
        if found is None:
            raise response_not_found(response_id)
        reason = None if found.reason is None else loads(found.reason)
        return JSONAnswer(
            {
                "object": "response.failure",
                "id": response_id,
                "status": found.status,
                "attempts": found.attempts,
                "deaths": found.deaths,
                "reason": reason,
            }
        )
