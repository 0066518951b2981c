"""What a claim takes and what it leaves, as Postgres decides: deaths, suspects, handovers, ends."""

import asyncio
import base64
import collections
import json
import logging
import random
from typing import Any

import asyncpg
import pytest

from longrun.execution.outcomes import instead_of_a_run
from longrun.ids import new_replica_id
from longrun.settings import Settings
from longrun.store import claims as module
from longrun.store.claims import Claims
from longrun.store.database import Database
from longrun.store.events import EventLog
from longrun.store.records import Step
from longrun.store.responses import Responses
from longrun.store.run_log import RunLog
from tests.postgres import Server
from tests.reading import eventually
from tests.storing import (
    REPLICA,
    add_response,
    connected,
    event,
    locked,
    log_of,
    migrated,
    writing,
)

SETTINGS = Settings.load()
KEYS = f"one:{base64.b64encode(bytes(32)).decode()}"


async def row(store: Database, response_id: str) -> asyncpg.Record:
    found = await store.fetch_row(
        f'SELECT * FROM "{store.settings.db_schema}".responses WHERE id = $1', response_id
    )
    assert found is not None
    return found


async def change(store: Database, response_id: str, what: str) -> None:
    await store.execute(
        f'UPDATE "{store.settings.db_schema}".responses SET {what} WHERE id = $1', response_id
    )


async def record_step(store: Database, response_id: str, attempt: int, kind: str = "tool") -> None:
    """The attempt gets on."""
    async with writing(store) as writer:
        run = log_of(writer, response_id, attempt)
        run.append([], steps=[Step("", kind, f"call_{attempt}", "{}", "{}")])
        await run.flush()


async def die_and_resume(store: Database, *response_ids: str) -> None:
    """They are held by one replica, which dies; another one takes what it may."""
    dead = new_replica_id()
    for response_id in response_ids:
        await change(store, response_id, f"replica_id = '{dead}'")
    claims = Claims(store, "next")
    await claims.count_deaths([dead])
    await claims.orphans(100)
    while await claims.suspect():
        pass


