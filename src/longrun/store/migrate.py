"""Migrations: numbered, forward only, checked by their checksums, one migrator at a time."""

import asyncio
import hashlib
import logging
import re
import time
from dataclasses import dataclass
from typing import Final

import asyncpg

from longrun.backoff import Backoff, jittered
from longrun.errors import ConfigurationError
from longrun.store.database import Connection, Database
from longrun.store.queries import in_schema, sql_folder

log = logging.getLogger("longrun.store.migrate")

SHORTEST_WAIT: Final = 0.1
LONGEST_WAIT: Final = 2.0
"""Seconds for which a table is waited for, at first and later. Postgres ends an autovacuum that is
in the way after one (deadlock_timeout)."""

WAITS: Final = 600.0
"""Seconds for which this is tried."""

_FILE = re.compile(r"(\d{4})_(\w+)\.sql")


class InUse(Exception):
    """A table that a migration changes is in use."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file of `sql/migrations`. `breaking`: its first lines say `-- breaking`."""

    version: int
    name: str
    sql: str
    checksum: str
    breaking: bool


def known_migrations() -> list[Migration]:
    """The migrations that this code carries, in order.

    Raises:
        ValueError: a file that is misnamed, or a gap or repeat in the numbers.
    """
    found: list[Migration] = []
    for file in sorted((sql_folder() / "migrations").glob("*.sql")):
        match = _FILE.fullmatch(file.name)
        if match is None or int(match[1]) != len(found) + 1:
            raise ValueError(f"{file.name}: expected number {len(found) + 1:04d} and a name")
        sql = file.read_text("utf-8")
        head = sql.split("\n\n", 1)[0]
        checksum = hashlib.sha256(sql.encode()).hexdigest()
        breaking = re.search(r"^-- breaking\b", head, re.MULTILINE) is not None
        found.append(Migration(len(found) + 1, match[2], sql, checksum, breaking))
    return found


def pending(known: list[Migration], applied: list[asyncpg.Record]) -> list[Migration]:
    """The known migrations that are not applied yet.

    Raises:
        ConfigurationError: an applied file was changed, or the database has a breaking
            migration that this code does not know.
    """
    by_version = {migration.version: migration for migration in known}
    for row in applied:
        mine = by_version.get(row["version"])
        if mine is None:
            if row["breaking"]:
                raise ConfigurationError(
                    f"the database has migration {row['version']:04d}_{row['name']}, which this "
                    "version of longrun does not know and cannot work with: install a newer one"
                )
        elif mine.checksum != row["checksum"]:
            raise ConfigurationError(
                f"migration {mine.version:04d}_{mine.name} was changed after it was applied: "
                "migrations are forward only, add a new one instead"
            )
    done = {row["version"] for row in applied}
    return [migration for migration in known if migration.version not in done]


async def migrate(database: Database) -> list[Migration]:
    """Apply what is pending, all in one transaction, and return it.

    Any number of replicas may call this at once: the first does it, the others wait and find
    nothing to do. Where nothing is pending, nothing is written and no right to create is needed.

    Raises:
        ConfigurationError: a migration does not fit, or the role lacks a right; says which.
    """
    if not (todo := await _pending(database)):
        return []
    try:
        return await _apply_patiently(database)
    except asyncpg.InsufficientPrivilegeError as error:
        schema = database.queries.schema
        raise ConfigurationError(
            f"{len(todo)} migrations are pending in schema {schema!r}, and the role in "
            f"LONGRUN_DATABASE_URL has no right to apply them: {error}. A role that owns the "
            "schema (or, where there is none, has CREATE on the database) has to run "
            "`longrun migrate`; `longrun migrate --print-grants` prints how to make one"
        ) from error


async def _apply_patiently(database: Database) -> list[Migration]:
    """Apply what is pending without holding up servers that run: while a migration waits for a
    table, all else queues behind it. So it soon gives up, and tries again later.

    Raises:
        ConfigurationError: something holds a table all the time.
    """
    patience = Backoff(SHORTEST_WAIT, LONGEST_WAIT)
    until = time.monotonic() + WAITS
    while True:
        wait = patience.next()
        try:
            return await _apply(database, wait)
        except InUse as error:
            log.info("a table is in use; the migration will be retried: %s", error)
            if time.monotonic() > until:
                raise ConfigurationError(
                    "the pending migrations need a table that another session keeps locked: "
                    f"{error}. Look in pg_stat_activity for an old transaction, by "
                    "xact_start"
                ) from error
        await asyncio.sleep(jittered(5 * wait))


async def _apply(database: Database, wait: float) -> list[Migration]:
    """Apply what is pending, waiting no longer than so many seconds for any table."""
    queries = database.queries
    async with database.transaction() as connection:
        await connection.execute(queries.lock_migrations, queries.schema, timeout=600)
        await connection.execute(queries.bound_lock_waits, int(wait * 1000))
        if not await connection.fetchval(queries.find_schema, queries.schema):
            await connection.execute(queries.create_schema)
        if not await connection.fetchval(queries.has_migrations, _table(database)):
            await connection.execute(queries.create_migrations)
        todo = pending(known_migrations(), await connection.fetch(queries.list_migrations))
        for migration in todo:
            await _execute(connection, in_schema(migration.sql, queries.schema))
            await connection.execute(
                queries.record_migration,
                migration.version,
                migration.name,
                migration.checksum,
                migration.breaking,
            )
    return todo


async def _execute(connection: Connection, sql: str) -> None:
    try:
        await connection.execute(sql, timeout=600)
    except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError) as error:
        raise InUse(str(error)) from error


async def _pending(database: Database) -> list[Migration]:
    queries = database.queries
    try:
        row = await database.fetch_row(queries.has_migrations, _table(database))
        applied = await database.fetch(queries.list_migrations) if row and row[0] else []
    except asyncpg.InsufficientPrivilegeError as error:
        raise ConfigurationError(
            f"the role in LONGRUN_DATABASE_URL has no right to use schema {queries.schema!r}: "
            f"{error}. It needs USAGE on the schema, and rights on its tables, which the schema's "
            "owner can grant: `longrun migrate --print-grants` prints the SQL"
        ) from error
    return pending(known_migrations(), applied)


def _table(database: Database) -> str:
    return f'"{database.queries.schema}".migrations'


async def check_migrated(database: Database) -> None:
    """Refuse a database that is older, or breakingly newer, than this code.

    Raises:
        ConfigurationError: says what to do.
    """
    if todo := await _pending(database):
        raise ConfigurationError(
            f"{len(todo)} migrations are pending in schema {database.queries.schema!r} "
            "and LONGRUN_AUTO_MIGRATE is false: run `longrun migrate`"
        )
