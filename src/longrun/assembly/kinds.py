"""The kinds of output items: which texts are streamed of each, and by which events.

The rules are those of openai's types and of its `responses.stream()` (openai/lib/streaming).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final, get_args

from openai.types.responses import ResponseStreamEvent
from pydantic import BaseModel
from pydantic_core import PydanticSerializationError

JSONObject = dict[str, Any]

Event = tuple[str, JSONObject]
"""An event's type and its other fields but for its number, ready to be emitted."""

ITEM_ADDED: Final = "response.output_item.added"
ITEM_DONE: Final = "response.output_item.done"


def _known_types() -> frozenset[str]:
    union = get_args(ResponseStreamEvent)[0]
    return frozenset(
        get_args(event.model_fields["type"].annotation)[0] for event in get_args(union)
    )


KNOWN_TYPES: Final = _known_types()
"""Event types of the Responses API; openai-node throws on any other, so no other leaves."""

WITH_CALL_ID: Final = frozenset(
    {
        "apply_patch_call",
        "computer_call",
        "custom_tool_call",
        "function_call",
        "local_shell_call",
        "program",
        "shell_call",
        "tool_search_call",
    }
)
"""Known by their call id: one that has none yet cannot be shown."""

WITH_STATUS: Final = frozenset(
    {
        "computer_call_output",
        "custom_tool_call_output",
        "function_call",
        "function_call_output",
        "message",
        "reasoning",
        "shell_call_output",
    }
)
"""Clients expect a status of these, though models and the SDK may leave it out."""

NEVER_IN_PROGRESS: Final = frozenset({"apply_patch_call_output", "program_output"})
NEVER_FAILED: Final = frozenset({"shell_call_output"})
"""Items whose status says only that all of them is there: how the command ended is in `outcome`.
The SDK says `failed` of them, which openai's type does not know."""

UNFINISHED: Final = {"image_generation_call": "failed", "apply_patch_call": "in_progress"}
"""What stands for the status `incomplete` where openai's type of an item does not know it."""


@dataclass(frozen=True, slots=True)
class Text:
    """One kind of streamed text: where it lies in its item and which events tell of it."""

    part: str  # the part's type
    key: str  # the part's key that holds the text
    events: str  # `{events}.delta` and `{events}.done`
    index: str  # the events' key for the part's place
    parts: str  # `{parts}.added` and `{parts}.done`
    extra: Mapping[str, Any] = field(default_factory=dict)


_CONTENT: Final = "response.content_part"
_SUMMARY: Final = "response.reasoning_summary_part"

_TEXTS: Final = (
    Text(
        "output_text", "text", "response.output_text", "content_index", _CONTENT, {"logprobs": []}
    ),
    Text("refusal", "refusal", "response.refusal", "content_index", _CONTENT),
    Text("reasoning_text", "text", "response.reasoning_text", "content_index", _CONTENT),
    Text("summary_text", "text", "response.reasoning_summary_text", "summary_index", _SUMMARY),
)
TEXT_OF_PART: Final = {text.part: text for text in _TEXTS}
TEXT_OF_EVENT: Final = {
    f"{text.events}.{what}": (text, what) for text in _TEXTS for what in ("delta", "done")
}
PART_EVENTS: Final = {
    f"{parts}.{what}": (index, what)
    for parts, index in ((_CONTENT, "content_index"), (_SUMMARY, "summary_index"))
    for what in ("added", "done")
}
CALL_KEYS: Final = {
    "function_call": ("arguments", "response.function_call_arguments"),
    "custom_tool_call": ("input", "response.custom_tool_call_input"),
    "mcp_call": ("arguments", "response.mcp_call_arguments"),
    "code_interpreter_call": ("code", "response.code_interpreter_call_code"),
}
"""Of calls whose arguments are streamed: the key that holds them, and their events."""

OWN_CALLS: Final = frozenset({"function_call", "custom_tool_call"})
"""Calls that are always streamed; those of hosted tools, if the model does so."""

MCP_CALL: Final = "response.mcp_call"
"""Events that begin so tell how the call of an `mcp_call` gets on."""

