"""An `mcp_call`, which is one item to clients, as a call and its output: to models whose provider
has not executed it."""

import contextlib
import hashlib
from collections.abc import Iterator
from typing import Any, Final

from longrun.jsontext import NotJSON, loads

Item = dict[str, Any]

_PARTS: Final = frozenset({"input_file", "input_image", "input_text"})
"""The types of the parts of a tool's output."""


def as_pair(item: Item) -> Iterator[Item]:
    """A call that the server executed, which clients see as one item: the call and its output."""
    call_id = _call_id_of(item)
    call = {"type": "function_call", "id": item.get("id"), "call_id": call_id}
    call.update({key: item.get(key) or "" for key in ("name", "arguments")})
    yield {key: value for key, value in call.items() if value is not None}
    output = item.get("output")
    if output is None:
        output = _error_of(item)
    if output is not None:
        yield {"type": "function_call_output", "call_id": call_id, "output": _parts_of(output)}


def _call_id_of(item: Item) -> str:
    """The same at every look, and as long as Chat Completions takes it."""
    if item.get("id"):
        return f"c_{item['id'].rpartition('_')[2]}"
    asked = f"{item.get('name')} {item.get('arguments')}"
    return f"c_{hashlib.sha256(asked.encode('utf-8', 'surrogatepass')).hexdigest()[:38]}"


def _parts_of(output: Any) -> Any:
    """A tool's output as models get it. An `mcp_call` has parts (pictures, say) as JSON."""
    if not isinstance(output, str) or not output.startswith('[{"'):
        return output
    with contextlib.suppress(NotJSON):
        parts = loads(output)
        if all(isinstance(part, dict) and part.get("type") in _PARTS for part in parts):
            return parts
    return output


def _error_of(item: Item) -> str | None:
    """What the tool said that failed; None of one that never ended."""
    error = item.get("error")
    if not isinstance(error, dict):
        return error
    content = error.get("content")
    parts = content if isinstance(content, list) else ()
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    return "\n".join(map(str, texts)) or str(error.get("message") or error.get("type"))
