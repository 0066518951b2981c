"""Runs of the SDK, their agents and handoffs."""

import asyncio
import dataclasses
from typing import Any

from agents import Agent, Handoff, ItemHelpers, MessageOutputItem, RunResultStreaming
from agents.result import RunResultBase


def last_text(result: RunResultBase) -> str | None:
    """The text of the message that a run ended with; None if it ended with something else."""
    item = result.new_items[-1] if result.new_items else None
    return ItemHelpers.text_message_output(item) if isinstance(item, MessageOutputItem) else None


def cancellation_of(result: RunResultStreaming) -> asyncio.CancelledError | None:
    """What cancelled the SDK's own work on a run, if anything did; its stream just ends then."""
    task = loop_task(result)
    if task is not None and task.cancelled():
        try:
            task.result()
        except asyncio.CancelledError as error:
            return error
    return None


def loop_task(result: RunResultStreaming) -> asyncio.Task[Any] | None:
    """The task in which the SDK drives a run."""
    return result.run_loop_task


def discard(result: RunResultStreaming) -> None:
    """Let a run that has ended hold nothing any more. It refers to itself: all that was said would
    stay in memory until the collector comes, many runs later."""
    task = loop_task(result)
    if task is None or task.done():
        vars(result).clear()


def put_in(result: RunResultStreaming, items: list[Any]) -> None:
    """Give a run more input between two of its turns: it goes in before the next one, after what
    the tools gave. As `RunState.add_input` does for a run that waits; for one that is live the SDK
    has nothing."""
    state = result._state
    assert state is not None
    state._pending_input.extend(items)


def with_callback(handoff: Handoff[Any, Any], callback: Any) -> Handoff[Any, Any]:
    """A copy of a handoff that calls this instead."""
    copied = dataclasses.replace(handoff, on_invoke_handoff=callback)
    copied._agent_ref = handoff._agent_ref
    return copied


def target_of(handoff: Handoff[Any, Any]) -> Agent[Any] | None:
    """The agent that a handoff leads to; None if only its own function knows."""
    reference: Any = handoff._agent_ref
    return reference() if reference else None


def targets_of(agent: Any) -> list[Any]:
    """The agents that this one hands over to, as far as can be known."""
    handoffs = [
        target_of(each) if isinstance(each, Handoff) else each
        for each in getattr(agent, "handoffs", ())
    ]
    return [found for found in handoffs if found is not None]


def agents_behind(agent: Any) -> list[Any]:
    """The agents that this one hands over to, as far as can be known, or has as tools."""
    tools = [getattr(tool, "_agent_instance", None) for tool in getattr(agent, "tools", ())]
    return [*targets_of(agent), *(found for found in tools if found is not None)]
