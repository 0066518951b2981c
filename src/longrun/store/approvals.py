"""Approvals: what was parked when a response asked for some, and who has answered."""

from collections.abc import Sequence
from dataclasses import dataclass

from longrun.protocol import RunRequest
from longrun.store.database import Database
from longrun.store.records import Parked
from longrun.store.requests import request_of
from longrun.store.sealing import parked_place


@dataclass(frozen=True, slots=True)
class Asked:
    """A request for an approval, in a response of the principal's.

    Attributes:
        agent: the one that the response was made by.
        conversation_id: where it was asked.
        passed: something was said there since.
        format, written_by: who can read what waits for it (`Parked`).
        answered_by: the response that went on.
        answered: it brought an answer to this request; else it asks again.
    """

    response_id: str
    output_index: int
    agent: str
    conversation_id: str | None
    passed: bool
    format: int
    written_by: str
    answered_by: str | None
    answered: bool


class Approvals:
    """The requests for approvals of all principals; each call names the one that it is for.

    They are written with the end of the response that asks (`Ending.parked`), and answered with the
    creation of the one that goes on (`Responses.create`). Every method raises `Unavailable` when
    Postgres is away.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queries = database.queries
        self._sealing = database.sealing

    async def find(
        self, places: Sequence[tuple[str, int]], principal: str
    ) -> dict[tuple[str, int], Asked]:
        """The requests at these places, a response and an output index each; without those that
        are not there, or another principal's."""
        rows = await self._database.fetch(
            self._queries.find_requests,
            [response_id for response_id, _ in places],
            [index for _, index in places],
            principal,
        )
        return {(row["response_id"], row["output_index"]): Asked(**row) for row in rows}

    async def parked_unscoped(self, response_id: str) -> Parked | None:
        """What waits for the answers to a response's requests; None if that was deleted."""
        row = await self._database.fetch_row(self._queries.read_parked, response_id)
        if row is None:
            return None
        parked = Parked(**row)
        state = self._sealing.open_text(parked_place(response_id), parked.state)
        return parked._replace(state=state)

    async def asked(self, response_id: str, principal: str) -> RunRequest | None:
        """What a principal's response was asked; None if it was deleted."""
        row = await self._database.fetch_row(self._queries.read_request, response_id, principal)
        return request_of(dict(row), self._sealing) if row else None
