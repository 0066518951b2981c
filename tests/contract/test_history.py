"""Chains of responses: continued on any replica, stored once, listed page by page."""

import json
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from tests.postgres import Server
from tests.reading import Wire, script
from tests.servers import Replica
from tests.storing import connected

SHOW = script(show=True)


async def ask(client: AsyncOpenAI, input: Any, **fields: Any) -> Any:
    response = await client.responses.create(model="scripted", input=input, **fields)
    assert response.status == "completed", response.error
    return response


async def given_to_the_model(client: AsyncOpenAI, previous: str) -> list[str]:
    """The texts of what a model is given that continues a response."""
    response = await ask(client, SHOW, previous_response_id=previous)
    return [text_of(item) for item in json.loads(response.output_text)]


def text_of(item: dict[str, Any]) -> str:
    content = item["content"]
    return str(content if isinstance(content, str) else content[0]["text"])


class TestChains:
    async def test_three_turns_on_two_replicas(self, clients: list[AsyncOpenAI]) -> None:
        one = await ask(clients[0], "first")
        two = await ask(clients[1], "second", previous_response_id=one.id)
        given = await given_to_the_model(clients[0], two.id)
        assert given == ["first", "first", "second", "second", SHOW]

    async def test_a_turn_stores_what_its_own_request_brought(
        self, clients: list[AsyncOpenAI], two: list[Replica], database: Server
    ) -> None:
        last = await ask(clients[0], "turn 0")
        ids = [last.id]
        for turn in range(1, 12):
            last = await ask(clients[turn % 2], f"turn {turn}", previous_response_id=last.id)
            ids.append(last.id)
        schema = two[0].environment["LONGRUN_SCHEMA"]
        async with connected(database.url) as connection:
            sizes = await connection.fetch(
                f'SELECT length(input) + length(request) AS bytes FROM "{schema}".responses'
                " WHERE id = ANY($1) ORDER BY id",
                ids,
            )
        assert max(row["bytes"] for row in sizes) <= sizes[0]["bytes"] + 2

    async def test_one_is_the_beginning_of_two(self, clients: list[AsyncOpenAI]) -> None:
        root = await ask(clients[0], "root")
        left = await ask(clients[0], "left", previous_response_id=root.id)
        right = await ask(clients[1], "right", previous_response_id=root.id)
        assert "right" not in await given_to_the_model(clients[1], left.id)
        assert "left" not in await given_to_the_model(clients[0], right.id)

    async def test_an_ancestor_that_was_deleted_is_named(self, clients: list[AsyncOpenAI]) -> None:
        one = await ask(clients[0], "first")
        two = await ask(clients[0], "second", previous_response_id=one.id)
        three = await ask(clients[1], "third", previous_response_id=two.id)
        await clients[0].responses.delete(two.id)
        with pytest.raises(openai.BadRequestError) as refused:
            await ask(clients[1], "fourth", previous_response_id=three.id)
        error: Any = refused.value.body
        assert error["code"] == "previous_response_not_found"
        assert error["param"] == "previous_response_id"
        assert two.id in error["message"]

    async def test_one_that_was_not_stored_cannot_be_continued(
        self, clients: list[AsyncOpenAI]
    ) -> None:
        one = await ask(clients[0], "first", store=False)
        with pytest.raises(openai.BadRequestError, match="not found"):
            await ask(clients[0], "second", previous_response_id=one.id)


