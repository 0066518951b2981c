"""Conversations and their items, with the `openai` client, on two replicas."""

import json
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from tests.reading import eventually, script

SHOW = script(show=True)


def said(n: int) -> dict[str, Any]:
    return {"role": "user", "content": f"item {n}"}


def text_of(item: Any) -> str:
    content = item.to_dict()["content"]
    assert len(content) == 1
    return str(content[0]["text"])


async def all_texts(client: AsyncOpenAI, conversation_id: str, **fields: Any) -> list[str]:
    pages = client.conversations.items.list(conversation_id, order="asc", **fields)
    return [text_of(item) async for item in pages]


class TestConversations:
    async def test_from_its_making_to_its_end(self, clients: list[AsyncOpenAI]) -> None:
        one, two = clients
        made = await one.conversations.create(metadata={"topic": "a\x00b"}, items=[said(0)])
        assert made.id.startswith("conv_")
        assert made.object == "conversation"
        assert made.metadata == {"topic": "a\x00b"}
        assert isinstance(made.created_at, int)
        assert await two.conversations.retrieve(made.id) == made
        updated = await two.conversations.update(made.id, metadata={"other": "1"})
        assert updated.metadata == {"other": "1"}
        assert updated.created_at == made.created_at
        assert await one.conversations.retrieve(made.id) == updated
        assert await all_texts(two, made.id) == ["item 0"]
        gone = await one.conversations.delete(made.id)
        assert gone.to_dict() == {
            "id": made.id,
            "object": "conversation.deleted",
            "deleted": True,
        }
        for ask in (
            lambda: two.conversations.retrieve(made.id),
            lambda: two.conversations.update(made.id, metadata={}),
            lambda: two.conversations.delete(made.id),
            lambda: two.conversations.items.create(made.id, items=[said(0)]),
            lambda: two.conversations.items.list(made.id),
            lambda: two.conversations.items.retrieve("msg_1", conversation_id=made.id),
            lambda: two.conversations.items.delete("msg_1", conversation_id=made.id),
        ):
            with pytest.raises(openai.NotFoundError, match=f"'{made.id}' not found"):
                await ask()

    async def test_nothing_has_to_be_given(self, clients: list[AsyncOpenAI]) -> None:
        made = await clients[0].conversations.create()
        assert made.metadata == {}
        page = await clients[1].conversations.items.list(made.id)
        assert page.data == []
        assert page.has_more is False
        nothing: Any = None
        cleared = await clients[0].conversations.update(made.id, metadata=nothing)
        assert cleared.metadata == {}

    @pytest.mark.parametrize("id_", ["conv_1", "x" * 300, "conv_" + "0" * 32, "a\x00b"])
    async def test_an_id_of_nothing(self, clients: list[AsyncOpenAI], id_: str) -> None:
        with pytest.raises(openai.NotFoundError, match="not found"):
            await clients[0].conversations.retrieve(id_)

    @pytest.mark.parametrize(
        ("body", "param"),
        [
            ({"metadata": {str(n): "x" for n in range(17)}}, "metadata"),
            ({"metadata": {"k" * 65: "x"}}, "metadata"),
            ({"metadata": {"k": "x" * 513}}, "metadata.k"),
            ({"metadata": {"k": 1}}, "metadata.k"),
            ({"items": [said(n) for n in range(21)]}, "items"),
            ({"items": "hello"}, "items"),
            ({"items": ["hello"]}, "items[0]"),
            ({"items": [said(0), {"role": "nobody", "content": "x"}]}, "items[1].role"),
            ({"items": [{"type": "function_call", "call_id": "c"}]}, "items[0].name"),
        ],
    )
    async def test_what_is_refused(
        self, clients: list[AsyncOpenAI], body: dict[str, Any], param: str
    ) -> None:
        with pytest.raises(openai.BadRequestError) as refused:
            await clients[0].conversations.create(extra_body=body)
        assert str(refused.value.param).startswith(param)


