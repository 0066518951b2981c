"""Encryption at rest: in the tables and files is nothing to read, and clients see what they saw."""

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from longrun import ids
from longrun.errors import ConfigurationError, Unreadable
from longrun.store.approvals import Approvals
from longrun.store.claims import Claims
from longrun.store.conversations import ConversationItem, Conversations
from longrun.store.database import Database
from longrun.store.events import EventLog
from longrun.store.records import Ending, Parked, Part, Step, Taken
from longrun.store.responses import NewResponse, Page, Responses, StoredResponse
from longrun.store.rewriting import rewrite_all
from longrun.store.ring_check import RingCheck
from longrun.store.steers import Steers, Submission
from tests.postgres import Server
from tests.storing import (
    connected,
    event,
    log_of,
    logged,
    migrated,
    request_for,
    writing,
)

CANARY = "the-canary-sings-of-Überlingen"
CANARIES = (CANARY.encode(), json.dumps(CANARY)[1:-1].encode(), base64.b64encode(CANARY.encode()))

ONE = "one:" + base64.b64encode(b"1" * 32).decode()
TWO = "two:" + base64.b64encode(b"2" * 32).decode()
OTHER_ONE = "one:" + base64.b64encode(b"3" * 32).decode()


@contextlib.asynccontextmanager
async def keyed(database: Server, schema: str, keys: str | None) -> AsyncIterator[Database]:
    """The pools of a replica with a key ring, on tables that others may have filled."""
    async with migrated(database.url, schema, encryption_keys=keys) as store:
        yield store


async def add_all(store: Database) -> tuple[str, str]:
    """A finished response on a conversation, with CANARY in everything that has content."""
    conversations = Conversations(store)
    conversation_id = ids.new_conversation_id()
    brought = ConversationItem(
        ids.new_item_id("message"), json.dumps({"role": "user", "content": CANARY})
    )
    metadata = json.dumps({"about": CANARY})
    await conversations.create(conversation_id, "", metadata, [brought])
    response_id = ids.new_response_id()
    request = replace(
        request_for(response_id),
        conversation_id=conversation_id,
        input=[{"role": "user", "content": CANARY}],
        document={"id": response_id, "object": "response", "metadata": {"about": CANARY}},
        parameters={"instructions": CANARY},
    )
    created = NewResponse(request, [event(0, "response.created", said=CANARY)], "a replica")
    await Responses(store).create(created)
    item = json.dumps(
        {"id": ids.item_id(response_id, 0, "message"), "content": (CANARY + " ") * 50},
        ensure_ascii=False,
        separators=(",", ":"),
    )
    done = f'{{"type":"response.output_item.done","sequence_number":1,"item":{item}}}'
    document = json.dumps({**request.document, "status": "completed"})
    put_in = ids.steer_place(0)
    said = [
        Part(-1, ids.input_item_id(response_id, 0, "message"), request.input[0]),
        Part(-1 - put_in, ids.input_item_id(response_id, put_in, "message")),
        Part(0, ids.item_id(response_id, 0, "message")),
    ]
    message = Submission([{"role": "user", "content": CANARY}], key=CANARY)
    assert await Steers(store).accept(response_id, "", message) is not None
    async with writing(store) as writer:
        run = log_of(writer, response_id)
        run.append([], taken=Taken(0, 1, 0, 0))
        run.append(
            [done.encode()],
            items=[(0, item)],
            models={0: json.dumps({"behind": CANARY})},
            steps=[Step("", "model", "0", json.dumps({"agent": CANARY}), json.dumps(CANARY))],
        )
        run.append([event(n, delta=CANARY) for n in range(2, 40)])
        parked = Parked((0,), 1, "the tests", json.dumps({"asks": CANARY}))
        ending = Ending("completed", document, said, json.dumps({"message": CANARY}), parked=parked)
        run.append([event(40, "response.completed", said=CANARY)], ending=ending)
        await run.flush()
    return response_id, conversation_id


async def whole_input(responses: Responses, response_id: str) -> list[Any]:
    given = await responses.inputs.of(response_id, "")
    assert given is not None
    return [item for item, _ in await responses.inputs.read(given, range(given.count), 1 << 30)]


