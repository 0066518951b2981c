"""Connections to Postgres: a pool for requests, lanes for the log, a direct one for LISTEN."""

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator
from typing import Any, Final

import asyncpg

from longrun.backoff import Backoff
from longrun.errors import ConfigurationError, Unavailable
from longrun.settings import Settings
from longrun.store import tls
from longrun.store.connections import (
    CONNECT_TIMEOUT,
    SILENT_TIMEOUT,
    Asked,
    Lane,
    Lent,
    Session,
    choice_of_host,
    greet,
)
from longrun.store.queries import Queries
from longrun.store.sealing import Sealing
from longrun.store.sqlstates import CANNOT_CONNECT, FAILURES, is_gone, is_hopeless
from longrun.store.standby import Standby

log = logging.getLogger("longrun.store")

OLDEST_POSTGRES: Final = 140000
STATEMENT_TIMEOUT: Final = 30.0
CLOSE_TIMEOUT: Final = 1.0
FIRST_CONNECT_TRIES: Final = 6

READ_TRIES: Final = 3

Connection = asyncpg.pool.PoolConnectionProxy | asyncpg.Connection


def is_unreadable(error: BaseException) -> bool:
    """Whether it is about a URL itself, and so may quote a part of a password: not to be shown."""
    return isinstance(error, ValueError) and not isinstance(
        error, asyncpg.InterfaceError | ssl.SSLError
    )


def refused(variable: str, url: str, error: BaseException) -> ConfigurationError | None:
    """What an operator is told of a connection that will not be made; None where it may be later.

    Args:
        variable: the setting that the URL comes from.
    """
    if is_unreadable(error):
        return ConfigurationError(f"{variable}: cannot be read as a URL")
    if tls.is_refusal(error):
        return ConfigurationError(
            f"{variable}: cannot connect to Postgres: {tls.in_words(error, url)}"
        )
    if is_hopeless(error):
        return ConfigurationError(f"{variable}: cannot connect to Postgres: {error}")
    return None


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


