"""What commands do with the database outside a server."""

import asyncio

from longrun.embedded.share import EmbeddedPostgres
from longrun.settings import Settings
from longrun.store.database import Database
from longrun.store.migrate import migrate


async def migrate_now(settings: Settings) -> list[str]:
    """Apply pending migrations; returns their names.

    Raises:
        ConfigurationError: no database, or one that this code must not touch.
    """
    embedded = None
    if settings.database_url is None:
        embedded = await asyncio.to_thread(EmbeddedPostgres.start, settings.data_dir)
    url = embedded.url if embedded else settings.database_url.get_secret_value()  # type: ignore[union-attr]
    database = Database(settings)
    try:
        await database.open(url)
        try:
            return [f"{m.version:04d}_{m.name}" for m in await migrate(database)]
        finally:
            await database.close()
    finally:
        if embedded is not None:
            await asyncio.to_thread(embedded.stop)