class TestItems:
    async def test_of_every_kind_each_with_an_id_of_its_type(
        self, clients: list[AsyncOpenAI]
    ) -> None:
        made = await clients[0].conversations.create()
        items: list[Any] = [
            said(0),
            {"role": "assistant", "content": "so", "id": "mine"},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "a\x00b"},
            {"type": "reasoning", "id": "rs_1", "summary": []},
            {"type": "of tomorrow", "what": {"ever": [1]}},
        ]
        added = await clients[0].conversations.items.create(made.id, items=items)
        assert added.object == "list"
        assert added.has_more is False
        assert [item.id.split("_")[0] for item in added.data if item.id] == [
            *("msg", "msg", "fc", "fco", "rs", "item")
        ]
        assert (added.first_id, added.last_id) == (added.data[0].id, added.data[-1].id)
        shown = [item.to_dict() for item in added.data]
        assert shown[1]["content"][0] == {  # type: ignore[index]
            "type": "output_text",
            "text": "so",
            "annotations": [],
            "logprobs": [],
        }
        assert shown[2] == {**items[2], "id": added.data[2].id, "status": "completed"}
        assert shown[3]["output"] == items[3]["output"]
        listed = await clients[1].conversations.items.list(made.id, order="asc")
        assert [item.to_dict() for item in listed.data] == shown
        for item in added.data:
            assert item.id
            found = await clients[1].conversations.items.retrieve(
                item.id, conversation_id=made.id, include=["reasoning.encrypted_content"]
            )
            assert found == item

    async def test_include_names_what_items_have(self, clients: list[AsyncOpenAI]) -> None:
        made = await clients[0].conversations.create(items=[said(0)])
        known: list[Any] = ["reasoning.encrypted_content", "message.output_text.logprobs"]
        page = await clients[0].conversations.items.list(made.id, include=known)
        item_id = str(page.data[0].id)
        unknown: list[Any] = [known[0], "everything"]
        items = clients[1].conversations.items
        new: list[Any] = [said(1)]
        for ask in (
            lambda: items.list(made.id, include=unknown),
            lambda: items.retrieve(item_id, conversation_id=made.id, include=unknown),
            lambda: items.create(made.id, items=new, include=unknown),
        ):
            with pytest.raises(openai.BadRequestError, match="'everything' is not one of") as wrong:
                await ask()
            assert wrong.value.param == "include"
        assert await all_texts(clients[0], made.id) == ["item 0"]

    async def test_a_reference_is_what_it_leads_to(self, clients: list[AsyncOpenAI]) -> None:
        elsewhere = await ask(clients[0], "said elsewhere")
        reference: Any = {"type": "item_reference", "id": elsewhere.output[0].id}
        made = await clients[1].conversations.create(items=[said(0), reference])
        first = await clients[0].conversations.items.list(made.id, order="asc")
        assert [text_of(item) for item in first.data] == ["item 0", "said elsewhere"]
        again: Any = {"type": "item_reference", "id": first.data[1].id}
        shown = await ask(clients[1], [again, {"role": "user", "content": SHOW}], **on(made))
        assert texts_given(shown) == ["item 0", "said elsewhere", SHOW]
        own: Any = {"type": "item_reference", "id": first.data[0].id}
        other = await clients[0].conversations.create()
        for conversation, code in ((made, None), (other, "item_not_found")):
            add = clients[1].conversations.items.create(conversation.id, items=[own])
            if code is None:
                assert [text_of(item) for item in (await add).data] == ["item 0"]
                continue
            with pytest.raises(openai.BadRequestError) as unknown:
                await add
            assert (unknown.value.code, unknown.value.param) == (code, "items[0].id")
        one = await clients[0].conversations.items.retrieve(
            str(first.data[1].id), conversation_id=made.id
        )
        assert text_of(one) == "said elsewhere"
        await clients[0].responses.delete(elsewhere.id)
        shown = await ask(clients[1], SHOW, **on(made))
        assert "said elsewhere" not in texts_given(shown)

    async def test_page_by_page(self, clients: list[AsyncOpenAI]) -> None:
        made = await clients[0].conversations.create(items=[said(n) for n in range(20)])
        await clients[1].conversations.items.create(made.id, items=[said(n) for n in range(20, 25)])
        everything = [f"item {n}" for n in range(25)]
        assert await all_texts(clients[0], made.id, limit=7) == everything
        newest = await clients[0].conversations.items.list(made.id)
        assert [text_of(item) for item in newest.data] == everything[:4:-1]
        assert newest.has_more
        rest = await newest.get_next_page()
        assert [text_of(item) for item in rest.data] == everything[4::-1]
        assert not rest.has_more
        for fields in ({"limit": 101}, {"limit": 0}, {"order": "up"}, {"after": "msg_1"}):
            with pytest.raises(openai.BadRequestError):
                await clients[0].conversations.items.list(made.id, extra_query=fields)

    async def test_one_goes_and_the_others_stay(self, clients: list[AsyncOpenAI]) -> None:
        made = await clients[0].conversations.create(items=[said(n) for n in range(3)])
        page = await clients[0].conversations.items.list(made.id, order="asc")
        gone = page.data[1].id
        assert gone
        left = await clients[1].conversations.items.delete(gone, conversation_id=made.id)
        assert left == made
        assert await all_texts(clients[0], made.id) == ["item 0", "item 2"]
        for ask in (clients[0].conversations.items.delete, clients[1].conversations.items.retrieve):
            with pytest.raises(openai.NotFoundError, match=gone):
                await ask(gone, conversation_id=made.id)
        other = await clients[0].conversations.create()
        with pytest.raises(openai.NotFoundError):
            await clients[0].conversations.items.retrieve(
                str(page.data[0].id), conversation_id=other.id
            )


