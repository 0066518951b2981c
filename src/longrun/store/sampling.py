"""What nothing else counts, sampled for `/metrics`: the queue, what of it nobody serves, the
replicas, Postgres's notification queue, and this replica's connections."""

import asyncio
from typing import Final

from longrun import metrics
from longrun.backoff import sleep_unless
from longrun.store.database import Database
from longrun.store.unserved import Unserved, unserved_in
from longrun.supervision import finished_before

INTERVAL: Final = 10.0


class Sampling:
    """One per replica."""

    def __init__(self, database: Database, replica_id: str) -> None:
        self._database = database
        self._replica_id = replica_id
        self.unserved = Unserved()

    async def run(self, stop: asyncio.Event) -> None:
        """Look again and again until `stop` is set."""
        while True:
            await finished_before(stop, self.look())
            if await sleep_unless(stop, INTERVAL):
                return

    async def look(self) -> None:
        """Set the gauges.

        Raises:
            Unavailable: Postgres is away.
        """
        for state, count in self._database.connections().items():
            metrics.pool_connections.labels(state).set(count)
        metrics.pool_waiting.set(self._database.waiting)
        row = await self._database.fetch_row(
            self._database.queries.sample_cluster, self._replica_id
        )
        assert row is not None
        metrics.queued.set(row["waiting"])
        metrics.queued_seconds.set(row["oldest"])
        metrics.replicas.set(row["replicas"])
        metrics.notification_queue.set(row["notifications"])
        self.unserved.looked(unserved_in(row), tells=row["first"])
