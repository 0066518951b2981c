"""Actions: shell, computer, custom and apply-patch tools."""

import copy
import dataclasses
import inspect
import types
from collections.abc import Awaitable, Callable
from typing import Any


def call_of(arguments: dict[str, Any]) -> Any:
    """The model's call, from what an action's `execute` was given."""
    return _run_of(arguments).tool_call


def tool_of(arguments: dict[str, Any]) -> Any:
    """The tool of an action."""
    run = _run_of(arguments)
    return getattr(run, _tool_field(run))


def commit_output(arguments: dict[str, Any], item: Any) -> None:
    """Tell the SDK of an action's output item, as the action itself would have."""
    committer = arguments.get("tool_output_committer")
    if committer is not None:
        committer(item)


def replace_output(item: Any, words: str) -> None:
    """Put words in place of what an action's item has as its output, but for a screenshot."""
    item.output = words
    raw = item.raw_item
    raw.pop("shell_output", None)
    if isinstance(raw.get("output"), str):
        raw["output"] = words
    elif isinstance(raw.get("output"), list):
        outcome = {"type": "exit", "exit_code": 0}
        raw["output"] = [{"stdout": words, "stderr": "", "outcome": outcome}]


def guarded(
    arguments: dict[str, Any], may_start: Callable[[], Awaitable[bool]], otherwise: str
) -> dict[str, Any]:
    """What an action was given, with an executor that asks first whether it may start."""

    def guard(execute: Callable[..., Any]) -> Callable[..., Any]:
        async def guarded_execute(*args: Any) -> Any:
            if not await may_start():
                return otherwise
            result = execute(*args)
            return await result if inspect.isawaitable(result) else result

        return guarded_execute

    tool = copy.copy(tool_of(arguments))
    if hasattr(tool, "editor"):
        names = ("create_file", "update_file", "delete_file")
        edits = {name: guard(getattr(tool.editor, name)) for name in names}
        tool.editor = types.SimpleNamespace(**edits)
    else:
        name = "executor" if hasattr(tool, "executor") else "on_invoke_tool"
        setattr(tool, name, guard(getattr(tool, name)))
    run = _run_of(arguments)
    return {**arguments, "call": dataclasses.replace(run, **{_tool_field(run): tool})}


def _run_of(arguments: dict[str, Any]) -> Any:
    return arguments["call"] if "call" in arguments else arguments["action"]


def _tool_field(run: Any) -> str:
    return next(field.name for field in dataclasses.fields(run) if field.name.endswith("_tool"))