class TestDeaths:
    async def test_a_death_in_company_uses_up_no_attempt(self, store: Database) -> None:
        ids = [await add_response(store) for _ in range(3)]
        for deaths in range(1, 6):
            await die_and_resume(store, *ids)
            rows = [await row(store, id_) for id_ in ids]
            assert [(each["deaths"], each["spent"]) for each in rows] == [(deaths, 1)] * 3

    async def test_a_run_that_was_alone_answers_for_all_its_deaths(self, store: Database) -> None:
        bad, innocent = [await add_response(store) for _ in range(2)]
        await die_and_resume(store, bad, innocent)
        await die_and_resume(store, bad, innocent)
        await die_and_resume(store, bad)
        assert ((await row(store, bad))["deaths"], (await row(store, bad))["spent"]) == (3, 4)
        assert (await row(store, innocent))["spent"] == 1

    async def test_what_is_only_ended_is_no_company(self, store: Database) -> None:
        bad, cancelled = [await add_response(store) for _ in range(2)]
        await change(store, cancelled, "cancelled = true")
        await die_and_resume(store, bad, cancelled)
        assert (await row(store, bad))["spent"] == 2

    async def test_an_attempt_that_got_on_begins_the_count_anew(self, store: Database) -> None:
        ids = [await add_response(store) for _ in range(2)]
        for attempt in range(1, 5):
            await record_step(store, ids[0], attempt)
            await die_and_resume(store, *ids)
        assert [(await row(store, id_))["deaths"] for id_ in ids] == [1, 4]

    async def test_one_that_dies_alone_clears_those_that_died_with_it(
        self, store: Database
    ) -> None:
        bad, innocent, elsewhere = [await add_response(store) for _ in range(3)]
        await die_and_resume(store, innocent, elsewhere)
        await die_and_resume(store, bad, innocent)
        await die_and_resume(store, bad, innocent)
        assert (await row(store, innocent))["deaths"] == 3
        await change(store, innocent, "replica_id = NULL")
        await die_and_resume(store, bad)
        # What it died of before it met this one is not explained.
        deaths = [(await row(store, id_))["deaths"] for id_ in (bad, innocent, elsewhere)]
        assert deaths == [3, 1, 1]
        # It was an orphan like others then.
        assert (await row(store, innocent))["replica_id"] == "next"

    async def test_also_those_that_die_elsewhere_at_the_same_moment(self, store: Database) -> None:
        bad, innocent, beside = [await add_response(store) for _ in range(3)]
        await die_and_resume(store, bad, innocent)
        await change(store, bad, "replica_id = 'alone'")
        for response_id in (innocent, beside):
            await change(store, response_id, "replica_id = 'crowded'")
        await Claims(store, "next").count_deaths(["alone", "crowded"])
        rows = [await row(store, id_) for id_ in (bad, innocent, beside)]
        assert [(each["deaths"], each["spent"]) for each in rows] == [(2, 3), (1, 1), (1, 1)]

    async def test_one_whose_death_is_noticed_late_was_not_alone(
        self, store: Database, database: Server
    ) -> None:
        first, late = [await add_response(store) for _ in range(2)]
        for response_id in (first, late):
            await change(store, response_id, "replica_id = 'dead'")
        claims = Claims(store, "next")
        async with locked(database.url, store.settings.db_schema, late):
            await claims.count_deaths(["dead"])
        assert (await row(store, late))["deaths"] == 0
        await claims.count_deaths(["dead"])
        rows = [await row(store, id_) for id_ in (first, late)]
        assert [(each["deaths"], each["spent"]) for each in rows] == [(1, 1)] * 2

    async def test_two_that_notice_count_it_once_and_one_logs_it(
        self, store: Database, caplog: pytest.LogCaptureFixture
    ) -> None:
        ids = [await add_response(store) for _ in range(20)]
        for response_id in ids:
            await change(store, response_id, "replica_id = 'dead'")
        watchers = [Claims(store, f"replica {n}") for n in range(4)]
        with caplog.at_level(logging.INFO, "longrun.replicas"):
            await asyncio.gather(*(claims.count_deaths(["dead"]) for claims in watchers))
        assert {(await row(store, id_))["deaths"] for id_ in ids} == {1}
        (line,) = [record.getMessage() for record in caplog.records]
        assert line.startswith(f"replica died replica=dead runs={len(ids)} seen_by=")


