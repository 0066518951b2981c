"""Conversations in Postgres: whose they are, who may be on them, what is left in them."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from longrun import ids
from longrun.errors import ConversationLocked, ConversationNotFound
from longrun.history.conversation import left_of
from longrun.protocol import RunRequest
from longrun.store.claims import Claims
from longrun.store.conversations import ConversationItem, Conversations
from longrun.store.database import Database
from longrun.store.log_writer import LogWriter
from longrun.store.records import Ending, Part
from longrun.store.responses import NewResponse, Responses
from longrun.store.sealing import said_place
from tests.postgres import Server
from tests.reading import eventually
from tests.storing import (
    REPLICA,
    connected,
    event,
    log_of,
    migrated,
    opened,
    request_for,
    waiting_for_locks,
    writing,
)


async def added(store: Database, principal: str = "") -> str:
    """A conversation with one item."""
    conversation_id = ids.new_conversation_id()
    item = ConversationItem("msg_1", '{"role": "user", "content": "hello"}')
    await Conversations(store).create(conversation_id, principal, "{}", [item])
    return conversation_id


async def begun(store: Database, conversation_id: str, *, queued: bool = False) -> RunRequest:
    """A response on a conversation; its log has event 0."""
    given = [{"role": "user", "content": "a\x00b"}, {"role": "user", "content": "b"}]
    request = replace(
        request_for(ids.new_response_id()), conversation_id=conversation_id, input=given
    )
    replica_id = None if queued else REPLICA
    await Responses(store).create(NewResponse(request, [event(0, "response.created")], replica_id))
    return request


def end(writer: LogWriter, request: RunRequest, attempt: int = 1) -> Any:
    """What a run does that ends with two items, of which one comes with its end."""
    run = log_of(writer, request.response_id, attempt)
    items = {
        index: json.dumps({"id": ids.item_id(request.response_id, index, "message"), "n": index})
        for index in (0, 1)
    }
    run.append([event(1)], items=[(0, items[0])], models={0: '{"behind":true}'})
    said = left_of(request.response_id, request.input, items, whole=True)
    ending = Ending(
        "completed",
        "{}",
        [
            Part(place, name, request.input[-1 - place] if place < 0 else None)
            for place, name in said
        ],
    )
    run.append([event(2, "response.completed")], items=[(1, items[1])], ending=ending)
    return run


async def items_in(store: Database, conversation_id: str) -> list[tuple[str, str | None]]:
    """The response and the text of each item, in order."""
    rows = await store.fetch(
        "SELECT position, id, response_id, item FROM"
        f' "{store.settings.db_schema}".conversation_items WHERE conversation_id = $1'
        " ORDER BY position",
        conversation_id,
    )
    assert [row["position"] for row in rows] == list(range(len(rows)))
    texts = [
        json.loads(store.sealing.open_text(said_place(conversation_id, row["id"]), row["item"]))
        for row in rows
    ]
    return [
        (str(item.get("content", item.get("n"))), row["response_id"])
        for item, row in zip(texts, rows, strict=True)
    ]


@contextlib.asynccontextmanager
async def row_locked(url: str, schema: str, conversation_id: str) -> AsyncIterator[None]:
    """Within the block, whoever writes to the conversation waits."""
    async with connected(url) as connection, connection.transaction():
        await connection.fetch(
            f'SELECT FROM "{schema}".conversations WHERE id = $1 FOR UPDATE', conversation_id
        )
        yield


async def test_9_another_principal_finds_nothing(store: Database) -> None:
    conversations = Conversations(store)
    theirs = await added(store, "somebody")
    for principal in ("", "somebody else"):
        assert await conversations.get(theirs, principal) is None
        assert await conversations.update(theirs, principal, "{}") is None
        assert not await conversations.add(theirs, principal, [ConversationItem("msg_2", "{}")])
        assert await conversations.item(theirs, principal, "msg_1") is None
        listed = conversations.listed(theirs, principal, limit=10, newest_first=True)
        assert await listed == []
        assert not await conversations.delete_item(theirs, principal, "msg_1")
        assert not await conversations.delete(theirs, principal)
    with pytest.raises(ConversationNotFound):
        await begun(store, theirs)
    found = await conversations.listed(theirs, "somebody", limit=10, newest_first=True)
    assert found is not None
    assert [item.id for item in found] == ["msg_1"]


class TestTheEnd:
    async def test_input_and_output_are_there_with_the_end_and_not_before(
        self, store: Database
    ) -> None:
        conversation_id = await added(store)
        request = await begun(store, conversation_id)
        id_ = request.response_id
        assert len(await items_in(store, conversation_id)) == 1
        async with writing(store) as writer:
            await end(writer, request).flush()
            # Once more, as after an answer that was lost.
            await end(writer, request).flush()
        assert await items_in(store, conversation_id) == [
            ("hello", None),
            *((text, id_) for text in ("a\x00b", "b", "0", "1")),
        ]
        rows = await store.fetch(
            f'SELECT id, model FROM "{store.settings.db_schema}".conversation_items'
            " WHERE response_id = $1 ORDER BY position",
            id_,
        )
        assert [row["id"] for row in rows] == [
            *(ids.input_item_id(id_, place, "message") for place in (0, 1)),
            *(ids.item_id(id_, index, "message") for index in (0, 1)),
        ]
        assert [row["model"] for row in rows] == [None, None, '{"behind":true}', None]

    async def test_two_on_one_conversation_in_one_batch_come_in_order(
        self, store: Database, database: Server
    ) -> None:
        """One in the queue is cancelled while the other one ends."""
        waiting = store.settings.model_copy(update={"conversation_overlap": "queue"})
        store.settings = waiting
        conversation_id = await added(store)
        one = await begun(store, conversation_id)
        two = await begun(store, conversation_id, queued=True)
        claim = await Claims(store, "other").to_cancel(two.response_id, "")
        assert claim is not None
        assert claim.request.input == two.input
        async with writing(store) as writer:
            runs = [end(writer, two, claim.attempt), end(writer, one)]
            for run in runs:
                await run.flush()
        found = [id_ for _, id_ in await items_in(store, conversation_id)]
        assert found == [None, *[one.response_id] * 4, *[two.response_id] * 4]

    async def test_nothing_is_left_in_one_that_was_deleted_meanwhile(
        self, store: Database, database: Server, schema: str
    ) -> None:
        conversation_id = await added(store)
        request = await begun(store, conversation_id)
        async with writing(store) as writer:
            async with row_locked(database.url, schema, conversation_id):
                gone = asyncio.create_task(Conversations(store).delete(conversation_id, ""))
                await waiting(database, 1)
                run = end(writer, request)
                await waiting(database, 2)
            assert await gone
            await run.flush()
        assert await items_in(store, conversation_id) == []

    async def test_what_is_being_added_goes_too(
        self, store: Database, database: Server, schema: str
    ) -> None:
        conversation_id = await added(store)
        request = await begun(store, conversation_id)
        async with writing(store) as writer:
            async with row_locked(database.url, schema, conversation_id):
                run = end(writer, request)
                await waiting(database, 1)
                gone = asyncio.create_task(Conversations(store).delete(conversation_id, ""))
                await waiting(database, 2)
            await run.flush()
            assert await gone
        assert await items_in(store, conversation_id) == []

    async def test_a_turn_adds_as_much_as_it_says_however_long_the_conversation_is(
        self, store: Database
    ) -> None:
        conversation_id = await added(store)
        responses = Responses(store)
        schema = store.settings.db_schema
        async with writing(store) as writer:
            for _ in range(60):
                request = await begun(store, conversation_id)
                await end(writer, request).flush()
        said = await said_before(responses, request)
        assert len(said) == 1 + 4 * 59, "all that was said before it"
        sizes = await store.fetch(
            f"""SELECT pg_column_size(response) + (
                SELECT sum(pg_column_size(item)) FROM "{schema}".conversation_items AS item
                WHERE item.response_id = response.id
            ) AS bytes FROM "{schema}".responses AS response ORDER BY turn"""
        )
        assert {row["bytes"] for row in sizes} <= {sizes[0]["bytes"] + n for n in range(-8, 9)}


class TestOverlap:
    async def test_of_two_at_once_one_is_refused(
        self, store: Database, database: Server, schema: str
    ) -> None:
        conversation_id = await added(store)
        async with opened(database.url, schema) as other:
            async with row_locked(database.url, schema, conversation_id):
                both = [
                    asyncio.create_task(begun(each, conversation_id, queued=queued))
                    for each, queued in ((store, False), (other, True))
                ]
                await waiting(database, 2)
            done = await asyncio.gather(*both, return_exceptions=True)
        assert [type(each) for each in done if isinstance(each, Exception)] == [ConversationLocked]
        assert len([each for each in done if isinstance(each, RunRequest)]) == 1

    async def test_queued_ones_begin_in_order_each_after_the_one_before_it(
        self, database: Server, schema: str
    ) -> None:
        async with (
            migrated(database.url, schema, conversation_overlap="queue") as store,
            writing(store) as writer,
        ):
            conversation_id = await added(store)
            running = await begun(store, conversation_id)
            with pytest.raises(ConversationLocked):
                await begun(store, conversation_id)
            queued = [await begun(store, conversation_id, queued=True) for _ in range(3)]
            aside = await begun(store, await added(store), queued=True)
            claims = Claims(store, REPLICA)
            assert [claim.id for claim in await claims.queued(10)] == [aside.response_id]
            for request in queued:
                assert await claims.queued(10) == []
                await end(writer, running).flush()
                [claim] = await claims.queued(10)
                assert claim.id == request.response_id
                running = request
                said = await said_before(Responses(store), claim.request)
                assert len(said) == len(await items_in(store, conversation_id))

    async def test_a_turn_is_seen_with_all_before_it(self, database: Server, schema: str) -> None:
        """Ids are made before it is known who comes first: turns tell."""
        async with migrated(database.url, schema, conversation_overlap="queue") as store:
            conversation_id = await added(store)
            later = replace(request_for(ids.new_response_id()), conversation_id=conversation_id)
            first = await begun(store, conversation_id, queued=True)
            assert later.response_id < first.response_id
            new = NewResponse(later, [event(0, "response.created")])
            await Responses(store).create(new)
            [claim] = await Claims(store, REPLICA).queued(10)
            assert claim.id == first.response_id

    async def test_a_takeover_reads_what_the_first_attempt_read(self, store: Database) -> None:
        conversation_id = await added(store)
        request = await begun(store, conversation_id)
        conversations = Conversations(store)
        await conversations.add(conversation_id, "", [ConversationItem("msg_2", '{"n": 1}')])
        await Claims(store, REPLICA).release({request.response_id: 1})
        [claim] = await Claims(store, "other").orphans(10)
        said = await said_before(Responses(store), claim.request)
        assert [item["content"] for item in said] == ["hello"]


class TestKept:
    async def test_what_was_not_used_for_long_goes(self, store: Database) -> None:
        conversations = Conversations(store)
        unused, used, live = [await added(store) for _ in range(3)]
        await begun(store, live)
        schema = store.settings.db_schema
        await store.execute(
            f"UPDATE \"{schema}\".conversations SET used_at = now() - interval '1 hour'"
        )
        await conversations.add(used, "", [ConversationItem("msg_2", "{}")])
        assert await conversations.expire(600) == 1
        assert await conversations.get(unused, "") is None
        assert await conversations.get(used, "") is not None
        assert await conversations.get(live, "") is not None
        left = await store.fetch(f'SELECT conversation_id FROM "{schema}".conversation_items')
        assert {row["conversation_id"] for row in left} == {used, live}

    async def test_it_outlives_its_responses(self, store: Database) -> None:
        conversation_id = await added(store)
        request = await begun(store, conversation_id)
        async with writing(store) as writer:
            await end(writer, request).flush()
        responses = Responses(store)
        await store.execute(
            f'UPDATE "{store.settings.db_schema}".responses'
            " SET finished_at = now() - interval '1 hour'"
        )
        assert await responses.expire(600) == 1
        assert await responses.get(request.response_id, "") is None
        assert len(await items_in(store, conversation_id)) == 5


async def said_before(responses: Responses, request: RunRequest) -> list[dict[str, Any]]:
    """What a response reads of its conversation."""
    context = (await responses.histories.with_context(request)).context
    assert context is not None
    return context.items[: len(context.items) - context.own]


async def waiting(database: Server, count: int) -> None:
    """Wait until so many sessions wait for a lock."""

    async def there() -> bool:
        return await waiting_for_locks(database.url) == count

    await eventually(there)
