"""`/healthz`, `/readyz`, `/metrics`: unauthenticated, and without tenant data."""

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from longrun import metrics
from longrun.http.answers import JSONAnswer

Problems = Callable[[], list[str]]


def routes(problems: Problems, warnings: Problems) -> list[Route]:
    """The routes.

    Args:
        problems: says why this replica is not ready; empty when it is.
        warnings: what is amiss with a replica that is fit for requests all the same.
    """

    async def healthz(request: Request) -> Response:
        return JSONAnswer({"status": "ok"})

    async def readyz(request: Request) -> Response:
        found = problems()
        body: dict[str, object] = {"status": "unready" if found else "ready", "problems": found}
        if amiss := warnings():
            body["warnings"] = amiss
        return JSONAnswer(body, status_code=503 if found else 200)

    async def metrics_text(request: Request) -> Response:
        return Response(metrics.exposition(), media_type=metrics.CONTENT_TYPE)

    return [
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/metrics", metrics_text),
    ]
