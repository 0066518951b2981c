"""`/openapi.json`: OpenAPI 3.1 of what is served, made of the routes, the models that check
requests, the table of parameters and the tree of errors."""

import asyncio
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from importlib.metadata import version
from typing import Any, Final

from openai.types.responses import ResponseStreamEvent
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from longrun import errors
from longrun.http.access import ACTS_FOR
from longrun.http.answers import JSONAnswer
from longrun.http.openapi_schemas import Schemas, given_schema, with_subclasses
from longrun.operations import Operation, operation, operation_of

PREFIX: Final = "/v1"
"""Paths of the API are served at the root and below this."""

_PATH_PARAMETER: Final = re.compile(r"\{(\w+)(?::\w+)?\}")

_OF_ALL: Final = (400, 431, 500, 503)
_OF_CALLERS: Final = (401, 403)
_OF_BODIES: Final = (408, 413, 415)
"""Statuses of errors: of every endpoint, of one that asks who is calling, of one with a body."""

_OF_CELLS: Final = re.compile(r"(/v1)?/(responses|conversations|webhook_endpoints)/\{id\}")
"""Paths whose id says in which cell it was made."""

_OF_SERVER: Final = (errors.LongrunError, errors.Unreadable)
"""Errors of status 500 that clients see; others of it end runs, or commands."""

_ERROR_HEADERS: Final = {
    401: ("www-authenticate",),
    421: ("longrun-cell",),
    429: ("retry-after",),
    503: ("retry-after", "x-should-retry"),
}

_HEADERS: Final = {
    "x-request-id": ("The request's id in the server's log.", "string"),
    "retry-after": ("Seconds after which to try again.", "integer"),
    "www-authenticate": ("`Bearer`", "string"),
    "longrun-cell": ("The cell that the request belongs to.", "string"),
    "x-should-retry": ("`false` where a repeated request would start a second run.", "string"),
}

_ACTS_FOR: Final = (
    "The principal that the caller acts for: any for an admin, those below its own for others."
)


class OpenAPI:
    """The endpoint.

    Args:
        routes: what is served besides it.
    """

    def __init__(self, routes: Sequence[BaseRoute]) -> None:
        self._routes = [*routes, *self.routes()]
        self._making = asyncio.Lock()
        self._made: dict[str, Any] | None = None

    def routes(self) -> list[BaseRoute]:
        """The route; not below /v1 as well, since it describes both."""
        return [Route("/openapi.json", self.get, methods=["GET"])]

    @operation(dict[str, Any], public=True)
    async def get(self, request: Request) -> Response:
        """`GET /openapi.json`: this document."""
        async with self._making:
            if self._made is None:
                # Half a second, once, and beside the event loop; not in the default executor, which
                # is for tools, whose threads may all hang.
                thread = ThreadPoolExecutor(1, thread_name_prefix="longrun-openapi")
                loop = asyncio.get_running_loop()
                self._made = await loop.run_in_executor(thread, document, self._routes)
                thread.shutdown(wait=False)
        # Where it is mounted in another application, paths begin there.
        root = request.scope.get("root_path", "").rstrip("/")
        return JSONAnswer({**self._made, **_below(root, self._made)} if root else self._made)


def _below(root: str, made: dict[str, Any]) -> dict[str, Any]:
    paths = {
        path: {**item, "servers": _servers(root, prefixed="servers" in item)}
        for path, item in made["paths"].items()
    }
    return {"servers": _servers(root, prefixed=False), "paths": paths}


def _servers(root: str, *, prefixed: bool) -> list[dict[str, str]]:
    return [{"url": root + PREFIX}] * prefixed + [{"url": root or "/"}]


def document(routes: Sequence[BaseRoute]) -> dict[str, Any]:
    """The OpenAPI document of some routes.

    Raises:
        LookupError: nothing is said of an endpoint: it lacks `@operation`.
    """
    found = [route for route in routes if isinstance(route, Route)]
    schemas = Schemas([_operation(route) for route in found])
    served = {route.path for route in found}
    paths: dict[str, dict[str, Any]] = {}
    for route in found:
        if route.path.removeprefix(PREFIX) in served and route.path.startswith(PREFIX + "/"):
            continue
        item = paths.setdefault(_PATH_PARAMETER.sub(r"{\1}", route.path), {})
        if PREFIX + route.path in served:
            item["servers"] = _servers("", prefixed=True)
        for method in sorted((route.methods or set()) - {"HEAD"}):
            item[method.lower()] = _described(route, method, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "longrun",
            "version": version("longrun"),
            "description": "Agents behind the OpenAI Responses API. `/responses` takes WebSockets, "
            "too: there an event `response.create` has the members of the body of `POST /responses`"
            " beside its `type` and `stream_id`, and is answered with the events of a stream.",
        },
        "servers": _servers("", prefixed=False),
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "responses": dict(_error_answers()),
            "headers": {
                name: {"description": does, "schema": {"type": kind}}
                for name, (does, kind) in _HEADERS.items()
            },
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API key, a chat token, or a token of an OIDC provider.",
                },
                "stream_token": {
                    "type": "apiKey",
                    "in": "query",
                    "name": "token",
                    "description": "A stream token, for EventSource, which can send no key.",
                },
            },
        },
        "security": [{"key": []}],
    }