class Database:
    """The connections of one replica, and the queries for its schema."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.queries = Queries(settings.db_schema)
        read_url = settings.read_database_url
        self.standby = Standby(None if read_url is None else self._connect_to_standby)
        self.sealing = Sealing(settings.key_ring)
        self._url: str
        self._listen_url: str
        self._requests: asyncpg.Pool
        self._lanes: list[Lane] = []
        self._waiting: set[Asked] = set()
        self.silent_since: float | None = None
        """Since when Postgres does not answer, as `Pulse` has found; requests then fail sooner."""

    async def open(self, url: str, listen_url: str | None = None) -> None:
        """Open the pools and check the server.

        Raises:
            ConfigurationError: no connection, a Postgres that is too old, or one not in UTF-8; or
                a file for TLS that cannot be used.
        """
        self._url, self._listen_url = url, listen_url or url
        tls.check_files("LONGRUN_DATABASE_URL", url)
        if (read_url := self.settings.read_database_url) is not None:
            tls.check_files("LONGRUN_READ_DATABASE_URL", read_url.get_secret_value())
        if listen_url is not None:
            tls.check_files("LONGRUN_LISTEN_DATABASE_URL", listen_url)
        self._requests = await self._first_pool(self.settings.pool_size)
        try:
            await self._check_server()
        except BaseException:
            await self.close()
            raise

    async def _pool(self, size: int) -> asyncpg.Pool:
        # No floor: asyncpg would restore it by itself, with a traceback for each try while
        # Postgres is away.
        pool = await asyncpg.create_pool(
            self._url,
            min_size=0,
            max_size=size,
            max_inactive_connection_lifetime=300,
            init=self._greet,
            **self._options("longrun", self._url),
        )
        try:
            await pool.release(await pool.acquire(timeout=CONNECT_TIMEOUT))
        except BaseException:
            pool.terminate()
            raise
        return pool

    def _options(self, name: str, url: str, session: str = "primary") -> dict[str, Any]:
        return {
            "timeout": CONNECT_TIMEOUT,
            "command_timeout": STATEMENT_TIMEOUT,
            "statement_cache_size": self.settings.statement_cache_size,
            # No statement is prepared and planned anew every few minutes, while an append waits.
            "max_cached_statement_lifetime": 0,
            "server_settings": {"application_name": name},
            "connection_class": Session,
            **choice_of_host(url, session),
        }

    async def _greet(self, connection: asyncpg.Connection) -> None:
        # Without a statement cache there is a pooler, whose sessions are not ours to set up.
        if self.settings.statement_cache_size:
            await greet(connection, self.queries.greet)

    async def _connect_to_standby(self) -> asyncpg.Connection:
        assert self.settings.read_database_url is not None
        url = self.settings.read_database_url.get_secret_value()
        return await self._connected(url, self._options("longrun standby", url, "prefer-standby"))

    async def _connect(self, name: str, plans_once: bool) -> asyncpg.Connection:
        connection = await self._connected(self._url, self._options(name, self._url))
        if plans_once and self.settings.statement_cache_size:
            try:
                await connection.execute(self.queries.plan_once)
            except BaseException:
                connection.terminate()
                raise
        return connection

    async def _connected(self, url: str, options: dict[str, Any]) -> asyncpg.Connection:
        connection: asyncpg.Connection = await asyncpg.connect(url, **options)
        try:
            await self._greet(connection)
        except BaseException:
            connection.terminate()
            raise
        return connection

    def lane(self, name: str, *, plans_once: bool = False) -> Lane:
        """A connection for one part of the replica, beside the pool.

        Args:
            name: shown in pg_stat_activity, after `longrun`.
            plans_once: each statement is planned once, for whatever values; else five times for the
                values that it comes with, before Postgres may keep a plan.
        """
        made = Lane(
            lambda: self._connect(f"longrun {name}", plans_once),
            self._waiting,
            prepares=bool(self.settings.statement_cache_size),
        )
        self._lanes.append(made)
        return made

    async def _first_pool(self, size: int) -> asyncpg.Pool:
        backoff = Backoff(0.2, 4)
        for attempt in range(FIRST_CONNECT_TRIES):
            try:
                return await self._pool(size)
            except CANNOT_CONNECT as error:
                if said := refused("LONGRUN_DATABASE_URL", self._url, error):
                    raise said from (None if is_unreadable(error) else error)
                if attempt == FIRST_CONNECT_TRIES - 1:
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
        self.standby.close()
        for lane in self._lanes:
            lane.terminate()
        if self.silent_since is not None:
            # It hangs: to say goodbye would take the time that the process has to end in.
            self._requests.terminate()
            return
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._requests.close()
        except FAILURES:
            self._requests.terminate()

    async def connect_directly(self, name: str) -> asyncpg.Connection:
        """A connection outside the pools, on the direct URL. The caller terminates it.

        No statement on it takes longer than a third of a lease, so that a partition at any moment
        is noticed before the lease is over.

        Args:
            name: shown in pg_stat_activity.
        """
        connection = await asyncpg.connect(
            self._listen_url,
            timeout=CONNECT_TIMEOUT,
            command_timeout=max(1.0, self.settings.lease_seconds / 3),
            statement_cache_size=0,
            server_settings={"application_name": name},
            connection_class=Session,
            **choice_of_host(self._listen_url),
        )
        try:
            await greet(connection, self.queries.greet)
        except BaseException:
            connection.terminate()
            raise
        return connection

    def direct_way_refused(self, error: BaseException) -> ConfigurationError | None:
        """As `refused`, of the direct URL."""
        return refused("LONGRUN_LISTEN_DATABASE_URL", self._listen_url, error)

    # -- connections that are dead but open (see Pulse) ---------------------------------------

    def waiting_since(self, moment: float) -> list[Asked]:
        """What was asked before a moment of the monotonic clock and has no answer yet."""
        return [asked for asked in self._waiting if asked.since < moment]

    @property
    def waiting(self) -> int:
        """How many statements were asked and have no answer yet."""
        return len(self._waiting)

    def connections(self) -> dict[str, int]:
        """How many connections for requests there are: `busy`, `idle`, and the `limit` of all."""
        pool = self._requests
        idle = pool.get_idle_size()
        return {"busy": pool.get_size() - idle, "idle": idle, "limit": pool.get_max_size()}

    def beats(self, idle: float) -> list[Coroutine[Any, Any, None]]:
        """A sign of life of each lane that was not used for `idle` seconds."""
        return [lane.beat(self.queries.beat, idle) for lane in self._lanes]

    async def drop(self, dead: Iterable[Asked]) -> None:
        """End connections, whose statements then fail at once, and all idle ones of the pool."""
        for asked in dead:
            # One that was answered meanwhile may have been lent again.
            if asked in self._waiting:
                asked.drop()
        await self._requests.expire_connections()

    # -- statements ---------------------------------------------------------------------------

    def _lent(self) -> Lent:
        wait = CONNECT_TIMEOUT if self.silent_since is None else SILENT_TIMEOUT
        return Lent(self._requests, self._waiting, wait)

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A transaction for a request.

        Raises:
            Unavailable: Postgres is away; whether the transaction committed is not known.
        """
        with unavailable_if_gone():
            async with self._lent() as connection:
                transaction = connection.transaction()
                await transaction.start()
                try:
                    yield connection
                except (asyncio.CancelledError, TimeoutError):
                    # Not rolled back, as Postgres may hang: it ends with its connection.
                    connection.terminate()
                    raise
                except BaseException:
                    with contextlib.suppress(*FAILURES):  # one that is gone rolls back by itself
                        await transaction.rollback()
                    raise
                await transaction.commit()

    async def execute(self, query: str, *args: Any) -> str:
        with unavailable_if_gone():
            async with self._lent() as connection:
                return str(await connection.execute(query, *args))

    async def fetch(self, query: str, *args: Any) -> list[asyncpg.Record]:
        """Read; tried again at once on another connection when one turns out to be dead."""
        with unavailable_if_gone():
            backoff = Backoff(0.1, 0.2)
            for attempt in range(READ_TRIES):
                try:
                    async with self._lent() as connection:
                        return list(await connection.fetch(query, *args))
                except FAILURES as error:
                    last = attempt == READ_TRIES - 1 or self.silent_since is not None
                    if last or not is_gone(error):
                        raise
                    await backoff.pause()
        raise AssertionError("unreachable")

    async def fetch_once(self, query: str, *args: Any) -> list[asyncpg.Record]:
        """Write, and read what was written: one statement, which is its own transaction.

        Raises:
            Unavailable: Postgres is away; whether it committed is not known.
        """
        with unavailable_if_gone():
            async with self._lent() as connection:
                return list(await connection.fetch(query, *args))

    async def fetch_row(self, query: str, *args: Any) -> asyncpg.Record | None:
        rows = await self.fetch(query, *args)
        return rows[0] if rows else None
