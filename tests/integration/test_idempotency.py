"""Idempotency keys: one creation for each, however many replicas are asked at once."""

import asyncio
import base64
import dataclasses
import random
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest

from longrun import ids
from longrun.errors import ConversationLocked, Repeated, TooManyRequests
from longrun.protocol import Allowance, Once
from longrun.store.creation import NewResponse
from longrun.store.creation_writer import CreationWriter
from longrun.store.database import Database
from longrun.store.idempotency import IdempotencyKeys
from longrun.store.responses import Responses
from tests.integration.test_creations import Creating, at_work, ids_of
from tests.integration.test_creations import creating as creating
from tests.postgres import Server
from tests.reading import eventually
from tests.storing import REPLICA, connected, event, migrated, request_for

BODY = b"b" * 32


def keyed(
    key: str | None,
    principal: str = "ann",
    *,
    queued: bool = False,
    max_live: int | None = None,
    digest: bytes = BODY,
    **fields: Any,
) -> NewResponse:
    once = None if key is None else Once(key, digest)
    request = dataclasses.replace(
        request_for(ids.new_response_id(), principal),
        once=once,
        allowance=Allowance(max_live=max_live),
        **fields,
    )
    return NewResponse(request, [event(0, "response.created")], None if queued else REPLICA)


def created(news: Sequence[NewResponse], became: Sequence[Any]) -> list[NewResponse]:
    """Those that were created; all others were told that their keys had been used."""
    assert all(each is None or isinstance(each, Repeated) for each in became), became
    return [new for new, each in zip(news, became, strict=True) if each is None]


async def test_of_a_batch_one_for_each_key(creating: Creating) -> None:
    """Those of the same key wait for the first of them, the others for nobody."""
    same = [keyed("same") for _ in range(10)]
    others = [keyed(f"other {n}") for n in range(5)]
    free = [keyed(None) for _ in range(5)]
    became = await creating.all([*same, *others, *free])
    assert became[10:] == [None] * 10
    [first] = created(same, became[:10])
    assert creating.sent[0] == 11
    assert await creating.there() == ids_of([first, *others, *free])
    assert {id_ for id_, _ in creating.told} == await creating.there()
    found = await IdempotencyKeys(creating.store).find("ann", "same")
    assert found is not None
    assert (found.response_id, found.status) == (first.request.response_id, "in_progress")


async def test_of_two_replicas_at_once_one_for_each_key(database: Server, schema: str) -> None:
    """Batches that bring the same keys in any order: each waits for the other's commit where they
    meet, never both for each other, and none fails as a whole."""
    chance = random.Random(5)
    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(migrated(database.url, schema)) for _ in "abc"]
        replicas = [await stack.enter_async_context(at_work(store)) for store in stores]
        for round_ in range(12):
            asked: list[list[NewResponse]] = []
            for _ in replicas:
                news = [keyed(f"{round_} {n}", f"p{n % 3}") for n in range(30)]
                news += [keyed(None) for _ in range(5)]
                chance.shuffle(news)
                asked.append(news)
            became = await asyncio.gather(
                *(replica.all(news) for replica, news in zip(replicas, asked, strict=True))
            )
            there = [
                new for news, each in zip(asked, became, strict=True) for new in created(news, each)
            ]
            keys = [new.request.once.key for new in there if new.request.once is not None]
            assert len(keys) == len(set(keys)) == 30
            assert len(there) == 30 + 3 * 5
        # Each was in a batch, and no batch was done again one by one.
        assert all(max(replica.sent) > 1 for replica in replicas)


