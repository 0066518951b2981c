"""The provider's Responses API, through the `openai` client and the Agents SDK's model."""

import json
from typing import Any

import openai
import pytest
from agents import Agent, Model, OpenAIResponsesModel, RunConfig, Runner, function_tool
from agents.items import TResponseInputItem
from openai import AsyncOpenAI
from openai.types.responses import ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from tests.provider.items import PREFIXES
from tests.provider.server import Provider

EVERY_ELEMENT: list[dict[str, Any]] = [
    {"reasoning": "let me think", "encrypted": True},
    {"text": "two words", "annotations": []},
    {"refusal": "I will not"},
    {"call": "look", "arguments": {"a": 1}},
    {"custom": "write", "input": "some text"},
    {"web_search": "cats"},
    {"file_search": ["cats", "dogs"]},
    {"code": "print(1)"},
    {"image": "a cat"},
    {"mcp_tools": "server"},
    {"mcp": "look", "arguments": {"a": 1}, "output": "found"},
    {"mcp": "look", "error": "not found"},
    {"approval": "delete", "arguments": {"a": 1}},
    {"computer": {"type": "screenshot"}},
    {"shell": ["ls", "pwd"]},
    {"local_shell": ["ls"]},
    {"apply_patch": {"type": "delete_file", "path": "a"}},
]


def script(*turns: Any, **fields: Any) -> str:
    return json.dumps({"turns": list(turns), **fields})


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


async def ask(client: AsyncOpenAI, input: Any, **fields: Any) -> Any:
    return await client.responses.create(model="gpt", input=input, **fields)


class TestAnswers:
    async def test_what_is_no_script_is_answered_with_itself(
        self, openai_client: AsyncOpenAI
    ) -> None:
        response = await ask(openai_client, "hello")
        assert response.output_text == "hello"
        assert response.usage.total_tokens == 15

    @pytest.mark.parametrize("element", EVERY_ELEMENT, ids=lambda element: next(iter(element)))
    async def test_a_stream_gives_what_a_plain_answer_gives(
        self, openai_client: AsyncOpenAI, element: dict[str, Any]
    ) -> None:
        """With events that the types of `openai` take, and the strict helper too."""
        check = TypeAdapter(ResponseStreamEvent)
        plain = await ask(openai_client, script([element]))
        async with openai_client.responses.stream(
            model="gpt", input=script([element]), store=True
        ) as stream:
            events = [event async for event in stream]
            final = await stream.get_final_response()
        raw = await ask(openai_client, script([element]), stream=True)
        for event in [event async for event in raw]:
            check.validate_python(event.to_dict())
        assert [event.sequence_number for event in events] == list(range(len(events)))
        item, other = plain.output[0].to_dict(), final.output[0].to_dict()
        assert item["type"] == other["type"]
        for each in (item, other):
            assert each["id"].startswith(PREFIXES[item["type"]] + "_")
        assert item.keys() == other.keys() - {"parsed_arguments"}

    async def test_turns_by_what_was_answered(self, openai_client: AsyncOpenAI) -> None:
        history: list[Any] = [
            user(
                script(
                    [{"call": "a"}, {"call": "b"}],
                    [{"text": "so far"}, {"call": "c"}],
                    then="the end",
                )
            )
        ]
        names = []
        for _ in range(3):
            response = await ask(openai_client, history)
            history += [item.to_dict() for item in response.output]
            calls = [item for item in response.output if item.type == "function_call"]
            names.append([call.name for call in calls])
            history += [
                {"type": "function_call_output", "call_id": call.call_id, "output": "ok"}
                for call in calls
            ]
        assert names == [["a", "b"], ["c"], []]
        assert response.output_text == "the end"

    async def test_what_it_was_given_can_be_shown(self, openai_client: AsyncOpenAI) -> None:
        response = await ask(openai_client, [user("one"), user(script(show=True))])
        assert json.loads(response.output_text)[0]["content"] == "one"

    async def test_a_schema_is_kept_to(self, openai_client: AsyncOpenAI) -> None:
        class Weather(BaseModel):
            city: str
            degrees: int

        response = await openai_client.responses.parse(model="gpt", input="{}", text_format=Weather)
        assert response.output_parsed == Weather(city="text", degrees=1)

    async def test_endings(self, openai_client: AsyncOpenAI) -> None:
        cut = await ask(openai_client, script({"items": [{"text": "a b"}], "end": "incomplete"}))
        assert cut.status == "incomplete"
        assert cut.incomplete_details.reason == "max_output_tokens"
        failed = await ask(openai_client, script({"items": [], "end": "failed"}))
        assert (failed.status, failed.error.code) == ("failed", "server_error")

    @pytest.mark.parametrize(
        ("end", "error"),
        [("error", openai.APIError), ("disconnect", openai.APIConnectionError)],
    )
    async def test_a_stream_that_breaks(
        self, openai_client: AsyncOpenAI, end: str, error: type[Exception]
    ) -> None:
        told = script({"items": [{"text": "a b c"}], "end": end, "after": 5})
        stream = await ask(openai_client, told, stream=True)
        seen = [(await anext(stream)).type for _ in range(5)]
        assert seen[-1] == "response.output_text.delta"
        with pytest.raises(error):
            await anext(stream)

    async def test_a_stream_that_ends_without_an_end(self, openai_client: AsyncOpenAI) -> None:
        told = script({"items": [{"text": "a b c"}], "end": "silence"})
        seen = [event.type async for event in await ask(openai_client, told, stream=True)]
        assert seen[-1] == "response.output_item.done"

    async def test_a_turn_that_goes_wrong_so_many_times(self, openai_client: AsyncOpenAI) -> None:
        told = script({"items": [{"text": "there"}], "status": 503, "times": 1})
        with pytest.raises(openai.InternalServerError):
            await ask(openai_client, told)
        assert (await ask(openai_client, told)).output_text == "there"

    async def test_a_gate(self, openai_client: AsyncOpenAI, provider: Provider) -> None:
        told = script({"items": [{"text": "a b c"}], "gate": "here", "after": 4})
        seen = []
        async for event in await ask(openai_client, told, stream=True):
            seen.append(event.type)
            if len(seen) == 4:
                provider.gates.open("here")
        assert seen[-1] == "response.completed"
        provider.gates.reached("here")


