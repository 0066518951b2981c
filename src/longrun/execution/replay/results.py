"""Step results as JSON text and back: what models and tools gave, never pickled.

Tools may return anything; the SDK shows the model strings, its own rich outputs, and the `str()`
of the rest. What is recorded comes back as the same string, the same rich output or the same
JSON value; any other object (an array, a generator, a list that contains itself) comes back as its
`str()`.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from agents import ModelResponse, ToolOutputFileContent, ToolOutputImage, ToolOutputText
from agents.usage import deserialize_usage, serialize_usage
from openai.types.responses import Response

from longrun.assembly.kinds import plain
from longrun.assembly.server_calls import RunningCall
from longrun.execution.replay.rebuilt import rebuilt
from longrun.execution.replay.references import encode_referring
from longrun.jsontext import dumps, loads
from longrun.pieces import Pieces, at_once

_RICH: Final = {
    kind.__name__: kind for kind in (ToolOutputText, ToolOutputImage, ToolOutputFileContent)
}


_SCALARS: Final = frozenset({str, int, bool, type(None)})

DEEPEST: Final = 100
"""Levels of lists and dicts that are kept as such; a list may contain itself."""

ENVELOPE_BYTES: Final = 4096
"""What an output item has beside the output."""

SHORT_BYTES: Final = 16 * 1024

TOGETHER: Final = 50
"""Items of a turn that are made again in one go."""

log = logging.getLogger("longrun.execution.replay.results")

_NOT_NEEDED: Final = frozenset({"instructions", "metadata", "prompt", "text", "tools"})
"""What a provider echoes in every turn's response, and nobody reads from there."""


def shown_output(output: Any, limit: int) -> tuple[Any, Any]:
    """A tool's output as the model and the client are to get it, and as it is recorded: what the
    tool gave, or words in its place where that cannot be shown or is too large.

    Args:
        limit: bytes of JSON (LONGRUN_MAX_ITEM_BYTES).
    """
    try:
        encoded = encode_tool_output(output)
        size = _size(output, encoded)
    except Exception as error:
        # Of its str(): SDK and model see the output through that.
        log.warning("a tool's output cannot be shown: %s", type(error).__name__)
        return _instead(
            f"The tool's output could not be shown: its str() raised {type(error).__name__}."
        )
    words = too_large(size, limit)
    return (output, encoded) if words is None else _instead(words)


def too_large(size: int, limit: int) -> str | None:
    """What stands in place of an output of so many bytes, if it is not kept."""
    if size + ENVELOPE_BYTES <= limit:
        return None
    log.warning("a tool's output of %d bytes is not kept: at most %d are", size, limit)
    return f"The tool's output was {size:,} bytes, more than {limit:,}; it was not kept."


def _instead(words: str) -> tuple[str, Any]:
    return words, {"json": words}


def _size(output: Any, encoded: Any) -> int:
    """Of an output as JSON, recorded or shown, whichever is larger: what is no text is shown as
    Python writes it, which is less than 4 times its JSON."""
    size = len(dumps(encoded))
    if "json" in encoded and not isinstance(encoded["json"], str):
        shown = str(output)
        if size > SHORT_BYTES:
            size = max(size, len(dumps(shown)))
    return size


def encode_tool_output(output: Any) -> Any:
    """A tool's output as a JSON value that says what it was."""
    for name, kind in _RICH.items():
        if isinstance(output, kind):
            return {name: plain(output)}
    if isinstance(output, list | tuple) and any(
        isinstance(p, tuple(_RICH.values())) for p in output
    ):
        return {"list": [encode_tool_output(part) for part in output]}
    if isinstance(output, str):
        return {"json": str.__str__(output)}
    return {"json": output if is_json(output, DEEPEST) else str(output)}


def is_json(value: Any, depth: int) -> bool:
    """Whether JSON gives the very same value again, which the model would be shown in the same
    way. Told by types alone: to compare is up to the value (arrays give arrays, others raise)."""
    kind = type(value)
    if kind is list:
        return depth > 0 and all(is_json(part, depth - 1) for part in value)
    if kind is dict:
        return depth > 0 and all(
            type(name) is str and is_json(part, depth - 1) for name, part in value.items()
        )
    if kind is float:
        return math.isfinite(value)
    return kind in _SCALARS


def decode_tool_output(encoded: Any) -> Any:
    """The output again."""
    [(name, value)] = encoded.items()
    if name == "list":
        return [decode_tool_output(part) for part in value]
    if name in _RICH:
        return _RICH[name](**value)
    return value


