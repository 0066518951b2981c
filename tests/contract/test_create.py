"""Creating, polling and deleting responses with the `openai` client, on any replica."""

import asyncio
import json
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.reading import (
    TERMINAL_STATUSES,
    eventually,
    finished,
    in_background,
    read,
    script,
)
from tests.servers import Replica

PARALLEL = [[["echo", {"text": "a"}], ["echo", {"text": "b"}]]]


async def create(client: AsyncOpenAI, input: Any, **fields: Any) -> Any:
    return await client.responses.create(model="scripted", input=input, **fields)


async def given_to_the_model(client: AsyncOpenAI, input: Any, **fields: Any) -> list[Any]:
    """What a model is given for a request whose last user message is the script `show`."""
    response = await create(client, input, **fields)
    assert response.status == "completed", response.error
    return list(json.loads(response.output_text))


class TestForeground:
    async def test_the_answer_is_the_finished_response(self, clients: list[AsyncOpenAI]) -> None:
        response = await create(clients[0], script(deltas=3))
        assert response.status == "completed"
        assert response.output_text == "word0 word1 word2 "
        assert response.model == "scripted"
        assert response.background is False
        assert response.completed_at >= response.created_at

    async def test_the_other_replica_gives_the_same(self, clients: list[AsyncOpenAI]) -> None:
        response = await create(clients[0], script(turns=PARALLEL))
        found = await clients[1].responses.retrieve(response.id)
        assert found.to_dict() == response.to_dict()

    def test_the_synchronous_client_too(self, two: list[Replica]) -> None:
        with OpenAI(base_url=two[0].base_url, api_key="none", max_retries=0) as client:
            response = client.responses.create(model="scripted", input=script(deltas=3))
            assert response.output_text == "word0 word1 word2 "
            assert client.responses.retrieve(response.id).to_dict() == response.to_dict()
            client.responses.delete(response.id)
            with pytest.raises(openai.NotFoundError):
                client.responses.retrieve(response.id)

    async def test_the_model_defaults_to_the_first_agent(self, clients: list[AsyncOpenAI]) -> None:
        response = await clients[0].responses.create(input="hello")
        assert (response.model, response.output_text) == ("scripted", "hello")

    async def test_usage_is_the_sum_over_all_turns(self, clients: list[AsyncOpenAI]) -> None:
        response = await create(clients[0], script(turns=PARALLEL))
        assert response.usage.to_dict() == {
            "input_tokens": 20,
            "input_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 0},
            "output_tokens": 10,
            "output_tokens_details": {"reasoning_tokens": 4},
            "total_tokens": 30,
        }

    async def test_tool_results_are_items_and_all_ids_are_ours(
        self, clients: list[AsyncOpenAI]
    ) -> None:
        response = await create(clients[0], script(turns=PARALLEL))
        kinds = [item.type for item in response.output]
        assert kinds == ["mcp_call", "mcp_call", "message"]
        assert [item.output for item in response.output[:2]] == ["echo: a", "echo: b"]
        assert [item.server_label for item in response.output[:2]] == ["scripted"] * 2
        ids = [item.id for item in response.output]
        assert len(set(ids)) == len(ids)
        assert [i.split("_")[0] for i in ids] == ["mcp", "mcp", "msg"]

    async def test_a_handoff_goes_on_with_the_other_agent(self, clients: list[AsyncOpenAI]) -> None:
        response = await clients[0].responses.create(
            model="chain", input=script(turns=[[["transfer_to_scripted", {}]]])
        )
        assert [item.type for item in response.output] == ["mcp_call", "message"]
        assert response.output_text == "word0 word1 word2 "

    @pytest.mark.parametrize("kind", ["nul", "surrogate", "emoji", "lines"])
    async def test_odd_characters_survive_on_the_way(
        self, clients: list[AsyncOpenAI], kind: str
    ) -> None:
        expected = {
            "nul": "a\x00b",
            "surrogate": "a\ud800b",
            "emoji": "a\U0001f600b",
            "lines": "a\nb\r\n\u2028c",
        }[kind]
        response = await create(clients[0], script(turns=[[["odd", {"kind": kind}]]]))
        assert response.output[0].output == expected
        found = await clients[1].responses.retrieve(response.id)
        assert found.output[0].output == expected


