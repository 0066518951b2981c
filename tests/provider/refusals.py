"""What a provider of the Responses API refuses in `input`, with the words of OpenAI's API.

Where a rule was seen is said beside it, as an issue of the repository named. "Stricter" marks what
we refuse though nobody has shown that OpenAI does: the item is one that only its maker knows.
"""

import re
import typing
from dataclasses import dataclass
from typing import Any, Required

from openai.types.responses.response_input_item_param import ResponseInputItemParam

from tests.provider.items import PREFIXES
from tests.provider.memory import Memory
from tests.provider.script import ANSWERED

LONGEST_ID = 64
NAME = re.compile(r"^[a-zA-Z0-9_-]+$")

HOSTED = frozenset(
    {
        "web_search_call",
        "file_search_call",
        "code_interpreter_call",
        "image_generation_call",
        "mcp_call",
        "mcp_list_tools",
        "mcp_approval_request",
    }
)
"""What the provider itself executed, and knows by its id."""

_CALLED = {
    "function_call": "function call",
    "custom_tool_call": "custom tool call",
    "computer_call": "computer call",
    "shell_call": "shell call",
    "apply_patch_call": "apply patch call",
    "local_shell_call": "local shell call",
}
"""How errors call them: openai/codex#593 (function), microsoft/agent-framework#8663 (shell);
custom, computer and patch as public proxies of the API tell them apart. The local shell's is ours.
"""

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


def check(given: list[dict[str, Any]], before: list[dict[str, Any]], memory: Memory) -> list[Any]:
    """The whole context of a request: what came before it and its input, references resolved.

    Args:
        before: the context of `previous_response_id`.

    Raises:
        Refused: with OpenAI's status, message, param and code.
    """
    for place, item in enumerate(given):
        _check_shape(item, f"input[{place}]")
    context = [*before, *(_resolve(item, memory) for item in given)]
    _check_duplicates(context)
    _check_known(context, memory)
    _check_reasoning(context, memory)
    _check_answers(context)
    return context


# The shape of an item.


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


def _check_shape(item: dict[str, Any], where: str) -> None:
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


# What the provider knows of it.


def _not_found(item_id: str, stored: bool) -> Refused:
    """can1357/oh-my-pi#41, anomalyco/opencode#7724."""
    why = (
        ""
        if stored
        else " Items are not persisted when `store` is set to false. Try again with `store` set to "
        "true, or remove this item from your input."
    )
    return Refused(f"Item with id '{item_id}' not found.{why}", status=404)


def _resolve(item: dict[str, Any], memory: Memory) -> dict[str, Any]:
    if item.get("type") != "item_reference":
        return item
    if item["id"] not in memory.stored:
        raise _not_found(item["id"], stored=item["id"] not in memory.given)
    return memory.given[item["id"]]


def _check_duplicates(context: list[dict[str, Any]]) -> None:
    """OpenRouterTeam/ai-sdk-provider#254."""
    seen: set[str] = set()
    for item in context:
        item_id = item.get("id")
        if item_id is None or item.get("type", "").endswith("_output"):
            continue
        if item_id in seen:
            raise Refused(
                f"Duplicate item found with id {item_id}. Remove duplicate items from your input "
                "and try again."
            )
        seen.add(item_id)


def _check_known(context: list[dict[str, Any]], memory: Memory) -> None:
    for item in context:
        kind, item_id = item.get("type", "message"), item.get("id")
        if kind == "reasoning":
            if item.get("encrypted_content"):
                _check_seal(item, memory)
            elif item_id is not None and item_id not in memory.stored:
                # openai/openai-agents-python#2020.
                raise _not_found(item_id, stored=item_id not in memory.given)
        elif kind in HOSTED and item_id not in memory.given:
            # Stricter: shown for images, which the API looks up by their id, and for approvals.
            raise _not_found(item_id, stored=True)


