"""What replicas tell each other of limits: requests of the last minute, tokens of a day."""

from collections.abc import Sequence
from typing import NamedTuple

from longrun.store.database import Database


class Told(NamedTuple):
    """What a replica tells of one subject.

    `taken`: how many requests it has taken that the others have not heard of. `rate`: how many of
    all that were taken wear off in a second.
    """

    subject: str
    taken: float
    rate: float


class SharedLimits:
    """The counts that all replicas have in common."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queries = database.queries

    async def share(self, told: Sequence[Told]) -> dict[str, float]:
        """Add what this replica has taken. Returns, by subject, what all replicas have taken that
        has not worn off.

        Raises:
            Unavailable: Postgres is away; whether it was added is not known.
        """
        columns = [list(column) for column in zip(*told, strict=True)]
        rows = await self._database.fetch_once(self._queries.share_rates, *columns)
        return {row["subject"]: row["level"] for row in rows}

    async def tokens_today(self, principal: str, account: str | None) -> int:
        """How many tokens were spent today, by a principal or by the account that acts for it."""
        row = await self._database.fetch_row(self._queries.tokens_today, principal, account)
        return int(row["tokens"]) if row else 0

    async def spend(self, tokens: int, principal: str, account: str | None) -> None:
        """Count tokens that were spent beside responses. Once at most: whether it was counted is
        not known if Postgres goes away meanwhile.

        Raises:
            Unavailable: Postgres is away.
        """
        whose = sorted({principal, account or principal})
        await self._database.fetch_once(self._queries.spend_tokens, whose, tokens)

    async def forget(self, tokens_after: float) -> None:
        """Delete what has worn off, and tokens that were spent longer ago than so many seconds."""
        await self._database.execute(self._queries.forget_rates)
        await self._database.execute(self._queries.forget_tokens, tokens_after)