CALL_EVENTS: Final = {
    f"{events}.{what}": what for _, events in CALL_KEYS.values() for what in ("delta", "done")
}
DELTAS: Final = frozenset(
    kind for kind in (*TEXT_OF_EVENT, *CALL_EVENTS) if kind.endswith(".delta")
)
"""Events whose `delta` are pieces of one text, so that several can be one."""

LISTS: Final = (("summary", "summary_index"), ("content", "content_index"))
"""An item's lists of parts, and the key by which events say which part is meant."""

ANNOTATION: Final = "response.output_text.annotation.added"

_ITEM_OF_EVENTS: Final = {
    "response.output_text": "message",
    "response.output_text.annotation": "message",
    "response.refusal": "message",
    "response.content_part": "message",
    "response.reasoning_text": "reasoning",
    "response.reasoning_summary_part": "reasoning",
    "response.reasoning_summary_text": "reasoning",
    "response.function_call_arguments": "function_call",
    "response.custom_tool_call_input": "custom_tool_call",
    "response.mcp_call_arguments": "mcp_call",
    "response.code_interpreter_call_code": "code_interpreter_call",
    "response.shell_call_command": "shell_call",
    "response.shell_call_output_content": "shell_call_output",
}
"""What item an event is about; all others say it: `response.web_search_call.searching`."""


def item_of_event(kind: str, fields: JSONObject) -> str:
    """The type of the item that an event is about."""
    if kind in PART_EVENTS:
        part = fields.get("part")
        of_part = part.get("type") if isinstance(part, dict) else getattr(part, "type", None)
        if of_part == "reasoning_text":
            return "reasoning"
    return _item_of_kind(kind)


@cache
def _item_of_kind(kind: str) -> str:
    events = kind.rpartition(".")[0]
    return _ITEM_OF_EVENTS.get(events) or events.removeprefix("response.")


def type_of(raw: JSONObject) -> str:
    """An item's type."""
    item_type: str = raw.get("type", "message")
    return item_type


def is_output(raw: JSONObject) -> bool:
    """Whether an item is what a tool gave, and not what the model said."""
    return str(raw.get("type")).endswith("_output")


def texts_of(message: JSONObject) -> list[Any]:
    """What a message says, part by part."""
    return [part.get("text") or part.get("refusal") for part in message.get("content") or ()]


def with_lists(part: JSONObject) -> JSONObject:
    """A content part with the lists that clients iterate over without asking."""
    if part.get("type") != "output_text":
        return part
    part = {"annotations": [], "logprobs": [], **part}
    for key in ("annotations", "logprobs"):
        if part[key] is None:
            part[key] = []
    return part


def plain(raw: Any) -> JSONObject:
    """A model object, or a dict, as a dict of JSON values."""
    if isinstance(raw, BaseModel):
        try:
            return raw.model_dump(mode="json", by_alias=True, exclude_unset=True, warnings=False)
        except (UnicodeError, PydanticSerializationError):
            return raw.model_dump(by_alias=True, exclude_unset=True, warnings=False)
    return dict(raw)


def text_of(part: JSONObject) -> str | None:
    """What a part says; None of kinds that are not streamed."""
    text = TEXT_OF_PART.get(part.get("type", ""))
    return None if text is None else part.get(text.key) or ""


def with_detail(part: Any) -> Any:
    """A part of a tool's output; the SDK leaves out what openai's type of a picture demands."""
    if isinstance(part, dict) and part.get("type") == "input_image":
        return {"detail": "auto", **part}
    return part


def missing(whole: str, said: str) -> str:
    """What of a text was not said yet; nothing where the two do not fit together."""
    return whole[len(said) :] if whole.startswith(said) else ""


def fields_of(kind: str, event: Any) -> JSONObject:
    """What a model's event says, `type` and `sequence_number` first, nulls left out."""
    fields = {"type": kind, "sequence_number": 0, **event.__dict__}
    if event.__pydantic_extra__:
        fields.update(event.__pydantic_extra__)
    if None in fields.values():
        return {key: value for key, value in fields.items() if value is not None}
    return fields
