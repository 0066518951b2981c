"""Polls of long responses wait for each other: a replica holds a bounded number of bytes."""

import asyncio
from typing import Any

import pytest

from longrun.errors import NotFound, Unavailable
from longrun.http import long_answers
from longrun.http.answers import as_response
from longrun.http.long_answers import COPIES, LONG, PIECE, LongAnswer, Polls, Room
from longrun.store.responses import StoredResponse

SIZE = 3 * PIECE
SCOPE: dict[str, Any] = {"type": "http", "method": "GET"}


async def receive() -> Any:
    raise AssertionError("nothing is received")


class Slow:
    """Clients that poll a response and take nothing before they are let.

    Attributes:
        held: how many are being answered.
        bodies: what was sent to each that has all of it.
    """

    def __init__(self, room: Room) -> None:
        self.room = room
        self.held = 0
        self.takes = asyncio.Event()
        self.bodies: list[bytes] = []

    async def read(self) -> dict[str, Any]:
        self.held += 1
        stored = StoredResponse("resp_1", "a", "completed", True, "{}", [f'"{"x" * SIZE}"'])
        return as_response(stored)

    async def poll(self) -> None:
        body = b""

        async def send(message: Any) -> None:
            nonlocal body
            await self.takes.wait()
            part = message.get("body", b"")
            assert len(part) <= PIECE
            body += part

        try:
            await LongAnswer(self.room, SIZE, self.read)(SCOPE, receive, send)
            self.bodies.append(body)
        finally:
            self.held -= 1


async def test_however_many_ask_no_more_are_read_than_there_is_room_for() -> None:
    polls = Slow(Room(2 * COPIES * SIZE))
    async with asyncio.TaskGroup() as group:
        for _ in range(10):
            group.create_task(polls.poll())
        # Two are read at once; what was read, and waits for its client, takes less.
        for _ in range(50):
            await asyncio.sleep(0)
        assert 2 <= polls.held <= 5
        polls.takes.set()
    assert len(polls.bodies) == 10
    assert len(set(polls.bodies)) == 1
    assert len(polls.bodies[0]) > SIZE
    assert polls.bodies[0].startswith(b'{"status":"completed","output":["xxx')


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_long_one_is_found_out_by_one_poll(at_once: bool) -> None:
    most = under_way = 0
    texts = ["x" * LONG]

    async def read() -> StoredResponse:
        nonlocal most, under_way
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1
        return StoredResponse("resp_1", "a", "completed", True, "{}", [f'"{texts[0]}"'])

    polls, bodies = Polls(COPIES * LONG), set()

    async def poll() -> None:
        body = b""

        async def send(message: Any) -> None:
            nonlocal body
            await asyncio.sleep(0)
            body += message.get("body", b"")

        answer = await polls.answer("me", "resp_1", read)
        await answer(SCOPE, receive, send)
        bodies.add(body)

    for _ in range(2):
        async with asyncio.TaskGroup() as group:
            for _ in range(20 if at_once else 1):
                group.create_task(poll())
        assert most == 1
    assert len(bodies) == 1
    texts[0] = "short"
    await poll()
    assert min(bodies, key=len) == b'{"status":"completed","output":["short"]}'


async def test_what_is_not_there_is_said_to_all() -> None:
    async def read() -> StoredResponse:
        await asyncio.sleep(0)
        raise NotFound("There is none.")

    polls = Polls(LONG)
    found = await asyncio.gather(
        *(polls.answer("me", "resp_1", read) for _ in range(5)), return_exceptions=True
    )
    assert all(isinstance(each, NotFound) for each in found)


async def test_one_that_is_larger_than_all_is_answered_alone() -> None:
    polls = Slow(Room(10))
    polls.takes.set()
    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(polls.poll())
    assert len(polls.bodies) == 3


async def test_who_waits_too_long_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_answers, "PATIENCE", 0.01)
    room = Room(10)
    async with room.taken(10):
        with pytest.raises(Unavailable, match="long responses"):
            async with room.taken(1):
                pass
    async with room.taken(10):
        pass


async def test_who_goes_away_while_waiting_leaves_its_turn_to_others() -> None:
    room = Room(10)
    began = asyncio.Event()

    async def small() -> None:
        async with room.taken(5):
            began.set()

    async with room.taken(5):
        large = asyncio.create_task(room.taken(10).__aenter__())
        await asyncio.sleep(0)
        behind = asyncio.create_task(small())
        await asyncio.sleep(0)
        assert not began.is_set(), "it is not overtaken"
        large.cancel()
        await asyncio.wait([large])
        await began.wait()
        await behind
    async with room.taken(10):
        pass
