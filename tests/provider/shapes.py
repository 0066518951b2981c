"""What a provider of the Responses API refuses of an item by itself, with the words of OpenAI's.

Where a rule was seen is said beside it, as an issue of the repository named.
"""

import re
import typing
from dataclasses import dataclass
from typing import Any, Required

from openai.types.responses.response_input_item_param import ResponseInputItemParam

from tests.provider.items import PREFIXES

LONGEST_ID = 64
NAME = re.compile(r"^[a-zA-Z0-9_-]+$")

_ROLES = ("assistant", "system", "developer", "user")
_GIVEN_PARTS = ("output_text", "refusal")
_INPUT_PARTS = ("input_text", "input_image", "input_file", "input_audio", "input_video")


@dataclass
class Refused(Exception):
    """An error answer of the provider."""

    message: str
    param: str | None = "input"
    code: str | None = None
    status: int = 400
    type: str = "invalid_request_error"

    def body(self) -> dict[str, Any]:
        error = {
            "message": self.message,
            "type": self.type,
            "param": self.param,
            "code": self.code,
        }
        return {"error": error}


def _fields() -> dict[str, tuple[frozenset[str], frozenset[str]]]:
    """The fields that an item of each type may have and must have, by OpenAI's own types."""
    may: dict[str, set[str]] = {}
    must: dict[str, set[str]] = {}
    for each in typing.get_args(ResponseInputItemParam):
        hints = typing.get_type_hints(each, include_extras=True)
        kinds = typing.get_args(typing.get_type_hints(each)["type"])
        kind = next(k for k in _literals(kinds) if k)
        required = {name for name, hint in hints.items() if typing.get_origin(hint) is Required}
        may.setdefault(kind, set()).update(hints)
        must[kind] = required & must.get(kind, required)
    return {kind: (frozenset(may[kind]), frozenset(must[kind])) for kind in may}


def _literals(kinds: tuple[Any, ...]) -> list[str]:
    found: list[str] = []
    for kind in kinds:
        found += [kind] if isinstance(kind, str) else _literals(typing.get_args(kind))
    return found


_FIELDS = _fields()

_OPTIONAL = {
    # Left out by those who keep reasoning themselves (openai/codex) and by the Agents SDK's
    # `reasoning_item_id_policy="omit"`.
    "reasoning": {"id"},
    # A message of the model may come back as a plain one.
    "message": {"id", "status"},
}

_ONLY_GIVEN = {"reasoning": {"status"}}
"""What the types list and the API refuses: BerriAI/litellm#13420, 1jehuang/jcode#1028."""


def check_shape(item: dict[str, Any], where: str) -> None:
    """An item by itself: its type, fields, ids, name, and content.

    Raises:
        Refused: with OpenAI's status, message, param and code.
    """
    kind = item.get("type") or "message"
    if kind not in _FIELDS:
        known = ", ".join(f"'{each}'" for each in sorted(_FIELDS))
        raise _invalid(f"Invalid value: '{kind}'. Supported values are: {known}.", f"{where}.type")
    may, must = _FIELDS[kind]
    for name in item:
        # Seen for `status`, `namespace`, `phase`. That `provider_data` and `created_by` are refused
        # is why the Agents SDK takes them out (`_clean_item_for_openai`, `items.py`).
        if name not in may or name in _ONLY_GIVEN.get(kind, ()):
            raise Refused(
                f"Unknown parameter: '{where}.{name}'.", f"{where}.{name}", "unknown_parameter"
            )
    for name in sorted(must - _OPTIONAL.get(kind, set())):
        # openai/codex#6725: 'input[79].id' of a hosted call.
        if name not in item:
            raise Refused(
                f"Missing required parameter: '{where}.{name}'.",
                f"{where}.{name}",
                "missing_required_parameter",
            )
    if kind == "message":
        _check_message(item, where)
    _check_ids(item, kind, where)


