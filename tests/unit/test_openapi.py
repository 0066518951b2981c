"""`/openapi.json`: all that is served, nothing else, and what is checked as it is checked."""

import inspect
import json
import re
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route, WebSocketRoute

from longrun import errors
from longrun.app import Longrun, create_app
from longrun.errors import BadRequest
from longrun.http.items import checked_items
from longrun.http.openapi import OpenAPI, document
from longrun.http.requests import CreateResponse
from longrun.operations import operation_of
from longrun.parameters import PARAMETERS
from longrun.settings import Settings
from tests.contract.test_access_matrix import MATRIX, PUBLIC
from tests.openapi import Judge
from tests.unit.test_any_request import body, item, value

APP = create_app(None, Settings.load())
JUDGE = Judge(document(APP.routes))


@pytest.fixture
def app() -> Longrun:
    return APP


@pytest.fixture
def judge() -> Judge:
    return JUDGE


def all_within(value: Any) -> Iterator[dict[str, Any]]:
    """Every object in a document."""
    if isinstance(value, dict):
        yield value
    for each in value.values() if isinstance(value, dict) else value:
        if isinstance(each, dict | list):
            yield from all_within(each)


def requested(app: Longrun) -> list[Route]:
    """The routes of requests; who may open a WebSocket is tried in contract/test_sockets.py."""
    return [each for each in app.routes if isinstance(each, Route)]


class TestRoutes:
    def test_each_is_in_it_and_nothing_else(self, app: Longrun, judge: Judge) -> None:
        served = {
            (method, re.sub(r":\w+\}", "}", route.path))
            for route in app.routes
            if isinstance(route, Route)
            # Starlette adds HEAD to GET.
            for method in (route.methods or set()) - {"HEAD"}
        }
        sockets = [each.path for each in app.routes if isinstance(each, WebSocketRoute)]
        assert sockets == ["/responses", "/v1/responses"]
        assert all(isinstance(each, Route | WebSocketRoute) for each in app.routes)
        described = set()
        for path, methods in judge.document["paths"].items():
            for server in methods.get("servers", judge.document["servers"]):
                described |= {
                    (method.upper(), server["url"].rstrip("/") + path)
                    for method in methods
                    if method != "servers"
                }
        assert described == served

    def test_each_is_in_the_matrix_of_access(self, app: Longrun) -> None:
        """A route that is new fails here until it is said who may call it."""
        private, public = set(), set()
        for route in requested(app):
            said = operation_of(route.endpoint)
            path = re.sub(r":\w+\}", "}", route.path).removeprefix("/v1")
            if said is not None and said.public:
                public.add(path)
            else:
                private |= {(method, path) for method in (route.methods or set()) - {"HEAD"}}
        assert private == MATRIX.keys()
        assert {path for path in public if not path.startswith("/console/")} == PUBLIC

    def test_one_of_which_nothing_is_said(self) -> None:
        async def new(request: Request) -> Response:
            return Response()

        with pytest.raises(LookupError, match="/new: give it @operation"):
            document([Route("/new", new)])

    def test_what_an_endpoint_reads_is_what_is_said_of_it(self, app: Longrun) -> None:
        for route in requested(app):
            said, source = operation_of(route.endpoint), inspect.getsource(route.endpoint)
            assert said is not None
            source = source.replace("self.creations.parse", "CreateResponse.parse")
            read = set(re.findall(r"(\w+)\.parse\b", source))
            assert read == {each.__name__ for each in (said.body, said.query) if each}, route.path

    async def test_where_it_is_mounted_paths_begin_there(self, app: Longrun) -> None:
        routes = [each for each in app.routes if getattr(each, "path", "") != "/openapi.json"]
        outer = Starlette(routes=[Mount("/agents", routes=OpenAPI(routes).routes())])
        transport = httpx2.ASGITransport(outer)
        async with httpx2.AsyncClient(transport=transport, base_url="http://here") as client:
            made = (await client.get("/agents/openapi.json")).json()
        assert made["servers"] == [{"url": "/agents"}]
        assert made["paths"]["/healthz"]["servers"] == [{"url": "/agents"}]
        served = [{"url": "/agents/v1"}, {"url": "/agents"}]
        assert made["paths"]["/responses"]["servers"] == served

    def test_operations_have_names_of_their_own(self, judge: Judge) -> None:
        names = [
            operation["operationId"]
            for path in judge.document["paths"].values()
            for method, operation in path.items()
            if method != "servers"
        ]
        assert len(names) == len(set(names))


