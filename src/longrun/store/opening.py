"""Opening and closing the database of a process: the one its settings name, or an embedded one."""

import contextlib
import logging
from asyncio import wrap_future
from collections.abc import AsyncIterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from longrun.embedded.share import EmbeddedPostgres
from longrun.store.database import Database

log = logging.getLogger("longrun.store")

ABANDON_SECONDS: Final = 3.0
"""What an embedded Postgres has to start, and to stop in order, once its process exits at once."""


class Opening:
    """Opens `database` for a server or a command."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._settings = database.settings
        self._embedded: Future[EmbeddedPostgres] | None = None

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[Database]:
        """The database, within the block. An embedded Postgres stops with its last user.

        Raises:
            ConfigurationError: there is none, or it cannot be used; says why.
        """
        listen = self._settings.listen_database_url
        if self._settings.database_url is None:
            async with self._embedded_url() as url, self._connected(url, None):
                yield self._database
        else:
            url = self._settings.database_url.get_secret_value()
            async with self._connected(url, listen.get_secret_value() if listen else None):
                yield self._database

    @contextlib.asynccontextmanager
    async def _connected(self, url: str, listen_url: str | None) -> AsyncIterator[None]:
        await self._database.open(url, listen_url)
        try:
            yield
        finally:
            await self._database.close()

    @contextlib.asynccontextmanager
    async def _embedded_url(self) -> AsyncIterator[str]:
        # A thread of its own: tools may have taken all the others.
        thread = ThreadPoolExecutor(1, "longrun-embedded")
        self._embedded = thread.submit(EmbeddedPostgres.start, self._settings.data_dir)
        try:
            yield (await wrap_future(self._embedded)).url
        finally:
            try:
                await wrap_future(thread.submit(self._stop_embedded))
            finally:
                thread.shutdown(wait=False)

    def _stop_embedded(self) -> None:
        """In the thread that started it, so after that, whether or not that was waited for."""
        started = self._embedded
        if started is not None and not started.cancelled() and started.exception() is None:
            started.result().stop()

    def abandon(self) -> None:
        """Leave no Postgres behind when this process exits at once. Blocks, but not for long."""
        if self._embedded is None:
            return
        try:
            self._embedded.result(ABANDON_SECONDS).stop(ABANDON_SECONDS)
        except Exception as error:
            log.warning("the embedded Postgres may still be running: %s", error)
