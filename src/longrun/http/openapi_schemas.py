"""The schemas of `/openapi.json`: of models that check requests, openai's types, and errors."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

from openai.types.responses import Response as OpenAIResponse
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter
from pydantic.json_schema import JsonSchemaMode

from longrun import errors
from longrun.http.requests import CreateResponse
from longrun.operations import Operation
from longrun.parameters import NOT_ECHOED, PARAMETERS
from longrun.protocol import Status

_Model = tuple[Any, JsonSchemaMode]


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
            within = self._at(given_schema(given[whole]))["properties"] if part else given
            name = part or whole
            within[name] = {**within[name], "description": parameter.does}
        return found

    def _response(self) -> dict[str, Any]:
        """The Response object: openai's, and of what a request says, what a request may say; it is
        echoed. All fields that a response begins with are there at any status."""
        said = self.inner(CreateResponse)["properties"]
        response = self._at(self.of(OpenAIResponse))
        begun = CreateResponse.parse({"input": "…"}).run_request("", "", None).document
        # Others of openai's are unknown here: echoed as they come.
        known = {*begun, "output", "conversation"}
        echoed = {each.whole for each in PARAMETERS if each.name not in NOT_ECHOED}
        code, details = {"type": "string"}, {"reason": {"type": ["string", "null"]}}
        properties = {
            **{name: each for name, each in response["properties"].items() if name in known},
            **{
                name: said[name] if begun.get(name) is None else _never_null(said[name])
                for name in echoed - {"conversation"}
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


def given_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of what is given: in a query nothing is null."""
    kinds = [each for each in schema.get("anyOf", ()) if each != {"type": "null"}]
    return dict(kinds[0]) if len(kinds) == 1 else schema


def with_subclasses(cls: type[errors.LongrunError]) -> Iterator[type[errors.LongrunError]]:
    yield cls
    for each in cls.__subclasses__():
        yield from with_subclasses(each)


def _error_schema() -> dict[str, Any]:
    """As `answers.error_answer` writes them (contract, "Errors")."""
    text, either = {"type": "string"}, {"type": ["string", "null"]}
    kinds = sorted({each.type for each in with_subclasses(errors.LongrunError)})
    inner = {"message": text, "type": {"enum": kinds}, "param": either, "code": either}
    return _closed({"error": _closed(inner)})


def _closed(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