class TestDocument:
    def test_its_references_lead_somewhere_and_its_schemas_are_schemas(self, judge: Judge) -> None:
        for each in all_within(judge.document):
            if isinstance(each.get("$ref"), str):
                judge._at(each)
            if "schema" in each and isinstance(each["schema"], dict):
                Draft202012Validator.check_schema(each["schema"])
        schemas = judge.document["components"]["schemas"]
        for schema in schemas.values():
            Draft202012Validator.check_schema(schema)
        json.dumps(judge.document, allow_nan=False)

    def test_no_bound_is_lost(self, judge: Judge) -> None:
        """pydantic writes a bound that it cannot put into words of JSON Schema as `ge`, say."""
        for each in all_within(judge.document):
            if "type" in each:
                assert not {"ge", "gt", "le", "lt", "min_length", "max_length"} & each.keys(), each

    def test_errors_are_those_of_the_tree(self, judge: Judge) -> None:
        found: list[type[errors.LongrunError]] = [errors.LongrunError]
        for cls in found:
            found += cls.__subclasses__()
        answers = judge.document["components"]["responses"]
        assert answers.keys() == {str(cls.status) for cls in found}
        assert "retry-after" in answers["429"]["headers"]
        assert "retry-after" in answers["503"]["headers"]
        error = {"message": "m", "type": "server_error", "param": None, "code": None}
        ref = {"$ref": "#/components/schemas/Error"}
        assert judge.problem_of(ref, {"error": error}) is None
        assert judge.problem_of(ref, {"error": {**error, "trace": "t"}}) is not None
        assert judge.problem_of(ref, {"error": {"message": "m"}}) is not None

    def test_each_parameter_says_what_it_does(self, judge: Judge) -> None:
        schemas = judge.document["components"]["schemas"]
        for parameter in PARAMETERS:
            whole, _, part = parameter.name.partition(".")
            said = schemas["CreateResponse"]["properties"][whole]
            if part:
                [inner, _] = said["anyOf"]
                said = judge._at(inner)["properties"][part]
            assert said["description"] == parameter.does

    def test_who_may(self, judge: Judge) -> None:
        paths = judge.document["paths"]
        assert paths["/healthz"]["get"]["security"] == []
        assert "security" not in paths["/responses"]["post"]
        assert {"stream_token": []} in paths["/responses/{id}"]["get"]["security"]


others = st.sampled_from(["prompt", "moderation", "access_programs", "image", "tool_usage"])
"""Fields of OpenAI's Response object that are unknown here."""


class TestAsChecked:
    """What passes the checks passes the document: it promises no less than is taken."""

    @given(
        st.tuples(body, st.dictionaries(others, value, max_size=2)).map(lambda two: two[1] | two[0])
    )
    @example({"input": "a", "prompt": 5, "moderation": []})
    @example({"input": "a", "conversation": ""})
    @settings(max_examples=150, deadline=None)
    def test_bodies(self, given_body: dict[str, Any]) -> None:
        try:
            parsed = CreateResponse.parse(given_body)
        except BadRequest:
            return
        schema = {"$ref": "#/components/schemas/CreateResponse"}
        assert JUDGE.problem_of(schema, given_body) is None
        begun = {**parsed.run_request("", "agent", None).document, "output": []}
        assert JUDGE.problem_of({"$ref": "#/components/schemas/Response"}, begun) is None

    @given(item)
    @settings(max_examples=300, deadline=None)
    def test_items_and_no_others(self, given_item: dict[str, Any]) -> None:
        schema = JUDGE.document["components"]["schemas"]["AddItems"]["properties"]["items"]
        problem = JUDGE.problem_of(schema, [given_item])
        try:
            checked_items([given_item])
        except BadRequest:
            assert problem is not None
        else:
            assert problem is None
