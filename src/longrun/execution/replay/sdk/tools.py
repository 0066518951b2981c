"""Function tools: what they give, as the SDK has it."""

import importlib
from typing import Any

from agents import FunctionTool, ItemHelpers, UserError
from pydantic_core import to_json


def is_agent_tool(tool: Any) -> bool:
    """Whether a tool is an agent, which is a run inside the run."""
    return bool(tool._is_agent_tool)


def declared_json(tool: Any, output: Any) -> str | None:
    """Of a tool with a declared type of output: the output as JSON, which that type reads again.
    None for a tool without, and for text, which is JSON then."""
    if getattr(tool, "output_json_schema", None) is None or isinstance(output, str):
        return None
    adapter = tool._output_type_adapter
    encoded: bytes = to_json(output) if adapter is None else adapter.dump_json(output)
    return encoded.decode()


def output_item(tool: FunctionTool, call: Any, output: Any) -> Any:
    """The output item of a tool that has ended. None where the SDK alone can tell: of a tool with
    a declared type of output, that gave something else (words of a guardrail's, say)."""
    try:
        return ItemHelpers.tool_call_output_item(
            call,
            output,
            output_json_schema=tool.output_json_schema,
            output_type_adapter=tool._output_type_adapter,
        )
    except UserError:
        return None


def tool_result(output: Any, *, is_error: bool = False) -> Any:
    """What the call of a function tool comes to. `is_error`: the SDK itself wrote the output."""
    result: Any = importlib.import_module("agents.tool")
    return result._FunctionToolInvocationResult(output, is_sdk_generated_error=is_error)


def is_error(result: Any) -> bool:
    return bool(result.is_sdk_generated_error)
