"""The provider's Chat Completions, through the `openai` client and the Agents SDK's model."""

import json
from typing import Any

import openai
import pytest
from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, RunConfig, Runner
from agents.items import TResponseInputItem
from openai import AsyncOpenAI
from pydantic import BaseModel

from tests.provider.server import Provider
from tests.provider.test_responses import CALL, look, script, user


async def ask(client: AsyncOpenAI, messages: list[Any], **fields: Any) -> Any:
    return await client.chat.completions.create(model="gpt", messages=messages, **fields)


def called(call_id: str = "call_1", name: str = "look") -> dict[str, Any]:
    call = {"id": call_id, "type": "function", "function": {"name": name, "arguments": "{}"}}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def answered(call_id: str = "call_1") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": "x"}


class TestAnswers:
    async def test_plain(self, openai_client: AsyncOpenAI) -> None:
        answer = await ask(openai_client, [user("hello")])
        assert answer.choices[0].message.content == "hello"
        assert answer.choices[0].finish_reason == "stop"
        assert answer.usage.total_tokens == 15

    @pytest.mark.parametrize("usage", [False, True])
    async def test_a_stream_says_what_was_used_only_if_asked(
        self, openai_client: AsyncOpenAI, usage: bool
    ) -> None:
        options = {"stream_options": {"include_usage": True}} if usage else {}
        told = script([{"reasoning": "let me think"}, CALL, {**CALL, "call": "other"}])
        stream = await ask(openai_client, [user(told)], stream=True, **options)
        chunks = [chunk async for chunk in stream]
        assert [chunk.usage is not None for chunk in chunks].count(True) == usage
        names = [
            call.function.name
            for chunk in chunks
            for choice in chunk.choices
            for call in choice.delta.tool_calls or ()
            if call.function.name
        ]
        assert names == ["look", "other"]
        assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "tool_calls"

    async def test_a_schema_is_kept_to(self, openai_client: AsyncOpenAI) -> None:
        class Weather(BaseModel):
            city: str

        answer = await openai_client.chat.completions.parse(
            model="gpt", messages=[{"role": "user", "content": "{}"}], response_format=Weather
        )
        assert answer.choices[0].message.parsed == Weather(city="text")

    async def test_endings(self, openai_client: AsyncOpenAI) -> None:
        told = script({"items": [{"text": "a"}], "end": "incomplete"})
        assert (await ask(openai_client, [user(told)])).choices[0].finish_reason == "length"
        told = script({"items": [{"text": "a b c"}], "end": "error", "after": 2})
        with pytest.raises(openai.APIError):
            async for _ in await ask(openai_client, [user(told)], stream=True):
                pass


TURNS: dict[str, list[Any]] = {
    "plain": [],
    "tool": [[CALL]],
    "parallel tools": [[CALL, {**CALL, "arguments": {"word": "dog"}}]],
    "two rounds": [[CALL], [{"text": "and again"}, CALL]],
    "reasoning": [[{"reasoning": "hm"}, CALL], [{"reasoning": "so"}, {"text": "there"}]],
}


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("name", TURNS)
async def test_three_turns_of_the_agents_sdk(
    openai_client: AsyncOpenAI, provider: Provider, name: str, stream: bool
) -> None:
    """The SDK alone sends back what it was given, and nothing of it is refused."""
    agent = Agent(
        name="agent",
        model=OpenAIChatCompletionsModel("gpt", openai_client),
        tools=[look],
        model_settings=ModelSettings(include_usage=True),
    )
    history: list[TResponseInputItem] = []
    config = RunConfig(tracing_disabled=True)
    for _ in range(3):
        history.append({"role": "user", "content": script(*TURNS[name])})
        if stream:
            result: Any = Runner.run_streamed(agent, history, run_config=config)
            async for _event in result.stream_events():
                pass
        else:
            result = await Runner.run(agent, history, run_config=config)
        history = result.to_input_list()
    assert provider.refused == []
    assert result.context_wrapper.usage.total_tokens > 0


class TestRefusals:
    @pytest.mark.parametrize(
        ("messages", "message", "param"),
        [
            (
                [called(), user("hi")],
                "An assistant message with 'tool_calls' must be followed by tool messages "
                "responding to each 'tool_call_id'. The following tool_call_ids did not have "
                "response messages: call_1",
                "messages.[1].role",
            ),
            (
                [user("hi"), answered()],
                "Invalid parameter: messages with role 'tool' must be a response to a preceeding "
                "message with 'tool_calls'.",
                "messages.[1].role",
            ),
            (
                [called(), answered(), answered(), user("hi")],
                "Invalid parameter: messages with role 'tool' must be a response to a preceeding "
                "message with 'tool_calls'.",
                "messages.[2].role",
            ),
            (
                [{"role": "assistant", "content": "hi", "provider_data": {}}],
                "Unknown parameter: 'messages[0].provider_data'.",
                "messages[0].provider_data",
            ),
            (
                [{"role": "assistant", "content": None}],
                "Invalid value for 'content': expected a string, got null.",
                "messages.[0].content",
            ),
            (
                [{"role": "user", "content": []}],
                "Invalid 'messages[0].content': empty array. Expected an array with minimum "
                "length 1, but got an empty array instead.",
                "messages[0].content",
            ),
            (
                [{"role": "assistant", "content": "hi", "tool_calls": []}],
                "Invalid 'messages[0].tool_calls': empty array. Expected an array with minimum "
                "length 1, but got an empty array instead.",
                "messages[0].tool_calls",
            ),
            (
                [called(name="look up"), answered()],
                "Invalid 'messages[0].tool_calls[0].function.name': string does not match "
                "pattern. Expected a string that matches the pattern '^[a-zA-Z0-9_-]+$'.",
                "messages[0].tool_calls[0].function.name",
            ),
            (
                [called("c" * 41), answered("c" * 41)],
                "Invalid 'messages[0].tool_calls[0].id': string too long. Expected a string with "
                "maximum length 40, but got a string with length 41 instead.",
                "messages[0].tool_calls[0].id",
            ),
        ],
        ids=lambda value: None if isinstance(value, list) else "",
    )
    async def test_messages(
        self, openai_client: AsyncOpenAI, messages: list[Any], message: str, param: str
    ) -> None:
        with pytest.raises(openai.BadRequestError) as caught:
            await ask(openai_client, messages)
        assert isinstance(caught.value.body, dict)
        assert caught.value.body["message"] == message
        assert caught.value.body["param"] == param

    async def test_tools(self, openai_client: AsyncOpenAI) -> None:
        tool = {"type": "function", "function": {"name": "look up", "parameters": {}}}
        with pytest.raises(openai.BadRequestError) as caught:
            await ask(openai_client, [user("hi")], tools=[tool])
        assert json.loads(caught.value.response.text)["error"]["code"] == "invalid_value"
