"""Whether this replica's key ring has every key that something may be encrypted with.

A replica that lacks one could not read what others write. It does not start; one that lacks a key
which came later says so in `/readyz`, and takes no work.
"""

import asyncio
import logging
from typing import Final

from longrun.backoff import sleep_unless
from longrun.errors import ConfigurationError
from longrun.store.database import Database
from longrun.store.sealing import check_value
from longrun.supervision import finished_before

log = logging.getLogger("longrun.store.ring_check")

INTERVAL: Final = 3.0


class RingCheck:
    """One per replica.

    Attributes:
        problem: what is wrong with its ring; None: nothing.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queries = database.queries
        self._ring = database.sealing.ring
        self._checks = {key.id: check_value(key) for key in self._ring.keys}
        self.problem: str | None = None

    async def begin(self) -> None:
        """Look, and say which key this replica encrypts with.

        Raises:
            ConfigurationError: the ring lacks a key; says what to do.
            Unavailable: Postgres is away.
        """
        await self.look()
        if self.problem is not None:
            raise ConfigurationError(f"LONGRUN_ENCRYPTION_KEYS: {self.problem}")
        await self._note()

    async def run(self, stop: asyncio.Event) -> None:
        """Look again and again until `stop` is set."""
        while not await sleep_unless(stop, INTERVAL):
            await finished_before(stop, self._look_again())

    async def _look_again(self) -> None:
        before = self.problem
        await self.look()
        if self.problem is None:
            await self._note()
        elif self.problem != before:
            log.error("%s", self.problem)

    async def look(self) -> None:
        rows = await self._database.fetch(self._queries.list_encryption_keys)
        lacking = [row["id"] for row in rows if row["id"] not in self._checks]
        other = [
            row["id"]
            for row in rows
            if self._checks.get(row["id"], row["check_value"]) != row["check_value"]
        ]
        self.problem = None
        if lacking:
            names = ", ".join(map(repr, lacking))
            self.problem = (
                f"the ring lacks {names}, and data in this database may be encrypted with it. Add "
                "it at the end of the ring; if it is lost for good, `longrun encryption forget` "
                "lets servers start without it"
            )
        elif other:
            names = ", ".join(map(repr, other))
            self.problem = f"{names} is not the key that this database knows by that id"

    async def _note(self) -> None:
        key = self._ring.writes
        if key is not None:
            query = self._queries.note_encryption_key
            await self._database.execute(query, key.id, self._checks[key.id])
