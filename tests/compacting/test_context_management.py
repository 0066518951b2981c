"""`context_management`: a context over its threshold is compacted between two model turns."""

import contextlib
import json
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from openai import AsyncOpenAI

from longrun.history.context_compaction import INTRODUCTION
from tests import servers
from tests.compacting.agents import AGENTS, SUMMARY
from tests.compacting.conftest import PROMPT
from tests.compacting.test_compact import ask, said_in
from tests.postgres import Server
from tests.provider.agents import LOOK, environment, script
from tests.provider.server import Provider
from tests.reading import check_complete, create, finished, read, stream_url
from tests.servers import Replica

SOON: list[Any] = [{"type": "compaction", "compact_threshold": 1000}]

LONG = "The weather was fine. " * 300
"""Some 1,600 tokens."""

READ = {"call": "read", "arguments": {"size": 6000}}

COMPACTED = ("user", f"{INTRODUCTION}\n\n{SUMMARY}")


async def in_background(replica: Replica, said: str, **fields: Any) -> str:
    """Start a response in the background; its id."""
    return str((await create(replica, said, background=True, **fields))["id"])


def client_of(replica: Replica) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=replica.base_url, api_key="none", max_retries=0)


def is_summary(asked: Any, prompt: str = PROMPT) -> bool:
    """Whether a request asked for a summary."""
    return said_in(asked.items)[-1] == ("user", prompt)


@pytest.mark.parametrize("family", ["chat", "litellm"])
async def test_before_the_first_turn_of_a_response(
    pair: list[Replica], provider: Provider, family: str
) -> None:
    model = f"{family}-plain"
    async with client_of(pair[0]) as client, client_of(pair[1]) as other:
        first = await client.responses.create(model=model, input=LONG)
        provider.forget_requests()
        second = await client.responses.create(
            model=model, input="And?", previous_response_id=first.id, context_management=SOON
        )
        asked = list(provider.asked)
        assert [is_summary(each) for each in asked] == [True, False]
        assert LONG in json.dumps(asked[0].body)
        # The new input is not compacted, and comes last.
        assert said_in(asked[1].items) == [COMPACTED, ("user", "And?")]
        assert [item.type for item in second.output] == ["compaction", "message"]
        assert second.output_text == "And?"
        assert second.usage is not None
        told = [each.usage or {} for each in asked]
        assert second.usage.total_tokens == sum(each["total_tokens"] for each in told)

        # What continues it gets the compacted context, in each way of sending it back.
        expected = [COMPACTED, ("user", "And?"), ("assistant", "And?"), ("user", "More?")]
        output: list[Any] = [item.to_dict() for item in second.output]
        whole = [ask(LONG), {"role": "assistant", "content": LONG}, ask("And?"), *output]
        references = [{"type": "item_reference", "id": item["id"]} for item in output]
        for more in (
            {"previous_response_id": second.id, "input": "More?"},
            {"input": [*whole, ask("More?")]},
            {"input": [ask(LONG), ask("And?"), *references, ask("More?")]},
        ):
            provider.forget_requests()
            third = await other.responses.create(model=model, **more)  # type: ignore[call-overload]
            assert said_in(provider.asked[-1].items) == expected
            assert third.output_text == "More?"
    assert provider.refused == []


async def test_its_item_in_a_stream(pair: list[Replica]) -> None:
    first = await create(pair[0], LONG, model="chat-plain")
    made = await in_background(
        pair[0],
        "And?",
        model="chat-plain",
        previous_response_id=first["id"],
        context_management=SOON,
    )
    await finished(pair[0], made)
    reading = check_complete(await read(stream_url(pair[1], made)), with_ids=True)
    about = [each for each in reading.events if each.get("item", {}).get("type") == "compaction"]
    added, done = about
    assert added["type"] == "response.output_item.added"
    assert done["type"] == "response.output_item.done"
    assert (added["item"]["id"], added["output_index"]) == (done["item"]["id"], 0)
    assert reading.events[-1]["response"]["output"][0] == done["item"]


async def test_a_context_below_the_threshold_is_left(
    pair: list[Replica], provider: Provider
) -> None:
    async with client_of(pair[0]) as client:
        first = await client.responses.create(model="chat-plain", input="short")
        second = await client.responses.create(
            model="chat-plain",
            # What no model has answered yet is not compacted either.
            input=LONG,
            previous_response_id=first.id,
            context_management=SOON,
        )
    assert [item.type for item in second.output] == ["message"]
    assert not any(map(is_summary, provider.asked))


@pytest.mark.parametrize("family", ["chat", "litellm"])
async def test_between_two_turns_of_a_run(
    pair: list[Replica], provider: Provider, family: str
) -> None:
    said = script([READ], [LOOK])
    response = await create(
        pair[0],
        said,
        model=f"{family}-reading",
        context_management=SOON,
        instructions="Be brief.",
    )
    assert response["status"] == "completed", response["error"]
    kinds = [item["type"] for item in response["output"]]
    assert kinds == ["mcp_call", "mcp_call", "compaction", "message"]
    # What was read is summarized when the model has seen it, with the last turn spared.
    assert [is_summary(each) for each in provider.asked] == [False, False, True, False]
    last = provider.asked[-1]
    assert "xxxx" in json.dumps(provider.asked[2].body)
    assert "xxxx" not in json.dumps(last.body)
    assert "found cat" in json.dumps(last.body)
    users = [each for each in said_in(last.items) if each[0] == "user"]
    assert users == [("user", said), COMPACTED]
    assert "Be brief." in json.dumps(last.body)
    # And so for what continues it.
    provider.forget_requests()
    await create(pair[1], "More?", model=f"{family}-reading", previous_response_id=response["id"])
    body = json.dumps(provider.asked[-1].body)
    assert "xxxx" not in body
    assert "found cat" in body
    assert COMPACTED in said_in(provider.asked[-1].items)
    assert provider.refused == []


