"""`/healthz`, `/readyz`, `/metrics`: unauthenticated, and without tenant data."""

from collections.abc import Awaitable, Callable
from typing import Literal

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from longrun import metrics
from longrun.http.answers import JSONAnswer
from longrun.operations import operation

Problems = Callable[[], list[str]]

Exposition = Callable[[], Awaitable[bytes]]


class Alive(BaseModel):
    """The answer of `/healthz`."""

    status: Literal["ok"]


class Readiness(BaseModel):
    """The answer of `/readyz`."""

    status: Literal["ready", "unready"]
    problems: list[str]
    warnings: list[str] = []


def routes(problems: Problems, warnings: Problems, exposition: Exposition) -> list[Route]:
    """The routes.

    Args:
        problems: says why this replica is not ready; empty when it is.
        warnings: what is amiss with a replica that is fit for requests all the same.
        exposition: the metrics, in Prometheus's text format.
    """

    @operation(Alive, public=True)
    async def healthz(request: Request) -> Response:
        """`GET /healthz`: the process is alive."""
        return JSONAnswer({"status": "ok"})

    @operation(Readiness, public=True, statuses={503: "Not fit for requests."})
    async def readyz(request: Request) -> Response:
        """`GET /readyz`: whether this replica is fit for requests."""
        found = problems()
        body: dict[str, object] = {"status": "unready" if found else "ready", "problems": found}
        if amiss := warnings():
            body["warnings"] = amiss
        return JSONAnswer(body, status_code=503 if found else 200)

    @operation(metrics.CONTENT_TYPE, public=True, errors=(503,))
    async def metrics_text(request: Request) -> Response:
        """`GET /metrics`: for Prometheus."""
        return Response(await exposition(), media_type=metrics.CONTENT_TYPE)

    return [
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/metrics", metrics_text),
    ]
