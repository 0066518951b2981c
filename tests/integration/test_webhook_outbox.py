"""The outbox: written with each end, claimed by one, noted, given up, and forgotten."""

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import pytest

from longrun import ids
from longrun.settings import Settings
from longrun.store.database import Database
from longrun.store.deliveries import Deliveries, Delivery
from longrun.store.records import Ending, Parked
from longrun.store.responses import NewResponse, Responses
from longrun.store.rewriting import rewrite_all
from longrun.store.webhooks import OF_SETTINGS, Document, WebhookEndpoints
from longrun.webhooks.delivering import Delivering
from tests.postgres import Server
from tests.reading import eventually
from tests.storing import REPLICA, event, log_of, migrated, opened, request_for, writing
from tests.webhooks.sink import Sink, sinking

ALL = ("response.completed", "response.failed", "response.cancelled", "response.incomplete")

DOCUMENT = Document("name", "http://hook.example/secret-path", "whsec_" + "A" * 32)


async def ended(
    store: Database, principal: str = "", status: Any = "completed", *, background: bool = True
) -> str:
    """A response that has ended; its id."""
    request = replace(request_for(ids.new_response_id(), principal), background=background)
    await Responses(store).create(NewResponse(request, [event(0, "response.created")], REPLICA))
    async with writing(store) as writer:
        run = log_of(writer, request.response_id)
        run.append([event(1, f"response.{status}")], ending=Ending(status, "{}"))
        await run.flush()
    return request.response_id


async def endpoint(store: Database, principal: str = "", types: Sequence[str] = ALL) -> str:
    made = ids.new_webhook_endpoint_id()
    assert await WebhookEndpoints(store).create(made, principal, types, DOCUMENT, 10)
    return made


async def claimed(
    store: Database, *, limit: int = 100, each: int = 100, lease: float = 60.0, **busy: int
) -> list[Delivery]:
    found = await Deliveries(store).claim(limit, each, lease, busy, of_settings=True)
    return list(found.deliveries)


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled", "incomplete"])
async def test_an_end_is_kept_for_who_wants_it(store: Database, status: str) -> None:
    mine = await endpoint(store, "me")
    await endpoint(store, "me", [each for each in ALL if each != f"response.{status}"])
    await endpoint(store, "me/below")
    await endpoint(store, "other")
    response_id = await ended(store, "me", status)
    [delivery] = await claimed(store)
    assert (delivery.endpoint_id, delivery.response_id) == (mine, response_id)
    assert (delivery.type, delivery.attempt, delivery.failures) == (f"response.{status}", 1, 0)
    assert Deliveries(store).document(delivery) == DOCUMENT


async def test_nothing_is_kept_where_nobody_wants_it(store: Database) -> None:
    await ended(store)
    mine = await endpoint(store)
    await ended(store, background=False)
    assert await claimed(store) == []
    await WebhookEndpoints(store).delete(mine, "")
    await ended(store)
    assert await claimed(store) == []


async def test_the_settings_have_everybodys(store: Database) -> None:
    await Deliveries(store).renew_settings(ALL, started=True)
    made = {await ended(store, "me"), await ended(store, "other")}
    elsewhere = await Deliveries(store).claim(10, 10, 60.0, {}, of_settings=False)
    assert list(elsewhere.deliveries) == [], "who has not these settings does not claim it"
    found = await claimed(store)
    assert {each.response_id for each in found} == made
    assert {each.endpoint_id for each in found} == {OF_SETTINGS}
    table = store.settings.db_schema + ".webhook_endpoints"
    await store.execute(f"UPDATE {table} SET renewed_at = now() - interval '2 hours'")
    await ended(store)
    assert await claimed(store) == [], "no replica has them any more"