class TestResponses:
    """Responses on a conversation: read at their start, written to at their end."""

    async def test_turns_on_two_replicas(self, clients: list[AsyncOpenAI]) -> None:
        made = await clients[0].conversations.create(items=[said(0)])
        first = await ask(clients[0], "first", conversation=made.id)
        assert first.conversation.id == made.id
        second = await ask(clients[1], [said(1), said(2)], conversation={"id": made.id})
        retrieved = await clients[0].responses.retrieve(second.id)
        assert retrieved.conversation
        assert retrieved.conversation.id == made.id
        shown = await ask(clients[0], SHOW, conversation=made.id)
        given = ["item 0", "first", "first", "item 1", "item 2", "item 2", SHOW]
        assert texts_given(shown) == given
        assert await all_texts(clients[1], made.id) == [*given, shown.output_text]

    async def test_its_items_have_the_ids_that_they_have_in_the_response(
        self, clients: list[AsyncOpenAI]
    ) -> None:
        made = await clients[0].conversations.create()
        text = script(turns=[[["echo", {"text": "a\x00b"}]]])
        response = await ask(clients[0], [said(0), {"role": "user", "content": text}], **on(made))
        inputs = await clients[0].responses.input_items.list(response.id, order="asc")
        page = await clients[1].conversations.items.list(made.id, order="asc")
        assert [item.to_dict() for item in page.data] == [
            *(item.to_dict() for item in inputs.data),
            *(item.to_dict() for item in response.output),
        ]

    async def test_streamed_and_in_the_background(self, clients: list[AsyncOpenAI]) -> None:
        made = await clients[0].conversations.create()
        async with clients[0].responses.stream(
            model="scripted", input="one", conversation=made.id
        ) as stream:
            final = await stream.get_final_response()
        assert final.conversation
        assert final.conversation.id == made.id
        begun = await create(clients[1], "two", background=True, **on(made))
        assert begun.conversation.id == made.id
        await ended(clients[0], begun.id)
        assert await all_texts(clients[0], made.id) == ["one", "one", "two", "two"]

    async def test_no_input_but_what_is_there(self, clients: list[AsyncOpenAI]) -> None:
        made = await clients[0].conversations.create(items=[said(7)])
        response = await clients[0].responses.create(model="scripted", conversation=made.id)
        assert response.output_text == "item 7"
        assert await all_texts(clients[0], made.id) == ["item 7", "item 7"]

    async def test_what_is_not_stored_stays_in_the_conversation(
        self, clients: list[AsyncOpenAI]
    ) -> None:
        """It is the conversation's then, which is deleted on its own."""
        made = await clients[0].conversations.create()
        response = await ask(clients[0], "hello", store=False, **on(made))
        with pytest.raises(openai.NotFoundError):
            await clients[0].responses.retrieve(response.id)
        assert await all_texts(clients[1], made.id) == ["hello", "hello"]

    async def test_one_that_continues_a_response_reads_what_that_one_read(
        self, clients: list[AsyncOpenAI]
    ) -> None:
        made = await clients[0].conversations.create(items=[said(0)])
        first = await ask(clients[0], "first", **on(made))
        await ask(clients[0], "second", **on(made))
        aside = await ask(clients[1], SHOW, previous_response_id=first.id)
        assert texts_given(aside) == ["item 0", "first", "first", SHOW]
        assert aside.conversation is None
        assert len(await all_texts(clients[0], made.id)) == 5

    async def test_a_call_of_the_clients_own_is_answered_in_the_next_turn(
        self, clients: list[AsyncOpenAI]
    ) -> None:
        made = await clients[0].conversations.create()
        tool = {"type": "function", "name": "weather", "parameters": {"type": "object"}}
        text = script(turns=[[["weather", {}]]])
        asked = await ask(clients[0], text, tools=[tool], **on(made))
        call = asked.output[0]
        answer = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
        shown = await ask(clients[1], [answer, {"role": "user", "content": SHOW}], **on(made))
        given = json.loads(shown.output_text)
        assert [item.get("type", "message") for item in given] == [
            *("message", "function_call", "function_call_output", "message")
        ]

    async def test_what_a_request_names_or_answers_may_be_in_the_conversation(
        self, clients: list[AsyncOpenAI]
    ) -> None:
        call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
        answer = {"type": "function_call_output", "call_id": "c", "output": "so"}
        made = await clients[0].conversations.create(items=[said(0), call])
        page = await clients[0].conversations.items.list(made.id, order="asc")
        reference = {"type": "item_reference", "id": page.data[0].id}
        items = [answer, reference, {"role": "user", "content": SHOW}]
        shown = await ask(clients[1], items, **on(made))
        given = json.loads(shown.output_text)
        kinds = [item.get("type", "message") for item in given]
        assert kinds[:3] == ["message", "function_call", "function_call_output"]
        for item, code in (
            ({**answer, "call_id": "d"}, "tool_call_not_found"),
            ({**reference, "id": "msg_1"}, "item_not_found"),
        ):
            with pytest.raises(openai.BadRequestError) as refused:
                await create(clients[0], [item], **on(made))
            assert refused.value.code == code

    @pytest.mark.parametrize(
        "id_", ["conv_1", "conv_" + "0" * 32, "a\x00b", {"id": "x" * 300}, {"id": "conv_1"}]
    )
    async def test_a_conversation_that_is_not_there(
        self, clients: list[AsyncOpenAI], id_: Any
    ) -> None:
        with pytest.raises(openai.NotFoundError) as refused:
            await create(clients[0], "hello", conversation=id_)
        assert refused.value.param == "conversation"

    async def test_not_with_a_previous_response(self, clients: list[AsyncOpenAI]) -> None:
        made = await clients[0].conversations.create()
        first = await ask(clients[0], "first")
        with pytest.raises(openai.BadRequestError, match="cannot be used together"):
            await create(clients[0], "second", previous_response_id=first.id, **on(made))


