"""What commands do with the database outside a server."""

from longrun.settings import Settings
from longrun.store.database import Database
from longrun.store.migrate import migrate
from longrun.store.opening import Opening


async def migrate_now(settings: Settings) -> list[str]:
    """Apply pending migrations; returns their names.

    Raises:
        ConfigurationError: no database, or one that this code must not touch.
    """
    async with Opening(Database(settings)).opened() as database:
        return [f"{m.version:04d}_{m.name}" for m in await migrate(database)]
