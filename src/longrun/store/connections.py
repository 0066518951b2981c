"""One connection to Postgres: how it notices that the other end is dead, and how it is lent.

Three things notice it. The kernel does where packets get no answer (keepalives, and a limit on
what is sent and not acknowledged), on both ends. Every statement has a timeout. And where
something in between acknowledges and swallows everything, `Pulse` asks on another connection
whether Postgres is at work on a statement that takes long.
"""

import asyncio
import contextlib
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import asyncpg
from asyncpg.prepared_stmt import PreparedStatement

from longrun.store.sqlstates import CANNOT_CONNECT, FAILURES, is_gone

CONNECT_TIMEOUT: Final = 10.0

SILENT_TIMEOUT: Final = 2.0
"""Seconds that a request waits for a connection to a Postgres that is known not to answer."""

CANCEL_TIMEOUT: Final = 0.5
"""Seconds that Postgres has to confirm that a statement which was given up is cancelled."""

KEEPALIVE_IDLE: Final = 5
KEEPALIVE_INTERVAL: Final = 3
KEEPALIVE_COUNT: Final = 3
UNACKNOWLEDGED_MS: Final = 10_000
"""A peer that is silent for about 15 s is dead, one that acknowledges nothing after 10 s."""


class Session(asyncpg.Connection):
    """A connection of ours. Nothing leaves a state in it, so that a pool need not reset it: one
    round trip less for each statement. An open transaction is rolled back all the same.

    `pid_is_real`: the process at the other end is Postgres's own, and no pooler's invention.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.pid_is_real = False
        self._way: asyncio.Transport = self._transport  # type: ignore[attr-defined]
        _notice_death(self._way.get_extra_info("socket"))

    def get_reset_query(self) -> str:
        return ""

    def is_sending(self) -> bool:
        """Whether a part of a statement has not even left this process."""
        return bool(self._way.get_write_buffer_size())


def _notice_death(end: Any) -> None:
    """Let the kernel find out that the other end of a TCP connection is gone."""
    if end is None or end.family == socket.AF_UNIX:
        return
    end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    idle = "TCP_KEEPALIVE" if sys.platform == "darwin" else "TCP_KEEPIDLE"
    for name, value in (
        (idle, KEEPALIVE_IDLE),
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL),
        ("TCP_KEEPCNT", KEEPALIVE_COUNT),
        ("TCP_USER_TIMEOUT", UNACKNOWLEDGED_MS),
    ):
        if (option := getattr(socket, name, None)) is not None:
            end.setsockopt(socket.IPPROTO_TCP, option, value)


def choice_of_host(url: str, session: str = "primary") -> dict[str, Any]:
    """Options for a URL that names several hosts: the primary is connected to, though a standby
    that comes first would answer too, unless the URL itself says which (target_session_attrs).

    Args:
        session: which to connect to instead.
    """
    parts = urlsplit(url)
    asked = parse_qs(parts.query)
    hosts = [parts.netloc.rpartition("@")[2], *asked.get("host", ())]
    if "target_session_attrs" in asked or not any("," in each for each in hosts):
        return {}
    return {"target_session_attrs": session}


async def greet(connection: asyncpg.Connection, query: str) -> None:
    """Have Postgres notice our own death in the same way, and tell which process it is."""
    row = await connection.fetchrow(
        query,
        *map(str, (KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVE_COUNT, UNACKNOWLEDGED_MS)),
        timeout=CONNECT_TIMEOUT,
    )
    assert isinstance(connection, Session)
    connection.pid_is_real = row is not None and row["pid"] == connection.get_server_pid()


class Asked:
    """A statement, or a connection for one, that is waited for. `since`: by the monotonic clock."""

    __slots__ = ("connection", "since")

    def __init__(self) -> None:
        self.since = time.monotonic()
        self.connection: Any = None

    @property
    def pid(self) -> int | None:
        """The process that has it, if it was sent whole, and to no pooler."""
        with contextlib.suppress(asyncpg.InterfaceError):  # ended meanwhile
            if (
                self.connection is not None
                and self.connection.pid_is_real
                and not self.connection.is_sending()
            ):
                return int(self.connection.get_server_pid())
        return None

    def drop(self) -> None:
        """End its connection; it then fails at once."""
        with contextlib.suppress(asyncpg.InterfaceError):
            if self.connection is not None:
                self.connection.terminate()


class Lent:
    """A connection of the pool, for the length of an `async with`."""

    __slots__ = ("_asked", "_pool", "_wait", "_waiting")

    def __init__(self, pool: asyncpg.Pool, waiting: set[Asked], wait: float) -> None:
        self._pool = pool
        self._waiting = waiting
        self._wait = wait

    async def __aenter__(self) -> Any:
        self._asked = Asked()
        self._waiting.add(self._asked)
        try:
            connection = await self._pool.acquire(timeout=self._wait)
        except BaseException:
            self._waiting.discard(self._asked)
            raise
        self._asked.connection = connection
        return connection

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._waiting.discard(self._asked)
        connection = self._asked.connection
        if not isinstance(error, asyncio.CancelledError | TimeoutError):
            await self._pool.release(connection)
            return
        # Given up: asyncpg asks Postgres to cancel the statement, and would wait for the answer
        # of one that hangs for as long as that hangs. It ends the connection when this times out.
        with contextlib.suppress(*FAILURES):
            await self._pool.release(connection, timeout=CANCEL_TIMEOUT)


class Lane:
    """A connection that one part of the replica keeps for itself, made when it is first needed.

    The log writer, the announcer and the hub have one each: no burst of requests makes them wait,
    and a statement is spared what a pool does around it, which is as much as a small statement
    takes. What comes of a statement comes out as it is; after an error that `is_gone` the
    connection is a new one, so that a server that lost its primary's role is left.

    Args:
        prepares: whether statements may be kept (`keep`): not behind a pooler.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[asyncpg.Connection]],
        waiting: set[Asked],
        *,
        prepares: bool = True,
    ) -> None:
        self._connect = connect
        self._waiting = waiting
        self._prepares = prepares
        self._connection: asyncpg.Connection | None = None
        self._kept: dict[str, PreparedStatement | None] = {}
        self._turn = asyncio.Lock()
        self._used = time.monotonic()

    def keep(self, query: str) -> None:
        """Have a statement at hand that is executed again and again: to find it costs as much as a
        small one takes to be sent."""
        if self._prepares:
            self._kept[query] = None

    async def fetch(self, query: str, *args: Any) -> list[asyncpg.Record]:
        """Execute one statement, which is its own transaction.

        Raises:
            ConnectionError: there is no connection to be had; nothing was sent.
        """
        async with self._turn:
            asked = Asked()
            self._waiting.add(asked)
            try:
                connection = self._connection
                if connection is None or connection.is_closed():
                    connection = await self._connected()
                asked.connection = connection
                statement = self._kept.get(query)
                if statement is not None:
                    try:
                        return await statement.fetch(*args)
                    except asyncpg.InvalidCachedStatementError:
                        pass  # a migration has changed what it returns: nothing was executed
                if query in self._kept:
                    statement = self._kept[query] = await connection.prepare(query)
                    return await statement.fetch(*args)
                return await connection.fetch(query, *args)
            except asyncio.CancelledError:
                # Its answer may be under way still.
                self.terminate()
                raise
            except FAILURES as error:
                if is_gone(error):
                    self.terminate()
                raise
            finally:
                self._waiting.discard(asked)
                self._used = asked.since

    @property
    def is_busy(self) -> bool:
        """Whether a statement is under way."""
        return self._turn.locked()

    async def _connected(self) -> asyncpg.Connection:
        self._kept = dict.fromkeys(self._kept)
        try:
            self._connection = await self._connect()
        except CANNOT_CONNECT as error:
            # Whatever the reason, it is none of the statement's.
            raise ConnectionError(f"cannot connect: {type(error).__name__}: {error}") from error
        return self._connection

    async def beat(self, query: str, idle: float) -> None:
        """Find out whether the connection still lives, if it was not used for `idle` seconds."""
        unused = time.monotonic() - self._used >= idle and not self._turn.locked()
        if unused and self._connection is not None:
            with contextlib.suppress(*FAILURES):
                await self.fetch(query)

    def terminate(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None
