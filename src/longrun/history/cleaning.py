"""Items without what no model's provider takes: what clients, the Agents SDK and longrun added.

An item of a type that OpenAI's types know keeps the fields that they let it have as input; SDKs
add others (`parsed_arguments`, `parsed`, `created_by`, `shell_output`), which providers refuse.
Items of types that they do not know keep all but what is ours: models learn new ones.
"""

import typing
from functools import cache
from typing import Any, Final, NamedTuple

from openai.types.responses.response_input_item_param import ResponseInputItemParam

from longrun import ids

Item = dict[str, Any]

LONGEST_ID: Final = 64
"""Characters of an item's id, with OpenAI."""

_OURS: Final = frozenset({"id", "provider_data", "status"})
"""What is ours in an item of any type: provider ids come from its other face."""

_NO_NEED: Final = {"message": frozenset({"id", "status"}), "reasoning": frozenset({"id"})}
"""Fields that the types demand and the API does not: a model's message may come back as a plain
one, and encrypted reasoning without its id."""

_PARTS: Final = {
    "output_text": ("type", "text", "annotations", "logprobs"),
    "refusal": ("type", "refusal"),
}
"""Fields of the parts of a model's message; `parse` of OpenAI's SDKs adds `parsed`."""


class _Fields(NamedTuple):
    may: frozenset[str]
    must: frozenset[str]


@cache
def _fields() -> dict[str, _Fields]:
    """The fields that an item of each type may have as input, and those that it must have."""
    found: dict[str, _Fields] = {}
    for each in typing.get_args(ResponseInputItemParam):
        hints = typing.get_type_hints(each, include_extras=True)
        must = frozenset(
            n for n, hint in hints.items() if typing.get_origin(hint) is typing.Required
        )
        for kind in _literals(hints["type"]):
            known = found.get(kind, _Fields(frozenset(), must))
            found[kind] = _Fields(known.may | hints.keys(), known.must & must)
    return {
        kind: fields._replace(must=fields.must - _NO_NEED.get(kind, frozenset()))
        for kind, fields in found.items()
    }


def _literals(hint: Any) -> list[str]:
    if isinstance(hint, str):
        return [hint]
    return [kind for each in typing.get_args(hint) for kind in _literals(each)]


def kind_of(item: Item) -> str:
    """An item's type; one without is a message."""
    return item.get("type") or "message"


def needs_id(item: Item) -> bool:
    """Whether an item is nothing without the id that its provider gave it: a call of a hosted tool
    or of a computer; reasoning that is not sealed."""
    kind = kind_of(item)
    if kind == "reasoning":
        return not item.get("encrypted_content")
    fields = _fields().get(kind)
    return fields is not None and "id" in fields.must and kind != "local_shell_call_output"


def said(item: Item) -> Item:
    """What an item says, in the shape in which providers take it, without an id."""
    kind = kind_of(item)
    fields = _fields().get(kind)
    if fields is None:
        return {key: value for key, value in item.items() if key not in _OURS}
    kept = {
        key: value
        for key, value in item.items()
        if key in fields.may
        and (key not in _OURS or (key == "status" and key in fields.must))
        and (value is not None or key in fields.must)
    }
    if "status" in fields.must and kept.get("status") is None:
        kept["status"] = "completed"
    if kind == "message" and isinstance(kept.get("content"), list):
        kept["content"] = [_part(part) for part in kept["content"]]
    elif kind == "shell_call_output" and isinstance(kept.get("output"), list):
        kept["output"] = [_chunk(chunk) for chunk in kept["output"]]
    elif kind == "local_shell_call_output" and item.get("call_id"):
        # By which it finds its call, until it reaches its model.
        kept["call_id"] = item["call_id"]
    return kept


def cleaned(item: Item) -> Item:
    """An item that a client sent and that is none of ours, with the id that it came with if a
    provider may have given it."""
    kept = said(item)
    given = item.get("id")
    if isinstance(given, str) and _may_be_a_provider_s(given, kind_of(item)):
        kept["id"] = given
    return kept


def _may_be_a_provider_s(item_id: str, kind: str) -> bool:
    prefix = ids.ITEM_PREFIXES.get(kind)
    if prefix is None or kind.endswith("_output"):
        return False
    return item_id.startswith(prefix) and len(item_id) <= LONGEST_ID and not ids.is_item_id(item_id)


def _part(part: Any) -> Any:
    if not isinstance(part, dict):
        return part
    keys = _PARTS.get(part.get("type", ""))
    return part if keys is None else {key: part[key] for key in keys if part.get(key) is not None}


def _chunk(chunk: Any) -> Any:
    if not isinstance(chunk, dict):
        return chunk
    return {key: value for key, value in chunk.items() if key in ("outcome", "stderr", "stdout")}
