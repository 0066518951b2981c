"""What a provider of Chat Completions refuses in `messages`, with the words of OpenAI's API.

Where a rule was seen is said beside it, as an issue of the repository named.
"""

import json
from typing import Any

from tests.provider.shapes import Refused, check_name, too_long

LONGEST_CALL_ID = 40
"""vercel/ai#5171, camel-ai/camel#2215. The Responses API has 64."""

_FIELDS = {
    "developer": {"role", "content", "name"},
    "system": {"role", "content", "name"},
    "user": {"role", "content", "name"},
    "assistant": {"role", "content", "name", "audio", "function_call", "refusal", "tool_calls"},
    "tool": {"role", "content", "tool_call_id"},
}
"""As `openai.types.chat` has them."""


def check(messages: list[dict[str, Any]], extra: frozenset[str] = frozenset()) -> None:
    """Check the messages of a request.

    Args:
        extra: fields that this provider adds to an assistant's message, as `reasoning_content`.

    Raises:
        Refused: with OpenAI's status, message, param and code.
    """
    if not messages:
        raise Refused(
            "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an "
            "empty array instead.",
            "messages",
            "empty_array",
        )
    for place, message in enumerate(messages):
        _check_fields(message, place, extra)
        _check_content(message, place)
        _check_calls(message, place)
    _check_answers(messages)


def _check_fields(message: dict[str, Any], place: int, extra: frozenset[str]) -> None:
    role = message.get("role")
    if role not in _FIELDS:
        known = ", ".join(f"'{each}'" for each in _FIELDS)
        raise Refused(
            f"Invalid value: '{role}'. Supported values are: {known}.",
            f"messages[{place}].role",
            "invalid_value",
        )
    for name in message:
        # Seen for `id`, `tool_calls[].index` and `reasoning`.
        if name not in _FIELDS[role] | (extra if role == "assistant" else frozenset()):
            where = f"messages[{place}].{name}"
            raise Refused(f"Unknown parameter: '{where}'.", where, "unknown_parameter")


def _check_content(message: dict[str, Any], place: int) -> None:
    content = message.get("content")
    speaks = message.get("tool_calls") or message.get("refusal") or message.get("function_call")
    if content is None and not (message["role"] == "assistant" and speaks):
        # langchain-ai/langchainjs#4153, docker/docker-agent#63.
        raise Refused(
            "Invalid value for 'content': expected a string, got null.",
            f"messages.[{place}].content",
        )
    if content == []:
        where = f"messages[{place}].content"
        raise Refused(
            f"Invalid '{where}': empty array. Expected an array with minimum length 1, but got an "
            "empty array instead.",
            where,
            "empty_array",
        )


def _check_calls(message: dict[str, Any], place: int) -> None:
    calls = message.get("tool_calls")
    if calls is None:
        return
    where = f"messages[{place}].tool_calls"
    if not calls:
        raise Refused(
            f"Invalid '{where}': empty array. Expected an array with minimum length 1, but got an "
            "empty array instead.",
            where,
            "empty_array",
        )
    for number, call in enumerate(calls):
        at = f"{where}[{number}]"
        unknown = set(call) - {"id", "type", "function", "custom", "extra_content"}
        if unknown:
            name = f"{at}.{min(unknown)}"
            raise Refused(f"Unknown parameter: '{name}'.", name, "unknown_parameter")
        if len(call["id"]) > LONGEST_CALL_ID:
            raise too_long(f"{at}.id", LONGEST_CALL_ID, len(call["id"]))
        if call["type"] == "function":
            check_name(call["function"]["name"], f"{at}.function.name")
            _check_arguments(call["function"]["arguments"], f"{at}.function.arguments")


def _check_arguments(arguments: Any, where: str) -> None:
    """Some compatible servers parse them (vLLM, Qwen); OpenAI wants a string only."""
    if not isinstance(arguments, str):
        kind = json.dumps(arguments)
        raise Refused(
            f"Invalid type for '{where}': expected a string, but got {kind} instead.",
            where,
            "invalid_type",
        )


def _check_answers(messages: list[dict[str, Any]]) -> None:
    """The answers to an assistant's calls stand right behind it: all of them, and no others."""
    waiting: list[str] = []
    for place, message in enumerate(messages):
        if message["role"] == "tool":
            if message.get("tool_call_id") not in waiting:
                # miurla/morphic#136, smarter-sh/smarter#264.
                raise Refused(
                    "Invalid parameter: messages with role 'tool' must be a response to a "
                    "preceeding message with 'tool_calls'.",
                    f"messages.[{place}].role",
                )
            waiting.remove(message["tool_call_id"])
            continue
        if waiting:
            raise _unanswered(waiting, place)
        waiting = [call["id"] for call in message.get("tool_calls") or ()]
    if waiting:
        raise _unanswered(waiting, len(messages))


def _unanswered(waiting: list[str], place: int) -> Refused:
    """BerriAI/litellm#10083, aliasrobotics/cai#111."""
    return Refused(
        "An assistant message with 'tool_calls' must be followed by tool messages responding to "
        "each 'tool_call_id'. The following tool_call_ids did not have response messages: "
        + ", ".join(waiting),
        f"messages.[{place}].role",
    )
