"""Claims: how a replica comes to execute a response, and how it gives one away."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg

from longrun.errors import Unreadable
from longrun.protocol import RunRequest
from longrun.store.database import Database
from longrun.store.records import Chunk, Left, Step
from longrun.store.replica_lines import replica_died
from longrun.store.requests import request_of, unreadable_request_of
from longrun.store.sealing import ITEM_EVENT, VERSION, Sealing, chunk_place, item_place, step_place

OTHERS_CLAIM: Final = (10, 100)
"""Waiting responses that other replicas may be claiming at this moment: if nothing else is found
among so many more than are wanted, it is looked at more of them."""

JOURNAL_BYTES: Final = 256 * 1024
"""Of the steps, items and log of a response that is read together with others."""

SETTLING: Final = 3.0
"""Seconds that all replicas have to renew their leases and locks after Postgres was away, or
after this one was: before that, nobody is taken for dead."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A response that this replica now holds, as attempt `attempt`.

    `spent` counts the attempts that were used up, this one included; `handovers` those in a row
    in which it did not get on; `cancelled` and `overdue` say that it is to be ended, not run, and
    so does `unreadable`: what was asked for cannot be opened here, and is not in `request`.
    `steered` counts the messages that were put into it.
    """

    request: RunRequest
    attempt: int
    spent: int
    handovers: int
    cancelled: bool
    overdue: bool
    unreadable: bool = False
    steered: int = 0

    @property
    def id(self) -> str:
        return self.request.response_id


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a replica sees when it looks around (query `look_around`)."""

    expired: list[str]
    unlocked: list[str]
    waiting: bool
    suspects: bool
    chosen: bool
    overdue: list[str]
    own: str
    alive: list[str]
    steady: bool
    free: list[str] = field(default_factory=list)
    said_room: bool | None = None


