"""What the model does, told by the last user message, a JSON object:

    {"turns": [TURN, …], "then": "the last text"}

A TURN is a list of elements (`items.py` lists them: `{"text": …}`, `{"call": …}`, …) or an object
`{"items": [element, …], …}` with the fields of `Turn`. After the turns comes a message with the
text of `then`, or an instance of the JSON schema that the request asks for, or, with
`"show": true`, what the model was given, as JSON. A user message that is not such an object is
answered with itself. Words may stand above the object, in lines of their own, as where a script
comes back in a summary.

The model keeps no state: which turn it is in, it reads from what follows the last user message.
"""

import json
from dataclasses import dataclass, fields
from typing import Any, Literal

End = Literal["completed", "incomplete", "failed", "error", "disconnect", "silence"]

ANSWERED = {
    "function_call": "function_call_output",
    "custom_tool_call": "custom_tool_call_output",
    "computer_call": "computer_call_output",
    "shell_call": "shell_call_output",
    "apply_patch_call": "apply_patch_call_output",
    "local_shell_call": "local_shell_call_output",
    "mcp_approval_request": "mcp_approval_response",
}
"""The items that somebody else has to answer, and with what."""

_CALLS = frozenset(
    {"call", "custom", "computer", "shell", "apply_patch", "local_shell", "approval"}
)


@dataclass(frozen=True)
class Turn:
    """One answer of the model.

    Attributes:
        items: its elements.
        end: how it ends. `error` is the `error` event of a stream, `disconnect` a connection that
            is cut, `silence` a stream without a terminal event; of these three a plain answer makes
            a 500, a cut connection, and an answer that is cut too.
        after: the events that a stream sends before that end; None is all of them.
        reason: of `incomplete`: `max_output_tokens` or `content_filter`.
        status: answer with this HTTP status (429, 500, 503) and no model output.
        times: only so many times; then the turn goes on as if `end` were `completed` and `status`
            not given, which is what a client's retry finds.
        pause: seconds between the events of a stream.
        gate: wait here, before the first event or after `after` of them, until the test opens the
            gate of that name.
    """

    items: tuple[dict[str, Any], ...] = ()
    end: End = "completed"
    after: int | None = None
    reason: str = "max_output_tokens"
    status: int | None = None
    times: int | None = None
    pause: float = 0.0
    gate: str | None = None

    @classmethod
    def of(cls, given: Any) -> "Turn":
        if isinstance(given, list):
            return cls(items=tuple(given))
        unknown = set(given) - {field.name for field in fields(cls)}
        if unknown:
            raise ValueError(f"a turn has no {', '.join(sorted(unknown))}")
        return cls(**{**given, "items": tuple(given.get("items", ()))})

    @property
    def waits_for(self) -> int:
        """How many of its items are answered before the model is asked again."""
        calls = sum(1 for element in self.items if _CALLS & element.keys())
        raw = sum(1 for element in self.items if element.get("type") in ANSWERED)
        return calls + raw

    @property
    def leaves(self) -> int:
        """How many other items but reasoning it leaves in the history."""
        made = sum(1 for element in self.items if "reasoning" not in element)
        return made - self.waits_for


@dataclass(frozen=True)
class Script:
    turns: tuple[Turn, ...]
    then: str | None = None
    show: bool = False

    @classmethod
    def of(cls, text: str) -> "Script":
        """The script of a user message."""
        given = _json(text)
        if given is None:
            given = _json(text.rpartition("\n")[2])
        if not isinstance(given, dict):
            return cls((), then=text)
        turns = tuple(Turn.of(turn) for turn in given.get("turns", ()))
        return cls(turns, given.get("then"), bool(given.get("show")))

    def turn(self, calls: int, others: int) -> Turn | None:
        """The turn to take, None after the last.

        Args:
            calls: the items since the user's message that somebody has to answer.
            others: the other ones that a model makes, but reasoning: what a turn without a call
                left there, as one of hosted tools only.
        """
        for turn in self.turns:
            awaited, left = turn.waits_for, turn.leaves
            if (calls < awaited) if awaited else (others < left or not left):
                return turn
            calls, others = calls - awaited, max(0, others - left)
        return None


def of_items(items: list[dict[str, Any]]) -> tuple[Script, Turn | None]:
    """The script in the input of the Responses API, and its turn."""
    at = _last(items, "user")
    script = Script.of(_text(items[at].get("content")) if at >= 0 else "")
    since = [item.get("type", "message") for item in items[at + 1 :]]
    made_by_others = {*ANSWERED.values(), "reasoning"}
    calls = sum(1 for kind in since if kind in ANSWERED)
    others = sum(1 for kind in since if kind not in ANSWERED and kind not in made_by_others)
    return script, script.turn(calls, others)


def of_messages(messages: list[dict[str, Any]]) -> tuple[Script, Turn | None]:
    """The script in the messages of Chat Completions, and its turn."""
    at = _last(messages, "user")
    script = Script.of(_text(messages[at].get("content")) if at >= 0 else "")
    since = [each for each in messages[at + 1 :] if each.get("role") == "assistant"]
    calls = sum(len(each.get("tool_calls") or ()) for each in since)
    others = sum(1 for each in since if not each.get("tool_calls"))
    return script, script.turn(calls, others)


def instance(schema: dict[str, Any], root: dict[str, Any] | None = None) -> Any:
    """The smallest JSON value that is right by a schema."""
    root = root or schema
    if "$ref" in schema:
        found: Any = root
        for part in schema["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        return instance(found, root)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    for union in ("anyOf", "oneOf", "allOf"):
        if union in schema:
            return instance(schema[union][0], root)
    kind = schema.get("type", "object")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        return {name: instance(each, root) for name, each in schema.get("properties", {}).items()}
    if kind == "array":
        return [instance(schema["items"], root)] if "items" in schema else []
    return {"string": "text", "integer": 1, "number": 1.5, "boolean": True, "null": None}[kind]


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _last(items: list[dict[str, Any]], role: str) -> int:
    return max((i for i, item in enumerate(items) if item.get("role") == role), default=-1)


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content or ())
