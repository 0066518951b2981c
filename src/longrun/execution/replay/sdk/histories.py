"""What the SDK does anew with all items of a run in each of its turns, with less work an item.

In every turn it converts, checks and compares all that the run has made so far: 33 µs of
identities, digests and validations an item, of which nothing is kept, so a run of 400 tool calls
spends 30 ms of its last turn on them. Nearly all items are function calls and outputs that cannot
matter, since no call of the turn has their id. The functions here give what the SDK's own give:
they look at such items themselves, and leave all others, and whatever is unusual, to the SDK's.
They keep nothing from one turn to the next, so a change of an item is heeded as the SDK heeds it.

They were written for certain versions of the SDK (`WRITTEN_FOR`); in others its own stay.
"""

import copy
import dataclasses
import functools
import importlib
import logging
from collections import deque
from collections.abc import Callable, Sequence
from importlib.metadata import version
from itertools import count
from typing import Any, Final
from uuid import uuid4

from agents import (
    HandoffCallItem,
    HandoffOutputItem,
    MCPApprovalResponseItem,
    MessageOutputItem,
    ReasoningItem,
    ToolCallItem,
    ToolCallOutputItem,
)
from openai.types.responses import (
    ResponseFunctionToolCall,
    ResponseOutputMessage,
    ResponseReasoningItem,
)

from longrun.execution.replay.sdk.names import HISTORIES, RUN_ITEMS, RUN_LOOP, Name

log = logging.getLogger("longrun.execution.replay.sdk")

WRITTEN_FOR: Final = frozenset({"0.24.0"})
"""The versions of openai-agents whose functions were read, and compared with these
(`tests/unit/test_histories.py`)."""

Wrapped = Callable[[Callable[..., Any]], Callable[..., Any]]

_raw: Final = object.__getattribute__
"""An attribute of a run's item: the SDK's own way to read one is a function in Python."""

_CALLS: Final = frozenset({ToolCallItem, HandoffCallItem})
_OUTPUTS: Final = frozenset({ToolCallOutputItem, HandoffOutputItem, MCPApprovalResponseItem})
_SAID: Final = frozenset({MessageOutputItem, ReasoningItem})
_USUAL: Final = _CALLS | _OUTPUTS | _SAID
_MODELS: Final[dict[type[Any], str]] = {
    ResponseFunctionToolCall: "function_call",
    ResponseOutputMessage: "message",
    ResponseReasoningItem: "reasoning",
}
_ITEM_OF: Final[dict[type[Any], type[Any]]] = {
    ResponseOutputMessage: MessageOutputItem,
    ResponseReasoningItem: ReasoningItem,
}
MANY: Final = 16
"""Items of a turn from which on it is looked whether they are all said."""

_TEXT: Final = frozenset({str, type(None)})

_ADDED: Final = ("_agents_tool_description", "_agents_tool_title", "created_by")
"""What the SDK takes out of what models are given."""

_ANSWERED_BY: Final = {
    f"{call}_call": f"{call}_call_output"
    for call in ("function", "custom_tool", "shell", "apply_patch", "computer", "local_shell")
}
_ANSWERS: Final = frozenset(_ANSWERED_BY.values())
_UNUSUAL: Final = frozenset({"program", "tool_search_call"})
"""Calls whose outputs are found in other ways than by their ids."""


def _call_id(raw: Any) -> str | None:
    """The id of a function call; None for all else."""
    if type(raw) is not ResponseFunctionToolCall or raw.type != "function_call":
        return None
    found = raw.call_id
    return found if type(found) is str and found else None


def _answered_id(raw: Any) -> str | None:
    """The id of the function call that an output is of; None for all else."""
    if type(raw) is not dict or raw.get("type") != "function_call_output":
        return None
    found = raw.get("call_id")
    return found if type(found) is str and found else None


# -- which items can matter -------------------------------------------------------------------


def _ids_of(raw: Any) -> set[str]:
    """Whatever may be taken for the id of a call."""
    names = ("call_id", "id", "provider_data")
    if isinstance(raw, dict):
        *found, inner = (raw.get(name) for name in names)
    else:
        *found, inner = (getattr(raw, name, None) for name in names)
    if isinstance(inner, dict):
        found += inner.values()
    return {each for each in found if isinstance(each, str)}