async def test_an_approval_that_waits_is_an_event_of_its_own(store: Database) -> None:
    await endpoint(store, "", ["response.completed", "response.action_required"])
    request = replace(request_for(ids.new_response_id()), background=True)
    await Responses(store).create(NewResponse(request, [event(0, "response.created")], REPLICA))
    async with writing(store) as writer:
        run = log_of(writer, request.response_id)
        parked = Parked((0,), 1, "tests", "{}")
        run.append(
            [event(1, "response.completed")], ending=Ending("completed", "{}", parked=parked)
        )
        await run.flush()
    found = await claimed(store)
    assert {each.type for each in found} == {"response.completed", "response.action_required"}
    assert len({each.event_id for each in found}) == 2


async def test_one_replica_claims_it_until_its_claim_runs_out(store: Database) -> None:
    await endpoint(store)
    made = {await ended(store) for _ in range(8)}
    found = await asyncio.gather(*(claimed(store, each=3) for _ in range(6)))
    ids_ = [each.response_id for some in found for each in some]
    assert sorted(ids_) == sorted(made), "each by one"
    assert await claimed(store) == []


async def test_a_claim_that_ran_out_is_another_attempt(store: Database) -> None:
    await endpoint(store)
    await ended(store)
    [lost] = await claimed(store, lease=-1.0)
    [again] = await claimed(store)
    assert (lost.attempt, again.attempt) == (1, 2)
    deliveries = Deliveries(store)
    assert await deliveries.not_delivered(lost, 500, "refused", 1.0, 100.0) == (False, False)
    await deliveries.delivered(again, 200, 100.0)
    [noted] = await deliveries.list_unscoped(10)
    assert (noted["state"], noted["attempts"], noted["failures"]) == ("delivered", 2, 0)


async def test_one_endpoint_leaves_room_for_others(store: Database) -> None:
    busy = await endpoint(store)
    await asyncio.gather(*(ended(store) for _ in range(5)))
    other = await endpoint(store)
    last = await ended(store)
    found = await claimed(store, each=2, **{busy: 1})
    assert [each.endpoint_id for each in found].count(busy) == 1
    assert [each.response_id for each in found if each.endpoint_id == other] == [last]
    assert {each.endpoint_id for each in await claimed(store, each=2, **{busy: 2})} <= {other}


async def test_who_comes_last_has_a_turn(store: Database) -> None:
    """What is claimed goes round, however little each claim takes."""
    made = [await endpoint(store) for _ in range(5)]
    for _ in range(3):
        await ended(store)
    deliveries, order = Deliveries(store), []
    for _ in range(5):
        claim = await deliveries.claim(1, 1, 60.0, {}, of_settings=True)
        order += [each.endpoint_id for each in claim.deliveries]
    assert sorted(order) == sorted(made)


async def test_what_is_given_up_disables_its_endpoint(store: Database) -> None:
    mine, deliveries = await endpoint(store), Deliveries(store)
    await ended(store)
    [first] = await claimed(store)
    assert await deliveries.not_delivered(first, 500, "refused", -1.0, 100.0) == (False, False)
    [second] = await claimed(store)
    assert second.failures == 1
    assert await deliveries.not_delivered(second, None, "timeout", 10.0, 5.0) == (True, True)
    found = await WebhookEndpoints(store).get(mine, "")
    assert found is not None
    assert found.disabled_at is not None
    assert (await deliveries.sample())["disabled"] == 1
    await ended(store)
    assert await claimed(store) == [], "nothing is kept for it"
    again = await WebhookEndpoints(store).update(mine, "", event_types=None, name=None, url=None)
    assert again is not None
    assert again.disabled_at is None
    later = await ended(store)
    assert [each.response_id for each in await claimed(store)] == [later]


async def test_one_that_says_that_it_is_gone_is_disabled_at_once(store: Database) -> None:
    mine, deliveries = await endpoint(store), Deliveries(store)
    for _ in range(3):
        await ended(store)
    taken, refused, late = await claimed(store)
    await deliveries.delivered(taken, 200, 0.0)
    noted = await deliveries.not_delivered(refused, 410, "gone", 1.0, 1e6, gone=True)
    assert noted == (True, True), "whatever was delivered to it before"
    assert await WebhookEndpoints(store).update(mine, "", event_types=None, name="n", url=None)
    noted = await deliveries.not_delivered(late, 410, "gone", 1.0, 1e6, gone=True)
    assert noted == (True, False), "it was asked before it was changed"
    assert (await deliveries.sample())["disabled"] == 0


