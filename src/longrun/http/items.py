"""Input items: what of them has to be right before a run begins."""

from typing import Annotated, Any, Final

from pydantic import WithJsonSchema

from longrun.errors import BadRequest

_ROLES: Final = ("assistant", "developer", "system", "user")

_STRINGS: Final = ("id", "call_id", "name", "status", "role")
"""What is a string in every type of item that has it. Items are matched by them."""

_NEEDED: Final = {
    "function_call": ("call_id", "name", "arguments"),
    "custom_tool_call": ("call_id", "name", "input"),
    "compaction": ("encrypted_content",),
    "item_reference": ("id",),
    "mcp_approval_response": ("approval_request_id",),
}


_OUTPUT: Final = "_call_output"
"""How the names of the types end of items that answer a call."""


_OF_LOCAL_SHELL: Final = "local_shell_call_output"
"""Its type in `openai` has the id of its call as its own."""


def _schema() -> dict[str, Any]:
    """The JSON schema of an item that passes."""
    text = {"type": "string"}
    part = {"type": "object", "properties": {"type": text}, "required": ["type"]}
    content = {"anyOf": [text, {"type": "array", "items": part}]}
    message = {
        "properties": {
            "type": {"const": "message"},
            "role": {"enum": list(_ROLES)},
            "content": content,
        },
        "required": ["role", "content"],
    }

    def of(kind: dict[str, Any], *needed: str) -> dict[str, Any]:
        texts = dict.fromkeys(needed, text)
        return {"properties": {"type": kind, **texts}, "required": ["type", *needed]}

    output = {"type": "string", "pattern": f"{_OUTPUT}$"}
    known = [{"enum": ["message", *_NEEDED]}, {"pattern": f"{_OUTPUT}$"}]
    return {
        "type": "object",
        "properties": {name: {"type": ["string", "null"]} for name in _STRINGS},
        "anyOf": [
            message,
            *(of({"const": kind}, *needed) for kind, needed in _NEEDED.items()),
            of(output, "call_id"),
            of({"const": _OF_LOCAL_SHELL}, "id"),
            of({"type": "string", "not": {"anyOf": known}}),
        ],
    }


CheckedItems = Annotated[
    list[Any], WithJsonSchema({"type": "array", "items": _schema()}, mode="validation")
]
"""Items as a model of a body has them; `checked_items` checks them."""


def checked_items(given: list[Any], param: str = "input") -> list[dict[str, Any]]:
    """The items, unchanged. Those of unknown types pass: models learn new ones.

    Args:
        param: the parameter that they are in.

    Raises:
        BadRequest: names the first that is wrong: no object, neither a message nor of a named
            type, or without what its type needs.
    """
    for place, item in enumerate(given):
        _check_item(item, f"{param}[{place}]")
    return given


def _check_item(item: Any, where: str) -> None:
    if not isinstance(item, dict):
        raise _wrong(where, "must be an object")
    kind = item.get("type", "message")
    if not isinstance(kind, str):
        raise _wrong(f"{where}.type", "must be a string")
    if kind == "message":
        _check_message(item, where)
    for name in _STRINGS:
        if not isinstance(item.get(name), str | None):
            raise _wrong(f"{where}.{name}", "must be a string")
    needed = _NEEDED.get(kind, ("call_id",) if kind.endswith(_OUTPUT) else ())
    if kind == _OF_LOCAL_SHELL and "call_id" not in item:
        needed = ("id",)
    for name in needed:
        if not isinstance(item.get(name), str):
            raise _wrong(f"{where}.{name}", "must be a string")
    if kind == "mcp_approval_response":
        if not isinstance(item.get("approve"), bool):
            raise _wrong(f"{where}.approve", "must be true or false")
        if not isinstance(item.get("reason"), str | None):
            raise _wrong(f"{where}.reason", "must be a string")


def _check_message(item: dict[str, Any], where: str) -> None:
    role, content = item.get("role"), item.get("content")
    if not isinstance(role, str) or role not in _ROLES:
        raise _wrong(f"{where}.role", f"must be one of {', '.join(_ROLES)}")
    if not isinstance(content, str) and not _are_parts(content):
        raise _wrong(f"{where}.content", "must be a string or a list of content parts")


def _are_parts(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(part, dict) and isinstance(part.get("type"), str) for part in value
    )


def _wrong(param: str, what: str) -> BadRequest:
    return BadRequest(f"{param} {what}.", param=param, code="invalid_type")
