"""Rolling restarts and a kill behind nginx and HAProxy, as a newcomer has them."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests import postgres
from tests.faults.ground import Ground
from tests.faults.rolling import (
    BALANCERS,
    balanced,
    check,
    kill_one,
    loaded,
    restart_all,
    three_of,
    until_more,
)
from tests.servers import Replica


@dataclass
class Three:
    """Replicas; those that are restarted are replaced in the list."""

    ground: Ground
    replicas: list[Replica]


@pytest.fixture(scope="module")
def three(database: postgres.Server) -> Iterator[Three]:
    with three_of(database, "3") as found:
        yield Three(found, found.start(3))


@pytest.mark.parametrize("balancer", BALANCERS)
async def test_a_rolling_restart_fails_nothing(three: Three, balancer: str) -> None:
    with balanced(balancer, three.replicas) as url:
        async with loaded(url, streams=6, posts=8) as load:
            await until_more(load, 6)
            await restart_all(three.ground, three.replicas, load)
    await check(three.ground, load)


@pytest.mark.parametrize("balancer", BALANCERS)
async def test_a_kill_fails_nothing_that_is_tried_again(three: Three, balancer: str) -> None:
    with balanced(balancer, three.replicas) as url:
        async with loaded(url, streams=6, posts=8, streaming=False) as load:
            await until_more(load, 6)
            await kill_one(three.ground, three.replicas, load)
    await check(three.ground, load, killed=True)
