"""The watch: what each look leads to, whom it takes for dead, and when it looks."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from longrun.errors import Unavailable
from longrun.execution import watch as module
from longrun.execution.host import Host
from longrun.execution.watch import Watch
from longrun.store.claims import Surroundings

NOTHING = Surroundings(
    expired=[],
    unlocked=[],
    waiting=False,
    suspects=False,
    chosen=False,
    overdue=[],
    own="0 0",
    alive=[],
    steady=True,
)


class Admission:
    """Notes what it is asked to do."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.room = 1
        self.work_waits = False
        self.held_back = False
        self.makes_room = False
        self.own_summary = "0 0"
        self.free: list[str] = []

    def wake_all(self) -> None:
        self.asked.append("wake_all")

    async def count_deaths(self, dead: Sequence[str]) -> None:
        self.asked.append(("count_deaths", dead))

    async def end_overdue(self, overdue: Sequence[str]) -> None:
        self.asked.append(("end_overdue", overdue))

    async def reconcile(self) -> None:
        self.asked.append("reconcile")

    async def take_orphans(self) -> bool:
        self.asked.append("take_orphans")
        return False

    async def take_suspect(self) -> None:
        self.asked.append("take_suspect")

    async def take_queued(self) -> None:
        self.asked.append("take_queued")


class Watched:
    """A watch on surroundings that the test decides.

    Attributes:
        looks: how often it has looked.
    """

    def __init__(self) -> None:
        self.around: Surroundings | Exception = NOTHING
        self.looks = 0
        self.replica_id = "mine"
        self.told_room: list[bool] = []
        self.fit = True
        self.admission = Admission()
        self.host = Host(1, 0.0)
        given: Any = self
        admission: Any = self.admission
        self.watch = Watch(
            admission,
            self.host,
            given,
            lease_seconds=0.0,
            fit=lambda: self.fit,
            looked=lambda alive: None,
        )

    async def look_around(self) -> Surroundings:
        self.looks += 1
        if isinstance(self.around, Exception):
            raise self.around
        return self.around

    async def forget_replicas(self) -> None:
        pass

    async def tell_room(self, has_room: bool) -> None:
        self.told_room.append(has_room)

    async def tell_draining(self) -> None:
        self.told_room.append(False)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """At work, after its first look."""
        stop = asyncio.Event()
        task = asyncio.create_task(self.watch.run(stop))
        try:
            await self.until_looked(1)
            yield
        finally:
            stop.set()
            await asyncio.gather(task, return_exceptions=True)

    async def until_looked(self, times: int) -> None:
        async with asyncio.timeout(10):
            while self.looks < times:
                await asyncio.sleep(0.01)
        await settled()


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    """It looks when it is told to, else once a minute; nothing is waited for."""
    monkeypatch.setattr(module, "INTERVAL", 60.0)
    monkeypatch.setattr(module, "SETTLING", 0.0)
    return Watched()


def seen(**fields: Any) -> Surroundings:
    given = {name: getattr(NOTHING, name) for name in Surroundings.__dataclass_fields__}
    return Surroundings(**{**given, **fields})


class TestWhatALookLeadsTo:
    @pytest.mark.parametrize(
        ("fields", "asked"),
        [
            ({}, []),
            ({"overdue": ["resp_1"]}, [("end_overdue", ["resp_1"])]),
            ({"own": "1 3"}, ["reconcile"]),
            ({"waiting": True}, ["take_orphans", "take_queued"]),
            ({"expired": ["b", "a"]}, [("count_deaths", ["a", "b"]), "take_orphans"]),
            ({"suspects": True}, []),
            ({"suspects": True, "chosen": True}, ["take_suspect"]),
            ({"suspects": True, "chosen": True, "unlocked": ["a"]}, []),
            ({"suspects": True, "chosen": True, "expired": ["a"], "steady": False}, []),
            (
                {"suspects": True, "chosen": True, "expired": ["a"]},
                [("count_deaths", ["a"]), "take_suspect", "take_orphans"],
            ),
            ({"chosen": True}, []),
            ({"expired": ["a"], "steady": False}, []),
        ],
    )
    async def test_it(self, watched: Watched, fields: dict[str, Any], asked: list[Any]) -> None:
        watched.around = seen(**fields)
        async with watched.running():
            assert watched.admission.asked == asked

    async def test_a_replica_that_others_cannot_see_alive_takes_nothing(
        self, watched: Watched
    ) -> None:
        watched.fit = False
        watched.around = seen(overdue=["resp_1"], expired=["a"], waiting=True, own="1 1")
        async with watched.running():
            assert watched.admission.asked == [("end_overdue", ["resp_1"]), "reconcile"]

    async def test_the_chosen_one_makes_room_as_long_as_a_suspect_waits(
        self, watched: Watched
    ) -> None:
        watched.around = seen(suspects=True, chosen=True)
        async with watched.running():
            assert watched.admission.makes_room
            watched.around = seen(chosen=True)
            watched.watch.look_again()
            await watched.until_looked(2)
            assert not watched.admission.makes_room