class TestSuspects:
    async def suspect(self, store: Database, **fields: Any) -> str:
        response_id = await add_response(store, **fields)
        await change(store, response_id, "replica_id = NULL, deaths = 2")
        return response_id

    async def test_they_are_claimed_one_by_one_and_apart(self, store: Database) -> None:
        ids = [await self.suspect(store) for _ in range(2)]
        other = await add_response(store)
        await change(store, other, "replica_id = NULL, deaths = 1")
        claims = Claims(store, "replica")
        assert [claim.id for claim in await claims.orphans(10)] == [other]
        found = [await claims.suspect() for _ in range(3)]
        assert [claim and claim.id for claim in found] == [*ids, None]

    async def test_the_likeliest_comes_first(self, store: Database) -> None:
        """A tool, say, is under way after a model turn. While a model speaks, little can crash."""
        speaks, fresh, calls, most = [await self.suspect(store) for _ in range(4)]
        for id_ in (speaks, calls):
            await record_step(store, id_, 1, "model")
        await record_step(store, speaks, 1, "tool")
        await change(store, most, "deaths = 3")
        claims = Claims(store, "replica")
        found = [await claims.suspect() for _ in range(4)]
        assert [claim and claim.id for claim in found] == [most, calls, speaks, fresh]

    async def test_one_that_got_on_before_it_was_handed_over_is_none(self, store: Database) -> None:
        ids = [await self.suspect(store) for _ in range(2)]
        claims = Claims(store, "replica")
        for _ in ids:
            claim = await claims.suspect()
            assert claim is not None
            if claim.id == ids[0]:
                await record_step(store, claim.id, claim.attempt)
            await claims.release({claim.id: claim.attempt})
            if claim.id == ids[0]:
                [orphan] = await claims.orphans(10)
                assert orphan.id == ids[0]
        assert [(await row(store, id_))["deaths"] for id_ in ids] == [0, 2]

    async def test_not_where_its_agent_is_not_served(self, store: Database) -> None:
        await self.suspect(store)
        assert await Claims(store, "replica", ["another"]).suspect() is None
        assert not (await Claims(store, "replica", ["another"]).look_around()).suspects

    async def test_one_that_is_only_to_be_ended_is_an_orphan_like_others(
        self, store: Database
    ) -> None:
        ends = ("cancelled = true", "deadline_at = now()", "spent = 4")
        ids = [await self.suspect(store) for _ in ends]
        for response_id, end in zip(ids, ends, strict=True):
            await change(store, response_id, end)
        found = await Claims(store, "replica").orphans(10)
        assert [claim.id for claim in found] == ids
        outcomes = [instead_of_a_run(claim, SETTINGS) for claim in found]
        assert [outcome and outcome.status for outcome in outcomes] == [
            "cancelled",
            "failed",
            "failed",
        ]

    async def test_they_are_seen_apart_from_what_else_waits(self, store: Database) -> None:
        claims = Claims(store, "replica")
        await self.suspect(store)
        around = await claims.look_around()
        assert (around.waiting, around.suspects) == (False, True)

    async def chosen(self, store: Database) -> list[str]:
        names = ("a", "b", "c")
        looks = [await Claims(store, f"replica_{name}").look_around() for name in names]
        return [name for name, look in zip(names, looks, strict=True) if look.chosen]

    async def test_one_replica_is_chosen(self, store: Database) -> None:
        """Of those that live, the one that executes a suspect, or else has the fewest runs."""
        for name in ("b", "a", "c"):
            await store.execute(
                store.queries.renew_lease, f"replica_{name}", "host", 1, "1", 60.0, None
            )
        assert await self.chosen(store) == []
        await self.suspect(store)
        assert await self.chosen(store) == ["a"]
        await store.execute(store.queries.end_lease, "replica_a")
        assert await self.chosen(store) == ["b"]
        await add_response(store, replica_id="replica_b")
        assert await self.chosen(store) == ["c"]
        suspect = await add_response(store, replica_id="replica_b")
        await change(store, suspect, "deaths = 2")
        assert await self.chosen(store) == ["b"]


class TestHandovers:
    async def hand_over(self, store: Database, claims: Claims, response_id: str) -> int:
        attempt = (await row(store, response_id))["attempt"]
        await claims.release({response_id: attempt})
        [claim] = await claims.orphans(1)
        return claim.handovers

    async def test_they_are_counted_until_the_run_gets_on(self, store: Database) -> None:
        claims = Claims(store, "replica")
        response_id = await add_response(store)
        counted = [await self.hand_over(store, claims, response_id) for _ in range(3)]
        await record_step(store, response_id, 4)
        counted.append(await self.hand_over(store, claims, response_id))
        assert counted == [1, 2, 3, 1]
        assert (await row(store, response_id))["spent"] == 1

    async def test_too_many_in_a_row_end_it_in_words(self, store: Database) -> None:
        claims = Claims(store, "replica")
        response_id = await add_response(store)
        await change(store, response_id, f"handovers = {SETTINGS.max_handovers}")
        await claims.release({response_id: 1})
        [claim] = await claims.orphans(1)
        outcome = instead_of_a_run(claim, SETTINGS)
        assert outcome is not None
        assert outcome.error is not None
        assert (outcome.status, outcome.error["code"]) == ("failed", "server_error")
        assert "handed over 101 times" in outcome.error["message"]


