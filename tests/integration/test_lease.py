"""The lease of a replica: what begins it, what keeps it, and a direct URL that leads elsewhere."""

import contextlib
from collections.abc import AsyncIterator

import asyncpg
import pytest

from longrun.errors import ConfigurationError
from longrun.store.database import Database
from longrun.store.lease import Lease
from longrun.store.migrate import migrate
from tests.postgres import Server
from tests.reading import eventually
from tests.storing import connected, direct_way, opened

REPLICA = "replica_with_a_lease"


@contextlib.asynccontextmanager
async def listening_at(url: str, listen_url: str, schema: str) -> AsyncIterator[Database]:
    """The pools of a replica whose direct connections go somewhere else than its pools."""
    async with opened(url, schema, listen_url=listen_url, lease_seconds=1) as database:
        await migrate(database)
        yield database


async def lease_until(database: Server, schema: str) -> float:
    """Seconds until the lease runs out, by Postgres's clock."""
    async with connected(database.url) as connection:
        query = f'SELECT extract(epoch FROM lease_until - now()) FROM "{schema}".replicas'
        return float(await connection.fetchval(query))


async def test_it_is_kept_until_it_is_given_up(database: Server, schema: str) -> None:
    async with listening_at(database.url, database.url, schema) as mine:
        lease = Lease(mine, REPLICA, "1.0", ["agent"])
        assert not lease.held
        await lease.begin()
        first = lease.renewed
        assert lease.held
        await eventually(lambda: lease.renewed > first + 1)
        assert await lease_until(database, schema) > 0
        await lease.end()
        assert await lease_until(database, schema) <= 0


async def test_one_that_cannot_be_renewed_is_not_held(database: Server, schema: str) -> None:
    async with (
        direct_way(database.url, schema) as direct,
        listening_at(database.url, direct.url, schema) as mine,
    ):
        lease = Lease(mine, REPLICA, "1.0", ["agent"])
        await lease.begin()
        await direct.cut()
        await eventually(lambda: not lease.held)
        await direct.mend()
        await eventually(lambda: lease.held)
        await lease.end()


class TestADirectUrlThatLeadsElsewhere:
    @pytest.mark.parametrize("prepared", [False, True], ids=["no_tables", "tables"])
    async def test_another_database(self, prepared: bool, database: Server, schema: str) -> None:
        name = f"elsewhere_{schema}"
        elsewhere = database.url.replace("@/postgres?", f"@/{name}?")
        async with connected(database.url) as connection:
            await connection.execute(f"CREATE DATABASE {name}")
            if prepared:
                async with opened(elsewhere, schema) as other:
                    await migrate(other)
            async with listening_at(database.url, elsewhere, schema) as mine:
                with pytest.raises(ConfigurationError, match="LONGRUN_LISTEN_DATABASE_URL"):
                    await Lease(mine, REPLICA, "1.0", ["agent"]).begin()
            await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")

    async def test_a_role_that_may_not_log_in(self, database: Server, schema: str) -> None:
        direct = database.url.replace("//postgres@", "//nobody_of_this_name@")
        async with listening_at(database.url, direct, schema) as mine:
            with pytest.raises(ConfigurationError, match="LONGRUN_LISTEN_DATABASE_URL: cannot"):
                await Lease(mine, REPLICA, "1.0", ["agent"]).begin()

    async def test_a_server_that_is_away_is_waited_for(self, database: Server, schema: str) -> None:
        nobody = "postgresql://postgres@127.0.0.1:1/postgres"
        async with listening_at(database.url, nobody, schema) as mine:
            lease = Lease(mine, REPLICA, "1.0", ["agent"])
            await lease.begin()
            await eventually(lambda: not lease.held)
            await lease.end()
            with pytest.raises((OSError, asyncpg.PostgresError)):
                await mine.connect_directly("test")
