"""Two cells behind the documented nginx: ids lead to their cell, in the path and in the body."""

import contextlib
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI

from longrun import ids
from tests import nginx, servers
from tests.postgres import Server
from tests.reading import Wire, check_complete, eventually, script
from tests.servers import Replica
from tests.unit.test_readme import DEPLOYING, blocks

CELLS = ("00", "01")
BEFORE_CELLS = "0" * 12 + "7" + "0" * 19


@pytest.fixture(scope="module")
def cells(database: Server) -> Iterator[list[Replica]]:
    """A replica of each cell."""
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(
                servers.replicas(
                    1, database.url, schema=f"cell_{cell}", environment={"LONGRUN_CELL": cell}
                )
            )[0]
            for cell in CELLS
        ]


@pytest.fixture(scope="module")
def proxy(cells: list[Replica]) -> Iterator[str]:
    """The URL of an nginx with the documented configuration, for these replicas."""
    (found,) = blocks("nginx", DEPLOYING)
    for number, cell in enumerate(cells):
        there = f"127.0.0.1:{cell.url.rpartition(':')[2]}"
        found = re.sub(rf"server 10\.0\.{number}\.\d:8000;", f"server {there};", found)
    with nginx.running(found) as url:
        yield url


def client_of(url: str, key: str = "none") -> AsyncOpenAI:
    return AsyncOpenAI(base_url=url + "/v1", api_key=key, max_retries=0)


@pytest.fixture
async def direct(cells: list[Replica]) -> AsyncIterator[list[AsyncOpenAI]]:
    """A client of each cell, with nothing in between."""
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(client_of(cell.url)) for cell in cells]


@pytest.fixture
async def routed(proxy: str) -> AsyncIterator[AsyncOpenAI]:
    async with client_of(proxy) as client:
        yield client


async def create(client: AsyncOpenAI, input: Any = "hello", **fields: Any) -> Any:
    return await client.responses.create(model="scripted", input=input, **fields)


class TestIds:
    async def test_end_with_the_cell_in_which_they_were_made(
        self, direct: list[AsyncOpenAI]
    ) -> None:
        for cell, client in zip(CELLS, direct, strict=True):
            made = await create(client)
            talk = await client.conversations.create(
                items=[{"type": "message", "role": "user", "content": "hello"}]
            )
            (item,) = (await client.conversations.items.list(talk.id)).data
            assert made.id[-6:] == talk.id[-6:] == item.id[-6:] == f"ce11{cell}"
            assert ids.cell_of(made.output[0].id) == cell
            listed = await client.responses.input_items.list(made.id)
            assert ids.cell_of(listed.data[0].id) == cell


async def refusal(response: Any) -> tuple[str, str | None]:
    """What an error of another cell says: its message and the header."""
    with pytest.raises(openai.APIStatusError) as raised:
        await response
    assert raised.value.status_code == 421
    body: Any = raised.value.body
    assert body.keys() == {"message", "type", "param", "code"}
    assert body["code"] == "other_cell"
    return body["message"], raised.value.response.headers.get("longrun-cell")


class TestAnotherCells:
    async def test_is_refused_with_its_name(self, direct: list[AsyncOpenAI]) -> None:
        here, there = direct
        made = await create(there)
        talk = (await there.conversations.create()).id
        reference: Any = [{"type": "item_reference", "id": made.output[0].id}]
        hook = (
            await there.webhooks.create(
                name="n", url="https://hook.example/", event_types=["response.completed"]
            )
        ).id
        assert ids.cell_of(hook) == "01"
        for asked in (
            here.responses.retrieve(made.id),
            here.responses.retrieve(made.id, stream=True),
            here.responses.cancel(made.id),
            here.responses.delete(made.id),
            here.responses.input_items.list(made.id),
            create(here, previous_response_id=made.id),
            create(here, previous_response_id=made.id, stream=True),
            create(here, conversation=talk),
            create(here, reference),
            here.conversations.retrieve(talk),
            here.conversations.update(talk, metadata={}),
            here.conversations.delete(talk),
            here.conversations.items.list(talk),
            here.conversations.items.create(talk, items=reference),
            here.conversations.create(items=reference),
            here.webhooks.retrieve(hook),
            here.webhooks.update(hook, name="mine"),
            here.webhooks.delete(hook),
            here.webhooks.rotate_secret(hook),
            here.webhooks.test(hook, event_type="response.completed"),
        ):
            message, cell = await refusal(asked)
            assert cell == "01"
            assert "cell 01" in message
            assert "cell 00" in message

    async def test_token_and_failure_too(self, cells: list[Replica]) -> None:
        unknown = ids.new_response_id("01")
        async with httpx2.AsyncClient(base_url=cells[0].base_url) as client:
            for method, path in (("POST", "stream_token"), ("GET", "failure")):
                answer = await client.request(method, f"/responses/{unknown}/{path}")
                assert answer.status_code == (403 if path == "failure" else 421), path

    @pytest.mark.parametrize(
        "id_", ["resp_" + BEFORE_CELLS, ids.new_response_id("00"), "resp_ce1101"], ids=len
    )
    async def test_what_is_of_none_or_of_this_one_is_the_404_that_it_was(
        self, direct: list[AsyncOpenAI], id_: str
    ) -> None:
        with pytest.raises(openai.NotFoundError) as raised:
            await direct[0].responses.retrieve(id_)
        assert raised.value.response.json() == {
            "error": {
                "message": f"Response with id {id_!r} not found.",
                "type": "invalid_request_error",
                "param": "id",
                "code": "not_found",
            }
        }

    async def test_what_a_cell_has_it_serves_whatever_its_id_says(
        self, database: Server, cells: list[Replica], direct: list[AsyncOpenAI]
    ) -> None:
        """What was moved here; what an id from before cells happens to end with."""
        with servers.replicas(
            1, database.url, schema="cell_00", environment={"LONGRUN_CELL": "7f"}
        ) as (other,):
            async with client_of(other.url) as client:
                made = await create(client)
                assert ids.cell_of(made.id) == "7f"
        assert (await direct[0].responses.retrieve(made.id)).output_text == made.output_text
        assert (await create(direct[0], previous_response_id=made.id)).status == "completed"