def _check_ids(item: dict[str, Any], kind: str, where: str) -> None:
    for name in ("id", "call_id"):
        if item.get(name) is not None:
            _check_string(item[name], f"{where}.{name}")
    prefix = PREFIXES.get(kind)
    given = item.get("id")
    if prefix and given is not None and not given.startswith(prefix):
        # jlcodes99/cockpit-tools#2090, continuedev/continue#11785.
        raise _invalid(
            f"Invalid '{where}.id': '{given}'. Expected an ID that begins with '{prefix}'.",
            f"{where}.id",
        )
    if kind in ("function_call", "custom_tool_call"):
        check_name(item["name"], f"{where}.name")


def _check_string(value: Any, where: str) -> None:
    if not isinstance(value, str):
        raise Refused(
            f"Invalid type for '{where}': expected a string, but got {_kind_of(value)} instead.",
            where,
            "invalid_type",
        )
    if not value:
        raise Refused(
            f"Invalid '{where}': empty string. Expected a string with minimum length 1, "
            "but got an empty string instead.",
            where,
            "empty_string",
        )
    if len(value) > LONGEST_ID:
        # NousResearch/hermes-agent#73492, orchidfiles/ungate#26.
        raise too_long(where, LONGEST_ID, len(value))


def too_long(where: str, longest: int, length: int) -> Refused:
    return Refused(
        f"Invalid '{where}': string too long. Expected a string with maximum length {longest}, "
        f"but got a string with length {length} instead.",
        where,
        "string_above_max_length",
    )


def check_name(name: Any, where: str) -> None:
    """A tool's name: mcp-use/mcp-use#90, Vortiago/mcp-azure-devops#30."""
    _check_string(name, where)
    if not NAME.match(name):
        raise _invalid(
            f"Invalid '{where}': string does not match pattern. Expected a string that matches "
            f"the pattern '{NAME.pattern}'.",
            where,
        )


def _check_message(item: dict[str, Any], where: str) -> None:
    role, content = item.get("role"), item.get("content")
    if role not in _ROLES:
        # Chevey339/kelivo#281.
        raise _invalid(
            f"Invalid value: '{role}'. Supported values are: 'assistant', 'system', 'developer', "
            "and 'user'.",
            f"{where}.role",
        )
    if not isinstance(content, str | list):
        raise Refused(
            f"Invalid type for '{where}.content': expected one of an array of objects or string, "
            f"but got {_kind_of(content)} instead.",
            f"{where}.content",
            "invalid_type",
        )
    allowed = _GIVEN_PARTS if role == "assistant" else _INPUT_PARTS
    for place, part in enumerate(content if isinstance(content, list) else ()):
        if part.get("type") not in allowed:
            # jeremychone/rust-genai#119.
            known = " and ".join(f"'{each}'" for each in allowed)
            raise _invalid(
                f"Invalid value: '{part.get('type')}'. Supported values are: {known}.",
                f"{where}.content[{place}]",
            )


def check_schema(wanted: dict[str, Any] | None, param: str) -> None:
    """A strict JSON schema names all its properties and takes no others: OpenAI's guide to
    structured outputs, and `agents.strict_schema`, which makes schemas so."""
    if not wanted or wanted.get("type") != "json_schema" or not wanted.get("strict"):
        return
    schema = wanted["schema"]
    wrong = None
    if schema.get("additionalProperties") is not False:
        wrong = "'additionalProperties' is required to be supplied and to be false."
    elif set(schema.get("required", ())) != set(schema.get("properties", {})):
        wrong = (
            "'required' is required to be supplied and to be an array including every key in "
            "properties."
        )
    if wrong:
        raise Refused(
            f"Invalid schema for response_format '{wanted['name']}': In context=(), {wrong}",
            param,
            "invalid_json_schema",
        )


def _invalid(message: str, param: str) -> Refused:
    return Refused(message, param, "invalid_value")


def _kind_of(value: Any) -> str:
    if value is None:
        return "null"
    kinds = {dict: "an object", list: "an array", bool: "a boolean", int: "an integer"}
    return kinds.get(type(value), f"a {type(value).__name__}")
