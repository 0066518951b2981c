"""What a provider of the Responses API refuses in `input` as a whole, in the words of OpenAI:
items that it does not know, or that do not belong together.

Where a rule was seen is said beside it, as an issue of the repository named. "Stricter" marks what
we refuse though nobody has shown that OpenAI does: the item is one that only its maker knows.
"""

from typing import Any

from tests.provider.memory import Memory
from tests.provider.script import ANSWERED
from tests.provider.shapes import Refused, check_shape

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


def check(given: list[dict[str, Any]], before: list[dict[str, Any]], memory: Memory) -> list[Any]:
    """The whole context of a request: what came before it and its input, references resolved.

    Args:
        before: the context of `previous_response_id`.

    Raises:
        Refused: with OpenAI's status, message, param and code.
    """
    for place, item in enumerate(given):
        check_shape(item, f"input[{place}]")
    context = [*before, *(_resolve(item, memory) for item in given)]
    _check_duplicates(context)
    _check_known(context, memory)
    _check_reasoning(context, memory)
    _check_answers(context)
    return context


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