class Claims:
    """Claims of one replica. Every method raises `Unavailable` when Postgres is away; those that
    read items and steps raise `Unreadable` where these cannot be opened.

    Args:
        agents: the names of those that it serves; None for any.
    """

    def __init__(
        self, database: Database, replica_id: str, agents: Sequence[str] | None = None
    ) -> None:
        self._agents = agents if agents is None else list(agents)
        self._database = database
        self._queries = database.queries
        self._sealing = database.sealing
        self._replica_id = replica_id
        self._onward = ""

    async def look_around(self) -> Surroundings:
        row = await self._database.fetch_row(
            self._queries.look_around,
            self._replica_id,
            SETTLING,
            self._agents,
            self._database.settings.max_attempts,
        )
        assert row is not None
        return Surroundings(**row)

    @property
    def replica_id(self) -> str:
        """Who claims."""
        return self._replica_id

    async def tell_room(self, has_room: bool) -> None:
        """Tell the others whether this replica would take more runs."""
        await self._database.execute(self._queries.tell_room, self._replica_id, has_room)

    async def tell_draining(self) -> None:
        """Tell the others that this replica takes nothing more."""
        await self._database.execute(self._queries.tell_draining, self._replica_id)

    async def takers(self) -> dict[str, bool]:
        """The other replicas that are alive and not draining, and whether each has room."""
        rows = await self._database.fetch(self._queries.find_takers, self._replica_id)
        return {row["id"]: row["has_room"] for row in rows}

    async def count_deaths(self, dead: Sequence[str]) -> bool:
        """Hand over what these dead replicas were executing, count their deaths, and log each
        replica that nobody else logs.

        Returns:
            Whether responses changed hands by it, or what is said of them.
        """
        rows = await self._database.fetch_once(self._queries.count_deaths, list(dead))
        for row in rows:
            if row["dead"] is not None:
                replica_died(row["dead"], row["runs"], seen_by=self._replica_id)
        return bool(rows)

    async def queued(self, limit: int, agents: Sequence[str] | None = None) -> list[Claim]:
        """The next responses that wait, at most `limit`, of these agents or of all."""
        of = self._agents if agents is None else list(agents)
        for besides in OTHERS_CLAIM:
            query = self._queries.claim_queued
            rows = await self._claim_rows(query, limit, of, besides, self._onward)
            if rows:
                self._onward = rows[0]["onward"] or ""
                return await self._read(rows)
        return []

    async def orphans(
        self, limit: int, agents: Sequence[str] | None = None, *, share: bool = False
    ) -> list[Claim]:
        """Runs that were handed over, by their replicas or by the death of these; at most
        `limit`, of these agents or of all. First those that got on most recently.

        Args:
            share: only what falls to this replica of what falls to each that is alive.
        """
        most = self._database.settings.max_attempts
        of = self._agents if agents is None else list(agents)
        return await self._claim(self._queries.claim_orphans, limit, of, most, share)

    async def suspect(self) -> Claim | None:
        """A run that was under way in two deaths, to be executed alone."""
        most = self._database.settings.max_attempts
        return _only(await self._claim(self._queries.claim_suspect, self._agents, most))

    async def to_cancel(self, response_id: str, principal: str) -> Claim | None:
        """One response, from whoever executes it; None if it has ended, is ending or is not
        theirs."""
        return _only(await self._claim(self._queries.claim_to_cancel, response_id, principal))

    async def overdue_unscoped(self, response_ids: Sequence[str]) -> list[Claim]:
        """Those of these responses, whoever's they are, whose time is over and which nobody is
        ending."""
        return await self._claim(self._queries.claim_overdue, list(response_ids))

    async def to_fail(self, response_id: str, attempt: int) -> Claim | None:
        """One response, from this attempt of this replica; None if it does not hold it."""
        return _only(await self._claim(self._queries.claim_to_fail, response_id, attempt))

    async def release(self, held: Mapping[str, int]) -> list[tuple[str, int, str]]:
        """Hand over responses, by id, as the attempt that holds each: anybody may resume them.

        Returns:
            Id, attempt and agent of those that were handed over, which others held no longer.
        """
        rows = await self._database.fetch_once(
            self._queries.release, list(held), list(held.values())
        )
        return [(row["id"], row["attempt"], row["agent"]) for row in rows]

    async def own(self) -> dict[str, int]:
        """The attempt of each response that this replica holds."""
        rows = await self._database.fetch(self._queries.list_own, self._replica_id)
        return {row["id"]: row["attempt"] for row in rows}

    async def left(self, response_ids: Sequence[str]) -> dict[str, Left]:
        """What earlier attempts left of each of these responses, in one query; without those that
        have more than `JOURNAL_BYTES`."""
        rows = await self._database.fetch(
            self._queries.read_journals,
            list(response_ids),
            JOURNAL_BYTES,
            ITEM_EVENT,
            VERSION if self._sealing.knows_keys else None,
        )
        of: dict[str, list[asyncpg.Record]] = {}
        for row in rows:
            of.setdefault(row["id"], []).append(row)
        found = {}
        for id_, parts in of.items():
            # What cannot be opened ends by itself, when it is read by itself.
            with contextlib.suppress(Unreadable):
                found[id_] = self._left(id_, parts)
        return found

    def _left(self, response_id: str, rows: Sequence[asyncpg.Record]) -> Left:
        """Its rows of `read_journals`, opened."""
        steps, items, chunks, end = [], {}, [], -1
        for _, part, number, last, data, *step in rows:
            if part == "end":
                end = -1 if number is None else number
            elif part == "step":
                steps.append(self._step(response_id, *step))
            elif part == "item":
                items[number] = self._item(response_id, number, step[-1])
            else:
                place = chunk_place(response_id, number, last)
                chunks.append(Chunk(number, last, self._sealing.open(place, data)))
        return Left(steps, items, sorted(chunks), end)

    async def items(self, response_id: str) -> dict[int, str]:
        """Finished items by output index."""
        rows = await self._database.fetch(self._queries.list_items, response_id)
        return {index: self._item(response_id, index, item) for index, item in rows}

    def _item(self, response_id: str, index: int, item: str) -> str:
        return self._sealing.open_text(item_place(response_id, index), item)

    async def steps(self, response_id: str) -> list[Step]:
        return await self._steps(self._queries.list_steps, response_id)

    async def model_turns(self, response_id: str) -> list[Step]:
        """The finished model turns of the run, and of the runs inside it."""
        return await self._steps(self._queries.list_model_turns, response_id)

    async def _steps(self, query: str, response_id: str) -> list[Step]:
        rows = await self._database.fetch(query, response_id)
        return [self._step(response_id, *row) for row in rows]

    def _step(
        self, response_id: str, scope: str, kind: str, key: str, fingerprint: str, result: str
    ) -> Step:
        open_text = self._sealing.open_text
        return Step(
            scope,
            kind,
            key,
            open_text(step_place(response_id, scope, kind, key, "fingerprint"), fingerprint),
            open_text(step_place(response_id, scope, kind, key, "result"), result),
        )

    async def drop_items(self, claim: Claim, indexes: Sequence[int]) -> None:
        """Remove items, if the claim still holds."""
        await self._database.execute(
            self._queries.drop_items, claim.id, claim.attempt, list(indexes)
        )

    async def drop_all_items(self, claim: Claim) -> None:
        """Remove all of its items, if the claim still holds: they cannot be opened."""
        await self._database.execute(self._queries.drop_all_items, claim.id, claim.attempt)

    async def forget_replicas(self) -> None:
        await self._database.execute(self._queries.forget_replicas)

    async def _claim(self, query: str, *args: object) -> list[Claim]:
        return await self._read(await self._claim_rows(query, *args))

    async def _claim_rows(self, query: str, *args: object) -> list[asyncpg.Record]:
        # Not tried again when its answer is lost: a claim that committed unseen is found among
        # this replica's own (Worker.reconcile). And one statement by itself: a replica that
        # freezes within a transaction would keep its rows locked.
        return await self._database.fetch_once(query, self._replica_id, *args)

    async def _read(self, rows: Sequence[asyncpg.Record]) -> list[Claim]:
        if not rows:
            return []
        # What they are is read apart, so that it is written down once for all kinds of claims.
        # A claim that another has taken since is not among them, and is not ours any more.
        claimed = await self._database.fetch(
            self._queries.get_claims,
            [row["id"] for row in rows],
            [row["attempt"] for row in rows],
        )
        return [_claim_of(dict(row), self._sealing) for row in claimed]


def _only(claims: list[Claim]) -> Claim | None:
    return claims[0] if claims else None


def _claim_of(row: Mapping[str, Any], sealing: Sealing) -> Claim:
    unreadable = False
    try:
        request = request_of(row, sealing)
    except Unreadable:
        request, unreadable = unreadable_request_of(row), True
    return Claim(
        request=request,
        attempt=row["attempt"],
        spent=row["spent"],
        handovers=row["handovers"],
        cancelled=row["cancelled"],
        overdue=row["overdue"],
        unreadable=unreadable,
        steered=row["steered"],
    )