def _concerned(items: Sequence[Any], asked: set[str]) -> list[Any]:
    """The items without what has to do with no other: messages, and function calls with their
    outputs whose id no other call has, nor is among those that are asked."""
    once: set[str] = set()
    again = set(asked)
    found: list[tuple[str | None, Any]] = []
    for item in items:
        kind, call_id, raw = type(item), None, _raw(item, "raw_item")
        if kind in _CALLS:
            call_id = _call_id(raw)
            if call_id in once:
                again.add(call_id)
            elif call_id is not None:
                once.add(call_id)
        elif kind is ToolCallOutputItem or kind is HandoffOutputItem:
            call_id = _answered_id(raw)
        elif kind in _SAID and type(raw) in _MODELS and raw.type == _MODELS[type(raw)]:
            # Neither a call nor an output.
            continue
        if call_id is None:
            again |= _ids_of(raw)
        found.append((call_id, item))
    return [item for call_id, item in found if call_id is None or call_id in again]


def _checked(original: Callable[..., Any]) -> Callable[..., Any]:
    """`_dedupe_processed_response_invocations`: whether a turn's calls were made before."""

    @functools.wraps(original)
    def check(
        processed_response: Any, *, context_wrapper: Any, existing_items: Any, **more: Any
    ) -> Any:
        usual = not (
            context_wrapper._allow_legacy_approval_binding_reconstruction
            or processed_response.mcp_approval_requests
        )
        if usual:
            calls = [
                run.tool_call
                for runs in (
                    processed_response.functions,
                    processed_response.handoffs,
                    processed_response.function_tools_not_found,
                    processed_response.computer_actions,
                    processed_response.custom_tool_calls,
                    processed_response.local_shell_calls,
                    processed_response.shell_calls,
                    processed_response.apply_patch_calls,
                )
                for run in runs
            ]
            existing_items = _concerned(existing_items, set().union(*map(_ids_of, calls)))
        items = processed_response.new_items
        if usual and not calls:
            # Of what calls nothing, nothing is left out. It looks at all that is behind reasoning.
            processed_response.new_items = []
        try:
            return original(
                processed_response,
                context_wrapper=context_wrapper,
                existing_items=existing_items,
                **more,
            )
        finally:
            if usual and not calls:
                processed_response.new_items = items

    return check


def _new_ones(original: Callable[..., Any]) -> Callable[..., Any]:
    """`_dedupe_tool_call_items`: the items of a turn without calls that are there already."""

    @functools.wraps(original)
    def new_ones(*, existing_items: Any, new_items: Any, skipped_raw_item_ids: Any) -> Any:
        new = [item for item in new_items if type(item) not in _SAID]
        asked: set[str] = set().union(*(_ids_of(item.raw_item) for item in new))
        existing = [
            item
            for item in existing_items
            if (kind := type(item)) not in _USUAL
            or (
                kind is ToolCallItem
                and ((call_id := _call_id(_raw(item, "raw_item"))) is None or call_id in asked)
            )
        ]
        kept = original(
            existing_items=existing, new_items=new, skipped_raw_item_ids=skipped_raw_item_ids
        )
        if len(kept) == len(new):
            return list(new_items)
        calls = deque(kept)
        return [
            calls.popleft() if type(item) not in _SAID else item
            for item in new_items
            if type(item) in _SAID or (calls and item is calls[0])
        ]

    return new_ones


def _is_none_of(kinds: frozenset[str]) -> Callable[[Any], bool]:
    """Whether an item of a run, or of a model's output, is known to have none of these types."""

    def is_none(item: Any) -> bool:
        known = _MODELS.get(type(item))
        if known is not None:
            return bool(item.type == known)
        if type(item) not in _USUAL:
            return False
        raw = _raw(item, "raw_item")
        known = _MODELS.get(type(raw))
        if known is not None:
            return bool(raw.type == known)
        return type(raw) is dict and type(kind := raw.get("type")) is str and kind not in kinds

    return is_none


_is_no_listing: Final = _is_none_of(frozenset({"mcp_list_tools"}))
_is_no_program: Final = _is_none_of(frozenset({"program", "program_output"}))


def _with_listings(original: Callable[..., Any]) -> Callable[..., Any]:
    """`collect_mcp_list_tools_metadata`: what MCP servers have said of their tools."""

    @functools.wraps(original)
    def collect(items: Any) -> Any:
        return original([item for item in items if not _is_no_listing(item)])

    return collect


def _with_programs(original: Callable[..., Any]) -> Callable[..., Any]:
    """`_collect_program_parent_state`: the programs that have made calls."""

    @functools.wraps(original)
    def collect(items: Any, *, server_manages_conversation: bool = False) -> Any:
        if not server_manages_conversation:
            items = [item for item in items if not _is_no_program(item)]
        return original(items, server_manages_conversation=server_manages_conversation)

    return collect


