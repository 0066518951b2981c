"""Forks: what of a stored response another one may go on from."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from longrun.protocol import RunRequest, Status
from longrun.store.database import Database
from longrun.store.records import Step
from longrun.store.requests import request_of
from longrun.store.sealing import item_place, step_place


class Recorded(NamedTuple):
    """A step as it is stored, and when it was recorded, in seconds since the epoch."""

    step: Step
    at: float


class Numbered(NamedTuple):
    """A step of a run as people count them: its model turns, each with its calls behind it.

    Attributes:
        step: its number, from 1, which stays the same whichever of several calls ends first.
        turn: which model turn it is, or is a call of; from 0.
        name: the agent of a turn; the tool of a call.
        call_id: that of a call.
        arguments: those of a call, or what a turn has said: the beginning.
        finished: whether it is recorded, so that a fork may go on from it.
        recorded_at: in seconds since the epoch; None: it is not recorded, or by its inner steps.
    """

    step: int
    kind: Literal["model", "tool", "handoff"]
    turn: int
    name: str
    call_id: str | None
    arguments: str
    finished: bool
    recorded_at: float | None


class Copied(NamedTuple):
    """What a fork takes along: the steps that it begins with, which say nothing of usage, and after
    which model turn its own input comes (-1: before the first one)."""

    steps: list[Step]
    turn: int


@dataclass(frozen=True, slots=True)
class Source:
    """A response to be forked.

    Attributes:
        reads: the conversation that it reads, and up to which position.
        steps: with references as they are stored.
        items: by output index.
    """

    request: RunRequest
    status: Status
    reads: tuple[str | None, int | None]
    steps: list[Recorded]
    items: dict[int, str]


class Forks:
    """The sources of forks; each call names the principal that it is for."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queries = database.queries
        self._sealing = database.sealing

    async def source(self, response_id: str, principal: str) -> Source | None:
        """A response with its steps; None: it is not there, not kept, or not theirs.

        Raises:
            Unreadable: it cannot be opened.
            Unavailable: Postgres is away.
        """
        queries, fetch = self._queries, self._database.fetch
        row = await self._database.fetch_row(queries.read_source, response_id, principal)
        if row is None:
            return None
        # Steps before the items that they refer to: what is live goes on meanwhile.
        steps = await fetch(queries.read_source_steps, response_id, principal)
        items = await fetch(queries.read_source_items, response_id, principal)
        return Source(
            request_of(dict(row), self._sealing),
            row["status"],
            (row["reads_on"], row["reads_until"]),
            [self._recorded(response_id, *step) for step in steps],
            {
                index: self._sealing.open_text(item_place(response_id, index), item)
                for index, item in items
            },
        )

    def _recorded(
        self,
        response_id: str,
        scope: str,
        kind: str,
        key: str,
        fingerprint: str,
        result: str,
        at: float,
    ) -> Recorded:
        place = (response_id, scope, kind, key)
        opened = [
            self._sealing.open_text(step_place(*place, column), text)
            for column, text in (("fingerprint", fingerprint), ("result", result))
        ]
        return Recorded(Step(scope, kind, key, *opened), at)
