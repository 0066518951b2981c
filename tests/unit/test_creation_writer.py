"""A creation that waits for its commit: who hears of it first."""

import asyncio

from longrun.errors import Unavailable
from longrun.store.creation import NewResponse
from longrun.store.creation_writer import Waiting
from tests.storing import request_for


async def settled(error: BaseException | None) -> list[str]:
    """Who goes on in which order: whoever is told, and wakes somebody, or whoever awaits it."""
    heard: list[str] = []
    woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    waiting = Waiting(NewResponse(request_for("resp_1"), ()), {}, lambda _: woken.set_result(None))

    async def hear(who: str, future: asyncio.Future[None]) -> None:
        await asyncio.wait([future])
        heard.append(who)

    async with asyncio.TaskGroup() as group:
        group.create_task(hear("awaits it", waiting.done))
        group.create_task(hear("is told", woken))
        await asyncio.sleep(0)
        waiting.settle(error)
        waiting.settle()
    assert waiting.done.exception() is error
    return heard


async def test_whoever_is_told_of_a_creation_goes_on_before_whoever_awaits_it() -> None:
    """It has a client, which waits for its first event."""
    assert await settled(None) == ["is told", "awaits it"]
    assert await settled(Unavailable("It is away.")) == ["is told", "awaits it"]