async def test_one_to_which_something_was_delivered_is_not_disabled(store: Database) -> None:
    await endpoint(store)
    deliveries = Deliveries(store)
    await ended(store)
    await ended(store)
    refused, taken = await claimed(store)
    await deliveries.delivered(taken, 200, 5.0)
    assert await deliveries.not_delivered(refused, 500, "refused", 10.0, 5.0) == (True, False)


async def test_what_waits_for_one_that_is_gone_is_dropped(store: Database) -> None:
    mine, deliveries = await endpoint(store), Deliveries(store)
    await ended(store)
    await WebhookEndpoints(store).delete(mine, "")
    [delivery] = await claimed(store)
    assert delivery.closed
    await deliveries.drop(delivery)
    assert [each["state"] for each in await deliveries.list_unscoped(10)] == ["dropped"]
    assert await deliveries.redeliver_unscoped(10, id_=delivery.id) == 0


async def test_redelivered_begins_anew_and_enables(store: Database) -> None:
    mine, deliveries = await endpoint(store), Deliveries(store)
    await ended(store)
    [first] = await claimed(store)
    assert await deliveries.not_delivered(first, 500, "refused", 10.0, 5.0) == (True, True)
    assert await deliveries.redeliver_unscoped(10, endpoint_id=mine, outcomes=["given_up"]) == 1
    [again] = await claimed(store)
    assert (again.id, again.failures, again.closed) == (first.id, 0, False)
    await deliveries.delivered(again, 200, 5.0)
    assert await deliveries.redeliver_unscoped(10, endpoint_id=mine, outcomes=["given_up"]) == 0


async def test_what_is_over_is_forgotten(store: Database) -> None:
    await endpoint(store)
    deliveries = Deliveries(store)
    await ended(store)
    await ended(store)
    over, _ = await claimed(store)
    await deliveries.delivered(over, 200, 5.0)
    assert await deliveries.forget(60.0, 60.0) == 0
    assert await deliveries.forget(-1.0, 60.0) == 1
    assert [each["state"] for each in await deliveries.list_unscoped(10)] == ["pending"]
    assert await deliveries.forget(-1.0, -100.0) == 1, "nobody delivers it"


async def test_what_an_endpoint_is_is_sealed_and_sealed_anew(database: Server, schema: str) -> None:
    key, other = (f"{name}:{base64.b64encode(name.encode() * 32).decode()}" for name in "ab")
    async with migrated(database.url, schema, encryption_keys=key) as store:
        mine = await endpoint(store)
    for keys in (f"{other} {key}", f"plain {other}"):
        async with opened(database.url, schema, encryption_keys=keys) as store:
            before = await store.fetch(f"SELECT document FROM {schema}.webhook_endpoints")
            for said in (DOCUMENT.name, DOCUMENT.url, DOCUMENT.secret):
                assert said not in before[0]["document"]
            found = await WebhookEndpoints(store).get(mine, "")
            assert found is not None
            assert found.document == DOCUMENT
            assert (await rewrite_all(store)).rows["webhook_endpoints"] == 1
    async with opened(database.url, schema, encryption_keys=None) as store:
        found = await WebhookEndpoints(store).get(mine, "")
        assert found is not None
        assert found.document == DOCUMENT


async def endpoint_at(sink: Sink, store: Database) -> str:
    """The id of an endpoint at `/hook` of a sink."""
    made, document = ids.new_webhook_endpoint_id(), replace(DOCUMENT, url=f"{sink.url}/hook")
    await WebhookEndpoints(store).create(made, "", ALL, document, 10)
    return made


