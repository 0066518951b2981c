"""A model on Chat Completions that is cut off, at its limit or by a filter."""

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from agents import ModelBehaviorError
from openai.types.responses import Response, ResponseCompletedEvent

from longrun.execution.replay.cut_off import CutOff
from tests.unit import streams

SAID = streams.message("one two")


async def given(*each: Any) -> AsyncIterator[Any]:
    for one in each:
        if isinstance(one, Exception):
            raise one
        yield one


def chunk(reason: str | None) -> Any:
    return SimpleNamespace(choices=[SimpleNamespace(finish_reason=reason)])


async def told(reason: str | None, last: Any) -> list[Any]:
    """What comes of chunks that end for a reason, of which the SDK makes this."""
    cut_off = CutOff(Response.construct(output=[]), given(chunk(None), chunk(reason)))
    assert len([each async for each in cut_off.chunks()]) == 2
    return [event async for event in cut_off.events(given(last))]


def completed() -> Any:
    event = streams.raw(streams.completed(SAID))
    assert isinstance(event, ResponseCompletedEvent)
    return event


@pytest.mark.parametrize("reason", ["stop", "tool_calls", None])
async def test_one_that_has_ended_is_complete(reason: str | None) -> None:
    end = completed()
    assert await told(reason, end) == [end]
    with pytest.raises(ModelBehaviorError):
        await told(reason, ModelBehaviorError("no"))


@pytest.mark.parametrize(
    ("why", "reason"), [("length", "max_output_tokens"), ("content_filter", "content_filter")]
)
async def test_one_that_is_cut_off_is_incomplete(why: str, reason: str) -> None:
    [event] = await told(why, completed())
    assert event.type == "response.incomplete"
    assert event.response.status == "incomplete"
    assert event.response.incomplete_details.reason == reason
    assert event.response.output[-1].status == "incomplete"
    [event] = await told(why, ModelBehaviorError("no text at all"))
    assert (event.type, event.response.output) == ("response.incomplete", [])
