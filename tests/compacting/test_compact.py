"""`POST /responses/compact`, and what it gives as the input of later requests."""

import base64
import json
import zlib
from typing import Any

import httpx2
import openai
import pytest
from agents import Agent, OpenAIResponsesModel, RunConfig, Runner, SQLiteSession
from agents.memory import OpenAIResponsesCompactionSession
from openai import AsyncOpenAI
from openai.types.responses import CompactedResponse

from longrun import ConfigurationError, Settings, create_app
from longrun.history.context_compaction import INTRODUCTION
from tests.compacting.agents import SUMMARY, agents
from tests.provider.agents import LOOK, script
from tests.provider.server import Provider
from tests.reading import Wire
from tests.servers import SEALED, Replica

AGENTS = ("responses-tools", "chat-tools", "litellm-tools")


def client_of(replica: Replica) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=replica.base_url, api_key="none", max_retries=0)


def said_in(items: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Who said what, in the input or the messages of a model."""
    found = []
    for item in items:
        content = item.get("content")
        if item.get("role") and content:
            parts = [content] if isinstance(content, str) else [p.get("text") for p in content]
            found.append((item["role"], "".join(map(str, parts))))
    return found


def as_input(compacted: CompactedResponse) -> list[Any]:
    return [item.model_dump(exclude_unset=True, warnings=False) for item in compacted.output]


@pytest.mark.parametrize("agent", AGENTS)
async def test_a_chain_is_compacted_and_goes_on_from_that(
    pair: list[Replica], provider: Provider, agent: str
) -> None:
    async with client_of(pair[0]) as client, client_of(pair[1]) as other:
        first = await client.responses.create(model=agent, input=script([LOOK]))
        second = await client.responses.create(
            model=agent, input="I like blue.", previous_response_id=first.id
        )
        provider.forget_requests()
        compacted = await other.responses.compact(model=agent, previous_response_id=second.id)
        # All of it was given to the model, and the prompt behind it.
        [asked] = provider.asked
        said = said_in(asked.items)
        assert [text for role, text in said if role == "user"][:2] == [
            script([LOOK]),
            "I like blue.",
        ]
        assert "found cat" in json.dumps(asked.body)
        assert said[-1] == ("user", json.dumps({"then": SUMMARY}))
        assert not asked.body.get("tools")
        assert asked.usage is not None

        *messages, item = as_input(compacted)
        assert [message["role"] for message in messages] == ["user", "user"]
        assert messages[1]["content"] == [{"type": "input_text", "text": "I like blue."}]
        assert item["type"] == "compaction"
        assert item["id"].startswith("cmp_")
        assert compacted.object == "response.compaction"
        assert compacted.usage.input_tokens > 0
        assert compacted.usage.total_tokens == (
            compacted.usage.input_tokens + compacted.usage.output_tokens
        )

        provider.forget_requests()
        third = await client.responses.create(
            model=agent, input=[*as_input(compacted), {"role": "user", "content": "Go on."}]
        )
        assert third.output_text == "Go on."
        said = said_in(provider.asked[-1].items)
        assert ("user", f"{INTRODUCTION}\n\n{SUMMARY}") in said
        assert "found cat" not in json.dumps(provider.asked[-1].body)
        # And so it is for what continues that one.
        provider.forget_requests()
        fourth = await other.responses.create(
            model=agent, input="And on.", previous_response_id=third.id
        )
        assert fourth.output_text == "And on."
        assert said_in(provider.asked[-1].items)[: len(said)] == said
        assert provider.refused == []


async def test_what_is_compacted_again_has_the_first_summary_in_it(
    pair: list[Replica], provider: Provider
) -> None:
    async with client_of(pair[0]) as client:
        first = await client.responses.compact(model="chat-plain", input="I like blue.")
        provider.forget_requests()
        second = await client.responses.compact(
            model="chat-plain", input=[*as_input(first), {"role": "user", "content": "More."}]
        )
    assert SUMMARY in json.dumps(provider.asked[0].items[:-1])
    kinds = [(item.type, getattr(item, "role", None)) for item in second.output]
    assert kinds == [("message", "user"), ("message", "user"), ("compaction", None)]


async def test_instructions_are_for_the_compaction_alone(
    pair: list[Replica], provider: Provider
) -> None:
    async with client_of(pair[0]) as client:
        compacted = await client.responses.compact(
            model="chat-plain", input="I like blue.", instructions="Be brief."
        )
        assert ("system", "Be brief.") in said_in(provider.asked[-1].items)
        await client.responses.create(model="chat-plain", input=[*as_input(compacted), ask("x")])
    assert "Be brief." not in json.dumps(provider.asked[-1].body)


async def test_it_is_told_what_an_item_is_that_was_compacted(pair: list[Replica]) -> None:
    """`input_items` shows what was sent."""
    async with client_of(pair[0]) as client, client_of(pair[1]) as other:
        compacted = await client.responses.compact(model="chat-plain", input="I like blue.")
        sent = as_input(compacted)
        response = await client.responses.create(model="chat-plain", input=[*sent, ask("x")])
        listed = await other.responses.input_items.list(response.id, order="asc")
        [item] = [each for each in listed.data if each.type == "compaction"]
        assert item.encrypted_content == sent[-1]["encrypted_content"]
        # An item that is referred to is what it was.
        reference = {"type": "item_reference", "id": item.id}
        again = await other.responses.create(
            model="chat-plain", input=[reference, ask('{"show": true}')]
        )
    assert SUMMARY in again.output_text


async def test_a_conversation_takes_it_too(pair: list[Replica]) -> None:
    async with client_of(pair[0]) as client, client_of(pair[1]) as other:
        compacted = await client.responses.compact(model="chat-plain", input="I like blue.")
        items: Any = as_input(compacted)
        on = await client.conversations.create(items=items)
        shown = await other.responses.create(
            model="chat-plain", input='{"show": true}', conversation=on.id
        )
    assert SUMMARY in shown.output_text


def ask(words: str) -> dict[str, Any]:
    return {"role": "user", "content": words}


class TestWhatIsRefused:
    async def test_an_item_that_was_changed(self, pair: list[Replica]) -> None:
        async with client_of(pair[0]) as client:
            compacted = await client.responses.compact(model="chat-plain", input="I like blue.")
            item = as_input(compacted)[-1]
            content: str = item["encrypted_content"]
            for place in (9, len(content) // 2, len(content) - 2):
                other = "A" if content[place] != "A" else "B"
                changed = content[:place] + other + content[place + 1 :]
                with pytest.raises(openai.BadRequestError) as refused:
                    await client.responses.create(
                        model="chat-plain",
                        input=[ask("x"), {**item, "encrypted_content": changed}],
                    )
                error: Any = refused.value.body
                assert error["code"] == "invalid_encrypted_content"
                assert error["param"] == "input[1].encrypted_content"

    async def test_what_a_client_cannot_know_is_not_in_it_where_data_is_sealed(
        self, pair: list[Replica]
    ) -> None:
        async with client_of(pair[0]) as client:
            compacted = await client.responses.compact(model="chat-plain", input="I like blue.")
        content = as_input(compacted)[-1]["encrypted_content"]
        assert SUMMARY not in content
        assert bool(SEALED) == ("sealed" in decoded(content))

    @pytest.mark.parametrize(
        ("body", "param", "code"),
        [
            ({}, "input", "missing_required_parameter"),
            ({"input": 5}, "input", "invalid_type"),
            ({"input": [{"type": "compaction"}]}, "input[0].encrypted_content", "invalid_type"),
            (
                {"previous_response_id": "resp_" + "0" * 32},
                "previous_response_id",
                "previous_response_not_found",
            ),
            (
                {"input": [{"type": "item_reference", "id": "msg_" + "0" * 38}]},
                "input[0].id",
                "item_not_found",
            ),
            (
                {"input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]},
                "input[0].call_id",
                "tool_call_not_found",
            ),
            ({"input": "x", "model": "handling"}, "model", "compaction_not_available"),
        ],
        ids=lambda value: value if isinstance(value, str) else None,
    )
    async def test_what_cannot_be_compacted(
        self, pair: list[Replica], body: dict[str, Any], param: str, code: str
    ) -> None:
        async with httpx2.AsyncClient(base_url=pair[0].base_url) as client:
            answer = await client.post("/responses/compact", json={"model": "chat-plain", **body})
        assert answer.status_code == 400, answer.text
        assert (answer.json()["error"]["param"], answer.json()["error"]["code"]) == (param, code)

    async def test_a_model_that_is_not_served(self, pair: list[Replica]) -> None:
        async with client_of(pair[0]) as client:
            with pytest.raises(openai.NotFoundError, match="does not exist"):
                await client.responses.compact(model="none", input="x")


async def test_what_the_provider_gave_itself_goes_back_to_it_as_it_was(
    pair: list[Replica], provider: Provider
) -> None:
    item = {"type": "compaction", "id": "cmp_68e0", "encrypted_content": "gAAAAABprovider"}
    async with client_of(pair[0]) as client:
        await client.responses.create(model="responses-plain", input=[item, ask("x")])
        assert item in provider.asked[-1].body["input"]
        # No other knows what to make of it.
        await client.responses.create(model="chat-plain", input=[item, ask("x")])
        assert "gAAAAAB" not in json.dumps(provider.asked[-1].body)


async def test_an_agent_that_is_made_for_the_run(pair: list[Replica]) -> None:
    async with client_of(pair[0]) as client:
        compacted = await client.responses.compact(model="made", input="I like blue.")
    assert compacted.output[-1].type == "compaction"


async def test_one_that_takes_long_begins_with_spaces(pair: list[Replica]) -> None:
    asked = {"model": "slow", "input": "I like blue."}
    path = f"{pair[0].base_url}/responses/compact"
    async with await Wire.open(path, method="POST", json=asked) as wire:
        assert wire.status == 200
        assert wire.headers["content-type"] == "application/json"
        body = bytes(await wire.rest())
    assert wire.complete
    assert body.startswith(b" ")
    assert json.loads(body)["output"][-1]["type"] == "compaction"
    async with client_of(pair[0]) as client:
        compacted = await client.responses.compact(**asked)
    assert compacted.output[-1].type == "compaction"


async def test_one_that_fails_after_that_breaks_off(pair: list[Replica]) -> None:
    """An answer without output would be the end of a session's history."""
    asked: Any = {"model": "failing", "input": "I like blue."}
    path = f"{pair[0].base_url}/responses/compact"
    async with await Wire.open(path, method="POST", json=asked) as wire:
        body = bytes(await wire.rest())
    assert not wire.complete
    assert body.strip() == b""
    async with client_of(pair[0]) as client:
        with pytest.raises(openai.APIConnectionError):
            await client.responses.compact(**asked)


@pytest.mark.parametrize(
    ("name", "why"), [("none", "no such agent is served"), ("handling", "it is a handler")]
)
def test_an_agent_that_cannot_compact_is_a_mistake_at_start(
    monkeypatch: pytest.MonkeyPatch, name: str, why: str
) -> None:
    monkeypatch.setenv("PROVIDER_URL", "http://127.0.0.1:1/v1")
    settings = Settings.load(compaction_agent=name)
    with pytest.raises(ConfigurationError, match=f"LONGRUN_COMPACTION_AGENT={name}: {why}"):
        create_app(agents(), settings)


async def test_the_session_of_the_agents_sdk(pair: list[Replica], provider: Provider) -> None:
    """It calls `/responses/compact` by itself, and gives what it got as input."""
    async with client_of(pair[0]) as client:
        session = OpenAIResponsesCompactionSession(
            "session",
            SQLiteSession("session"),
            client=client,
            model="gpt-test",
            should_trigger_compaction=lambda context: len(context["session_items"]) > 2,
        )
        agent = Agent(name="client", model=OpenAIResponsesModel("gpt-test", client))
        for said in (script([LOOK]), "I like blue.", '{"show": true}'):
            result = await Runner.run(
                agent, said, session=session, run_config=RunConfig(tracing_disabled=True)
            )
        items = await session.get_items()
    assert SUMMARY in result.final_output
    assert "found cat" not in result.final_output
    assert "compaction" in {item.get("type") for item in items}
    assert provider.refused == []


def decoded(content: str) -> str:
    """What whoever holds a compaction item can make of it without any key."""
    payload = content.removeprefix("longrun.1.").rpartition(".")[0]
    compressed = payload.startswith(".")
    raw = base64.urlsafe_b64decode(payload.lstrip(".") + "===")
    return (zlib.decompress(raw) if compressed else raw).decode()