@function_tool
def look(word: str) -> str:
    """Look a word up."""
    return f"found {word}"


CALL = {"call": "look", "arguments": {"word": "cat"}}
TURNS: dict[str, list[Any]] = {
    "plain": [],
    "tool": [[CALL]],
    "parallel tools": [[CALL, {**CALL, "arguments": {"word": "dog"}}]],
    "two rounds": [[CALL], [{"text": "and again"}, CALL]],
    "reasoning": [[{"reasoning": "hm"}, CALL], [{"reasoning": "so"}, {"text": "there"}]],
    "hosted": [[{"web_search": "cats"}, {"code": "1"}, {"image": "cat"}, {"text": "there"}]],
    "reasoning and hosted": [[{"reasoning": "hm"}, {"web_search": "cats"}, {"text": "there"}]],
    "mcp": [[{"mcp_tools": "server"}, {"mcp": "look"}, {"text": "there"}]],
}


def model(client: AsyncOpenAI) -> Model:
    return OpenAIResponsesModel("gpt", client)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("name", TURNS)
async def test_three_turns_of_the_agents_sdk(
    openai_client: AsyncOpenAI, provider: Provider, name: str, stream: bool
) -> None:
    """The SDK alone sends back what it was given, and nothing of it is refused."""
    agent = Agent(name="agent", model=model(openai_client), tools=[look])
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
    assert provider.asked[-1].usage is not None