async def read_all(store: Database, response_id: str, conversation_id: str) -> dict[str, Any]:
    """Everything that the store gives of them."""
    responses, claims, log = Responses(store), Claims(store, "a replica"), EventLog(store)
    conversations = Conversations(store)
    before = await responses.histories.before_on(conversation_id, "")
    named = await responses.histories.named_items(
        await responses.histories.before([], ""),
        [
            {"type": "item_reference", "id": ids.item_id(response_id, 0, "message")},
            {"type": "item_reference", "id": ids.input_item_id(response_id, 0, "message")},
            {
                "type": "item_reference",
                "id": ids.input_item_id(response_id, ids.steer_place(0), "message"),
            },
        ],
        "",
    )
    shown = await responses.inspect_unscoped(response_id) or {}
    said = await conversations.listed(conversation_id, "", limit=9, newest_first=False) or []
    return {
        "get": await responses.get(response_id, ""),
        "chain": await responses.histories.chain(response_id, ""),
        "before": (before.exchanges, before.named),
        "named": named,
        "input": await whole_input(responses, response_id),
        "steers": await Steers(store).of(response_id, ""),
        "spoken": await responses.histories.last_spoken([response_id], ""),
        "parked": await Approvals(store).parked_unscoped(response_id),
        "shown": (shown["document"], shown["reason"]),
        "listed": await listed(responses, {"about": CANARY}),
        "elsewhere": await listed(responses, {"about": "another"}),
        "items": await claims.items(response_id),
        "steps": await claims.steps(response_id),
        "log": await logged(store, response_id),
        "page": b"".join(c.data for c in await log.page_unscoped(response_id, 3, 1 << 20)),
        "marked": [
            (c.first, c.last) for c in await log.item_page_unscoped(response_id, -1, 1 << 20)
        ],
        "news": await log.news_unscoped({response_id: -1}, 1 << 20),
        "conversation": replace(
            await conversations.get(conversation_id, "") or pytest.fail("it is gone"), created_at=0
        ),
        "said": [(each.id, each.item) for each in said],
        "long": await conversations.items(conversation_id, "", [each.id for each in said]),
    }


async def listed(responses: Responses, metadata: dict[str, str]) -> list[StoredResponse]:
    """The responses that have it."""
    found = await responses.listed(Page("", 10, metadata=metadata))
    return await responses.all_of([each.id for each in found], "")


async def stored(url: str, schema: str) -> bytes:
    """All that is in the tables."""
    found = b""
    async with connected(url) as connection:
        tables = await connection.fetch(
            "SELECT table_name FROM information_schema.tables"
            " WHERE table_schema = $1 AND table_type = 'BASE TABLE'",
            schema,
        )
        for table in tables:
            for row in await connection.fetch(f'SELECT * FROM "{schema}"."{table[0]}"'):
                found += b"".join(v if isinstance(v, bytes) else str(v).encode() for v in row)
    return found


def none_of(content: bytes) -> bool:
    return not any(canary in content for canary in CANARIES)