class TestBackground:
    async def test_the_answer_comes_at_once_and_polling_gets_the_rest(
        self, clients: list[AsyncOpenAI]
    ) -> None:
        response = await create(clients[0], script(deltas=5, pause=0.1), background=True)
        assert response.status in ("queued", "in_progress")
        assert response.background is True
        assert response.output == []
        assert response.usage is None
        statuses = [response.status]

        async def is_finished() -> bool:
            found = await clients[1].responses.retrieve(response.id)
            statuses.append(found.status)
            return found.status not in ("queued", "in_progress")

        await eventually(is_finished)
        assert statuses[-1] == "completed"
        found = await clients[1].responses.retrieve(response.id)
        assert found.output_text == "word0 word1 word2 word3 word4 "

    async def test_a_poll_shows_each_item_as_soon_as_it_is_finished(
        self, clients: list[AsyncOpenAI]
    ) -> None:
        turns = [[["echo", {"text": "first"}]], [["echo", {"text": "second", "pause": 1.5}]]]
        response = await create(clients[0], script(turns=turns), background=True)
        seen: list[list[str]] = []

        async def is_finished() -> bool:
            found = await clients[1].responses.retrieve(response.id)
            seen.append([item.type for item in found.output])
            return found.status == "completed"

        await eventually(is_finished)
        # While the second tool is at work.
        assert ["mcp_call"] in seen
        assert seen[-1] == ["mcp_call", "mcp_call", "message"]

    async def test_it_goes_on_when_the_connection_that_made_it_is_gone(
        self, two: list[Replica], clients: list[AsyncOpenAI]
    ) -> None:
        async with AsyncOpenAI(base_url=two[0].base_url, api_key="none") as client:
            stream = await client.responses.create(
                model="scripted", input=script(deltas=8, pause=0.1), background=True, stream=True
            )
            first = await anext(aiter(stream))
            await stream.close()
        found = await finished(two[1], first.response.id)
        assert found["status"] == "completed"

    async def test_a_dropped_foreground_stream_cancels_its_run(
        self, two: list[Replica], clients: list[AsyncOpenAI]
    ) -> None:
        stream = await clients[0].responses.create(
            model="scripted", input=script(deltas=1000, pause=0.1), stream=True
        )
        first = await anext(aiter(stream))
        await stream.close()
        found = await finished(two[1], first.response.id)
        assert found["status"] == "cancelled"
        assert found["output"] == []

    async def test_a_dropped_foreground_request_cancels_its_run(self, two: list[Replica]) -> None:
        async with AsyncOpenAI(base_url=two[0].base_url, api_key="none", max_retries=0) as client:
            with pytest.raises(openai.APITimeoutError):
                await client.responses.create(
                    model="scripted",
                    input=script(deltas=1000, pause=0.1),
                    metadata={"which": "the dropped one"},
                    timeout=0.5,
                )
        wanted = "metadata[which]=the+dropped+one"

        async def is_cancelled() -> bool:
            found = json.loads(await read(f"{two[1].url}/responses?{wanted}"))
            return bool([each["status"] for each in found["data"]] == ["cancelled"])

        await eventually(is_cancelled)


class TestCancel:
    @pytest.mark.parametrize("where", [0, 1])
    async def test_any_replica_cancels_and_the_stream_says_so(
        self, two: list[Replica], clients: list[AsyncOpenAI], where: int
    ) -> None:
        turns = [[["echo", {"text": "kept"}]]]
        response_id = await in_background(two[0], turns=turns, deltas=10_000, pause=0.02)
        stream = await clients[1 - where].responses.retrieve(response_id, stream=True)
        events = []
        async for event in stream:
            events.append(event)
            if event.type == "response.output_text.delta":
                break
        cancelled = await clients[where].responses.cancel(response_id)
        assert cancelled.status == "cancelled"
        assert [item.type for item in cancelled.output] == ["mcp_call"]
        events += [event async for event in stream]
        assert events[-1].type == "response.failed"
        assert events[-1].response.to_dict() == cancelled.to_dict()
        assert (events[-2].type, events[-2].item.status) == (
            "response.output_item.done",
            "incomplete",
        )

    async def test_once_more_changes_nothing(
        self, two: list[Replica], clients: list[AsyncOpenAI]
    ) -> None:
        response_id = await in_background(two[0], deltas=1000, pause=0.05)
        first = await clients[0].responses.cancel(response_id)
        assert (await clients[1].responses.cancel(response_id)).to_dict() == first.to_dict()
        done = await in_background(two[0], deltas=1)
        finished_one = await finished(two[0], done)
        assert (await clients[1].responses.cancel(done)).to_dict() == finished_one

    async def test_a_foreground_one_that_is_live(
        self, two: list[Replica], clients: list[AsyncOpenAI]
    ) -> None:
        """Its client may be gone, as that of a WebSocket here; or be there, and hear of it."""
        said = script(deltas=1000, pause=0.1)
        async with clients[0].responses.connect() as connection:
            await connection.response.create(model="scripted", input=said)
            begun = await connection.recv()
        assert begun.type == "response.created"
        cancelled = await clients[1].responses.cancel(begun.response.id)
        assert cancelled.status == "cancelled"
        again = await clients[0].responses.cancel(begun.response.id)
        assert again.to_dict() == cancelled.to_dict()
        stream = await clients[0].responses.create(model="scripted", input=said, stream=True)
        events = [await anext(aiter(stream))]
        await clients[1].responses.cancel(events[0].response.id)
        events += [event async for event in stream]
        assert (events[-1].type, events[-1].response.status) == ("response.failed", "cancelled")

    async def test_only_of_the_background(self, clients: list[AsyncOpenAI]) -> None:
        response = await create(clients[0], "hello")
        with pytest.raises(openai.BadRequestError) as raised:
            await clients[0].responses.cancel(response.id)
        assert raised.value.body["message"]