def _registered(original: Callable[..., Any]) -> Callable[..., Any]:
    """`_register_tool_call_items`: the calls of a turn; of the items before it, that what has an
    output is done."""

    @functools.wraps(original)
    def register(context_wrapper: Any, items: Any, *, validate_invocations: bool = True) -> None:
        if validate_invocations or (context_wrapper._allow_legacy_approval_binding_reconstruction):
            items = [item for item in items if type(item) not in _SAID]
            original(context_wrapper, items, validate_invocations=validate_invocations)
            return
        made = context_wrapper._tool_invocations
        for item in items:
            if type(item) in _OUTPUTS:
                raw = _raw(item, "raw_item")
                record = made.get(_answered_id(raw))
                if record is None or not (record.executed and record.completed):
                    context_wrapper._mark_tool_call_completed(raw)
            elif type(item) not in _USUAL:
                original(context_wrapper, [item], validate_invocations=False)

    return register


def _processed(original: Callable[..., Any]) -> Callable[..., Any]:
    """`process_model_response`: what is to be done for a turn's items. Those that a turn begins
    with are most often said, and there may be very many."""

    @functools.wraps(original)
    def process(*, agent: Any, response: Any, **more: Any) -> Any:
        output = response.output
        count = next((place for place, raw in enumerate(output) if not _is_said(raw)), len(output))
        if count < MANY:
            return original(agent=agent, response=response, **more)
        # `dataclasses.replace` would have pydantic look at each item.
        rest = copy.copy(response)
        rest.output = output[count:]
        processed = original(agent=agent, response=rest, **more)
        items = [_ITEM_OF[type(raw)](raw_item=raw, agent=agent) for raw in output[:count]]
        return dataclasses.replace(processed, new_items=items + processed.new_items)

    return process


def _is_said(raw: Any) -> bool:
    """Whether an item of a model's output is a message or reasoning, and nothing else."""
    kind = type(raw)
    return kind in _ITEM_OF and raw.type == _MODELS[kind] and not raw.__pydantic_extra__


def _keyed(original: Callable[..., Any]) -> Callable[..., Any]:
    """`_ensure_stream_event_item_occurrence_key`: a key for an item of a turn, by which it is told
    from the others. To draw one at random takes longer than all else that is done with it."""
    name = importlib.import_module(RUN_LOOP)._STREAM_EVENT_ITEM_OCCURRENCE_KEY
    drawn, numbers = uuid4().hex, count()

    @functools.wraps(original)
    def ensure(item: Any) -> Any:
        if type(item) not in _SAID or name in item.__dict__:
            return original(item)
        item.__dict__[name] = key = f"{drawn}{next(numbers)}"
        return key

    return ensure


# -- what a model is asked --------------------------------------------------------------------


def _as_input(item: Any) -> dict[str, Any] | None:
    """An item as models are given it; None for what the SDK has to convert."""
    kind, raw = type(item), _raw(item, "raw_item")
    if kind in _CALLS:
        if _call_id(raw) is None or raw.__pydantic_extra__:
            return None
        given, fields = raw.__pydantic_fields_set__, raw.__dict__
        form = {key: fields[key] for key in fields if key in given}
        if not _TEXT.issuperset(map(type, form.values())):
            return None
    elif kind is ToolCallOutputItem or kind is HandoffOutputItem:
        if _answered_id(raw) is None:
            return None
        form = dict(raw)
        form.pop("created_by", None)
    else:
        return None
    if "status" in form and form["status"] is None:
        del form["status"]
    return form


def _as_inputs(original: Callable[..., Any]) -> Callable[..., Any]:
    """`run_items_to_input_items`: the items of the run as models are given them."""

    @functools.wraps(original)
    def convert(run_items: Any, reasoning_item_id_policy: Any = None) -> list[Any]:
        found: list[Any] = []
        for item in run_items:
            form = _as_input(item) if type(item) in _USUAL else None
            if form is None:
                found += original([item], reasoning_item_id_policy)
            else:
                found.append(form)
        return found

    return convert


def _prepared(original: Callable[..., Any]) -> Callable[..., Any]:
    """`prepare_model_input_items`: the input of a model, without calls that nobody answered."""

    @functools.wraps(original)
    def prepare(caller_items: Any, generated_items: Any = ()) -> Any:
        asked, generated = _stripped(caller_items), _stripped(generated_items)
        if asked is None or generated is None or not _is_answered(generated):
            return original(caller_items, generated_items)
        return asked + generated

    return prepare


