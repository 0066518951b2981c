"""Steers: messages that are put into a live run, by any replica, for the one that executes it.

They are counted in the row of the response, which every append of its run looks at and locks. So
one statement decides between a message and the run's end, and a run learns of a message with its
next commit: nobody has to be told.
"""

import contextlib
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import asyncpg
from asyncpg import Record

from longrun import metrics
from longrun.errors import BadRequest, KeyReused, NotSteerable, TooManyRequests
from longrun.jsontext import dumps, loads
from longrun.protocol import Status, is_terminal
from longrun.store.database import Database
from longrun.store.records import Steer
from longrun.store.sealing import steer_place

RETRIES: Final = 300.0
"""Seconds in which a client may send a request again that has no key: longer than the retries of
OpenAI's SDKs take."""


@dataclass(frozen=True, slots=True)
class Submission:
    """Messages that one request puts into a run.

    Attributes:
        items: input items.
        key: by which the request is known when it comes again; None: it has none.
        again: it says that it may have come before. Without a key it then counts as the last
            one, if that said the same.
    """

    items: Sequence[dict[str, Any]]
    key: str | None = None
    again: bool = False


class Accepted(NamedTuple):
    """What was put into a run: the number of the first message, and when, in seconds."""

    first: int
    given_at: int


class Steers:
    """The messages of all principals; each call names the one that it is for. Every method raises
    `Unavailable` when Postgres is away.

    Args:
        most_waiting: how many messages may wait in one run.
        most: how many one response may be given in all.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queries = database.queries
        self._sealing = database.sealing
        self._most_waiting = database.settings.max_steers
        self._most = database.settings.max_input_items

    async def accept(
        self,
        response_id: str,
        principal: str,
        new: Submission,
        *,
        kept: bool = True,
        check: Callable[[str], object] = lambda agent: None,
    ) -> Accepted | None:
        """Put messages into a run. When this returns they are committed, and are input of the
        response, whatever becomes of the run.

        Args:
            kept: only into a response that is stored.
            check: raises for an agent, by its name, that takes no messages.

        Returns:
            None: the response is not there, or not theirs.

        Raises:
            NotSteerable: it has ended, or is ending.
            TooManyRequests: as many wait already as may.
            BadRequest: it has as many as it may have.
            KeyReused: the key was another message's.
        """
        whose = (response_id, principal)
        key = None if new.key is None else _hashed(response_id, new.key)
        while True:
            row = await self._database.fetch_row(self._queries.look_to_steer, *whose, not kept)
            if row is None:
                return None
            first: int = row["steered"]
            if first and (key is not None or new.again):
                before = await self._the_same(response_id, principal, key, new)
                if before is not None:
                    return before
            _check_live(response_id, row["status"], ending=row["ending"])
            check(row["agent"])
            self._check_room(first, row["waiting"], len(new.items))
            accepted = await self._add(response_id, principal, first, key, new)
            if accepted is not None:
                metrics.steers.labels("accepted").inc(len(new.items))
                return accepted
            # Another message came first, or the end: one of the two is there now.

    async def _add(
        self, response_id: str, principal: str, first: int, key: str | None, new: Submission
    ) -> Accepted | None:
        texts = [self._sealed(response_id, first + n, item) for n, item in enumerate(new.items)]
        query = self._queries.bind(
            "add_steers", id=response_id, principal=principal, first=first, key=key, items=texts
        )
        with contextlib.suppress(asyncpg.UniqueViolationError):
            rows = await self._database.fetch_once(*query)
            if rows:
                return Accepted(first, rows[0]["given_at"])
        return None

    def _check_room(self, there: int, waiting: int, more: int) -> None:
        most = min(self._most - there, self._most_waiting)
        if more > most:
            raise BadRequest(
                f"input: at most {most} messages can be put into this response, got {more}.",
                param="input",
                code="array_above_max_length",
            )
        if waiting + more > self._most_waiting:
            raise TooManyRequests(
                f"At most {self._most_waiting} messages may wait in one run (LONGRUN_MAX_STEERS); "
                "try again when it has taken some.",
                code="too_many_pending_steers",
                retry_after=2,
            )

    async def _the_same(
        self, response_id: str, principal: str, key: str | None, new: Submission
    ) -> Accepted | None:
        """What was accepted of a request that has come before."""
        rows = await self._database.fetch(
            self._queries.find_steer, response_id, principal, key, RETRIES
        )
        if not rows:
            return None
        texts = [self._opened(response_id, row["number"], row["item"]) for row in rows]
        if list(map(loads, texts)) == list(new.items):
            return Accepted(rows[0]["number"], rows[0]["given_at"])
        if key is not None:
            raise KeyReused
        return None

    async def of_unscoped(self, response_id: str, after: int = 0) -> list[Steer]:
        """The messages of a response from a number on: for its run."""
        rows = await self._database.fetch(self._queries.list_steers, response_id, after)
        return [self.opened(response_id, row) for row in rows]

    async def places_unscoped(self, response_id: str) -> dict[int, int | None]:
        """Where each message of a response stands, by its number, as `Steer` has it."""
        rows = await self._database.fetch(self._queries.list_steers, response_id, 0)
        return {row["number"]: row["output_index"] for row in rows}

    async def waiting(self, response_id: str, principal: str) -> set[int]:
        """The numbers of those messages of a principal's response that its run has not taken."""
        rows = await self._database.fetch(self._queries.list_waiting_steers, response_id, principal)
        return {row["number"] for row in rows}

    async def of(self, response_id: str, principal: str) -> list[Steer]:
        """The messages of a principal's response."""
        rows = await self._database.fetch(self._queries.list_steers_of, response_id, principal)
        return [self.opened(response_id, row) for row in rows]

    def opened(self, response_id: str, row: Record) -> Steer:
        text = self._opened(response_id, row["number"], row["item"])
        return Steer(row["number"], text, row["output_index"], row["turn"])

    def _sealed(self, response_id: str, number: int, item: dict[str, Any]) -> str:
        return self._sealing.seal_text(steer_place(response_id, number), dumps(item).decode())

    def _opened(self, response_id: str, number: int, text: str) -> str:
        return self._sealing.open_text(steer_place(response_id, number), text)


def _check_live(response_id: str, status: Status, *, ending: bool) -> None:
    if is_terminal(status):
        raise NotSteerable(
            f"The response {response_id} has ended ({status}) and takes no more messages; continue "
            "it with previous_response_id.",
            param="id",
            code="response_already_completed",
        )
    if ending:
        raise NotSteerable(
            f"The response {response_id} is being cancelled and takes no more messages.", param="id"
        )


def _hashed(response_id: str, key: str) -> str:
    return hashlib.sha256(f"{response_id} {key}".encode("utf-8", "surrogatepass")).hexdigest()
