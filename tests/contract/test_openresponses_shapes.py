"""The Response object as Open Responses (2026-04-24) requires it: all of its fields, at any time.

Its required numbers and its `service_tier` are never null; a poll can be parsed whatever the
status is.
"""

from typing import Any

import pytest
from openai import AsyncOpenAI
from openai.types.responses import Response

from tests.reading import (
    TERMINAL,
    check_complete,
    create,
    finished,
    in_background,
    read,
    retrieve,
    script,
    stream_url,
)
from tests.servers import Replica

NUMBER = (int, float)
NULL = type(None)

REQUIRED: dict[str, tuple[type, ...]] = {
    "background": (bool,),
    "completed_at": (int, NULL),
    "created_at": (int,),
    "error": (dict, NULL),
    "frequency_penalty": NUMBER,
    "id": (str,),
    "incomplete_details": (dict, NULL),
    "instructions": (str, NULL),
    "max_output_tokens": (int, NULL),
    "max_tool_calls": (int, NULL),
    "metadata": (dict,),
    "model": (str,),
    "object": (str,),
    "output": (list,),
    "parallel_tool_calls": (bool,),
    "presence_penalty": NUMBER,
    "previous_response_id": (str, NULL),
    "prompt_cache_key": (str, NULL),
    "reasoning": (dict, NULL),
    "safety_identifier": (str, NULL),
    "service_tier": (str,),
    "status": (str,),
    "store": (bool,),
    "temperature": NUMBER,
    "text": (dict,),
    "tool_choice": (str, dict),
    "tools": (list,),
    "top_logprobs": (int,),
    "top_p": NUMBER,
    "truncation": (str,),
    "usage": (dict, NULL),
}

ITEM_FIELDS = {
    "message": {"id", "type", "role", "status", "content"},
    "function_call": {"id", "type", "call_id", "name", "arguments", "status"},
    "function_call_output": {"id", "type", "call_id", "output", "status"},
    "mcp_call": {
        *("id", "type", "server_label", "name", "arguments", "output", "error", "status"),
        "approval_request_id",
    },
}

USAGE = {
    "input_tokens",
    "input_tokens_details",
    "output_tokens",
    "output_tokens_details",
    "total_tokens",
}


def check_response(response: dict[str, Any]) -> None:
    """All fields, of the right types, and what hangs together with the status."""
    missing = REQUIRED.keys() - response.keys()
    assert not missing
    for name, types in REQUIRED.items():
        value = response[name]
        assert isinstance(value, types), f"{name} is {value!r}"
        # A bool is an int for Python, not for JSON.
        assert isinstance(value, bool) == (types == (bool,)), f"{name} is {value!r}"
    Response.model_validate(response, strict=True)
    assert response["object"] == "response"
    assert isinstance(response["text"]["format"], dict)
    assert (response["completed_at"] is not None) == (response["status"] == "completed")
    assert (response["error"] is not None) == (response["status"] == "failed")
    if response["usage"] is not None:
        assert response["usage"].keys() >= USAGE
    for item in response["output"]:
        assert item.keys() >= ITEM_FIELDS[item["type"]]


def test_there_are_31_of_them() -> None:
    assert len(REQUIRED) == 31


@pytest.mark.parametrize(
    "given",
    [
        {"deltas": 3},
        {"turns": [[["echo", {"text": "a"}], ["echo", {"text": "b"}]]]},
        {"deltas": 3, "fail": 2},
        {"turns": [[["broken", {}]]]},
    ],
    ids=["message", "tools", "failed model", "failed tool"],
)
async def test_every_response_has_them_wherever_it_is_shown(
    two: list[Replica], given: dict[str, Any]
) -> None:
    started = await create(two[0], script(**given), background=True)
    check_response(started)
    check_response(await finished(two[1], started["id"]))
    check_response(await create(two[0], script(**given)))
    reading = check_complete(await read(stream_url(two[1], started["id"])), with_ids=True)
    shown = [event for event in reading.events if "response" in event]
    assert {"response.created", "response.in_progress"} <= {event["type"] for event in shown}
    assert TERMINAL & {event["type"] for event in shown}
    for event in shown:
        check_response(event["response"])


async def test_a_live_response_has_them_too(two: list[Replica]) -> None:
    response_id = await in_background(two[0], deltas=20, pause=0.05)
    response = await retrieve(two[1], response_id)
    assert response["status"] == "in_progress"
    check_response(response)
    await finished(two[1], response_id)


async def test_a_cancelled_one_too(two: list[Replica], clients: list[AsyncOpenAI]) -> None:
    response_id = await in_background(two[0], deltas=1000, pause=0.05)
    await clients[1].responses.cancel(response_id)
    response = await finished(two[0], response_id)
    assert response["status"] == "cancelled"
    check_response(response)


async def test_nulls_of_a_client_do_not_become_nulls_where_none_may_be(
    two: list[Replica],
) -> None:
    nothing = {name: None for name in REQUIRED if name not in ("model", "output")}
    check_response(await create(two[0], "hi", **nothing))


async def test_given_values_are_the_ones_shown(two: list[Replica]) -> None:
    given: dict[str, Any] = {
        "instructions": "Be brief.",
        "temperature": 0,
        "top_p": 0.5,
        "presence_penalty": -1,
        "frequency_penalty": 1.5,
        "top_logprobs": 2,
        "service_tier": "priority",
        "truncation": "auto",
        "tool_choice": "none",
        "metadata": {"a": "b"},
        "safety_identifier": "x",
        "prompt_cache_key": "y",
        "max_output_tokens": 100,
        "max_tool_calls": 5,
        "parallel_tool_calls": False,
    }
    response = await create(two[0], "hi", **given)
    check_response(response)
    assert {name: response[name] for name in given} == given