class TestInputItems:
    async def test_what_its_own_request_brought(self, clients: list[AsyncOpenAI]) -> None:
        one = await ask(clients[0], "first")
        items = [{"role": "user", "content": f"item {n}"} for n in range(5)]
        two = await ask(clients[1], items, previous_response_id=one.id)
        page = await clients[0].responses.input_items.list(two.id, order="asc")
        assert [text_of(item.model_dump()) for item in page.data] == [f"item {n}" for n in range(5)]
        assert {item.type for item in page.data} == {"message"}

    async def test_page_by_page_with_ids_that_stay(self, clients: list[AsyncOpenAI]) -> None:
        items = [{"role": "user", "content": f"item {n}"} for n in range(7)]
        made = await ask(clients[0], items)
        newest = [item async for item in clients[0].responses.input_items.list(made.id, limit=3)]
        oldest = [
            item
            async for item in clients[1].responses.input_items.list(made.id, limit=2, order="asc")
        ]
        assert len(newest) == 7
        assert [item.id for item in newest] == [item.id for item in reversed(oldest)]
        assert len({item.id for item in newest}) == 7

    async def test_what_is_referred_to_is_shown_until_it_is_deleted(
        self, clients: list[AsyncOpenAI]
    ) -> None:
        one = await ask(clients[0], "first")
        said = one.output[-1]
        reference = {"type": "item_reference", "id": said.id}
        two = await ask(clients[1], [reference, {"role": "user", "content": "second"}])
        page = await clients[0].responses.input_items.list(two.id, order="asc")
        assert page.data[0].id == said.id
        assert [text_of(item.model_dump()) for item in page.data] == [
            text_of(said.model_dump()),
            "second",
        ]
        assert page.data[0].type == "message"
        page = await clients[0].responses.input_items.list(two.id, order="asc", after=said.id)
        assert [text_of(item.model_dump()) for item in page.data] == ["second"]
        await clients[1].responses.delete(one.id)
        page = await clients[0].responses.input_items.list(two.id, order="asc")
        assert str(page.data[0].type) == "item_reference"

    async def test_an_item_that_is_not_there(self, clients: list[AsyncOpenAI]) -> None:
        made = await ask(clients[0], "x")
        with pytest.raises(openai.BadRequestError, match="after"):
            await clients[0].responses.input_items.list(made.id, after="msg_0")

    async def test_of_an_unknown_response(self, clients: list[AsyncOpenAI]) -> None:
        with pytest.raises(openai.NotFoundError):
            await clients[0].responses.input_items.list("resp_" + "0" * 32)


async def listed(replica: Replica, query: str) -> dict[str, Any]:
    async with await Wire.open(f"{replica.base_url}/responses?{query}") as wire:
        await wire.rest()
        assert wire.status == 200, bytes(wire.body)
        return dict(json.loads(bytes(wire.body)))


class TestLists:
    async def test_newest_first_and_stable_while_new_ones_come_in(
        self, clients: list[AsyncOpenAI], two: list[Replica]
    ) -> None:
        tag = {"test": "newest first"}
        made = [(await ask(clients[n % 2], f"{n}", metadata=tag)).id for n in range(5)]
        query = "metadata[test]=newest%20first&limit=2"
        page = await listed(two[0], query)
        seen = [each["id"] for each in page["data"]]
        assert page["has_more"]
        while page["has_more"]:
            await ask(clients[0], "one more", metadata=tag)
            page = await listed(two[1], f"{query}&after={page['last_id']}")
            seen += [each["id"] for each in page["data"]]
        assert seen == made[::-1]

    async def test_filters(self, clients: list[AsyncOpenAI], two: list[Replica]) -> None:
        tag = {"test": "filters", "odd": "a\x00b"}
        done = await ask(clients[0], "fine", metadata=tag)
        failed = await clients[0].responses.create(
            model="scripted", input=script(fail=0), metadata=tag
        )
        query = "metadata[test]=filters"
        both = await listed(two[0], f"{query}&order=asc")
        assert [each["id"] for each in both["data"]] == [done.id, failed.id]
        assert both["data"][0]["output"][0]["content"][0]["text"] == "fine"
        for status, expected in (("completed", done), ("failed", failed)):
            page = await listed(two[1], f"{query}&status={status}&model=scripted")
            assert [each["id"] for each in page["data"]] == [expected.id]
        assert (await listed(two[0], f"{query}&model=chain"))["data"] == []
        assert (await listed(two[0], "metadata[test]=nothing")) == {
            "object": "list",
            "data": [],
            "first_id": None,
            "last_id": None,
            "has_more": False,
        }

    @pytest.mark.parametrize(
        ("query", "param"),
        [
            ("limit=0", "limit"),
            ("limit=101", "limit"),
            ("order=up", "order"),
            ("status=x", "status"),
        ],
    )
    async def test_what_is_refused(self, two: list[Replica], query: str, param: str) -> None:
        async with await Wire.open(f"{two[0].base_url}/responses?{query}") as wire:
            await wire.rest()
            assert wire.status == 400
            assert json.loads(bytes(wire.body))["error"]["param"] == param