@contextlib.asynccontextmanager
async def delivering_from(store: Database, **given: float) -> AsyncIterator[Delivering]:
    """What delivers within the block."""
    schedule = {"webhook_retry_for": 1.0, "webhook_retry_first": 0.1, "webhook_timeout": 0.5}
    settings = Settings.load(webhook_networks="127.0.0.1", **{**schedule, **given})
    delivering, stop = Delivering(Deliveries(store), settings), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(delivering.run(stop))
        try:
            yield delivering
        finally:
            stop.set()


@contextlib.asynccontextmanager
async def delivering_to(
    sink: Sink, store: Database, **given: float
) -> AsyncIterator[tuple[str, Delivering]]:
    """An endpoint at `/hook` of a sink, its id, and what delivers to it within the block."""
    made = await endpoint_at(sink, store)
    async with delivering_from(store, **given) as delivering:
        yield made, delivering


@pytest.mark.parametrize(
    ("status", "why", "disabled"),
    [
        (500, "refused (500)", "nothing could be delivered to it for 1 s"),
        (410, "gone (410)", "it answered 410, that it is gone"),
    ],
)
async def test_who_is_given_up_is_said(
    store: Database, caplog: pytest.LogCaptureFixture, status: int, why: str, disabled: str
) -> None:
    """The log has a line for each, without the URL; what `/readyz` warns of knows it at once."""
    with sinking() as sink:
        sink.behaviour["/hook"] = status
        async with delivering_to(sink, store) as (made, delivering):
            await ended(store)
            delivering.wake()
            await eventually(lambda: delivering.disabled == 1)
        attempts = len(sink.received)
    assert attempts >= 1
    assert status != 410 or attempts == 1, "it is not asked again"
    [delivery] = await Deliveries(store).list_unscoped(10)
    assert (delivery["state"], delivery["status_code"]) == ("given_up", status)
    lines = [each.getMessage() for each in caplog.records if each.name == "longrun.webhooks"]
    assert lines == [
        f"webhook delivery {delivery['id']} to {made} was given up after {attempts} attempts: "
        f"{why}",
        f"webhook endpoint {made} is disabled: {disabled}",
    ]


async def test_what_was_kept_for_one_that_is_gone_is_dropped(store: Database) -> None:
    with sinking() as sink:
        sink.behaviour["/hook"] = 410
        await endpoint_at(sink, store)
        # All before the first is sent: nothing is kept for one that is disabled.
        for _ in range(3):
            await ended(store)
        async with delivering_from(store, webhook_endpoint_concurrency=1):

            async def states() -> list[str]:
                found = await Deliveries(store).list_unscoped(10)
                return sorted(str(each["state"]) for each in found)

            async def is_over() -> bool:
                return "pending" not in await states()

            await eventually(is_over)
            assert await states() == ["dropped", "dropped", "given_up"]
        assert len(sink.received) == 1


@pytest.mark.parametrize(
    ("asked", "longest", "heeded"),
    [
        ("1", 60.0, 1.0),
        ("86400", 1.0, 1.0),
        ("tomorrow", 60.0, 0.0),
        (format_datetime(datetime(2200, 1, 1, tzinfo=UTC), usegmt=True), 1.0, 1.0),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
async def test_who_asks_for_a_pause_is_left_alone(
    store: Database, status: int, asked: str, longest: float, heeded: float
) -> None:
    with sinking() as sink:
        sink.behaviour["/hook"] = (status, asked)
        schedule = {"webhook_retry_longest": longest, "webhook_retry_for": 60.0}
        async with delivering_to(sink, store, **schedule) as (_, delivering):
            first = await ended(store)
            delivering.wake()
            await eventually(lambda: len(sink.received) == 1)
            sink.behaviour.clear()
            if heeded:
                # Nothing else comes, either.
                await eventually(lambda: bool(delivering._failing))
                second = await ended(store)
                delivering.wake()
                await eventually(
                    lambda: {each.response_id for each in sink.received[1:]} == {first, second}
                )
            else:
                await eventually(lambda: len(sink.received) == 2)
        refused, *taken = sink.received
        assert all(each.at - refused.at >= heeded for each in taken)