class TestDelete:
    async def test_a_deleted_response_is_unknown_on_both_replicas(
        self, clients: list[AsyncOpenAI]
    ) -> None:
        response = await create(clients[0], "hello")
        await clients[1].responses.delete(response.id)
        for client in clients:
            with pytest.raises(openai.NotFoundError) as raised:
                await client.responses.retrieve(response.id)
            assert raised.value.body["code"] == "not_found"
            with pytest.raises(openai.NotFoundError):
                await client.responses.delete(response.id)
            with pytest.raises(openai.NotFoundError):
                await client.responses.retrieve(response.id, stream=True)

    async def test_the_answer_names_what_was_deleted(
        self, two: list[Replica], clients: list[AsyncOpenAI]
    ) -> None:
        response = await create(clients[0], "hello")
        answer = await clients[0].responses.with_raw_response.delete(response.id)
        assert answer.http_response.json() == {
            "id": response.id,
            "object": "response",
            "deleted": True,
        }

    @pytest.mark.parametrize("where", [0, 1])
    async def test_a_live_run_is_deleted_and_its_streams_end(
        self, two: list[Replica], clients: list[AsyncOpenAI], where: int
    ) -> None:
        response_id = await in_background(two[0], deltas=10_000, pause=0.05)
        streams = [await c.responses.retrieve(response_id, stream=True) for c in clients]
        for stream in streams:
            await anext(aiter(stream))
        await clients[where].responses.delete(response_id)
        async with asyncio.timeout(30):
            for stream in streams:
                async for _ in stream:
                    pass
                await stream.close()
        with pytest.raises(openai.NotFoundError):
            await clients[0].responses.retrieve(response_id)


