"""`/runs`: the responses of a caller with how they were run, for consoles and command lines.

An extension. An entry is much smaller than a response, so that a page can be asked for again every
few seconds: no output, and of the input its first words.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from openai.types.responses import ResponseUsage
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from longrun import ids
from longrun.errors import BadRequest
from longrun.http.access import for_everybody, principal_of
from longrun.http.answers import JSONAnswer
from longrun.http.lists import ByMetadata
from longrun.http.query import Text
from longrun.operations import ListOf, operation
from longrun.protocol import Status
from longrun.store.overview import Overview, Ran, Wanted

_ID: Final = re.compile(r"resp_[0-9a-f]{0,32}")


class RunError(BaseModel):
    """Why a response failed, as its client is told."""

    code: str
    message: str


class Run(BaseModel):
    """A response with how it was run.

    Attributes:
        principal: whose it is.
        input: the beginning of what a user said last; null where it cannot be read.
        created_at: seconds since the epoch, as `finished_at`.
        attempt: the number of its present run, or its last.
        deaths: replicas that died while they executed it, in a row.
        handovers: how often it was handed over, in a row.
        replica_id: who executes it now.
        events: how many events its log has.
        waits: it asked for approvals that nobody has answered.
        reason: of one that is incomplete.
    """

    id: str
    object: Literal["run"]
    principal: str
    model: str
    status: Status
    background: bool
    input: str | None
    created_at: float
    finished_at: float | None
    attempt: int
    deaths: int
    handovers: int
    replica_id: str | None
    events: int
    waits: bool
    previous_response_id: str | None
    conversation_id: str | None
    metadata: dict[str, str]
    user: str | None
    usage: ResponseUsage | None
    error: RunError | None
    reason: str | None


class Runs(ListOf[Run]):
    """A page of runs. `next_after`: what `after` is for the next one; null: there is none. A search
    for a text may find nothing on a page and go on on the next."""

    next_after: str | None


class ListRuns(ByMetadata):
    """The query of the list.

    Attributes:
        status: several with commas.
        q: an id, the beginning of one, or a text that the input contains.
    """

    order: Literal["desc"] = "desc"
    status: Text | None = None
    model: Text | None = None
    q: Text | None = None

    def wanted(self, principal: str) -> Wanted:
        """What the store is asked for.

        Raises:
            BadRequest: names the parameter.
        """
        if self.after is not None and not ids.is_response_id(self.after):
            raise BadRequest("after must be the id of a response.", param="after")
        statuses = [each.strip() for each in self.status.split(",")] if self.status else None
        if statuses and not set(statuses) <= set(get_args(Status)):
            allowed = ", ".join(get_args(Status))
            raise BadRequest(f"status must be of {allowed}; several with commas.", param="status")
        sought = (self.q or "").strip()
        by_id = _ID.fullmatch(sought) is not None
        return Wanted(
            principal=principal,
            limit=self.limit,
            after=self.after,
            statuses=statuses and sorted(set(statuses)),
            agent=self.model,
            ids=(sought.ljust(37, "0"), sought.ljust(37, "f")) if by_id else None,
            text=None if by_id else sought or None,
            metadata=self.metadata,
        )


@dataclass(frozen=True, slots=True)
class OverviewAPI:
    """The endpoints."""

    overview: Overview

    def routes(self) -> list[BaseRoute]:
        """The routes, the same at the root and under `/v1`."""
        return [Route(f"{prefix}/runs", self.list_runs, methods=["GET"]) for prefix in ("", "/v1")]

    @operation(Runs, query=ListRuns)
    async def list_runs(self, request: Request) -> Response:
        """`GET /runs`: a page of the caller's responses with how they were run, newest first."""
        query = ListRuns.parse(request)
        if for_everybody(request):
            found, after = await self.overview.runs_unscoped(query.wanted(""))
        else:
            found, after = await self.overview.runs(query.wanted(principal_of(request)))
        data = [as_run(each) for each in found]
        return JSONAnswer({"object": "list", "data": data, "next_after": after})


_OF_COLUMNS: Final = (
    *("id", "principal", "status", "background", "created_at", "finished_at", "attempt", "deaths"),
    *("handovers", "replica_id", "events", "waits", "conversation_id"),
)


def as_run(ran: Ran) -> dict[str, Any]:
    """An entry as the API shows it."""
    document, columns = ran.document, ran.columns
    return {
        "object": "run",
        **{name: columns[name] for name in _OF_COLUMNS},
        "model": columns["agent"],
        "input": ran.words,
        "previous_response_id": columns["previous_id"],
        "metadata": document.get("metadata") or {},
        "user": document.get("user") or document.get("safety_identifier"),
        "usage": document.get("usage"),
        "error": document.get("error"),
        "reason": _reason_in(document),
    }


def _reason_in(document: Mapping[str, Any]) -> str | None:
    details = document.get("incomplete_details")
    return details.get("reason") if isinstance(details, dict) else None
