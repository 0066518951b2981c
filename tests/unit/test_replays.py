"""Runs that are taken over are replayed a few at a time, and their journals read together."""

import asyncio
from collections.abc import Sequence

import pytest

from longrun.execution import replays as module
from longrun.execution.replays import READ_TOGETHER, Journals, Replay, Replays
from longrun.store.records import Left


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


class Run:
    """Waits for its turn, and is replayed until it is told that it is done."""

    def __init__(self, replays: Replays) -> None:
        self.replay: Replay | None = None
        self.began = False
        self.may_end = asyncio.Event()
        self.task = asyncio.create_task(self._run(replays))

    async def _run(self, replays: Replays) -> None:
        with replays.one() as self.replay:
            await self.replay.begin()
            self.began = True
            await self.may_end.wait()


async def test_the_next_begins_when_one_is_done() -> None:
    replays = Replays(at_once=2)
    runs = [Run(replays) for _ in range(5)]
    await settled()
    assert [run.began for run in runs] == [True, True, False, False, False]
    # It goes on with what is new, and is not waited for any more.
    assert runs[0].replay is not None
    runs[0].replay.over()
    runs[0].replay.over()
    await settled()
    assert [run.began for run in runs] == [True, True, True, False, False]
    # One ends, one is stopped, one that waits is stopped.
    runs[3].task.cancel()
    runs[1].may_end.set()
    await settled()
    assert [run.began for run in runs] == [True, True, True, False, True]
    for run in runs:
        run.task.cancel()
    await asyncio.gather(*(run.task for run in runs), return_exceptions=True)
    again = [Run(replays) for _ in range(3)]
    await settled()
    assert [run.began for run in again] == [True, True, False]


async def test_one_that_waits_for_something_makes_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST", 0.01)
    replays = Replays(at_once=1)
    runs = [Run(replays) for _ in range(3)]
    async with asyncio.timeout(10):
        while not all(run.began for run in runs):
            await asyncio.sleep(0.01)


class Store:
    """Notes what is read together."""

    def __init__(self) -> None:
        self.read: list[list[str]] = []

    async def left(self, response_ids: Sequence[str]) -> dict[str, Left]:
        self.read.append(list(response_ids))
        await asyncio.sleep(0)
        return {id_: Left([], {}, [], int(id_)) for id_ in response_ids if id_ != "3"}


async def test_some_are_read_in_one_query_and_no_more() -> None:
    store = Store()
    ids = [str(n) for n in range(READ_TOGETHER + 2)]
    journals = Journals(ids, store.left)
    found = await asyncio.gather(*map(journals.take, ids))
    assert store.read == [ids[:READ_TOGETHER], ids[READ_TOGETHER:]]
    assert [left and left.end for left in found] == [n if n != 3 else None for n in range(len(ids))]
    assert await journals.take("0") is None
    assert len(store.read) == 2