def _check_seal(item: dict[str, Any], memory: Memory) -> None:
    """openai/codex#35334, smallmain/vscode-unify-chat-provider#178, maximhq/bifrost#5186."""
    item_id = item.get("id")
    of = memory.mint.unseal(item["encrypted_content"])
    shown = f"for item {item_id}" if item_id else f"{item['encrypted_content'][:4]}..."
    reason = None
    if of is None:
        reason = "Encrypted content could not be decrypted or parsed."
    elif item_id is not None and of != item_id:
        reason = "Encrypted content item_id did not match the target item id."
    if reason:
        raise Refused(
            f"The encrypted content {shown} could not be verified. Reason: {reason}",
            None,
            "invalid_encrypted_content",
        )


def _check_reasoning(context: list[dict[str, Any]], memory: Memory) -> None:
    """Reasoning and the item behind it stay together, while they are sent with their ids.

    An item without its id stands alone (laravel/ai#1052), and so does one that never had any.
    """
    for place, item in enumerate(context):
        item_id = item.get("id")
        if item.get("type") == "reasoning":
            _check_follower(context, place, memory)
        elif item_id in memory.reasoning_of:
            needed = memory.reasoning_of[item_id]
            before = context[place - 1] if place else {}
            if before.get("type") != "reasoning" or before.get("id", needed) != needed:
                # mastra-ai/mastra#10713, VRSEN/agency-swarm#367.
                kind = item.get("type", "message")
                raise Refused(
                    f"Item '{item_id}' of type '{kind}' was provided without its required "
                    f"'reasoning' item: '{needed}'."
                )


def _check_follower(context: list[dict[str, Any]], place: int, memory: Memory) -> None:
    """openai/openai-agents-python#1611, openai/openai-node#1567, vercel/ai#7099."""
    item = context[place]
    behind = next((each for each in context[place + 1 :] if each.get("type") != "reasoning"), None)
    needed = memory.follower_of.get(item.get("id", ""))
    if needed is None:
        return
    if behind is not None and behind.get("id") == needed:
        return
    kind = memory.given[needed]["type"]
    alone = behind is not None and "id" not in behind and behind.get("type", "message") == kind
    # Whoever keeps encrypted reasoning keeps no ids (openai/codex).
    if not (alone and item.get("encrypted_content")):
        raise Refused(
            f"Item '{item['id']}' of type 'reasoning' was provided without its required "
            "following item."
        )


def _check_answers(context: list[dict[str, Any]]) -> None:
    """Each call is answered behind it, and each answer has its call before it."""
    answers = {answer: call for call, answer in ANSWERED.items()}
    open_calls: dict[tuple[str, str], int] = {}
    called: set[tuple[str, str]] = set()
    for item in context:
        kind = item.get("type", "message")
        if kind in _CALLED:
            key = (kind, item["call_id"])
            called.add(key)
            open_calls[key] = 1
        elif kind == "mcp_approval_request":
            called.add((kind, item["id"]))
        elif kind in answers:
            key = (answers[kind], _answered(item))
            if key not in called:
                raise _no_call(kind, key[1])
            open_calls.pop(key, None)
    for kind, call_id in open_calls:
        # tjardoo/openai-client#124.
        raise Refused(f"No tool output found for {_CALLED[kind]} {call_id}.")


def _answered(item: dict[str, Any]) -> str:
    if item["type"] == "mcp_approval_response":
        return str(item["approval_request_id"])
    # The id of a local shell's output is that of its call: its type in `openai` says so.
    return str(item.get("call_id") or item.get("id"))


def _no_call(kind: str, call_id: str) -> Refused:
    """continuedev/continue#10092, james-6-23/codex2api#414."""
    if kind == "mcp_approval_response":
        # The words are ours.
        return Refused(f"No approval request found for approval response with id '{call_id}'.")
    name = _CALLED[kind.removesuffix("_output")]
    return Refused(f"No tool call found for {name} output with call_id {call_id}.")
