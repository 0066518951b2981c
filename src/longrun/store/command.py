"""What commands do with the database outside a server."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg

from longrun.errors import ConfigurationError, Unreadable
from longrun.settings import Settings
from longrun.store.database import Database
from longrun.store.deliveries import Deliveries
from longrun.store.forks import Forks, Source
from longrun.store.keys import Keys
from longrun.store.migrate import check_migrated, migrate
from longrun.store.opening import Opening
from longrun.store.overview import Overview
from longrun.store.responses import Responses
from longrun.store.retention import in_batches
from longrun.store.rewriting import Rewritten, rewrite_all


@contextlib.asynccontextmanager
async def _allowed(settings: Settings) -> AsyncIterator[None]:
    """Say in words that a command is not for the role that it connects as.

    Raises:
        ConfigurationError: a right is missing; says which, and whose command it is.
    """
    try:
        yield
    except asyncpg.InsufficientPrivilegeError as error:
        raise ConfigurationError(
            f"the role in LONGRUN_DATABASE_URL has no right to do this: {error}. Run the command "
            f"as the role that owns schema {settings.db_schema!r}"
        ) from error


async def migrate_now(settings: Settings) -> list[str]:
    """Apply pending migrations; returns their names.

    Raises:
        ConfigurationError: no database, or one that this code must not touch.
    """
    async with Opening(Database(settings)).opened() as database:
        return [f"{m.version:04d}_{m.name}" for m in await migrate(database)]


async def inspect_response(
    settings: Settings, response_id: str
) -> tuple[dict[str, Any], Source | None] | None:
    """A response as it stands, for its operator (query `show_response`), and its steps where they
    can be read; None if there is none.

    Raises:
        ConfigurationError: no database, or one that this code must not touch.
    """
    async with Opening(Database(settings)).opened() as database, _allowed(settings):
        await check_migrated(database)
        found = await Responses(database).inspect_unscoped(response_id)
        if found is None:
            return None
        source = None
        with contextlib.suppress(Unreadable):
            source = await Forks(database).source(response_id, found["principal"])
        return found, source


@contextlib.asynccontextmanager
async def opened_overview(settings: Settings) -> AsyncIterator[Overview]:
    """All responses with how they were run, within the block.

    Raises:
        ConfigurationError: no database, or one that this code must not touch.
    """
    async with Opening(Database(settings)).opened() as database, _allowed(settings):
        await check_migrated(database)
        yield Overview(database)


@contextlib.asynccontextmanager
async def opened_keys(settings: Settings) -> AsyncIterator[Keys]:
    """The API keys of the database that the settings name, within the block.

    Raises:
        ConfigurationError: no database, or one that this code must not touch.
    """
    async with Opening(Database(settings)).opened() as database, _allowed(settings):
        if settings.auto_migrate:
            await migrate(database)
        else:
            await check_migrated(database)
        yield Keys(database)


@contextlib.asynccontextmanager
async def opened_deliveries(settings: Settings) -> AsyncIterator[Deliveries]:
    """What is delivered to webhook endpoints, within the block.

    Raises:
        ConfigurationError: no database, or one that this code must not touch.
    """
    async with Opening(Database(settings)).opened() as database, _allowed(settings):
        await check_migrated(database)
        yield Deliveries(database)


async def rewrite_now(settings: Settings, progress: Callable[[str, int], None]) -> Rewritten:
    """Rewrite what is stored as the key ring says, while servers go on.

    Raises:
        ConfigurationError: no database, or one that this code must not touch.
    """
    async with Opening(Database(settings)).opened() as database:
        await check_migrated(database)
        return await rewrite_all(database, progress)


async def prune_now(
    settings: Settings, seconds: float, progress: Callable[[int], None], *, count: bool
) -> int:
    """Delete what ended more than so many seconds ago and nobody reads, as servers do; returns how
    many responses.

    Args:
        progress: is told how many are deleted already.
        count: delete nothing, and return how many there are.

    Raises:
        ConfigurationError: no database, or one that this code must not touch.
    """
    async with Opening(Database(settings)).opened() as database, _allowed(settings):
        await check_migrated(database)
        if count:
            row = await database.fetch_row(database.queries.count_expired, seconds)
            return int(row["due"]) if row else 0
        responses, done = Responses(database), 0

        async def batch() -> int:
            nonlocal done
            deleted = await responses.expire(seconds)
            done += deleted
            progress(done)
            return deleted

        return await in_batches(batch, asyncio.Event())


async def forget_key(settings: Settings, key_id: str) -> bool:
    """Let servers start without a key that is lost. False: there is none of this id.

    Raises:
        ConfigurationError: no database, or one that this code must not touch.
    """
    async with Opening(Database(settings)).opened() as database:
        await check_migrated(database)
        return bool(await database.fetch_once(database.queries.forget_encryption_key, key_id))