class TestShares:
    """Of what a dead replica leaves, and in which order it is taken."""

    async def orphans(self, store: Database, count: int) -> list[str]:
        ids = [await add_response(store) for _ in range(count)]
        await Claims(store, "next").count_deaths([REPLICA])
        return ids

    async def test_each_that_is_alive_takes_one(self, store: Database, database: Server) -> None:
        """Whatever the others have taken by then. Whose lock is free is not alive any more, though
        its lease is not over."""
        names = [f"replica_{name}" for name in "abc"]
        ids = await self.orphans(store, 60)
        for name in (*names, "replica_dead"):
            await store.execute(store.queries.renew_lease, name, "host", 1, "1", 60.0, None)
        async with connected(database.url) as locks:
            for name in names:
                assert await locks.fetchval(store.queries.hold_replica_lock, name)
            shares = [await Claims(store, name).orphans(100, share=True) for name in names]
        taken = [[claim.id for claim in share] for share in shares]
        assert sorted(id_ for share in taken for id_ in share) == ids
        assert all(taken)

    async def test_one_alone_takes_all(self, store: Database) -> None:
        ids = await self.orphans(store, 5)
        taken = await Claims(store, "replica_a").orphans(100, share=True)
        assert sorted(claim.id for claim in taken) == ids

    async def test_who_has_room_is_known_while_it_is_alive(
        self, store: Database, database: Server
    ) -> None:
        mine, other = Claims(store, "replica_mine"), Claims(store, "replica_other")
        for claims in (mine, other):
            await store.execute(
                store.queries.renew_lease, claims.replica_id, "host", 1, "1", 60.0, None
            )
        around = await mine.look_around()
        assert (around.free, around.said_room) == ([], None)
        for claims in (mine, other):
            await claims.tell_room(True)
        async with connected(database.url) as locks:
            assert await locks.fetchval(store.queries.hold_replica_lock, other.replica_id)
            around = await mine.look_around()
            assert (around.free, around.said_room) == (["replica_other"], True)
            await other.tell_room(False)
            assert (await mine.look_around()).free == []
            await other.tell_room(True)

        async def nobody() -> bool:
            return not (await mine.look_around()).free

        await eventually(nobody)

    @pytest.mark.parametrize("handed_over", [False, True])
    async def test_who_got_on_last_is_first(self, store: Database, handed_over: bool) -> None:
        long_ago, never, just_now = [await add_response(store) for _ in range(3)]
        for response_id in (long_ago, just_now):
            await record_step(store, response_id, 1)
        schema = store.settings.db_schema
        await store.execute(
            f"UPDATE \"{schema}\".steps SET recorded_at = now() - interval '1 hour'"
            " WHERE response_id = $1",
            long_ago,
        )
        await change(store, never, "created_at = now() - interval '10 minutes'")
        claims = Claims(store, "next")
        if handed_over:
            await claims.release(dict.fromkeys((long_ago, never, just_now), 1))
        else:
            await claims.count_deaths([REPLICA])
        # An older version hands over without saying when.
        unknown = await add_response(store)
        await change(store, unknown, "replica_id = NULL")
        found = [claim.id for claim in await claims.orphans(10)]
        assert found == [just_now, never, long_ago, unknown]


class TestJournals:
    @pytest.mark.parametrize("keys", [None, KEYS], ids=["plain", "sealed"])
    async def test_those_of_many_are_read_together(
        self, database: Server, schema: str, monkeypatch: pytest.MonkeyPatch, keys: str | None
    ) -> None:
        """As each is by itself; but one that has too much is not among them."""
        monkeypatch.setattr(module, "JOURNAL_BYTES", 2000)
        async with migrated(database.url, schema, encryption_keys=keys) as store:
            small, large, empty = [await add_response(store) for _ in range(3)]
            async with writing(store) as writer:
                await self.write(log_of(writer, small), "x")
                # Of noise, which is sealed without being made smaller.
                await self.write(log_of(writer, large), random.Random(1).randbytes(2000).hex())
            claims, log = Claims(store, "next"), EventLog(store)
            found = await claims.left([large, empty, small, "resp_none"])
            assert found.keys() == {empty, small, "resp_none"}
            left = found[small]
            assert left.steps == await claims.steps(small) != []
            assert left.items == await claims.items(small) != {}
            assert left.chunks == await log.item_page_unscoped(small, -1, 10**6) != []
            assert [found[id_].end for id_ in (small, empty, "resp_none")] == [3, 0, -1]

    async def write(self, run: RunLog, text: str) -> None:
        item = {"id": "msg_1", "text": text}
        done = event(2, "response.output_item.done", output_index=0, item=item)
        run.append([event(1, "response.other"), done], items=[(0, json.dumps(item))])
        await run.flush()
        run.append([event(3)], steps=[Step("", "tool", "call_1", "{}", "{}")])
        await run.flush()


