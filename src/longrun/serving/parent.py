"""`longrun serve --workers N`: one process that serves nothing itself, and keeps N that do.

It binds the socket, owns a share in the embedded Postgres, applies the migrations, and supervises
the workers (`workers`). Each of them is this command once more, and a replica of its own.
"""

import asyncio
import logging
import os
import signal
from collections.abc import Callable

from longrun.serving import sockets
from longrun.serving.workers import Workers
from longrun.settings import Settings
from longrun.store.database import Database
from longrun.store.migrate import check_migrated, migrate
from longrun.store.opening import Opening

log = logging.getLogger("longrun")


def run(settings: Settings, count: int, started: Callable[[str, list[str]], None]) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit status.

    SIGHUP replaces the workers one by one; where it comes from a terminal that is gone, it stops.

    Args:
        started: called with the server's URL and the agents when all workers answer requests.

    Raises:
        ConfigurationError: the server cannot start; says why.
    """
    return asyncio.run(_serve(settings, count, started))


async def _serve(settings: Settings, count: int, started: Callable[[str, list[str]], None]) -> int:
    opening = Opening(Database(settings))
    with sockets.bound(settings) as listening:
        url = sockets.url(listening, settings)
        workers = Workers(
            count,
            listening,
            lease_seconds=settings.lease_seconds,
            drain_seconds=settings.drain_seconds,
            started=lambda models: started(url, models),
        )
        signals = _Signals(workers, opening)
        async with opening.opened() as database:
            await _prepare(database, settings)
            signals.opened = True
            status = await workers.run()
            signals.opened = False
            if signals.received > 1:
                opening.abandon()
                logging.shutdown()
                os._exit(1)
            return status


async def _prepare(database: Database, settings: Settings) -> None:
    """Apply the migrations; then the connection is given back: the workers have their own."""
    if settings.auto_migrate:
        for migration in await migrate(database):
            log.info("applied migration %04d_%s", migration.version, migration.name)
    else:
        await check_migrated(database)
    await database.close()


class _Signals:
    """The first SIGTERM or SIGINT stops in order; the second at once; the third does not wait for
    that either."""

    def __init__(self, workers: Workers, opening: Opening) -> None:
        self._workers = workers
        self._opening = opening
        self._terminal = next((n for n in range(3) if os.isatty(n)), None)
        self.received = 0
        self.opened = False
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)

    def _stop(self) -> None:
        self.received += 1
        if self.received == 1:
            log.info("stopping")
            self._workers.stop()
            return
        log.warning("%s signal: exiting at once", "second" if self.received == 2 else "third")
        self._workers.exit_at_once()
        if self.received > 2 or not self.opened:
            self._workers.kill()
            if not self.opened:
                self._opening.abandon()
            logging.shutdown()
            os._exit(1)

    def _hang_up(self) -> None:
        if self._terminal is not None and not os.isatty(self._terminal):
            # Nobody asks for new workers: the window was closed.
            self._stop()
        else:
            self._workers.roll()
