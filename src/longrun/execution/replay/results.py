"""Step results as JSON text and back: what models and tools gave, never pickled.

Tools may return anything; the SDK shows the model strings, its own rich outputs, and the `str()`
of the rest. What is recorded comes back as the same string, the same rich output or the same
JSON value; any other object comes back as its `str()`.
"""

from typing import Any, Final

from agents import ModelResponse, ToolOutputFileContent, ToolOutputImage, ToolOutputText
from agents.usage import deserialize_usage, serialize_usage
from openai.types.responses import Response

from longrun.assembly.kinds import plain
from longrun.jsontext import dumps, loads

_RICH: Final = {
    kind.__name__: kind for kind in (ToolOutputText, ToolOutputImage, ToolOutputFileContent)
}


_NOT_NEEDED: Final = frozenset({"instructions", "metadata", "prompt", "text", "tools"})
"""What a provider echoes in every turn's response, and nobody reads from there."""


def encode_tool_output(output: Any) -> Any:
    """A tool's output as a JSON value that says what it was."""
    for name, kind in _RICH.items():
        if isinstance(output, kind):
            return {name: plain(output)}
    if isinstance(output, list | tuple) and any(
        isinstance(p, tuple(_RICH.values())) for p in output
    ):
        return {"list": [encode_tool_output(part) for part in output]}
    return {"json": output if _comes_back(output) else str(output)}


def _comes_back(output: Any) -> bool:
    """Whether JSON gives the same value again, which the model would be shown in the same way."""
    try:
        again = loads(dumps(output))
    except (TypeError, ValueError):
        return False
    return bool(again == output) and str(again) == str(output)


def decode_tool_output(encoded: Any) -> Any:
    """The output again."""
    [(name, value)] = encoded.items()
    if name == "list":
        return [decode_tool_output(part) for part in value]
    if name in _RICH:
        return _RICH[name](**value)
    return value


def encode_response(response: Response, indexes: list[int]) -> str:
    """A streamed model turn, and the output indexes that its items got."""
    kept = {name: value for name, value in plain(response).items() if name not in _NOT_NEEDED}
    return dumps({"response": kept, "indexes": indexes}).decode()


def decode_response(result: str) -> tuple[Response, list[int]]:
    recorded = loads(result)
    return Response.construct(**recorded["response"]), recorded["indexes"]


def encode_model_response(response: ModelResponse) -> str:
    """A model turn of a run inside the run, which is not streamed."""
    return dumps(
        {
            "output": [plain(item) for item in response.output],
            "usage": serialize_usage(response.usage),
            "response_id": response.response_id,
        }
    ).decode()


def decode_model_response(result: str) -> ModelResponse:
    recorded = loads(result)
    built = Response.construct(output=recorded["output"])
    return ModelResponse(
        output=built.output,
        usage=deserialize_usage(recorded["usage"]),
        response_id=recorded["response_id"],
    )