class TestEnds:
    """One end at a time."""

    async def test_a_second_cancel_leaves_the_first_alone(self, store: Database) -> None:
        response_id = await add_response(store, principal="me")
        one, two = Claims(store, "one"), Claims(store, "two")
        assert await one.to_cancel(response_id, "me") is not None
        assert await two.to_cancel(response_id, "me") is None
        assert (await row(store, response_id))["replica_id"] == "one"

    async def test_so_do_looks_at_what_is_overdue(self, store: Database) -> None:
        response_id = await add_response(store)
        await change(store, response_id, "deadline_at = now() - interval '1 hour'")
        one, two = Claims(store, "one"), Claims(store, "two")
        assert (await two.look_around()).overdue == [response_id]
        [claim] = await one.overdue_unscoped([response_id])
        assert claim.overdue
        for claims in (one, two):
            assert (await claims.look_around()).overdue == []
            assert await claims.overdue_unscoped([response_id]) == []

    async def test_one_that_hangs_is_taken_up_by_others(self, store: Database) -> None:
        response_id = await add_response(store, principal="me")
        await change(store, response_id, "deadline_at = now() - interval '1 hour'")
        assert await Claims(store, "one").to_cancel(response_id, "me") is not None
        await change(store, response_id, "ending_at = now() - interval '61 seconds'")
        two = Claims(store, "two")
        assert (await two.look_around()).overdue == [response_id]
        assert len(await two.overdue_unscoped([response_id])) == 1

    async def test_one_whose_replica_died_is_ended_by_the_next(self, store: Database) -> None:
        response_id = await add_response(store, principal="me")
        assert await Claims(store, "dead").to_cancel(response_id, "me") is not None
        two = Claims(store, "two")
        await two.count_deaths(["dead"])
        [claim] = await two.orphans(1)
        assert claim.cancelled

    async def test_nobody_cancels_anothers(self, store: Database) -> None:
        response_id = await add_response(store, principal="me")
        assert await Claims(store, "one").to_cancel(response_id, "you") is None
        assert (await row(store, response_id))["attempt"] == 1

    async def test_only_the_attempt_that_broke_off_is_failed(self, store: Database) -> None:
        response_id = await add_response(store, attempt=2)
        claims = Claims(store, "one")
        assert await claims.to_fail(response_id, 1) is None
        claim = await claims.to_fail(response_id, 2)
        assert claim is not None
        assert claim.attempt == 3


async def test_a_claim_has_the_whole_request(store: Database) -> None:
    response_id = await add_response(store, status="queued", principal="me")
    [claim] = await Claims(store, "one").queued(1)
    request = claim.request
    assert (request.response_id, request.principal, request.agent) == (
        response_id,
        "me",
        "scripted",
    )
    assert (request.background, request.stored, request.input) == (True, True, [])
    assert request.document == {"id": response_id, "object": "response"}
    assert request.parameters == {}
    assert (claim.attempt, claim.spent) == (1, 1)


