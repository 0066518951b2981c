"""`/runs` and `/system`: what consoles and command lines show of responses and of replicas.

Extensions. An entry is much smaller than a response, so that a page can be asked for again every
few seconds: no output, and of the input its first words.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from openai.types.responses import ResponseUsage
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from longrun import ids
from longrun.errors import BadRequest, Forbidden, NotFound
from longrun.http.access import caller_of, for_everybody, principal_of, reader_of
from longrun.http.answers import JSONAnswer
from longrun.http.forks import Sources
from longrun.http.lists import ByMetadata
from longrun.http.problems import shortened
from longrun.http.query import Text
from longrun.operations import ListOf, operation
from longrun.protocol import Status
from longrun.settings import Settings
from longrun.store.overview import Overview, Ran, Wanted
from longrun.store.responses import Responses

_ID: Final = re.compile(r"resp_[0-9a-f]{0,32}")


class RunError(BaseModel):
    """Why a response failed, as its client is told."""

    code: str
    message: str


class ForkedFrom(BaseModel):
    """What a fork goes on from."""

    response_id: str
    step: int


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
        forked_from: the response from a step of which it went on, if it is a fork.
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
    forked_from: ForkedFrom | None
    metadata: dict[str, str]
    user: str | None
    usage: ResponseUsage | None
    error: RunError | None
    reason: str | None


class Runs(ListOf[Run]):
    """A page of runs. `next_after`: what `after` is for the next one; null: there is none. A search
    for a text may find nothing on a page and go on on the next. The caller may list everybody's
    (`is_admin`), and ask for `/system` (`is_operator`)."""

    next_after: str | None
    is_admin: bool
    is_operator: bool


class Attempt(BaseModel):
    """One run of a response: the number of its first event, on which replica, until when, and how
    that ended (`died`, `left`, or the status of the response). Null: not known, or not over."""

    attempt: int
    first_event: int | None
    replica_id: str | None
    until: float | None
    how: str | None


class WholeRun(Run):
    """A run with its attempts, and with when its events came.

    Attributes:
        times: pairs of the number of an event, and how many milliseconds after the creation it and
            those before it (up to the pair before) were committed; null where that is not known.
    """

    attempts: list[Attempt]
    times: list[tuple[int, int | None]]


class RunStep(BaseModel):
    """A model turn of a run, or a call of one that the server executes.

    Attributes:
        step: its number, by which `longrun.fork` names it: from 1, turns in their order, each with
            its calls behind it. It stays the same while others of the turn are still under way.
        turn: the model turn that it is, or is a call of; from 0.
        name: the agent of a turn; the tool of a call.
        arguments: what a call asks for, or a turn has said: the beginning.
        finished: it can be forked.
        recorded_at: in seconds since the epoch.
    """

    step: int
    kind: Literal["model", "tool", "handoff"]
    turn: int
    name: str
    call_id: str | None
    arguments: str
    finished: bool
    recorded_at: float | None


class Replica(BaseModel):
    """A server process. `has_room`: whether it would take more runs; null: it does not say.
    `agents`: those that it serves; null: an older version, which does not say.
    `locked`: it holds its lock in Postgres, so it lives, whatever its lease says.
    `events_per_second`: committed in the last five seconds, as of the system."""

    id: str
    hostname: str
    pid: int
    version: str
    agents: list[str] | None
    has_room: bool | None
    draining: bool
    started_at: float
    lease_seconds: float
    locked: bool
    runs: int
    events_per_second: float


class Line(BaseModel):
    """The responses of a principal that wait for an agent. `served`: whether a replica that is
    alive serves it; null: one of them does not say what it serves."""

    model: str
    principal: str
    waiting: int
    oldest_seconds: float
    served: bool | None


class Table(BaseModel):
    """A table with its indexes; `rows` are estimated."""

    name: str
    bytes: int
    rows: int


class System(BaseModel):
    """All that runs and waits, who executes it, and what is stored.

    Attributes:
        taken_over: responses that ended in the last hour and had more than one attempt.
        notifications: how full the queue of NOTIFY is, from 0 to 1.
        events_per_second: how many were committed in the last five seconds, of the responses that
            run, or ended meanwhile; of no more than 1,000 of each.
    """

    object: Literal["system"]
    live: int
    waiting: int
    taken_over: int
    notifications: float
    events_per_second: float
    retention_days: float
    replicas: list[Replica]
    queue: list[Line]
    tables: list[Table]


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
    """The endpoints.

    Args:
        keys_asked_for: whether a caller has to say who they are.
    """

    overview: Overview
    responses: Responses
    sources: Sources
    settings: Settings
    keys_asked_for: Callable[[], Awaitable[bool]]

    def routes(self) -> list[BaseRoute]:
        """The routes, the same at the root and under `/v1`."""
        return [
            Route(prefix + path, endpoint, methods=["GET"])
            for prefix in ("", "/v1")
            for path, endpoint in (
                ("/runs", self.list_runs),
                ("/runs/{id}", self.get_run),
                ("/runs/{id}/steps", self.list_steps),
                ("/system", self.get_system),
            )
        ]

    @operation(Runs, query=ListRuns)
    async def list_runs(self, request: Request) -> Response:
        """`GET /runs`: a page of the caller's responses with how they were run, newest first."""
        query = ListRuns.parse(request)
        if for_everybody(request):
            found, after = await self.overview.runs_unscoped(query.wanted(""))
        else:
            found, after = await self.overview.runs(query.wanted(principal_of(request)))
        return JSONAnswer(
            {
                "object": "list",
                "data": [as_run(each) for each in found],
                "next_after": after,
                "is_admin": caller_of(request).is_admin,
                "is_operator": await self._is_operator(request),
            }
        )

    @operation(WholeRun)
    async def get_run(self, request: Request) -> Response:
        """`GET /runs/{id}`: how a response was run, by which attempts, and when its events came."""
        response_id = request.path_params["id"]
        found = None
        if ids.is_response_id(response_id):
            reader = await reader_of(request, response_id, self.responses.owner_unscoped)
            found = await self.overview.run(response_id, reader)
        if found is None:
            raise NotFound(f"Response with id {shortened(response_id)!r} not found.", param="id")
        course = await self.overview.course(response_id, reader)
        attempts = [each._asdict() for each in course.attempts]
        current = found.columns["replica_id"]
        if current is not None and attempts and attempts[-1]["replica_id"] is None:
            attempts[-1]["replica_id"] = current
        return JSONAnswer({**as_run(found), "attempts": attempts, "times": course.times})

    @operation(ListOf[RunStep])
    async def list_steps(self, request: Request) -> Response:
        """`GET /runs/{id}/steps`: the numbered steps of a response, from which it can be forked."""
        response_id = request.path_params["id"]
        reader = principal_of(request)
        if ids.is_response_id(response_id):
            reader = await reader_of(request, response_id, self.responses.owner_unscoped)
        steps = await self.sources.steps(response_id, reader)
        return JSONAnswer({"object": "list", "data": [each._asdict() for each in steps]})

    @operation(System)
    async def get_system(self, request: Request) -> Response:
        """`GET /system`: replicas, the queue and the database, for admins; on a server that asks
        nobody who they are, for whoever is on its machine."""
        if not await self._is_operator(request):
            raise Forbidden("The system is shown to admins.")
        found = await self.overview.system_unscoped()
        return JSONAnswer(
            {
                "object": "system",
                **found.figures,
                "retention_days": self.settings.retention_days,
                "replicas": found.replicas,
                "queue": found.queue,
                "tables": found.tables,
            }
        )

    async def _is_operator(self, request: Request) -> bool:
        if caller_of(request).is_admin:
            return True
        return not self.settings.no_auth and not await self.keys_asked_for()


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
        "forked_from": (document.get("longrun") or {}).get("fork"),
        "metadata": document.get("metadata") or {},
        "user": document.get("user") or document.get("safety_identifier"),
        "usage": document.get("usage"),
        "error": document.get("error"),
        "reason": _reason_in(document),
    }


def _reason_in(document: Mapping[str, Any]) -> str | None:
    details = document.get("incomplete_details")
    return details.get("reason") if isinstance(details, dict) else None