async def test_a_conversation_goes_on_from_it(pair: list[Replica], provider: Provider) -> None:
    async with client_of(pair[0]) as client:
        on = (await client.conversations.create()).id
        for said in (LONG, "And?"):
            await client.responses.create(
                model="chat-plain", input=said, conversation=on, context_management=SOON
            )
        provider.forget_requests()
        await client.responses.create(model="chat-plain", input="More?", conversation=on)
    expected = [COMPACTED, ("user", "And?"), ("assistant", "And?"), ("user", "More?")]
    assert said_in(provider.asked[-1].items) == expected


async def test_it_is_left_to_a_provider_that_does_it(
    pair: list[Replica], provider: Provider
) -> None:
    item = {"type": "compaction", "encrypted_content": "gAAAAABtheirs"}
    async with client_of(pair[0]) as client, client_of(pair[1]) as other:
        first = await client.responses.create(
            model="responses-plain",
            input=script([item, {"text": LONG}]),
            context_management=SOON,
        )
        [asked] = provider.asked
        assert asked.body["context_management"] == SOON
        assert [each.type for each in first.output] == ["compaction", "message"]
        provider.forget_requests()
        await other.responses.create(
            model="responses-plain", input="And?", previous_response_id=first.id
        )
    [back] = [each for each in provider.asked[-1].items if each.get("type") == "compaction"]
    assert back == {**item, "id": asked.output[0]["id"]}
    assert provider.refused == []


async def test_a_run_goes_on_without_a_summary_that_cannot_be_had(
    database: Server, provider: Provider
) -> None:
    prompt = json.dumps({"turns": [{"status": 500}]})
    with replicas(database, provider, "compacting_fails", prompt, 1) as (replica,):
        first = await create(replica, LONG, model="chat-plain")
        second = await create(
            replica,
            "And?",
            model="chat-plain",
            previous_response_id=first["id"],
            context_management=SOON,
        )
    assert [item["type"] for item in second["output"]] == ["message"]
    assert LONG in json.dumps(provider.asked[-1].body)


@contextlib.contextmanager
def replicas(
    database: Server, provider: Provider, schema: str, prompt: str, count: int = 2, agent: str = ""
) -> Iterator[list[Replica]]:
    given = environment(provider) | {
        "LONGRUN_COMPACTION_PROMPT": prompt,
        "LONGRUN_COMPACTION_AGENT": agent,
    }
    with servers.replicas(
        count, database.url, schema=schema, agents=AGENTS, environment=given
    ) as started:
        yield started


@pytest.mark.parametrize("gate", ["summary", "turn"])
async def test_a_replica_is_killed(database: Server, provider: Provider, gate: str) -> None:
    """While the summary is made, which is then made again; and after it, when it is not. The model
    of another agent makes it."""
    name = f"killed at the {gate}"
    after = script([{"text": "after it"}])
    if gate == "turn":
        after = json.dumps({"turns": [{"items": [{"text": "after it"}], "gate": name}]})
    summary: dict[str, Any] = {"items": [{"text": after}]}
    if gate == "summary":
        summary["gate"] = name
    prompt = json.dumps({"turns": [summary]})
    schema = f"compacting_{gate}"
    with replicas(database, provider, schema, prompt, agent="responses-plain") as (victim, other):
        made = await in_background(
            victim, script([READ], [LOOK]), model="chat-reading", context_management=SOON
        )
        provider.gates.reached(name)
        victim.signal(signal.SIGKILL)
        victim.wait()
        provider.gates.open(name)
        response = await finished(other, made)
        assert response["status"] == "completed", response["error"]
        kinds = [item["type"] for item in response["output"]]
        assert kinds == ["mcp_call", "mcp_call", "compaction", "message"]
        made_by = [each.path for each in provider.asked if is_summary(each, prompt)]
        assert set(made_by) == {"/v1/responses"}
        summaries = len(made_by)
        assert summaries == (2 if gate == "summary" else 1)
        # Two turns with calls, and the last.
        assert len(provider.asked) - summaries == (3 if gate == "summary" else 4)
        assert "xxxx" not in json.dumps(provider.asked[-1].body)
        reading = check_complete(await read(stream_url(other, made)), with_ids=True)
        done = [
            each["item"]["id"]
            for each in reading.events
            if each["type"] == "response.output_item.done" and each["item"]["type"] == "compaction"
        ]
        assert len(done) == 1
        provider.forget_requests()
        await create(other, "More?", model="chat-reading", previous_response_id=made)
        assert "xxxx" not in json.dumps(provider.asked[-1].body)