async def test_alone_waits_for_the_one_before(store: Database, database: Server) -> None:
    """Two that come at the same moment: the second begins while the first is not committed."""
    schema = store.settings.db_schema
    news = [keyed("k"), keyed("k")]
    writers = [CreationWriter(store) for _ in news]
    async with connected(database.url) as other:
        async with other.transaction():
            await other.execute(f"LOCK TABLE {schema}.event_chunks IN EXCLUSIVE MODE")
            tasks = [
                asyncio.create_task(writer.create(new))
                for writer, new in zip(writers, news, strict=True)
            ]

            async def both_wait() -> bool:
                waiting = await other.fetchval(
                    "SELECT count(*) FROM pg_locks WHERE NOT granted AND pid <> pg_backend_pid()"
                )
                return bool(waiting >= 2)

            await eventually(both_wait)
        became = await asyncio.gather(*tasks, return_exceptions=True)
    assert len(created(news, became)) == 1


async def test_keys_are_of_their_principal(creating: Creating) -> None:
    news = [keyed("k", principal) for principal in ("ann", "bob", "ann/below", "")]
    assert await creating.all(news) == [None] * 4
    keys = IdempotencyKeys(creating.store)
    for new in news:
        found = await keys.find(new.request.principal, "k")
        assert found is not None
        assert found.response_id == new.request.response_id
    assert await keys.find("carl", "k") is None


async def test_what_is_refused_leaves_no_key(creating: Creating) -> None:
    """Alone, and in a batch; and what was created is repeated, however full it is."""
    keys = IdempotencyKeys(creating.store)
    assert await creating.all([keyed("first", max_live=1)]) == [None]
    for together in ([], [keyed(None, "bob")]):
        refused, repeated, *_ = await creating.all(
            [keyed("second", max_live=1), keyed("first", max_live=1), *together]
        )
        assert isinstance(refused, TooManyRequests)
        assert isinstance(repeated, Repeated)
        assert await keys.find("ann", "second") is None
    assert await creating.all([keyed("second", max_live=2)]) == [None]


async def test_a_first_one_that_is_refused_leaves_its_key_to_the_next(creating: Creating) -> None:
    became = await creating.all([keyed("k", max_live=0), keyed("k"), keyed("k")])
    assert isinstance(became[0], TooManyRequests)
    assert sorted(map(type, became[1:]), key=str) == sorted([Repeated, type(None)], key=str)


async def test_a_key_in_a_conversation(creating: Creating) -> None:
    """What its own response locks does not refuse it; another one's does."""
    conversation_id = ids.new_conversation_id()
    schema = creating.store.settings.db_schema
    await creating.store.execute(
        f"INSERT INTO {schema}.conversations (id, principal, metadata) VALUES ($1, 'ann', '{{}}')",
        conversation_id,
    )
    news = [keyed("k", conversation_id=conversation_id) for _ in range(4)]
    became = await creating.all(news)
    # Http looks once more for what the key has created before it says that it is locked.
    assert became.count(None) == 1
    assert {type(each) for each in became} <= {type(None), Repeated, ConversationLocked}
    [again] = await creating.all([keyed("k", conversation_id=conversation_id)])
    assert isinstance(again, Repeated)
    [other] = await creating.all([keyed("other", conversation_id=conversation_id)])
    assert isinstance(other, ConversationLocked)
    assert await IdempotencyKeys(creating.store).find("ann", "other") is None


async def test_after_its_time_a_key_creates_again(creating: Creating) -> None:
    """Before it was forgotten, alone and in a batch, and after that; once each time."""
    keys, schema = IdempotencyKeys(creating.store), creating.schema
    first = keyed("k")
    assert await creating.all([first, keyed("young")]) == [None, None]
    for together in ([], [keyed(None)], [keyed("k")]):
        await creating.store.execute(
            f"UPDATE {schema}.idempotency_keys SET created_at = now() - interval '24 hours'"
            " WHERE response_id IN (SELECT id FROM"
            f" {schema}.responses WHERE id <> $1)"
            if together
            else f"UPDATE {schema}.idempotency_keys SET created_at = now() - interval '24 hours'"
            " WHERE response_id = $1",
            first.request.response_id,
        )
        assert await keys.find("ann", "k") is None
        new = keyed("k")
        became = await creating.all([new, *together])
        assert became[0] is None
        assert all(each is None or isinstance(each, Repeated) for each in became)
        found = await keys.find("ann", "k")
        assert found is not None
        assert found.response_id == new.request.response_id
    await creating.store.execute(
        f"UPDATE {schema}.idempotency_keys SET created_at = now() - interval '25 hours'"
    )
    assert await keys.expire() >= 1
    assert await keys.expire() == 0
    assert await creating.store.fetch(f"SELECT FROM {schema}.idempotency_keys") == []