def _stripped(items: Sequence[Any]) -> list[dict[str, Any]] | None:
    """Copies of items that are plain, without what the SDK adds; None if some are not plain."""
    found = []
    for item in items:
        if type(item) is not dict:
            return None
        copied = dict(item)
        for key in _ADDED:
            copied.pop(key, None)
        found.append(copied)
    return found


def _is_answered(items: Sequence[dict[str, Any]]) -> bool:
    """Whether each call has its output, so nothing is to be left out."""
    calls: list[tuple[str, Any]] = []
    answers: set[tuple[str, Any]] = set()
    for item in items:
        kind = item.get("type")
        if type(kind) is not str:
            if kind is None:
                continue
            return False
        if kind in _UNUSUAL:
            return False
        answer = _ANSWERED_BY.get(kind)
        if answer is None and kind not in _ANSWERS:
            continue
        call_id = item.get("call_id")
        if type(call_id) is not str:
            return False
        if answer is None:
            answers.add((kind, call_id))
        else:
            calls.append((answer, call_id))
    return answers.issuperset(calls)


def _each_once(original: Callable[..., Any]) -> Callable[..., Any]:
    """`deduplicate_input_items_preferring_latest`: the input of a model, each item once."""
    key_of = importlib.import_module(RUN_ITEMS)._dedupe_key

    @functools.wraps(original)
    def each_once(items: Any) -> Any:
        keys: set[str] = set()
        for item in items:
            if type(item) is not dict:
                return original(items)
            kind, call_id = item.get("type"), item.get("call_id")
            if (
                type(call_id) is str
                and (kind == "function_call" or kind == "function_call_output")
                and item.get("role") is None
            ):
                key = f"call_id:{kind}:{call_id}"
            elif kind == "message" or item.get("role") is not None:
                continue
            else:
                key = key_of(item)
                if key is None:
                    continue
            if key in keys:
                return original(items)
            keys.add(key)
        return list(items)

    return each_once


_PLAIN: Final = frozenset({str, int, float, bool, type(None)})


def _copied(value: Any, other: Callable[[Any], Any]) -> Any:
    """A copy of JSON values, lists and dicts anew; `other` makes that of all else."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is dict:
        return {
            key: each if type(each) in _PLAIN else _copied(each, other)
            for key, each in value.items()
        }
    if kind is list:
        return [each if type(each) in _PLAIN else _copied(each, other) for each in value]
    return other(value)


def _cloned(original: Callable[..., Any]) -> Callable[..., Any]:
    """`_clone_original_input`: a deep copy of a run's input, nearly all of it JSON."""

    @functools.wraps(original)
    def clone(original_input: Any) -> Any:
        if type(original_input) is not list:
            return original(original_input)
        try:
            return _copied(original_input, copy.deepcopy)
        except RecursionError:
            return original(original_input)

    return clone


def _dumpable(original: Callable[..., Any]) -> Callable[..., Any]:
    """`_to_dump_compatible`: a copy of an input in which all that can be listed is a list."""

    @functools.wraps(original)
    def convert(obj: Any) -> Any:
        return _copied(obj, original)

    return convert


# -- in place of the SDK's --------------------------------------------------------------------

_WRAPPED: Final[dict[str, Wrapped]] = {
    "_clone_original_input": _cloned,
    "_ensure_stream_event_item_occurrence_key": _keyed,
    "_to_dump_compatible": _dumpable,
    "process_model_response": _processed,
    "_register_tool_call_items": _registered,
    "_dedupe_processed_response_invocations": _checked,
    "_dedupe_tool_call_items": _new_ones,
    "collect_mcp_list_tools_metadata": _with_listings,
    "_collect_program_parent_state": _with_programs,
    "run_items_to_input_items": _as_inputs,
    "prepare_model_input_items": _prepared,
    "deduplicate_input_items_preferring_latest": _each_once,
}


def quicker() -> list[tuple[Name, Wrapped]]:
    """What may stand in place of the SDK's functions; nothing in versions that these were not
    written for."""
    installed = version("openai-agents")
    if installed not in WRITTEN_FOR:
        log.warning(
            "long runs take more CPU with openai-agents %s than with %s",
            installed,
            ", ".join(sorted(WRITTEN_FOR)),
        )
        return []
    return [(name, _WRAPPED[name.name]) for name in HISTORIES if name.name in _WRAPPED]