def _operation(route: Route) -> Operation:
    found = operation_of(route.endpoint)
    if found is None:
        raise LookupError(f"nothing is said of the endpoint of {route.path}: give it @operation")
    return found


# -- operations -----------------------------------------------------------------------------------


def _described(route: Route, method: str, schemas: "Schemas") -> dict[str, Any]:
    said, path = _operation(route), _PATH_PARAMETER.sub(r"{\1}", route.path)
    does = " ".join((route.endpoint.__doc__ or path).split()).replace("`", "")
    summary = does.split(": ")[-1].rstrip(".")
    made: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", f"{method.lower()}{path}").strip("_"),
        "summary": summary[:1].upper() + summary[1:],
        "parameters": list(_parameters(route, said, schemas)),
        "responses": dict(sorted(_answers(route, said, schemas))),
    }
    if said.public:
        made["security"] = []
    elif method == "GET" and said.streams:
        made["security"] = [{"key": []}, {"stream_token": []}]
    if said.body is not None:
        content = {"application/json": {"schema": schemas.of(said.body, "validation")}}
        made["requestBody"] = {"required": True, "content": content}
    return made


def _parameters(route: Route, said: Operation, schemas: "Schemas") -> Iterator[dict[str, Any]]:
    for name in _PATH_PARAMETER.findall(route.path):
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
    if said.query is not None:
        whole = schemas.inner(said.query)
        for name, schema in whole.get("properties", {}).items():
            required = name in whole.get("required", ())
            each = {
                "name": name,
                "in": "query",
                "required": required,
                "schema": given_schema(schema),
            }
            if each["schema"].get("type") == "object":
                each.update(style="deepObject", explode=True)
            yield each
    for name, does in said.headers.items():
        yield _header(name, does)
    if not said.public:
        yield _header(ACTS_FOR, _ACTS_FOR)


def _header(name: str, does: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "description": does, "schema": {"type": "string"}}


def _answers(
    route: Route, said: Operation, schemas: "Schemas"
) -> Iterator[tuple[str, dict[str, Any]]]:
    media_type = said.gives if isinstance(said.gives, str) else "application/json"
    given = {"type": "string"} if media_type is said.gives else schemas.of(said.gives)
    content = {media_type: {"schema": given}}
    if said.streams:
        content["text/event-stream"] = {"schema": schemas.of(ResponseStreamEvent)}
    headers = {"x-request-id": {"$ref": "#/components/headers/x-request-id"}}
    yield "200", {"description": "Success", "content": content, "headers": headers}
    for status, does in said.statuses.items():
        yield str(status), {"description": does, "headers": headers}
    named = [404] * bool(_PATH_PARAMETER.search(route.path))
    named += [421] * bool(_OF_CELLS.match(route.path))
    found = (*_OF_ALL, *(() if said.public else _OF_CALLERS), *named, *said.errors)
    for status in sorted({*found, *(_OF_BODIES if said.body else ())} - said.statuses.keys()):
        yield str(status), {"$ref": f"#/components/responses/{status}"}


# -- errors ---------------------------------------------------------------------------------------


def _error_answers() -> Iterator[tuple[str, dict[str, Any]]]:
    """By status: which errors have it, and their codes."""
    classes: dict[int, list[type[errors.LongrunError]]] = {}
    for each in with_subclasses(errors.LongrunError):
        if each.status != 500 or each in _OF_SERVER:
            classes.setdefault(each.status, []).append(each)
    for status, found in sorted(classes.items()):
        codes = sorted({each.default_code for each in found if each.default_code})
        usual = f" Usual codes: {', '.join(f'`{code}`' for code in codes)}." if codes else ""
        names = ("x-request-id", *_ERROR_HEADERS.get(status, ()))
        yield (
            str(status),
            {
                "description": f"{HTTPStatus(status).phrase}.{usual}",
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
                "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in names},
            },
        )
