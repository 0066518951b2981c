"""`text.format` and `tool_choice`: what of them has to be right before a run begins."""

import re
from typing import Any, Final

from longrun import schemas
from longrun.errors import BadRequest
from longrun.http.problems import shortened
from longrun.http.strict_schema import NotStrict, closed
from longrun.jsontext import dumps

MOST_SCHEMA_BYTES: Final = 120_000
"""Of an output's JSON schema, as JSON. With OpenAI, its texts may have as many characters."""

_NAME: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")

_FORMATS: Final = ("text", "json_object", "json_schema")

_CHOICES: Final = ("none", "auto", "required")

_NAMED_BY: Final = {"custom": "name", "function": "name", "mcp": "server_label"}
"""What says which tool is chosen, by the types of those that have names."""

FORMAT_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"type": {"enum": list(_FORMATS)}},
    "required": ["type"],
    "if": {"properties": {"type": {"const": "json_schema"}}},
    "then": {
        "properties": {
            "name": {"type": "string", "pattern": f"^{_NAME.pattern}$"},
            "schema": {"type": "object"},
            "strict": {"type": ["boolean", "null"]},
            "description": {"type": ["string", "null"]},
        },
        "required": ["name", "schema"],
    },
}
"""The JSON schema of a `text.format`."""


def checked_format(given: dict[str, Any] | None) -> dict[str, Any] | None:
    """The `text.format` of a request, its schema closed where it is strict; None for plain text.

    Raises:
        BadRequest: names what is wrong in it.
    """
    if given is None:
        return None
    kind = given.get("type")
    if kind not in _FORMATS:
        raise _wrong("type", f"must be one of {', '.join(_FORMATS)}")
    if kind == "text":
        return None
    if kind == "json_object":
        return {"type": kind}
    name, schema, strict = given.get("name"), given.get("schema"), given.get("strict")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise _wrong("name", "must be 1 to 64 characters, all of a-z, A-Z, 0-9, _ and -")
    if not isinstance(given.get("description"), str | None):
        raise _wrong("description", "must be a string")
    if not isinstance(strict, bool | None):
        raise _wrong("strict", "must be a boolean")
    if not isinstance(schema, dict):
        raise _wrong("schema", "must be a JSON schema, an object")
    schema = _checked_schema(schema, bool(strict))
    return {**given, "schema": schema, "strict": bool(strict)}


def _checked_schema(schema: dict[str, Any], strict: bool) -> dict[str, Any]:
    if len(dumps(schema)) > MOST_SCHEMA_BYTES:
        raise _wrong("schema", f"may have at most {MOST_SCHEMA_BYTES} bytes, as JSON")
    problem = schemas.problem_of(schema)
    if problem is not None:
        raise _wrong("schema", f"is not a JSON schema: {shortened(problem)}", "invalid_json_schema")
    if not strict:
        return schema
    if schema.get("type") != "object":
        raise _wrong("schema", "must have type object where strict is true", "invalid_json_schema")
    try:
        return closed(schema, "text.format.schema")
    except NotStrict as error:
        raise BadRequest(
            f"{shortened(str(error), 500)}.",
            param="text.format.schema",
            code="invalid_json_schema",
        ) from None


def check_tool_choice(given: Any) -> None:
    """The shape of a choice; whether there is such a tool is looked at with the agent.

    Raises:
        BadRequest: names what is wrong in it.
    """
    if isinstance(given, str) and given not in _CHOICES:
        raise _refused(
            "tool_choice", f"must be {', '.join(_CHOICES)} or an object", "invalid_value"
        )
    if not isinstance(given, dict):
        return
    kind = given.get("type")
    if not isinstance(kind, str):
        raise _refused("tool_choice.type", "must be a string")
    _check_named(given, "tool_choice")
    if kind != "allowed_tools":
        return
    if given.get("mode", "auto") not in ("auto", "required"):
        raise _refused("tool_choice.mode", "must be auto or required")
    tools = given.get("tools")
    if not isinstance(tools, list) or not all(
        isinstance(tool, dict) and isinstance(tool.get("type"), str) for tool in tools
    ):
        raise _refused("tool_choice.tools", "must be a list of tools, each with its type")
    for place, tool in enumerate(tools):
        _check_named(tool, f"tool_choice.tools[{place}]")


def _check_named(choice: dict[str, Any], param: str) -> None:
    key = _NAMED_BY.get(choice["type"])
    if key is not None and not isinstance(choice.get(key), str):
        raise _refused(f"{param}.{key}", "must be a string")


def _wrong(name: str, what: str, code: str = "invalid_type") -> BadRequest:
    return _refused(f"text.format.{name}", what, code)


def _refused(param: str, what: str, code: str = "invalid_type") -> BadRequest:
    return BadRequest(f"{param} {what}.", param=param, code=code)