class TestTheQueue:
    async def test_who_has_fewer_runs_and_waits_longer_comes_first(self, store: Database) -> None:
        """Whatever the lines look like: as if all that wait had been ranked."""
        chance = random.Random(3)
        for _ in range(8):
            await store.execute(f'DELETE FROM "{store.settings.db_schema}".responses')
            principals = [f"p{n}" for n in range(chance.choice([1, 3, 30]))]
            runs = {principal: chance.randrange(4) for principal in principals}
            for principal in principals:
                for _ in range(runs[principal]):
                    await add_response(store, principal=principal)
            waiting = [
                (await add_response(store, principal=principal, status="queued", attempt=0))
                for principal in chance.choices(principals, k=40)
            ]
            of = {id_: (await row(store, id_))["principal"] for id_ in waiting}
            places = collections.Counter[str]()
            turns = {}
            for id_ in waiting:
                places[of[id_]] += 1
                turns[id_] = places[of[id_]] + runs[of[id_]]
            limit = chance.choice([1, 7, 39])
            expected = sorted(waiting, key=lambda id_: (turns[id_], id_))[:limit]
            assert {claim.id for claim in await Claims(store, "mine").queued(limit)} == set(
                expected
            )

    @pytest.mark.parametrize("count", [299, 300, 301])
    async def test_so_does_it_among_many_principals(self, store: Database, count: int) -> None:
        """Who is earliest by name is not first, nor who is served elsewhere."""
        table = f'"{store.settings.db_schema}".responses'
        await store.execute(
            f"INSERT INTO {table} (id, principal, agent, status, background, stored, attempt,"
            " spent, document, input, request, deadline_at)"
            " SELECT 'resp_' || lpad(n::text, 32, '0'), 'p' || lpad(($1::int - n)::text, 5, '0'),"
            " 'scripted', 'queued', true, true, 0, 0, '{\"id\": \"\"}', '[]', '{}',"
            " now() + interval '1 hour' FROM generate_series(0, $1::int - 1) AS n",
            count,
        )
        await store.execute(f"UPDATE {table} SET agent = 'another' WHERE id LIKE '%0'")
        await add_response(store, principal=f"p{count - 1:05}")  # has one run
        claims = Claims(store, "mine", ["scripted"])
        found = sorted([claim.id for claim in await claims.queued(3)])
        assert found == [f"resp_{n:032}" for n in (2, 3, 4)]

    async def test_ten_thousand_of_one_do_not_delay_the_first_of_another(
        self, store: Database
    ) -> None:
        await store.execute(
            f'INSERT INTO "{store.settings.db_schema}".responses (id, principal, agent, status,'
            " background, stored, attempt, spent, document, input, request, deadline_at)"
            " SELECT 'resp_' || lpad(n::text, 32, '0'), 'many', 'scripted', 'queued', true, true,"
            " 0, 0, '{\"id\": \"\"}', '[]', '{}', now() + interval '1 hour'"
            " FROM generate_series(0, 9999) AS n"
        )
        late = [await add_response(store, principal=f"late {n}", status="queued") for n in range(3)]
        claims = Claims(store, "mine")
        # All four principals have no run yet, and who waits longest comes first; then the others.
        taken = [claim.id for _ in range(5) for claim in await claims.queued(1)]
        assert taken == [f"resp_{0:032}", *late, f"resp_{1:032}"]
        latest = await add_response(store, principal="latest", status="queued")
        assert [claim.id for claim in await claims.queued(1)] == [latest]

    async def test_what_is_not_served_here_is_passed_over(self, store: Database) -> None:
        ids = [
            await add_response(store, principal=f"p{n % 5}", status="queued", attempt=0)
            for n in range(20)
        ]
        for id_ in ids[:15]:
            await change(store, id_, "agent = 'another'")
        found = await Claims(store, "mine", ["scripted"]).queued(100)
        assert {claim.id for claim in found} == set(ids[15:])

    async def test_what_another_is_claiming_is_passed_over(
        self, store: Database, database: Server
    ) -> None:
        ids = [await add_response(store, status="queued", attempt=0) for _ in range(20)]
        async with locked(database.url, store.settings.db_schema, *ids[:10]):
            found = await Claims(store, "mine").queued(3)
        assert {claim.id for claim in found} == set(ids[10:13])


class TestRetention:
    async def test_what_is_past_its_time_and_what_was_not_to_be_kept(self, store: Database) -> None:
        ids = [await add_response(store) for _ in range(6)]
        ago = ["40 days", "20 days", "2 minutes", "10 seconds", "40 days", None]
        for n, (id_, age) in enumerate(zip(ids, ago, strict=True)):
            stored = f"stored = {n < 2}"
            if age is None:
                await change(store, id_, stored)
                continue
            ended = (
                f"status = 'completed', replica_id = NULL, finished_at = now() - interval '{age}'"
            )
            await change(store, id_, f"{stored}, {ended}")
        assert await Responses(store).expire(30 * 86_400) == 3
        left = await store.fetch(f'SELECT id FROM "{store.settings.db_schema}".responses')
        assert {each["id"] for each in left} == {ids[1], ids[3], ids[5]}