def encode_response(
    response: Response,
    indexes: Sequence[int],
    given: Mapping[str, Any],
    calls: Mapping[str, RunningCall] = MappingProxyType({}),
    items: Mapping[int, str] = MappingProxyType({}),
) -> Pieces[str]:
    """A streamed model turn as the model gave it, with the output indexes of its items, and its
    calls that are executed here: as text, in pieces.

    Args:
        given: by the call ids that were minted, what the model gave (`call_ids.py`).
        items: what it may refer to, as in `references.refer`.
    """
    output: list[Any] = []
    for item in response.output or ():
        output.append(plain(item))
        yield
    beside = plain(response.model_copy(update={"output": []}) if output else response)
    kept = {name: value for name, value in beside.items() if name not in _NOT_NEEDED}
    if output:
        kept["output"] = output
    minted = _as_given(output, given)
    recorded: dict[str, Any] = {"response": kept, "indexes": list(indexes), **minted}
    if calls:
        recorded["calls"] = {call_id: list(call) for call_id, call in calls.items()}
    return (yield from encode_referring(recorded, items, output))


def decode_response(result: str) -> tuple[Response, list[int]]:
    """The turn again, as the SDK had it: with the call ids that were minted."""
    return at_once(decoding_response(result))


def decoding_response(result: str) -> Pieces[tuple[Response, list[int]]]:
    """The same, in pieces."""
    recorded = loads(result)
    yield
    told = recorded["response"]
    output = told.get("output")
    _as_minted(recorded, output)
    if not isinstance(output, list) or len(output) <= TOGETHER:
        return rebuilt(told), recorded["indexes"]
    items: list[Any] = []
    for first in range(0, len(output), TOGETHER):
        items += rebuilt({"output": output[first : first + TOGETHER]}).output
        yield
    response = rebuilt({**told, "output": []})
    response.output = items
    return response, recorded["indexes"]


def decode_indexes(result: str) -> tuple[list[int], dict[str, RunningCall]]:
    """The output indexes of a turn's items, and its calls that are executed here."""
    recorded = loads(result)
    calls = {call_id: RunningCall(*call) for call_id, call in recorded.get("calls", {}).items()}
    return recorded["indexes"], calls


def encode_model_response(response: ModelResponse, given: Mapping[str, Any]) -> str:
    """A model turn of a run inside the run, which is not streamed."""
    output = [plain(item) for item in response.output]
    minted = _as_given(output, given)
    usage = serialize_usage(response.usage)
    return dumps(
        {"output": output, "usage": usage, "response_id": response.response_id, **minted}
    ).decode()


COMPACTIONS: Final = "/~context_compaction"
"""The scope of the model turns that summarize the context of the run; no call leads there."""


def encode_compaction(response: ModelResponse, compacted: str, index: int, tail: int) -> str:
    """Such a turn, with what came of it.

    Args:
        index: the output index of its item.
        tail: how many items at the end of the run's input are spared.
    """
    recorded = loads(encode_model_response(response, {}))
    beside = {"compacted": compacted, "index": index, "tail": tail}
    return dumps({**recorded, **beside}).decode()


def decode_compaction(result: str) -> tuple[ModelResponse, str, int]:
    """Such a turn, what came of it, and how many items are spared."""
    recorded = loads(result)
    return decode_model_response(result), recorded["compacted"], recorded["tail"]


def index_of_compaction(result: str) -> int:
    """The output index of the item of such a turn."""
    index: int = loads(result)["index"]
    return index


def decode_model_response(result: str) -> ModelResponse:
    recorded = loads(result)
    _as_minted(recorded, recorded["output"])
    return ModelResponse(
        output=rebuilt({"output": recorded["output"]}).output,
        usage=deserialize_usage(recorded["usage"]),
        response_id=recorded["response_id"],
    )


def recorded_usage(result: str) -> Any:
    """What a recorded turn has used: a `ResponseUsage`, the SDK's `Usage`, or None."""
    recorded = loads(result)
    if "response" in recorded:
        return rebuilt({"usage": recorded["response"].get("usage")}).usage
    return deserialize_usage(recorded["usage"])


def recorded_call_ids(result: str) -> tuple[set[str], dict[str, Any]]:
    """Of a recorded turn: all call ids that the SDK had, and what the model gave for those that
    were minted."""
    if '"call_id' not in result:
        return set(), {}
    recorded = loads(result)
    output = recorded.get("response", recorded).get("output")
    given = _as_minted(recorded, output)
    return {item["call_id"] for item in output or () if item.get("call_id")}, given


def recorded_output(result: str) -> list[dict[str, Any]]:
    """What a recorded turn gave, with the call ids that the SDK had."""
    recorded = loads(result)
    output = recorded.get("response", recorded).get("output") or []
    _as_minted(recorded, output)
    return output


def _as_given(output: list[Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Put back what the model gave as call ids. What was minted is recorded beside, by the place
    in the output; nothing if nothing was."""
    minted = {}
    for place, item in enumerate(output):
        call_id = item.get("call_id")
        if call_id in given:
            minted[str(place)] = call_id
            item["call_id"] = given[call_id]
    return {"call_ids": minted} if minted else {}


def _as_minted(recorded: Any, output: Any) -> dict[str, Any]:
    given = {}
    for place, call_id in recorded.get("call_ids", {}).items():
        item = output[int(place)]
        given[call_id] = item["call_id"]
        item["call_id"] = call_id
    return given