class TestOneAtATime:
    @pytest.mark.parametrize("stream", [False, True])
    async def test_the_second_is_refused_on_any_replica(
        self, clients: list[AsyncOpenAI], stream: bool
    ) -> None:
        made = await clients[0].conversations.create()
        begun = await create(clients[0], script(hold=60), background=True, **on(made))
        for client in clients:
            with pytest.raises(openai.BadRequestError) as refused:
                await create(client, "second", stream=stream, **on(made))
            assert (refused.value.code, refused.value.param) == (
                "conversation_locked",
                "conversation",
            )
        await clients[1].responses.cancel(begun.id)
        await ask(clients[0], "third", **on(made))
        assert (await all_texts(clients[0], made.id))[-2:] == ["third", "third"]

    async def test_it_is_free_when_one_was_deleted(self, clients: list[AsyncOpenAI]) -> None:
        made = await clients[0].conversations.create()
        begun = await create(clients[0], script(hold=60), background=True, **on(made))
        await clients[1].responses.delete(begun.id)
        await ask(clients[0], "next", **on(made))
        assert await all_texts(clients[0], made.id) == ["next", "next"]

    async def test_it_is_free_when_one_has_failed(self, clients: list[AsyncOpenAI]) -> None:
        made = await clients[0].conversations.create()
        text = script(turns=[[["broken", {}]]])
        failed = await create(clients[0], text, **on(made))
        assert failed.status == "failed"
        page = await clients[1].conversations.items.list(made.id, order="asc")
        assert [item.type for item in page.data] == ["message", "mcp_call"]
        assert (page.data[1].status, page.data[1].output) == ("failed", None)
        await ask(clients[1], "next", **on(made))

    async def test_a_cancelled_one_leaves_no_half_of_a_call(
        self, clients: list[AsyncOpenAI]
    ) -> None:
        made = await clients[0].conversations.create()
        calls = [["echo", {"text": "done"}], ["echo", {"text": "open", "pause": 60}]]
        text = script(turns=[["before", ["echo", {"text": "a"}]], calls])
        begun = await create(clients[0], text, background=True, **on(made))

        async def two_are_done() -> bool:
            output = (await clients[1].responses.retrieve(begun.id)).output
            return [item.type for item in output].count("mcp_call") == 2

        await eventually(two_are_done)
        await clients[1].responses.cancel(begun.id)
        page = await clients[0].conversations.items.list(made.id, order="asc")
        kinds = [item.type for item in page.data]
        assert kinds == ["message", "message", "mcp_call", "mcp_call"]
        shown = await ask(clients[0], SHOW, **on(made))
        given = [item.get("type", "message") for item in json.loads(shown.output_text)]
        calls = ["function_call", "function_call_output"] * 2
        assert given == ["message", "message", *calls, "message"]