class TestRefusals:
    """Each with the status, param and code of OpenAI's, and in its words."""

    async def refused(
        self, client: AsyncOpenAI, input: list[Any], **fields: Any
    ) -> openai.APIStatusError:
        with pytest.raises(openai.APIStatusError) as caught:
            await ask(client, input, **fields)
        return caught.value

    @pytest.mark.parametrize(
        ("item", "message", "code"),
        [
            (
                {"type": "web_search_call", "status": "completed", "action": {"type": "search"}},
                "Missing required parameter: 'input[1].id'.",
                "missing_required_parameter",
            ),
            (
                {"type": "reasoning", "id": "rs_1", "summary": [], "status": "completed"},
                "Unknown parameter: 'input[1].status'.",
                "unknown_parameter",
            ),
            (
                {"role": "assistant", "content": "hi", "provider_data": {}},
                "Unknown parameter: 'input[1].provider_data'.",
                "unknown_parameter",
            ),
            (
                {
                    "type": "shell_call",
                    "call_id": "call_1",
                    "action": {"commands": []},
                    "created_by": "x",
                },
                "Unknown parameter: 'input[1].created_by'.",
                "unknown_parameter",
            ),
            (
                {"type": "function_call", "id": "msg_1", "call_id": "c", "name": "a"}
                | {"arguments": "{}"},
                "Invalid 'input[1].id': 'msg_1'. Expected an ID that begins with 'fc'.",
                "invalid_value",
            ),
            (
                {"type": "function_call", "call_id": "", "name": "a", "arguments": "{}"},
                "Invalid 'input[1].call_id': empty string. Expected a string with minimum length "
                "1, but got an empty string instead.",
                "empty_string",
            ),
            (
                {"type": "function_call", "call_id": "c" * 65, "name": "a", "arguments": "{}"},
                "Invalid 'input[1].call_id': string too long. Expected a string with maximum "
                "length 64, but got a string with length 65 instead.",
                "string_above_max_length",
            ),
            (
                {"type": "function_call", "call_id": "c", "name": "a b", "arguments": "{}"},
                "Invalid 'input[1].name': string does not match pattern. Expected a string that "
                "matches the pattern '^[a-zA-Z0-9_-]+$'.",
                "invalid_value",
            ),
            (
                {"role": "assistant", "content": [{"type": "input_text", "text": "hi"}]},
                "Invalid value: 'input_text'. Supported values are: 'output_text' and 'refusal'.",
                "invalid_value",
            ),
            (
                {"role": "tool", "content": "hi"},
                "Invalid value: 'tool'. Supported values are: 'assistant', 'system', "
                "'developer', and 'user'.",
                "invalid_value",
            ),
        ],
        ids=lambda value: None if isinstance(value, dict) else "",
    )
    async def test_shapes(
        self, openai_client: AsyncOpenAI, item: dict[str, Any], message: str, code: str
    ) -> None:
        error = await self.refused(openai_client, [user("hi"), item])
        assert error.status_code == 400
        assert isinstance(error.body, dict)
        assert error.body["message"] == message
        assert error.body["code"] == code

    async def test_reasoning_that_it_never_gave(self, openai_client: AsyncOpenAI) -> None:
        item = {"type": "reasoning", "id": "rs_other", "summary": []}
        error = await self.refused(openai_client, [user("hi"), item])
        assert error.status_code == 404
        assert "Item with id 'rs_other' not found." in str(error)

    async def test_what_was_not_stored(self, openai_client: AsyncOpenAI) -> None:
        given = await ask(openai_client, "hi", store=False)
        reference = {"type": "item_reference", "id": given.output[0].id}
        error = await self.refused(openai_client, [reference, user("hi")])
        assert error.status_code == 404
        assert "Items are not persisted when `store` is set to false." in str(error)

    async def test_references(self, openai_client: AsyncOpenAI) -> None:
        given = await ask(openai_client, "hi")
        reference = {"type": "item_reference", "id": given.output[0].id}
        assert (await ask(openai_client, [reference, user("again")])).output_text == "again"
        error = await self.refused(openai_client, [{**reference, "id": "msg_1"}, user("hi")])
        assert error.status_code == 404

    async def test_duplicates(self, openai_client: AsyncOpenAI) -> None:
        item = (await ask(openai_client, "hi")).output[0].to_dict()
        error = await self.refused(openai_client, [user("hi"), item, item])
        assert f"Duplicate item found with id {item['id']}." in str(error)

    async def test_a_hosted_call_under_another_id(self, openai_client: AsyncOpenAI) -> None:
        given = await ask(openai_client, script([{"web_search": "cats"}]))
        item = {**given.output[0].to_dict(), "id": "ws_other"}
        assert (await self.refused(openai_client, [user("hi"), item])).status_code == 404

    async def test_reasoning_and_what_is_behind_it(self, openai_client: AsyncOpenAI) -> None:
        given = await ask(openai_client, script([{"reasoning": "hm"}, {"text": "there"}]))
        reasoning, message = (item.to_dict() for item in given.output)
        error = await self.refused(openai_client, [user("hi"), reasoning])
        assert (
            f"Item '{reasoning['id']}' of type 'reasoning' was provided without its required "
            "following item."
        ) in str(error)
        error = await self.refused(openai_client, [user("hi"), message])
        assert (
            f"Item '{message['id']}' of type 'message' was provided without its required "
            f"'reasoning' item: '{reasoning['id']}'."
        ) in str(error)
        alone = {name: value for name, value in message.items() if name != "id"}
        await ask(openai_client, [user("hi"), alone, user("again")])

    async def test_reasoning_that_is_kept_by_the_client(self, openai_client: AsyncOpenAI) -> None:
        told = script([{"reasoning": "hm"}, CALL])
        include: list[Any] = ["reasoning.encrypted_content"]
        given = await ask(openai_client, told, store=False, include=include)
        reasoning, call = (item.to_dict() for item in given.output)
        answer = {"type": "function_call_output", "call_id": call["call_id"], "output": "x"}
        await ask(openai_client, [user(told), reasoning, call, answer], store=False)
        for item in (reasoning, call):
            del item["id"]
        await ask(openai_client, [user(told), reasoning, call, answer], store=False)

    @pytest.mark.parametrize(
        ("change", "why"),
        [
            ({"encrypted_content": "gAAAAABaaaa"}, "could not be decrypted or parsed"),
            ({"id": "rs_other"}, "item_id did not match the target item id"),
        ],
    )
    async def test_reasoning_that_was_altered(
        self, openai_client: AsyncOpenAI, change: dict[str, Any], why: str
    ) -> None:
        told = script([{"reasoning": "hm", "encrypted": True}, {"text": "there"}])
        reasoning, message = (item.to_dict() for item in (await ask(openai_client, told)).output)
        error = await self.refused(openai_client, [user("hi"), {**reasoning, **change}, message])
        assert why in str(error)
        assert isinstance(error.body, dict)
        assert error.body["code"] == "invalid_encrypted_content"

    @pytest.mark.parametrize(
        ("element", "output", "name"),
        [
            (CALL, {"type": "function_call_output", "output": "x"}, "function call"),
            (
                {"custom": "write"},
                {"type": "custom_tool_call_output", "output": "x"},
                "custom tool call",
            ),
            (
                {"computer": {"type": "screenshot"}},
                {"type": "computer_call_output", "output": {"type": "computer_screenshot"}},
                "computer call",
            ),
            ({"shell": ["ls"]}, {"type": "shell_call_output", "output": []}, "shell call"),
            (
                {"apply_patch": {"type": "delete_file", "path": "a"}},
                {"type": "apply_patch_call_output", "status": "completed"},
                "apply patch call",
            ),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    async def test_calls_and_outputs_belong_together(
        self,
        openai_client: AsyncOpenAI,
        element: dict[str, Any],
        output: dict[str, Any],
        name: str,
    ) -> None:
        given = await ask(openai_client, script([element]))
        call = given.output[0].to_dict()
        answer = {**output, "call_id": call["call_id"]}
        assert (await ask(openai_client, [user("hi"), call, answer])).status == "completed"
        chained = await ask(openai_client, [answer], previous_response_id=given.id)
        assert chained.output_text == "done"
        error = await self.refused(openai_client, [user("hi"), call])
        assert f"No tool output found for {name} {call['call_id']}." in str(error)
        error = await self.refused(openai_client, [user("hi"), answer])
        expected = f"No tool call found for {name} output with call_id {call['call_id']}."
        assert expected in str(error)

    async def test_approvals(self, openai_client: AsyncOpenAI) -> None:
        given = await ask(openai_client, script([{"approval": "delete"}]))
        answer = {
            "type": "mcp_approval_response",
            "approval_request_id": given.output[0].id,
            "approve": True,
        }
        await ask(openai_client, [answer], previous_response_id=given.id)
        assert (await self.refused(openai_client, [user("hi"), answer])).status_code == 400

    async def test_an_unknown_previous_response(self, openai_client: AsyncOpenAI) -> None:
        error = await self.refused(openai_client, [user("hi")], previous_response_id="resp_1")
        assert isinstance(error.body, dict)
        assert error.body["code"] == "previous_response_not_found"

    async def test_a_strict_schema_that_is_open(self, openai_client: AsyncOpenAI) -> None:
        schema = {"type": "object", "properties": {"a": {"type": "string"}}}
        wanted = {"type": "json_schema", "name": "x", "strict": True, "schema": schema}
        error = await self.refused(openai_client, [user("hi")], text={"format": wanted})
        assert "'additionalProperties' is required to be supplied" in str(error)

    async def test_another_key(self, provider: Provider) -> None:
        async with AsyncOpenAI(base_url=provider.url, api_key="sk-other", max_retries=0) as client:
            with pytest.raises(openai.AuthenticationError):
                await ask(client, "hi")

    async def test_they_are_recorded(self, openai_client: AsyncOpenAI, provider: Provider) -> None:
        await self.refused(openai_client, [{"role": "tool", "content": "hi"}])
        await ask(openai_client, "hi")
        first, second = provider.asked
        assert first.refusal == provider.refused[0]
        assert (second.refusal, second.items) == (None, [user("hi")])
        assert second.output[0]["content"][0]["text"] == "hi"
