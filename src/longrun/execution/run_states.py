"""Runs of the Agents SDK that wait for approvals: as JSON, and back.

The shape is the SDK's (`agents/run_state.py`). It has versions, and each SDK reads the older ones.
"""

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from agents import Agent, RunResultStreaming, ToolOutputFileContent, ToolOutputImage, ToolOutputText
from agents.exceptions import UserError
from agents.run_state import RunState

from longrun.errors import LongrunError
from longrun.history.approvals import REQUEST, Answer
from longrun.jsontext import dumps

log = logging.getLogger("longrun.execution.run_states")

JSONObject = dict[str, Any]

NO_LONGER_FITS: Final = (
    "The run cannot continue: its state from when the approval was requested does not fit the "
    "agent, whose code has changed since."
)

REFUSED: Final = "Tool execution was not approved."
"""What a model is told of a call that was refused; the reason behind it, if there is one."""


class Waiting(NamedTuple):
    """A call that waits for an approval.

    Attributes:
        raw: the model's call.
        agent: whose it is.
        name: the tool.
        nested: it is in a run inside the run.
    """

    raw: JSONObject
    agent: str
    name: str
    nested: bool

    @property
    def by_provider(self) -> bool:
        """Whether the model's provider asks, for a tool that it executes."""
        return self.raw.get("type") == REQUEST

    @property
    def arguments(self) -> str:
        """What it is called with, as JSON; the text that a custom tool takes."""
        given = self.raw.get("arguments", self.raw.get("input"))
        if isinstance(given, str):
            return given
        asked = (self.raw.get(key) for key in ("action", "operation"))
        return dumps(next((each for each in asked if each is not None), {})).decode()


class PausedCall(NamedTuple):
    """A call of the run itself that is not answered yet.

    Attributes:
        raw: as its model gave it, but for its call id.
        behind: it stood right behind reasoning.
        waits: which of the waiting calls keep it, by their places among them.
    """

    raw: JSONObject
    behind: bool
    waits: list[int]


def state_of(result: RunResultStreaming) -> JSONObject:
    """A run that waits, without the application's context, which is made anew.

    Raises:
        LongrunError: the SDK cannot tell its agents apart.
    """
    try:
        state = result.to_state().to_json(context_serializer=lambda _: {}, strict_context=True)
    except UserError as error:
        raise LongrunError(
            "The run needs an approval but cannot wait for it: the names of its agents are not "
            "unique, or its state is not JSON."
        ) from error
    for each in _states(state):
        each["context"]["context"] = {}
    return state


def _states(state: JSONObject) -> Iterator[JSONObject]:
    """The state of a run, and those of the runs inside it."""
    yield state
    for function in (state.get("last_processed_response") or {}).get("functions", ()):
        if "agent_run_state" in function:
            yield from _states(function["agent_run_state"])


def _interruptions(state: JSONObject) -> list[JSONObject]:
    found: list[JSONObject] = (state.get("current_step") or {}).get("data", {})["interruptions"]
    return found


def waiting_in(state: JSONObject) -> list[Waiting]:
    """The calls that wait, in the SDK's order."""
    nested = [each for inner in list(_states(state))[1:] for each in _interruptions(inner)]
    return [
        Waiting(
            each["raw_item"],
            (each.get("agent") or {}).get("name", ""),
            each.get("tool_name") or each["raw_item"].get("name") or each["raw_item"]["type"],
            each in nested,
        )
        for each in _interruptions(state)
    ]


def paused_calls(state: JSONObject, waiting: Sequence[Waiting]) -> list[PausedCall]:
    """The calls of the run itself that wait, or that runs inside it wait in."""
    keeps: dict[str, tuple[JSONObject, list[int]]] = {}
    for function in (state.get("last_processed_response") or {}).get("functions", ()):
        if "agent_run_state" in function:
            inner = _interruptions(function["agent_run_state"])
            raws = [each["raw_item"] for each in inner]
            places = [n for n, each in enumerate(waiting) if each.nested and each.raw in raws]
            call = function["tool_call"]
            keeps[call["call_id"]] = (call, places)
    for place, each in enumerate(waiting):
        if not each.nested and not each.by_provider:
            keeps[each.raw["call_id"]] = (each.raw, [place])
    output = state["model_responses"][-1]["output"]
    order = {item.get("call_id"): n for n, item in enumerate(output)}
    found = []
    for call_id, (raw, places) in sorted(keeps.items(), key=lambda kept: order.get(kept[0], 0)):
        before = output[order[call_id] - 1] if order.get(call_id, 0) > 0 else {}
        found.append(PausedCall(raw, before.get("type") == "reasoning", places))
    return found


async def restored(agent: Agent[Any], state: JSONObject, context: Any) -> RunState[Any, Any]:
    """A run that waits, with the context that the application gives now.

    Raises:
        LongrunError: the agent is another, or lacks what the run needs.
    """
    try:
        return await RunState.from_json(
            agent, state, context_deserializer=lambda _: context, strict_context=True
        )
    except (UserError, ValueError, KeyError, TypeError) as error:
        log.warning("a parked run of %r cannot be read", agent.name, exc_info=error)
        raise LongrunError(NO_LONGER_FITS) from error


def answer(state: RunState[Any, Any], answers: Mapping[int, Answer]) -> None:
    """Let the waiting calls at these places go on, or not.

    Raises:
        LongrunError: the SDK cannot tell two of them apart.
    """
    waiting = state.get_interruptions()
    try:
        for place, given in answers.items():
            if given.approve:
                state.approve(waiting[place])
            else:
                words = f"{REFUSED} {given.reason}" if given.reason else None
                state.reject(waiting[place], rejection_message=words)
    except UserError as error:
        raise LongrunError(
            "The run cannot continue: two of its calls that wait for an approval cannot be told "
            "apart."
        ) from error


def add_input(state: RunState[Any, Any], items: list[Any]) -> None:
    """What is said with the answers comes behind what the approved calls give.

    Raises:
        LongrunError: the run may end with what its tools give, so no model would read it.
    """
    try:
        state.add_input(items)
    except UserError as error:
        raise LongrunError(
            "This agent's run may end with the output of its tools, so it accepts no further "
            "input together with an answer to an approval."
        ) from error


def add_said(state: RunState[Any, Any], items: list[Any]) -> None:
    """What was put into the run before it asked comes there too; where no model would read it, it
    stays in what the response was given."""
    with contextlib.suppress(UserError):
        state.add_input(items)


def as_tool_output(output: Any) -> Any:
    """What a client gives as the output of its tool, as a tool of the SDK's returns it."""
    if not isinstance(output, list):
        return output
    return [_part(part) for part in output]


def _part(part: JSONObject) -> Any:
    match part.get("type"):
        case "input_text":
            return ToolOutputText(text=part.get("text", ""))
        case "input_image":
            return ToolOutputImage(
                image_url=part.get("image_url"),
                file_id=part.get("file_id"),
                detail=part.get("detail"),
            )
        case "input_file":
            return ToolOutputFileContent(
                file_data=part.get("file_data"),
                file_url=part.get("file_url"),
                file_id=part.get("file_id"),
                filename=part.get("filename"),
            )
    return ToolOutputText(text=dumps(part).decode())