class TestWhoIsDead:
    async def test_a_lock_that_is_free_for_a_moment_is_forgiven(
        self, watched: Watched, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "FORGIVEN", 0.3)
        watched.around = seen(unlocked=["a"])
        async with watched.running():
            assert watched.admission.asked == []
            # It looks again by itself when the grace ends.
            await watched.until_looked(2)
            assert watched.admission.asked == [("count_deaths", ["a"]), "take_orphans"]

    async def test_one_that_is_held_again_begins_anew(
        self, watched: Watched, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "FORGIVEN", 60.0)
        watched.around = seen(unlocked=["a"])
        async with watched.running():
            watched.around = NOTHING
            watched.watch.look_again()
            await watched.until_looked(2)
            assert watched.watch._free_since == {}

    async def test_nobody_just_after_postgres_was_away(
        self, watched: Watched, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The others may have been cut off just as well."""
        monkeypatch.setattr(module, "SETTLING", 60.0)
        watched.around = Unavailable("away")
        async with watched.running():
            pass
        watched.around = seen(expired=["a"])
        async with watched.running():
            watched.watch.look_again()
            await watched.until_looked(3)
            assert watched.admission.asked == []

    async def test_nobody_for_a_lease_after_a_connection_was_lost(self, watched: Watched) -> None:
        """Perhaps it was a failover: the other server has been up for days, the locks are free
        and the leases over, and the others are just about to renew them there."""
        watched.watch._lease_seconds = 60.0
        watched.watch.reconnected()
        async with watched.running():
            watched.around = seen(expired=["a"])
            watched.watch.look_again()
            await watched.until_looked(2)
            assert watched.admission.asked == [("count_deaths", ["a"]), "take_orphans"]
            watched.admission.asked.clear()
            watched.watch.reconnected()
            await watched.until_looked(3)
            assert watched.admission.asked == []


class TestWhenItLooks:
    async def test_at_once_when_something_is_queued_and_there_is_room(
        self, watched: Watched
    ) -> None:
        async with watched.running():
            watched.watch.told("work")
            await watched.until_looked(2)
            assert watched.admission.asked == ["take_queued"]

    async def test_not_while_there_is_no_room(self, watched: Watched) -> None:
        """Creating while all are full made every replica look around."""
        watched.admission.room = 0
        async with watched.running():
            for _ in range(5):
                watched.watch.told("work")
                await settled()
            assert watched.looks == 1
            assert watched.admission.work_waits

    async def test_when_it_is_the_one_that_is_to(self, watched: Watched) -> None:
        """A creation wakes one replica that has room, and not all of them."""
        async with watched.running():
            watched.watch.told("work another")
            await settled()
            assert (watched.looks, watched.admission.work_waits) == (1, False)
            watched.watch.told("work mine")
            await watched.until_looked(2)
            assert watched.admission.asked == ["take_queued"]

    async def test_one_that_has_no_room_any_more_wakes_all(self, watched: Watched) -> None:
        watched.admission.room = 0
        async with watched.running():
            watched.watch.told("work another")
            assert watched.admission.asked == []
            watched.watch.told("work mine")
            assert watched.admission.asked == ["wake_all"]
            assert watched.admission.work_waits

    async def test_it_says_whether_it_has_room_when_that_has_changed(
        self, watched: Watched
    ) -> None:
        async with watched.running():
            assert watched.told_room == [True]
            watched.around = seen(said_room=True, free=["another"])
            watched.watch.look_again()
            await watched.until_looked(2)
            assert watched.told_room == [True]
            assert watched.admission.free == ["another"]
            watched.admission.room = 0
            watched.watch.look_again()
            await watched.until_looked(3)
            assert watched.told_room == [True, False]
        assert watched.told_room[2:] == [False], "and when it stops"

    async def test_but_once_a_run_has_ended(self, watched: Watched) -> None:
        watched.admission.work_waits = True
        async with watched.running():
            watched.host.slot_freed.set()
            await watched.until_looked(2)
            assert watched.admission.asked == ["take_queued"] * 2

    async def test_an_end_is_no_reason_while_nothing_waits(self, watched: Watched) -> None:
        async with watched.running():
            watched.host.slot_freed.set()
            await settled()
            assert watched.looks == 1

    async def test_what_another_has_taken_is_stopped(self, watched: Watched) -> None:
        taken: list[tuple[str, int]] = []
        host: Any = watched.host
        host.abandon_earlier = lambda *given: taken.append(given)
        watched.watch.told("taken resp_1 3")
        watched.watch.told("taken resp_1 x")
        watched.watch.told("unknown resp_1 3")
        assert taken == [("resp_1", 3)]