class TestDeletion:
    async def test_a_response_goes_with_what_it_said(self, clients: list[AsyncOpenAI]) -> None:
        made = await clients[0].conversations.create(items=[said(0)])
        first = await ask(clients[0], "first", **on(made))
        await ask(clients[1], "second", **on(made))
        await clients[1].responses.delete(first.id)
        assert await all_texts(clients[0], made.id) == ["item 0", "second", "second"]
        shown = await ask(clients[0], SHOW, **on(made))
        assert texts_given(shown) == ["item 0", "second", "second", SHOW]

    async def test_a_run_ends_without_its_conversation(self, clients: list[AsyncOpenAI]) -> None:
        made = await clients[0].conversations.create(items=[said(0)])
        begun = await create(clients[0], script(pause=0.2, deltas=4), background=True, **on(made))
        await clients[1].conversations.delete(made.id)
        await ended(clients[1], begun.id)
        with pytest.raises(openai.NotFoundError):
            await clients[0].conversations.retrieve(made.id)

    async def test_an_item_that_was_deleted_is_not_read(self, clients: list[AsyncOpenAI]) -> None:
        made = await clients[0].conversations.create(items=[said(0), said(1)])
        page = await clients[0].conversations.items.list(made.id, order="asc")
        await clients[0].conversations.items.delete(str(page.data[0].id), conversation_id=made.id)
        assert texts_given(await ask(clients[1], SHOW, **on(made))) == ["item 1", SHOW]


async def create(client: AsyncOpenAI, input: Any, **fields: Any) -> Any:
    return await client.responses.create(model="scripted", input=input, **fields)


async def ask(client: AsyncOpenAI, input: Any, **fields: Any) -> Any:
    response = await create(client, input, **fields)
    assert response.status == "completed", response.error
    return response


def on(conversation: Any) -> dict[str, str]:
    return {"conversation": conversation.id}


def texts_given(response: Any) -> list[str]:
    """The texts that the model of a response was given, whose input was SHOW."""
    contents = [item["content"] for item in json.loads(response.output_text)]
    return [each if isinstance(each, str) else each[0]["text"] for each in contents]


async def ended(client: AsyncOpenAI, response_id: str) -> None:
    async def completed() -> bool:
        return (await client.responses.retrieve(response_id)).status == "completed"

    await eventually(completed)
