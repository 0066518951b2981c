"""Rates of several replicas, as they tell each other through Postgres."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest

from longrun.access.rates import Rates, Wanted
from longrun.store.database import Database
from longrun.store.limits import SharedLimits, Told


@contextlib.asynccontextmanager
async def replicas(store: Database, count: int) -> AsyncIterator[list[Rates]]:
    """The rates of so many replicas."""
    made, stop = [Rates(SharedLimits(store)) for _ in range(count)], asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for rates in made:
            group.create_task(rates.run(stop))
        try:
            yield made
        finally:
            stop.set()


async def flood(rates: Rates, subject: str, limit: int, at_once: int) -> int:
    """Ask again and again, so many at once, until one is refused; how many were allowed."""

    async def ask() -> int:
        allowed = 0
        while not (await rates.take([Wanted(subject, limit)]))[0].wait:
            allowed += 1
            await asyncio.sleep(0)
        return allowed

    return sum(await asyncio.gather(*(ask() for _ in range(at_once))))


@pytest.mark.parametrize("limit", [3, 100, 6000])
async def test_a_limit_holds_over_all_replicas(store: Database, limit: int) -> None:
    async with replicas(store, 3) as made:
        began = time.monotonic()
        allowed = sum(await asyncio.gather(*(flood(rates, "a", limit, 8) for rates in made)))
        worn_off = (time.monotonic() - began) * limit / 60
    beyond = 3 * max(2, limit // 10)
    assert limit <= allowed <= limit + beyond + worn_off + 1


async def test_what_was_too_much_has_to_wear_off_first(store: Database) -> None:
    shared = SharedLimits(store)
    await shared.share([Told("a", 130, 2.0)])
    async with replicas(store, 1) as [rates]:
        # It hears of the others with what it takes first.
        while not (await rates.take([Wanted("a", 120)]))[0].wait:
            pass
        [standing] = await rates.take([Wanted("a", 120)])
        assert standing.wait > 4


async def test_a_level_wears_off_as_time_passes(store: Database) -> None:
    shared = SharedLimits(store)
    assert await shared.share([Told("a", 10, 1.0), Told("b", 3, 50.0)]) == {"a": 10, "b": 3}
    table = f'"{store.settings.db_schema}".request_rates'
    await store.execute(f"UPDATE {table} SET at = at - interval '4 seconds'")
    levels = await shared.share([Told("b", 1, 50.0), Told("a", 1, 1.0)])
    assert levels["b"] == 1
    assert 5 < levels["a"] <= 7.1
    # A clock that ran ahead makes nothing worse.
    await store.execute(f"UPDATE {table} SET at = at + interval '1 hour'")
    assert (await shared.share([Told("b", 1, 50.0)]))["b"] == pytest.approx(2)
    await store.execute(f"UPDATE {table} SET at = at - interval '3 hours'")
    await shared.forget(0)
    assert await store.fetch(f"SELECT FROM {table}") == []