class TestPrevious:
    async def test_the_context_is_the_previous_input_and_output_and_this_input(
        self, clients: list[AsyncOpenAI]
    ) -> None:
        first = await create(
            clients[0], script(turns=[[["echo", {"text": "hi"}]]]), instructions="Be brief."
        )
        second = await create(clients[1], "and then?", previous_response_id=first.id)
        items = await given_to_the_model(
            clients[0], script(show=True), previous_response_id=second.id
        )
        assert [(item.get("type", "message"), item.get("role")) for item in items] == [
            ("message", "user"),
            ("function_call", None),
            ("function_call_output", None),
            ("message", "assistant"),
            ("message", "user"),
            ("message", "assistant"),
            ("message", "user"),
        ]
        assert items[0]["content"] == script(turns=[[["echo", {"text": "hi"}]]])
        assert items[2]["output"] == "echo: hi"
        assert items[3]["content"][0]["text"] == "word0 word1 word2 "
        assert items[4]["content"] == "and then?"
        assert items[5]["content"][0]["text"] == "and then?"
        assert items[6]["content"] == script(show=True)
        # Ids of ours mean nothing to a model's provider; instructions do not carry over.
        assert not any("id" in item for item in items)
        assert "Be brief." not in json.dumps(items)

    async def test_instructions_reach_the_model_of_their_own_request(
        self, clients: list[AsyncOpenAI]
    ) -> None:
        items = await given_to_the_model(
            clients[0], script(show=True), instructions="Only in English."
        )
        assert "Only in English." in json.dumps(items)

    async def test_input_may_be_left_out_of_a_continuation(
        self, clients: list[AsyncOpenAI]
    ) -> None:
        first = await create(clients[0], script(deltas=2))
        second = await clients[0].responses.create(model="scripted", previous_response_id=first.id)
        assert second.previous_response_id == first.id
        assert second.status == "completed"

    async def test_an_unknown_one_is_refused(self, clients: list[AsyncOpenAI]) -> None:
        for unknown in ("resp_" + "0" * 32, "nonsense", "resp_x", ""):
            with pytest.raises(openai.BadRequestError) as raised:
                await create(clients[0], "hi", previous_response_id=unknown)
            assert raised.value.body["code"] == "previous_response_not_found"
            assert raised.value.body["param"] == "previous_response_id"

    async def test_a_deleted_one_is_refused(self, clients: list[AsyncOpenAI]) -> None:
        first = await create(clients[0], "hi")
        await clients[1].responses.delete(first.id)
        with pytest.raises(openai.BadRequestError) as raised:
            await create(clients[0], "hi", previous_response_id=first.id)
        assert raised.value.body["code"] == "previous_response_not_found"

    async def test_a_live_one_is_refused(self, clients: list[AsyncOpenAI]) -> None:
        first = await create(clients[0], script(deltas=1000, pause=0.05), background=True)
        with pytest.raises(openai.BadRequestError) as raised:
            await create(clients[1], "hi", previous_response_id=first.id)
        assert raised.value.body["param"] == "previous_response_id"
        assert "in_progress" in raised.value.body["message"]
        await clients[0].responses.delete(first.id)

    async def test_not_together_with_a_conversation(self, clients: list[AsyncOpenAI]) -> None:
        first = await create(clients[0], "hi")
        with pytest.raises(openai.BadRequestError) as raised:
            await create(clients[0], "hi", previous_response_id=first.id, conversation="conv_1")
        assert raised.value.body["param"] == "previous_response_id"


WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "The weather somewhere.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}


class TestClientTools:
    async def test_a_call_ends_the_response_and_the_output_continues_it(
        self, clients: list[AsyncOpenAI]
    ) -> None:
        asked = script(turns=[[["weather", {"city": "Oslo"}]]], show=True)
        first = await create(clients[0], asked, tools=[WEATHER])
        assert first.status == "completed"
        (call,) = first.output
        assert call.type == "function_call"
        assert (call.name, json.loads(call.arguments)) == ("weather", {"city": "Oslo"})
        assert first.tools[0].to_dict() == WEATHER

        output = {"type": "function_call_output", "call_id": call.call_id, "output": "snow"}
        second = await create(clients[1], [output], tools=[WEATHER], previous_response_id=first.id)
        assert second.status == "completed"
        items = json.loads(second.output_text)
        assert [item.get("type", "message") for item in items] == [
            "message",
            "function_call",
            "function_call_output",
        ]
        assert items[1]["call_id"] == items[2]["call_id"] == call.call_id
        assert items[2]["output"] == "snow"

    async def test_the_agents_own_tools_run_beside_a_client_tool(
        self, clients: list[AsyncOpenAI]
    ) -> None:
        turns = [[["weather", {"city": "Oslo"}], ["echo", {"text": "mine"}]]]
        first = await create(clients[0], script(turns=turns), tools=[WEATHER])
        assert first.status == "completed"
        kinds = [item.type for item in first.output]
        assert kinds == ["function_call", "mcp_call"]
        assert first.output[1].output == "echo: mine"

    async def test_tools_do_not_carry_over(self, clients: list[AsyncOpenAI]) -> None:
        first = await create(clients[0], "hi", tools=[WEATHER])
        second = await create(clients[0], "hi", previous_response_id=first.id)
        assert second.tools == []


class TestStored:
    async def test_what_is_not_stored_cannot_be_retrieved(self, clients: list[AsyncOpenAI]) -> None:
        response = await create(clients[0], script(deltas=3), store=False)
        assert response.store is False
        assert response.output_text == "word0 word1 word2 "
        for client in clients:
            with pytest.raises(openai.NotFoundError):
                await client.responses.retrieve(response.id)
            with pytest.raises(openai.NotFoundError):
                await client.responses.retrieve(response.id, stream=True)
            with pytest.raises(openai.NotFoundError):
                await client.responses.delete(response.id)
            with pytest.raises(openai.BadRequestError):
                await create(client, "hi", previous_response_id=response.id)

    async def test_it_can_be_streamed_by_its_own_request(self, clients: list[AsyncOpenAI]) -> None:
        stream = await create(clients[0], script(deltas=3), store=False, stream=True)
        events = [event async for event in stream]
        assert events[-1].response.output_text == "word0 word1 word2 "
        with pytest.raises(openai.NotFoundError):
            await clients[0].responses.retrieve(events[-1].response.id)

    async def test_it_cannot_run_in_the_background(self, clients: list[AsyncOpenAI]) -> None:
        with pytest.raises(openai.BadRequestError) as raised:
            await create(clients[0], "hi", store=False, background=True)
        assert raised.value.body["param"] == "store"


