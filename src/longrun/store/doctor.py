"""What `longrun doctor` looks at in a database: whether a replica could work on it, and well."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final, Literal, NamedTuple

import asyncpg

from longrun.durations import duration
from longrun.errors import ConfigurationError, LongrunError
from longrun.settings import Settings
from longrun.store.database import Database
from longrun.store.grants import check_rights
from longrun.store.migrate import check_migrated
from longrun.store.opening import Opening
from longrun.store.partitions import problem_of, seconds_ahead
from longrun.store.ring_check import RingCheck
from longrun.store.sqlstates import FAILURES
from longrun.store.unserved import Waiting, unserved_in

HEARD_WITHIN: Final = 5.0
"""Seconds that a notification may take from one connection to another."""

Row = asyncpg.Record | dict[str, Any]

LONG_TRANSACTION: Final = 600.0
LONG_WAIT: Final = 60.0
FULL: Final = 0.8
"""The part of something bounded that is in use when it is time to say so."""

NOTIFICATIONS: Final = 0.05
"""The part of the notification queue that is in use where every listener listens."""


class Finding(NamedTuple):
    """What was looked at, how it is, and what to do where it is amiss.

    `failure`: a replica would not start, or not work. `warning`: it works, and not as it should.
    """

    check: str
    state: Literal["ok", "warning", "failure"]
    said: str
    advice: str | None = None


def _ok(check: str, said: str) -> Finding:
    return Finding(check, "ok", said)


async def examine(settings: Settings) -> AsyncIterator[Finding]:
    """Each thing that is looked at, as it is found. Changes nothing."""
    database = Database(settings)
    try:
        async with Opening(database).opened():
            async for finding in _Examination(database).findings():
                yield finding
    except LongrunError as error:
        yield Finding("connection", "failure", error.message, "Mend that first: nothing else can")


@dataclass(frozen=True, slots=True)
class _Examination:
    database: Database

    async def findings(self) -> AsyncIterator[Finding]:
        queries = self.database.queries
        began = time.time()
        row = await self.database.fetch_row(queries.examine_server)
        took = time.time() - began
        assert row is not None
        yield _ok("connection", f"Postgres {row['version'].split()[0]} answers in {_ms(took)}")
        for finding in of_server(row, self.database.settings, began + took / 2):
            yield finding
        yield await self._pooler()
        yield await self._listen()
        migrated = await self._checked("schema", "up to date", check_migrated, "longrun migrate")
        yield migrated
        if migrated.state != "ok":
            return
        yield await self._checked("rights", "all that a replica needs", check_rights, None)
        yield await self._ring()
        for finding in of_replicas(await self.database.fetch(queries.list_replicas_unscoped)):
            yield finding
        yield of_partitions(await self.database.fetch(queries.look_at_partitions))
        waiting = await self.database.fetch_row(queries.sample_cluster, "")
        assert waiting is not None
        yield of_queue(waiting, self.database.settings)
        if (unserved := of_unserved(unserved_in(waiting))) is not None:
            yield unserved

    async def _checked(
        self,
        check: str,
        fine: str,
        look: Callable[[Database], Awaitable[None]],
        advice: str | None,
    ) -> Finding:
        try:
            await look(self.database)
        except ConfigurationError as error:
            return Finding(check, "failure", error.message, advice and f"Run `{advice}`")
        return _ok(check, fine)

    async def _pooler(self) -> Finding:
        """Behind a pooler in transaction mode, statements of one connection go to many servers."""
        async with self.database.transaction() as connection:
            direct = await connection.fetchval(self.database.queries.find_backend)
            told = connection.get_server_pid()
        if direct == told:
            return _ok("pooler", "none between: the connection is Postgres's own")
        settings = self.database.settings
        lacking = [
            text
            for text, fine in (
                ("LONGRUN_LISTEN_DATABASE_URL past it", settings.listen_database_url is not None),
                ("LONGRUN_STATEMENT_CACHE_SIZE=0", settings.statement_cache_size == 0),
            )
            if not fine
        ]
        if not lacking:
            return _ok("pooler", "a pooler, and the settings allow for it")
        return Finding(
            "pooler",
            "warning",
            "a pooler is in front of Postgres",
            f"Where it is in transaction mode, set {' and '.join(lacking)}",
        )

    async def _listen(self) -> Finding:
        """Whether what one connection notifies another one hears."""
        heard = asyncio.Event()
        channel = f"{self.database.queries.schema}_doctor"
        began = time.monotonic()
        try:
            connection = await self.database.connect_directly("longrun doctor")
            try:
                await connection.add_listener(channel, lambda *_: heard.set())
                await self.database.execute(self.database.queries.ring, channel, "")
                await asyncio.wait_for(heard.wait(), HEARD_WITHIN)
            finally:
                connection.terminate()
        except TimeoutError:
            return Finding(
                "LISTEN",
                "failure",
                f"a notification was not heard within {HEARD_WITHIN:.0f} s",
                "Readers would have to wait for polls. A pooler in transaction mode swallows "
                "notifications: set LONGRUN_LISTEN_DATABASE_URL to Postgres itself",
            )
        except FAILURES as error:
            return Finding(
                "LISTEN",
                "failure",
                f"no direct connection: {type(error).__name__}: {error}",
                "Check LONGRUN_LISTEN_DATABASE_URL",
            )
        return _ok("LISTEN", f"a notification arrives in {_ms(time.monotonic() - began)}")

    async def _ring(self) -> Finding:
        check = RingCheck(self.database)
        await check.look()
        if check.problem is not None:
            return Finding("encryption", "failure", check.problem)
        keys = self.database.settings.key_ring.keys
        said = f"a ring of {len(keys)} keys decrypts everything" if keys else "none"
        return _ok("encryption", said)


def of_server(row: Row, settings: Settings, now: float) -> list[Finding]:
    """What a row of `examine_server` says of the server. `now`: our clock when it was asked."""
    found = [_role(row), _clock(row["clock"] - now, settings), _durability(row)]
    found += [_connections(row, settings), _notifications(row["notifications"])]
    found += [_transactions(row["oldest"]), _vacuum(row["autovacuum"])]
    return found


def _role(row: Row) -> Finding:
    tls = "with TLS" if row["tls"] else "without TLS"
    if row["standby"]:
        return Finding(
            "server",
            "failure",
            "it is a standby, on which nothing can be written",
            "Put the primary into LONGRUN_DATABASE_URL, or all hosts: the primary is then found",
        )
    return _ok("server", f"a primary, {tls}")


def _clock(ahead: float, settings: Settings) -> Finding:
    said = f"{_ms(abs(ahead))} apart from this machine's"
    if abs(ahead) < settings.lease_seconds / 2:
        return _ok("clock", said)
    return Finding(
        "clock",
        "warning",
        said,
        "Leases depend only on Postgres's clock, but times in logs and ids do not: run NTP on both",
    )


def _durability(row: Row) -> Finding:
    off = [name for name in ("fsync", "full_page_writes") if row[name] == "off"]
    if off:
        return Finding(
            "durability",
            "warning",
            f"{' and '.join(off)} off",
            "A crash of the machine may lose or corrupt acknowledged data: turn it on",
        )
    commit = row["synchronous_commit"]
    return _ok("durability", f"synchronous_commit is {commit} (longrun commits its log with on)")


def _connections(row: Row, settings: Settings) -> Finding:
    each = settings.pool_size + 7
    said = f"{row['used']} of {row['connections']} in use; a replica takes up to {each}"
    if row["connections"] - row["used"] < each:
        return Finding(
            "connections",
            "warning",
            said,
            "There is no room for one more replica: raise max_connections, or lower "
            "LONGRUN_POOL_SIZE",
        )
    return _ok("connections", said)


def _notifications(used: float) -> Finding:
    said = f"{used:.1%} of the notification queue in use"
    if used < NOTIFICATIONS:
        return _ok("notifications", said)
    return Finding(
        "notifications",
        "failure" if used > FULL else "warning",
        said,
        "A listening session does not read, which holds up the queue and vacuum: look in "
        "pg_stat_activity for an old transaction of a session that listens. When the queue is "
        "full, every commit with a NOTIFY fails",
    )


def _transactions(oldest: float) -> Finding:
    said = f"the longest has been open for {duration(oldest)}"
    if oldest < LONG_TRANSACTION:
        return _ok("transactions", said)
    return Finding(
        "transactions",
        "warning",
        said,
        "Vacuum cannot clean up behind it: look for it in pg_stat_activity by xact_start",
    )


def _vacuum(setting: str) -> Finding:
    if setting == "on":
        return _ok("autovacuum", "on")
    return Finding("autovacuum", "warning", setting, "Tables would only grow: turn it on")


def of_replicas(rows: Sequence[Row]) -> list[Finding]:
    """What the rows of `list_replicas_unscoped` say."""
    alive = [row for row in rows if row["locked"] and row["lease_seconds"] > 0]
    dead = [row for row in rows if row not in alive and row["runs"]]
    runs = sum(row["runs"] for row in rows)
    found = [_ok("replicas", f"{len(alive)} alive, with {runs} runs")]
    if dead:
        names = ", ".join(row["id"] for row in dead)
        found = [
            Finding(
                "replicas",
                "warning" if alive else "failure",
                f"{names}: dead, with {sum(row['runs'] for row in dead)} runs",
                "Another replica will take them over within seconds"
                if alive
                else "No live replica can take them over: start one",
            )
        ]
    versions = {row["version"] for row in alive}
    if alive and versions != {version("longrun")}:
        found.append(
            Finding(
                "versions",
                "warning",
                f"replicas run {', '.join(sorted(versions))}; this is {version('longrun')}",
                "Finish the rolling deployment",
            )
        )
    return found


def of_partitions(rows: Sequence[asyncpg.Record]) -> Finding:
    """What the rows of `look_at_partitions` say."""
    problem = next(filter(None, map(problem_of, rows)), None)
    if problem is None:
        ahead = duration(min(map(seconds_ahead, rows)))
        count = sum(row["ranges"] for row in rows)
        return _ok("partitions", f"{count}, for what comes within {ahead}")
    return Finding(
        "partitions",
        "warning",
        problem,
        "Nothing is lost, but expired data is deleted row by row instead of being dropped. A "
        "replica fixes this within minutes; its log says what is in the way",
    )


def of_queue(row: Row, settings: Settings) -> Finding:
    """What the row of `sample_cluster` says."""
    waiting, oldest = row["waiting"], row["oldest"]
    said = f"{waiting} waiting" + (f", the first for {duration(oldest)}" if waiting else "")
    if waiting and (oldest > LONG_WAIT or waiting > FULL * settings.max_queued):
        return Finding(
            "queue",
            "warning",
            said,
            "Replicas are full, or serve other agents: start more, or raise LONGRUN_MAX_RUNS",
        )
    return _ok("queue", said)


def of_unserved(found: Sequence[Waiting]) -> Finding | None:
    """What waits for agents that no replica serves; None if nothing does."""
    if not found:
        return None
    said = ", ".join(
        f"{each.agent} ({each.responses} waiting, the first for {duration(each.oldest)})"
        for each in found
    )
    return Finding(
        "agents",
        "warning",
        f"no live replica serves {said}",
        "Start one that serves them, or cancel what is waiting; otherwise it fails when its time "
        "is up",
    )


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else duration(seconds)
