"""Conversations and their items, with the `openai` client, on two replicas."""

from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from tests.reading import script

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