class TestEcho:
    async def test_parameters_are_echoed_unknown_ones_too(self, clients: list[AsyncOpenAI]) -> None:
        given = {
            "instructions": "Be brief.",
            "max_output_tokens": 500,
            "max_tool_calls": 7,
            "metadata": {"a": "1", "b": ""},
            "parallel_tool_calls": False,
            "prompt_cache_key": "key",
            "reasoning": {"effort": "low"},
            "safety_identifier": "someone",
            "service_tier": "flex",
            "temperature": 0.5,
            "text": {"format": {"type": "text"}, "verbosity": "low"},
            "tool_choice": "auto",
            "top_logprobs": 3,
            "top_p": 0.25,
            "truncation": "auto",
            "user": "someone",
        }
        unknown = {"from_next_year": {"deep": [1, None, "x"]}, "another": 1.5}
        response = await create(clients[0], "hi", **given, extra_body=unknown)
        found = await clients[1].responses.retrieve(response.id)
        for each in (response, found):
            shown = each.to_dict()
            assert {name: shown[name] for name in given} == given
            assert {name: shown[name] for name in unknown} == unknown

    async def test_what_the_server_says_cannot_be_said_by_a_client(
        self, clients: list[AsyncOpenAI]
    ) -> None:
        mine: dict[str, Any] = {
            "id": "resp_mine",
            "object": "mine",
            "created_at": 1,
            "completed_at": 2,
            "status": "failed",
            "error": {"code": "mine", "message": "mine"},
            "incomplete_details": {"reason": "mine"},
            "usage": {"mine": 1},
            "output": ["mine"],
        }
        response = await create(clients[0], "hi", extra_body=mine)
        shown = response.to_dict()
        assert not [name for name in mine if shown[name] == mine[name]]
        assert shown["status"] == "completed"
        assert (await clients[1].responses.retrieve(response.id)).to_dict() == shown

    async def test_null_counts_as_left_out(self, clients: list[AsyncOpenAI]) -> None:
        nothing: dict[str, Any] = dict.fromkeys(
            ("instructions", "metadata", "temperature", "top_p", "tools", "store", "stream")
        )
        plain = (await create(clients[0], "hi")).to_dict()
        response = await clients[0].responses.create(
            model="scripted", input="hi", extra_body=nothing
        )
        assert {name: response.to_dict()[name] for name in nothing if name in plain} == {
            name: plain[name] for name in nothing if name in plain
        }

    async def test_metadata_at_its_limits_is_kept(self, clients: list[AsyncOpenAI]) -> None:
        metadata = {f"{n:02d}" + "k" * 62: "v" * 512 for n in range(16)}
        response = await create(clients[0], "hi", metadata=metadata)
        assert (await clients[1].responses.retrieve(response.id)).metadata == metadata

    @pytest.mark.parametrize(
        ("metadata", "param"),
        [
            ({str(n): "" for n in range(17)}, "metadata"),
            ({"k" * 65: ""}, "metadata." + "k" * 65),
            ({"a": "v" * 513}, "metadata.a"),
            ({"a": 1}, "metadata.a"),
            (["a"], "metadata"),
        ],
        ids=["17 pairs", "key of 65", "value of 513", "a number", "a list"],
    )
    async def test_metadata_over_its_limits_is_refused(
        self, clients: list[AsyncOpenAI], metadata: Any, param: str
    ) -> None:
        with pytest.raises(openai.BadRequestError) as raised:
            await create(clients[0], "hi", metadata=metadata)
        assert raised.value.body["param"].startswith(param)


async def test_a_hundred_responses_have_a_hundred_ids_in_order(two: list[Replica]) -> None:
    ids = [await in_background(two[0], deltas=1) for _ in range(100)]
    assert len(set(ids)) == 100
    assert ids == sorted(ids)
    for response_id in ids[::10]:
        assert (await finished(two[1], response_id))["status"] in TERMINAL_STATUSES