class TestStored:
    async def test_readers_see_the_same_and_the_tables_have_nothing_of_it(
        self, database: Server, schema: str
    ) -> None:
        async with keyed(database, schema, ONE) as store:
            response_id, conversation_id = await add_all(store)
            seen = await read_all(store, response_id, conversation_id)
        text = repr(seen)
        assert text.count(CANARY) > 50
        assert "sealed:" not in text
        assert [each.id for each in seen["listed"]] == [response_id]
        assert seen["elsewhere"] == []
        assert len(seen["said"]) == 4
        assert len(seen["named"]) == 3
        assert none_of(await stored(database.url, schema))

    async def test_plain_ones_are_still_read_and_found_beside_them(
        self, database: Server, schema: str
    ) -> None:
        async with keyed(database, schema, None) as store:
            plain = await add_all(store)
            before = await read_all(store, *plain)
        async with keyed(database, schema, ONE) as store:
            sealed = await add_all(store)
            after = await read_all(store, *plain)
            assert [each.id for each in after.pop("listed")] == [sealed[0], plain[0]]
            del before["listed"]
            assert after == before

    async def test_a_run_that_began_plain_ends_sealed(self, database: Server, schema: str) -> None:
        """And its plain input, and an item, are in its conversation with what is sealed."""
        async with keyed(database, schema, None) as plain, keyed(database, schema, ONE) as store:
            conversation_id = ids.new_conversation_id()
            await Conversations(plain).create(conversation_id, "", "{}", [])
            response_id = ids.new_response_id()
            request = replace(
                request_for(response_id), conversation_id=conversation_id, input=[{"n": "given"}]
            )
            await Responses(plain).create(NewResponse(request, [event(0)], "a replica"))
            names = [ids.item_id(response_id, n, "message") for n in (0, 1)]
            async with writing(plain) as writer:
                run = log_of(writer, response_id)
                run.append([event(1)], items=[(0, json.dumps({"id": names[0]}))])
                await run.flush()
            async with writing(store) as writer:
                run = log_of(writer, response_id, first=2)
                said = [
                    Part(-1, ids.input_item_id(response_id, 0, "message"), {"n": "given"}),
                    *(Part(n, name) for n, name in enumerate(names)),
                ]
                run.append(
                    [event(2)],
                    items=[(1, json.dumps({"id": names[1]}))],
                    ending=Ending("completed", "{}", said),
                )
                await run.flush()
            found = await Conversations(store).listed(
                conversation_id, "", limit=9, newest_first=False
            )
            assert [json.loads(each.item) for each in found or ()] == [
                {"n": "given"},
                {"id": names[0]},
                {"id": names[1]},
            ]

    async def test_a_page_is_as_long_as_what_is_in_it(self, database: Server, schema: str) -> None:
        """Compressed chunks are small in Postgres, and a reader holds them as they were."""
        async with keyed(database, schema, ONE) as store:
            response_id = ids.new_response_id()
            await Responses(store).create(
                NewResponse(request_for(response_id), [event(0)], "a replica")
            )
            async with writing(store) as writer:
                run = log_of(writer, response_id)
                for _ in range(5):
                    run.append([event(run.next_sequence, delta="x" * 100_000)])
                    await run.flush()
            log = EventLog(store)
            pages = [
                await log.page_unscoped(response_id, 0, 250_000),
                (await log.news_unscoped({response_id: 0}, 250_000))[response_id].chunks,
            ]
            assert [[chunk.last for chunk in page] for page in pages] == [[1, 2, 3], [1, 2, 3]]

    async def test_the_view_for_people_says_that_it_is_encrypted(
        self, database: Server, schema: str
    ) -> None:
        async with keyed(database, schema, None) as store:
            await add_all(store)
        async with keyed(database, schema, ONE) as store:
            response_id, _ = await add_all(store)
        async with connected(database.url) as connection:
            rows = await connection.fetch(
                f'SELECT response_id, sequence_number, type, event FROM "{schema}".events'
                " ORDER BY response_id, sequence_number"
            )
        mine = [row for row in rows if row["response_id"] == response_id]
        assert [row["sequence_number"] for row in mine] == list(range(41))
        assert {row["type"] for row in mine} == {"encrypted"}
        assert len([row for row in rows if row["event"] is not None]) == 41


