"""`/openapi.json`: OpenAPI 3.1 of what is served, made of the routes, the models that check
requests, the table of parameters and the tree of errors."""

import asyncio
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from http import HTTPStatus
from importlib.metadata import version
from typing import Any, Final

from openai.types.responses import Response as OpenAIResponse
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter
from pydantic.json_schema import JsonSchemaMode
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from longrun import errors
from longrun.http.access import ACTS_FOR
from longrun.http.answers import JSONAnswer
from longrun.http.requests import CreateResponse
from longrun.operations import Operation, operation, operation_of
from longrun.parameters import NOT_ECHOED, PARAMETERS
from longrun.protocol import Status

PREFIX: Final = "/v1"
"""Paths of the API are served at the root and below this."""

_PATH_PARAMETER: Final = re.compile(r"\{(\w+)(?::\w+)?\}")

_OF_ALL: Final = (400, 431, 500, 503)
_OF_CALLERS: Final = (401, 403)
_OF_BODIES: Final = (408, 413, 415)
"""Statuses of errors: of every endpoint, of one that asks who is calling, of one with a body."""

_OF_SERVER: Final = (errors.LongrunError, errors.Unreadable)
"""Errors of status 500 that clients see; others of it end runs, or commands."""

_ERROR_HEADERS: Final = {
    401: ("www-authenticate",),
    429: ("retry-after",),
    503: ("retry-after", "x-should-retry"),
}

_HEADERS: Final = {
    "x-request-id": ("The request's id in the server's log.", "string"),
    "retry-after": ("Seconds after which to try again.", "integer"),
    "www-authenticate": ("`Bearer`", "string"),
    "x-should-retry": ("`false` where a repeated request would start a second run.", "string"),
}

_ACTS_FOR: Final = (
    "The principal that the caller acts for: any for an admin, those below its own for others."
)

_Model = tuple[Any, JsonSchemaMode]


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
            "description": "Agents behind the OpenAI Responses API.",
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
            each = {"name": name, "in": "query", "required": required, "schema": _given(schema)}
            if each["schema"].get("type") == "object":
                each.update(style="deepObject", explode=True)
            yield each
    for name, does in said.headers.items():
        yield _header(name, does)
    if not said.public:
        yield _header(ACTS_FOR, _ACTS_FOR)


def _header(name: str, does: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "description": does, "schema": {"type": "string"}}


def _given(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of what is given: in a query nothing is null."""
    kinds = [each for each in schema.get("anyOf", ()) if each != {"type": "null"}]
    return dict(kinds[0]) if len(kinds) == 1 else schema


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
    named = (404,) if _PATH_PARAMETER.search(route.path) else ()
    found = (*_OF_ALL, *(() if said.public else _OF_CALLERS), *named, *said.errors)
    for status in sorted({*found, *(_OF_BODIES if said.body else ())} - said.statuses.keys()):
        yield str(status), {"$ref": f"#/components/responses/{status}"}


# -- errors ---------------------------------------------------------------------------------------


def _error_answers() -> Iterator[tuple[str, dict[str, Any]]]:
    """By status: which errors have it, and their codes."""
    classes: dict[int, list[type[errors.LongrunError]]] = {}
    for each in _with_subclasses(errors.LongrunError):
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


def _with_subclasses(cls: type[errors.LongrunError]) -> Iterator[type[errors.LongrunError]]:
    yield cls
    for each in cls.__subclasses__():
        yield from _with_subclasses(each)


def _error_schema() -> dict[str, Any]:
    """As `answers.error_answer` writes them (contract, "Errors")."""
    text, either = {"type": "string"}, {"type": ["string", "null"]}
    kinds = sorted({each.type for each in _with_subclasses(errors.LongrunError)})
    inner = {"message": text, "type": {"enum": kinds}, "param": either, "code": either}
    return _closed({"error": _closed(inner)})


def _closed(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


# -- schemas --------------------------------------------------------------------------------------


class Schemas:
    """The schemas of all models that operations name, each once, in `components`."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        self._models: list[_Model] = [
            (OpenAIResponse, "serialization"),
            (ResponseStreamEvent, "serialization"),
            (CreateResponse, "validation"),
            *((each.gives, "serialization") for each in operations if each.gives is not str),
            *((each.body, "validation") for each in operations if each.body is not None),
            *((each.query, "validation") for each in operations if each.query is not None),
        ]
        self._models = [each for each in self._models if not isinstance(each[0], str)]

    @cached_property
    def _made(self) -> tuple[dict[tuple[str, JsonSchemaMode], Any], dict[str, Any]]:
        adapters = {(repr(model), mode): TypeAdapter(model) for model, mode in self._models}
        made, shared = TypeAdapter.json_schemas(
            [(name, mode, adapter) for (name, mode), adapter in adapters.items()],
            ref_template="#/components/schemas/{model}",
        )
        return made, shared["$defs"]

    def of(self, model: Any, mode: JsonSchemaMode = "serialization") -> dict[str, Any]:
        """A reference to a model's schema, or the schema where it is none of its own."""
        found: dict[str, Any] = self._made[0][repr(model), mode]
        return found

    def inner(self, model: Any) -> dict[str, Any]:
        """The schema of a model that checks what clients give, itself."""
        return self._at(self.of(model, "validation"))

    @cached_property
    def components(self) -> dict[str, Any]:
        found = {**self._made[1], "Error": _error_schema()}
        # In place: events hold responses too.
        found[_name(self.of(OpenAIResponse))] = self._response()
        given = found[_name(self.of(CreateResponse, "validation"))]["properties"]
        for parameter in PARAMETERS:
            whole, _, part = parameter.name.partition(".")
            within = self._at(_given(given[whole]))["properties"] if part else given
            name = part or whole
            within[name] = {**within[name], "description": parameter.does}
        return found

    def _response(self) -> dict[str, Any]:
        """The Response object: openai's, and of what a request says, what a request may say; it is
        echoed. All fields that a response begins with are there at any status."""
        said = self.inner(CreateResponse)["properties"]
        response = self._at(self.of(OpenAIResponse))
        begun = CreateResponse.parse({"input": "…"}).run_request("", "", None).document
        echoed = {each.whole for each in PARAMETERS if each.name not in NOT_ECHOED} & begun.keys()
        code, details = {"type": "string"}, {"reason": {"type": ["string", "null"]}}
        properties = {
            **response["properties"],
            **{
                name: said[name] if begun[name] is None else _never_null(said[name])
                for name in echoed
            },
            # OpenAI's type has numbers.
            "created_at": {"type": "integer"},
            "completed_at": {"type": ["integer", "null"]},
            "error": _or_null({"code": code, "message": {"type": "string"}}),
            # Beside OpenAI's two: the names of our budgets.
            "incomplete_details": _or_null(details),
            "status": TypeAdapter(Status).json_schema(),
        }
        return {**response, "properties": properties, "required": [*begun, "output"]}

    def _at(self, schema: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = self._made[1][_name(schema)] if "$ref" in schema else schema
        return found


def _never_null(schema: dict[str, Any]) -> dict[str, Any]:
    kinds = [each for each in schema.get("anyOf", ()) if each != {"type": "null"}]
    return {**schema, "anyOf": kinds} if kinds else schema


def _or_null(properties: dict[str, Any]) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return {"anyOf": [schema, {"type": "null"}]}


def _name(reference: dict[str, Any]) -> str:
    return str(reference["$ref"].rpartition("/")[2])