class TestBehindNginx:
    async def test_ids_lead_to_their_cell(
        self, direct: list[AsyncOpenAI], routed: AsyncOpenAI
    ) -> None:
        for client in direct:
            made = await create(client, script(deltas=3))
            assert (await routed.responses.retrieve(made.id)).to_dict() == made.to_dict()
            listed = await routed.responses.input_items.list(made.id)
            assert len(listed.data) == 1
            again = await create(routed, "more", previous_response_id=made.id)
            assert again.status == "completed"
            assert ids.cell_of(again.id) == ids.cell_of(made.id), "a chain stays in its cell"
            streamed = await create(routed, "more", previous_response_id=again.id, stream=True)
            events = [event async for event in streamed]
            assert events[-1].type == "response.completed"
            assert ids.cell_of(events[-1].response.id) == ids.cell_of(made.id)
            await routed.responses.delete(made.id)
            for each in (routed, client):
                with pytest.raises(openai.NotFoundError):
                    await each.responses.retrieve(made.id)

    async def test_cancel_and_resume(
        self, proxy: str, direct: list[AsyncOpenAI], routed: AsyncOpenAI
    ) -> None:
        for client in direct:
            text = script(deltas=2000, pause=0.01)
            made = await create(client, text, background=True)
            async with await routed.responses.retrieve(made.id, stream=True) as stream:
                async for event in stream:
                    if event.sequence_number > 5:
                        break
            cursor = event.sequence_number
            path = f"/v1/responses/{made.id}?stream=true&starting_after={cursor}"
            async with await Wire.open(proxy + path) as wire:
                await wire.until(lambda body: body.count(b"event: ") > 2)
                assert (await routed.responses.cancel(made.id)).status == "cancelled"
                body = await wire.rest()
            check_complete(body, with_ids=True, after=cursor)
            assert (await client.responses.retrieve(made.id)).status == "cancelled"

    async def test_conversations_and_references_in_a_body_lead_to_their_cell(
        self, direct: list[AsyncOpenAI], routed: AsyncOpenAI
    ) -> None:
        for client in direct:
            talk = (await client.conversations.create()).id
            made = await create(routed, conversation=talk)
            assert ids.cell_of(made.id) == ids.cell_of(talk)
            await eventually_holds(routed, talk, 2)
            reference: Any = [{"type": "item_reference", "id": made.output[0].id}]
            again = await create(routed, [*reference, {"role": "user", "content": "more"}])
            assert ids.cell_of(again.id) == ids.cell_of(made.id)
            assert (await routed.conversations.delete(talk)).deleted

    async def test_a_caller_has_one_home_and_callers_have_several(self, proxy: str) -> None:
        homes = set()
        for number in range(20):
            async with client_of(proxy, f"key {number}") as client:
                made = {ids.cell_of((await create(client)).id) for _ in range(2)}
            assert len(made) == 1
            homes |= made
        assert homes == set(CELLS)

    async def test_a_cell_that_the_proxy_does_not_know_is_refused(
        self, routed: AsyncOpenAI
    ) -> None:
        unknown = ids.new_response_id("5e")
        _, cell = await refusal(routed.responses.retrieve(unknown))
        assert cell == "5e"
        _, cell = await refusal(create(routed, previous_response_id=unknown))
        assert cell == "5e"

    async def test_ids_from_before_there_were_cells_are_of_the_first(
        self, direct: list[AsyncOpenAI], routed: AsyncOpenAI
    ) -> None:
        with pytest.raises(openai.NotFoundError):
            await routed.responses.retrieve("resp_" + BEFORE_CELLS)


async def eventually_holds(client: AsyncOpenAI, conversation: str, count: int) -> None:
    async def holds() -> bool:
        found = await client.conversations.items.list(conversation)
        return len(found.data) == count

    await eventually(holds)