class TestKeys:
    async def test_rotation(self, database: Server, schema: str) -> None:
        """A new key first, everything rewritten while a server writes, the old key gone."""
        async with keyed(database, schema, None) as store:
            plain = await add_all(store)
        async with keyed(database, schema, ONE) as store:
            await RingCheck(store).begin()
            first = await add_all(store)
            before = await read_all(store, *first)
        async with keyed(database, schema, f"{TWO} {ONE}") as store:
            await RingCheck(store).begin()
            second = await add_all(store)
            assert await read_all(store, *first) | {"listed": 0} == before | {"listed": 0}
            reported: list[str] = []
            done = await rewrite_all(store, lambda table, rows: reported.append(table))
            assert done.done
            assert set(reported) == {
                *("responses", "event_chunks", "items", "steps", "parked", "steers"),
                *("conversations", "conversation_items"),
            }
            assert done.rows["responses"] == 2
            assert (await rewrite_all(store)).rows == {}
        async with keyed(database, schema, TWO) as store:
            seen = await read_all(store, *first)
            assert seen | {"listed": 0} == before | {"listed": 0}
            listed = [each.id for each in seen["listed"]]
            assert listed == [second[0], first[0], plain[0]]
        assert none_of(await stored(database.url, schema))

    async def test_back_to_plain(self, database: Server, schema: str) -> None:
        async with keyed(database, schema, ONE) as store:
            response = await add_all(store)
            before = await read_all(store, *response)
        async with keyed(database, schema, f"plain {ONE}") as store:
            new = await add_all(store)
            done = await rewrite_all(store)
            assert done.done
            assert done.rows["responses"] == 1
        async with keyed(database, schema, None) as store:
            seen = await read_all(store, *response)
            assert [each.id for each in seen.pop("listed")] == [new[0], response[0]]
            del before["listed"]
            assert seen == before

    async def test_a_key_is_forgotten_when_nobody_uses_it(
        self, database: Server, schema: str
    ) -> None:
        async with keyed(database, schema, ONE) as store:
            await RingCheck(store).begin()
            await add_all(store)
        async with keyed(database, schema, f"{TWO} {ONE}") as store:
            await RingCheck(store).begin()
            # Some server may still write with it.
            assert (await rewrite_all(store)).forgotten == []
            await store.execute(
                f"UPDATE \"{schema}\".encryption_keys SET used_at = used_at - interval '1 hour'"
            )
            assert (await rewrite_all(store)).forgotten == ["one"]
        async with keyed(database, schema, TWO) as store:
            await RingCheck(store).begin()

    async def test_rows_that_somebody_holds_are_waited_for_by_nobody(
        self, database: Server, schema: str
    ) -> None:
        async with keyed(database, schema, None) as store:
            held, _ = await add_all(store)
            await add_all(store)
        async with keyed(database, schema, ONE) as store, connected(database.url) as other:
            async with other.transaction():
                await other.execute(
                    f'SELECT FROM "{schema}".responses WHERE id = $1 FOR SHARE', held
                )
                async with asyncio.timeout(20):
                    assert (await rewrite_all(store)).rows["responses"] == 1
            assert (await rewrite_all(store)).rows == {"responses": 1}

    async def test_a_lost_key_takes_its_responses_with_it_and_no_others(
        self, database: Server, schema: str
    ) -> None:
        async with keyed(database, schema, ONE) as store:
            lost, conversation_id = await add_all(store)
        async with keyed(database, schema, TWO) as store:
            kept, _ = await add_all(store)
            responses, log = Responses(store), EventLog(store)
            for reading in (
                responses.get(lost, ""),
                responses.histories.chain(lost, ""),
                responses.inputs.of(lost, ""),
                responses.histories.before_on(conversation_id, ""),
                Conversations(store).get(conversation_id, ""),
                log.page_unscoped(lost, -1, 1000),
            ):
                with pytest.raises(Unreadable):
                    await reading
            news = await log.news_unscoped({lost: -1, kept: -1}, 1 << 20)
            assert news[lost].deleted
            assert news[kept].chunks
            page = await listed(responses, {})
            assert [each.id for each in page] == [kept, lost]
            assert CANARY not in page[1].document
            done = await rewrite_all(store)
            assert not done.done
            assert done.unreadable["responses"] == 1
            assert await responses.delete(lost, "")
            assert await responses.get(kept, "") is not None

    @pytest.mark.parametrize("keys", [None, TWO, f"plain {TWO}", OTHER_ONE])
    async def test_a_ring_that_lacks_a_key_is_refused(
        self, database: Server, schema: str, keys: str | None
    ) -> None:
        async with keyed(database, schema, ONE) as store:
            await RingCheck(store).begin()
        async with keyed(database, schema, keys) as store:
            with pytest.raises(ConfigurationError, match=r"LONGRUN_ENCRYPTION_KEYS: .*'one'"):
                await RingCheck(store).begin()
            await store.execute(store.queries.forget_encryption_key, "one")
            await RingCheck(store).begin()


class TestTampering:
    @pytest.mark.parametrize(
        "change",
        [
            "UPDATE {}.event_chunks AS chunk SET data = other.data FROM {}.event_chunks AS other"
            " WHERE other.response_id = chunk.response_id AND other.first = 0 AND chunk.first > 0",
            "UPDATE {}.items SET item = model",
            "UPDATE {}.responses SET document = request",
            "UPDATE {}.steps SET result = fingerprint",
            "UPDATE {}.items SET output_index = 1",
            "UPDATE {}.items SET item = overlay(item placing 'AAAA' from 60)",
        ],
        ids=["chunk", "face", "column", "step", "index", "bytes"],
    )
    async def test_what_was_moved_or_changed_is_refused(
        self, database: Server, schema: str, change: str
    ) -> None:
        async with keyed(database, schema, ONE) as store:
            response = await add_all(store)
            await store.execute(change.format(*[f'"{schema}"'] * change.count("{}")))
            with pytest.raises(Unreadable):
                await read_all(store, *response)

    async def test_one_response_s_item_is_not_another_s(
        self, database: Server, schema: str
    ) -> None:
        async with keyed(database, schema, ONE) as store:
            await add_all(store)
            response = await add_all(store)
            await store.execute(
                f'UPDATE "{schema}".items SET item = (SELECT min(item) FROM "{schema}".items)'
            )
            items = [Responses(store).get(each, "") for each in (response[0],)]
            results = await asyncio.gather(*items, return_exceptions=True)
            first = await store.fetch(f'SELECT id FROM "{schema}".responses ORDER BY id')
            other = await asyncio.gather(
                Responses(store).get(first[0]["id"], ""), return_exceptions=True
            )
            assert sum(isinstance(each, Unreadable) for each in [*results, *other]) == 1
