"""Connections to Postgres: a pool for requests, lanes for the log, a direct one for LISTEN."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, Final

import asyncpg

from longrun.backoff import Backoff
from longrun.errors import ConfigurationError, Unavailable
from longrun.settings import Settings
from longrun.store.queries import Queries
from longrun.store.sqlstates import CANNOT_CONNECT, FAILURES, is_gone, is_hopeless

log = logging.getLogger("longrun.store")

OLDEST_POSTGRES: Final = 140000
CONNECT_TIMEOUT: Final = 10.0
STATEMENT_TIMEOUT: Final = 30.0
CLOSE_TIMEOUT: Final = 1.0
FIRST_CONNECT_TRIES: Final = 6

READ_TRIES: Final = 3

Connection = asyncpg.pool.PoolConnectionProxy | asyncpg.Connection


class _PooledConnection(asyncpg.Connection):
    """Nothing of ours leaves a state in a pooled session, so that there is none to reset: one
    round trip less for each statement. An open transaction is rolled back all the same."""

    def get_reset_query(self) -> str:
        return ""


@contextlib.contextmanager
def unavailable_if_gone() -> Iterator[None]:
    """Turn a lost connection into `Unavailable`, whose text is fit for a client."""
    try:
        yield
    except FAILURES as error:
        if not is_gone(error):
            raise
        log.warning("Postgres is away: %s: %s", type(error).__name__, error)
        raise Unavailable("The database is not available; try again.", retry_after=1) from error


class Lane:
    """A connection that one part of the replica keeps for itself, made when it is first needed.

    The log writer, the announcer and the hub have one each: no burst of requests makes them wait,
    and a statement is spared what a pool does around it, which is as much as a small statement
    takes. What comes of a statement comes out as it is; after an error that `is_gone` the
    connection is a new one, so that a server that lost its primary's role is left.
    """

    def __init__(self, connect: Callable[[], Awaitable[asyncpg.Connection]]) -> None:
        self._connect = connect
        self._connection: asyncpg.Connection | None = None
        self._turn = asyncio.Lock()

    async def fetch(self, query: str, *args: Any) -> list[asyncpg.Record]:
        """Execute one statement, which is its own transaction.

        Raises:
            ConnectionError: there is no connection to be had; nothing was sent.
        """
        async with self._turn:
            connection = await self._connected()
            try:
                return await connection.fetch(query, *args)
            except asyncio.CancelledError:
                # Its answer may be under way still.
                self.terminate()
                raise
            except FAILURES as error:
                if is_gone(error):
                    self.terminate()
                raise

    async def _connected(self) -> asyncpg.Connection:
        if self._connection is None or self._connection.is_closed():
            try:
                self._connection = await self._connect()
            except CANNOT_CONNECT as error:
                # Whatever the reason, it is none of the statement's.
                raise ConnectionError(f"cannot connect: {type(error).__name__}: {error}") from error
        return self._connection

    def terminate(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None


class Database:
    """The connections of one replica, and the queries for its schema."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.queries = Queries(settings.db_schema)
        self._url: str
        self._listen_url: str
        self._requests: asyncpg.Pool
        self._lanes: list[Lane] = []

    async def open(self, url: str, listen_url: str | None = None) -> None:
        """Open the pools and check the server.

        Raises:
            ConfigurationError: no connection, a Postgres that is too old, or one not in UTF-8.
        """
        self._url, self._listen_url = url, listen_url or url
        self._requests = await self._first_pool(self.settings.pool_size)
        try:
            await self._check_server()
        except BaseException:
            await self.close()
            raise

    async def _pool(self, size: int) -> asyncpg.Pool:
        return await asyncpg.create_pool(
            self._url,
            min_size=1,
            max_size=size,
            max_inactive_connection_lifetime=300,
            connection_class=_PooledConnection,
            **self._options("longrun"),
        )

    def _options(self, name: str) -> dict[str, Any]:
        return {
            "timeout": CONNECT_TIMEOUT,
            "command_timeout": STATEMENT_TIMEOUT,
            "statement_cache_size": self.settings.statement_cache_size,
            "server_settings": {"application_name": name},
        }

    def lane(self, name: str) -> Lane:
        """A connection for one part of the replica, beside the pool.

        Args:
            name: shown in pg_stat_activity, after `longrun`.
        """
        made = Lane(lambda: asyncpg.connect(self._url, **self._options(f"longrun {name}")))
        self._lanes.append(made)
        return made

    async def _first_pool(self, size: int) -> asyncpg.Pool:
        backoff = Backoff(0.2, 4)
        for attempt in range(FIRST_CONNECT_TRIES):
            try:
                return await self._pool(size)
            except CANNOT_CONNECT as error:
                if is_hopeless(error) or attempt == FIRST_CONNECT_TRIES - 1:
                    raise ConfigurationError(
                        f"LONGRUN_DATABASE_URL: cannot connect to Postgres: {error}"
                    ) from error
                log.warning("waiting for Postgres: %s", error)
                await backoff.pause()
        raise AssertionError("unreachable")

    async def _check_server(self) -> None:
        row = await self.fetch_row(self.queries.describe_server)
        assert row is not None
        if row["version"] < OLDEST_POSTGRES:
            raise ConfigurationError(
                f"Postgres {row['version'] // 10000} is too old: longrun needs 14 or newer"
            )
        if row["encoding"] != "UTF8":
            raise ConfigurationError(
                f"the database's encoding is {row['encoding']}: longrun needs UTF8"
            )

    async def close(self) -> None:
        for lane in self._lanes:
            lane.terminate()
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._requests.close()
        except FAILURES:
            self._requests.terminate()

    async def connect_directly(self, name: str) -> asyncpg.Connection:
        """A connection outside the pools, on the direct URL. The caller closes it.

        Args:
            name: shown in pg_stat_activity.
        """
        return await asyncpg.connect(
            self._listen_url,
            timeout=CONNECT_TIMEOUT,
            statement_cache_size=0,
            server_settings={"application_name": name},
        )

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A transaction for a request.

        Raises:
            Unavailable: Postgres is away; whether the transaction committed is not known.
        """
        with unavailable_if_gone():
            async with (
                self._requests.acquire(timeout=CONNECT_TIMEOUT) as connection,
                connection.transaction(),
            ):
                yield connection

    async def execute(self, query: str, *args: Any) -> str:
        with unavailable_if_gone():
            async with self._requests.acquire(timeout=CONNECT_TIMEOUT) as connection:
                return await connection.execute(query, *args)

    async def fetch(self, query: str, *args: Any) -> list[asyncpg.Record]:
        """Read; tried again at once on another connection when one turns out to be dead."""
        with unavailable_if_gone():
            backoff = Backoff(0.1, 0.2)
            for attempt in range(READ_TRIES):
                try:
                    async with self._requests.acquire(timeout=CONNECT_TIMEOUT) as connection:
                        return await connection.fetch(query, *args)
                except FAILURES as error:
                    if not is_gone(error) or attempt == READ_TRIES - 1:
                        raise
                    await backoff.pause()
        raise AssertionError("unreachable")

    async def fetch_once(self, query: str, *args: Any) -> list[asyncpg.Record]:
        """Write, and read what was written: one statement, which is its own transaction.

        Raises:
            Unavailable: Postgres is away; whether it committed is not known.
        """
        with unavailable_if_gone():
            async with self._requests.acquire(timeout=CONNECT_TIMEOUT) as connection:
                return await connection.fetch(query, *args)

    async def fetch_row(self, query: str, *args: Any) -> asyncpg.Record | None:
        rows = await self.fetch(query, *args)
        return rows[0] if rows else None