async def test_keys_are_forgotten_in_small_batches(creating: Creating) -> None:
    schema = creating.schema
    await creating.store.execute(
        f"INSERT INTO {schema}.idempotency_keys"
        " SELECT 'ann', int8send(n), 'resp_gone', now() - interval '2 days'"
        " FROM generate_series(1, 1500) AS n"
    )
    keys = IdempotencyKeys(creating.store)
    assert [await keys.expire() for _ in range(3)] == [1000, 500, 0]


async def test_the_body_is_told_and_not_kept(creating: Creating) -> None:
    keys = IdempotencyKeys(creating.store)
    one, two = keyed("one"), keyed("two")
    assert await creating.all([one, two]) == [None, None]
    found = [await keys.find("ann", key) for key in ("one", "two")]
    assert found[0] is not None
    assert found[1] is not None
    assert keys.is_same(found[0], Once("one", BODY))
    assert not keys.is_same(found[0], Once("one", b"c" * 32))
    # Of the same body in two requests nobody sees that it is the same.
    assert found[0].body_hash != found[1].body_hash
    # It goes with its response; that the key was used stays.
    assert await Responses(creating.store).delete(one.request.response_id, "ann")
    gone = await keys.find("ann", "one")
    assert gone is not None
    assert (gone.status, gone.body_hash) == (None, None)
    [again] = await creating.all([keyed("one")])
    assert isinstance(again, Repeated)


def ring(*names: str) -> str:
    keys = {name: base64.b64encode(name.encode() * 32).decode() for name in "abc"}
    return ",".join(name if name == "plain" else f"{name}:{keys[name]}" for name in names)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, ring("plain", "a")),
        (ring("plain", "a"), ring("a")),
        (ring("a"), ring("a", "b")),
        (ring("a", "b"), ring("b", "a")),
        (ring("b", "a"), ring("b")),
    ],
    ids=["known", "encrypts", "added", "turned", "removed"],
)
async def test_replicas_with_two_rings_mean_the_same(
    database: Server, schema: str, before: str | None, after: str
) -> None:
    """Each step in which keys are changed, with replicas of before and after it at once."""
    async with (
        migrated(database.url, schema, encryption_keys=before) as old,
        migrated(database.url, schema, encryption_keys=after) as new,
    ):
        for key, first, second in (("one", old, new), ("two", new, old)):
            made = keyed(key)
            await Responses(first).create(made)
            with pytest.raises(Repeated):
                await Responses(second).create(keyed(key))
            for each in (first, second):
                keys = IdempotencyKeys(each)
                found = await keys.find("ann", key)
                assert found is not None
                assert found.response_id == made.request.response_id
                assert keys.is_same(found, Once(key, BODY))


async def test_nothing_of_a_key_can_be_guessed_where_it_is_encrypted(
    database: Server, schema: str
) -> None:
    async with (
        migrated(database.url, schema, encryption_keys=ring("a")) as sealed,
        migrated(database.url, f"{schema}_b", encryption_keys=ring("b")) as other,
    ):
        rows = []
        response_id = ids.new_response_id()
        for store in (sealed, other):
            made = keyed("order 1")
            request = dataclasses.replace(made.request, response_id=response_id)
            await Responses(store).create(dataclasses.replace(made, request=request))
            where = store.settings.db_schema
            rows += await store.fetch(
                f"SELECT hash, body_hash FROM {where}.idempotency_keys"
                f" JOIN {where}.responses ON id = response_id"
            )
        assert [len(each) for row in rows for each in row] == [32] * 4
        assert rows[0]["hash"] != rows[1]["hash"]
        assert rows[0]["body_hash"] != rows[1]["body_hash"]
