"""Interests: what is not announced, and that everything is while anything is unknown."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from longrun.store import interests as module
from longrun.store.interests import Interests
from tests.reading import eventually

MINE, OTHER, THIRD = "replica_mine", "replica_other", "replica_third"


class Scene:
    """Interests, and what they called."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.read: list[str] = []
        self.local: set[str] = set()
        self.hears = True
        self.wanted: list[str] = []
        self.moved: list[str] = []
        self.strangers = 0
        self.wakes = 0
        self.interests = Interests(
            MINE,
            reading=lambda: self.read,
            local=self.local.__contains__,
            hears=lambda: self.hears,
            wanted=self.wanted.append,
            moved=self.moved.append,
            strangers=self._stranger,
            wake=self._wake,
        )

    def _stranger(self) -> None:
        self.strangers += 1

    def _wake(self) -> None:
        self.wakes += 1

    def elsewhere(self, *ids: str) -> list[bool]:
        return [self.interests.elsewhere(id_) for id_ in ids]


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    made = Scene()
    monkeypatch.setattr(module.time, "monotonic", lambda: made.now)
    made.interests.looked([MINE, OTHER])
    return made


class TestElsewhere:
    def test_all_is_announced_until_every_replica_has_said_what_it_reads(
        self, scene: Scene
    ) -> None:
        assert scene.elsewhere("a") == [True]
        scene.interests.heard(f"reading {OTHER} b,c")
        assert scene.elsewhere("a", "b", "c") == [False, True, True]
        scene.interests.looked([MINE, OTHER, THIRD])
        assert scene.elsewhere("a") == [True]
        scene.interests.heard(f"reading {THIRD}")
        assert scene.elsewhere("a", "b") == [False, True]

    def test_a_replica_of_the_previous_version_never_says_it(self, scene: Scene) -> None:
        scene.interests.heard(f"reading {OTHER}")
        scene.interests.looked([OTHER, THIRD])
        for message in ("work", f"work {THIRD}", "taken a 2", "keys", "", "reads", "reading"):
            scene.interests.heard(message)
        for _ in range(30):
            scene.now += 1
            scene.interests.looked([OTHER, THIRD])
            assert scene.elsewhere("a") == [True]

    def test_one_that_joins_and_leaves(self, scene: Scene) -> None:
        scene.interests.heard(f"reading {OTHER}")
        scene.interests.heard(f"reads {OTHER} a,b")
        assert scene.elsewhere("a", "b") == [True, True]
        scene.interests.heard(f"left {OTHER} a,z")
        assert scene.elsewhere("a", "b") == [False, True]
        scene.interests.heard(f"reads {OTHER} b")
        scene.interests.heard(f"left {OTHER} b")
        assert scene.elsewhere("b") == [False]

    def test_of_several_that_read_one_the_last_must_leave(self, scene: Scene) -> None:
        scene.interests.heard(f"reading {OTHER} a")
        scene.interests.heard(f"reading {THIRD} a")
        scene.interests.heard(f"left {OTHER} a")
        assert scene.elsewhere("a") == [True]
        scene.interests.heard(f"left {THIRD} a")
        assert scene.elsewhere("a") == [False]

    @pytest.mark.parametrize("what", ["deaf", "blind", "reconnected"])
    def test_what_may_have_been_missed_is_unknown(self, scene: Scene, what: str) -> None:
        async def miss() -> None:
            if what == "deaf":
                scene.hears = False
            elif what == "blind":
                scene.now += module.LOOK_HOLDS + 1
            else:
                scene.interests.reconnected()

        scene.interests.heard(f"reading {OTHER}")
        assert scene.elsewhere("a") == [False]
        asyncio.run(miss())
        assert scene.elsewhere("a") == [True]

    def test_one_that_was_taken_may_have_readers_where_it_was(self, scene: Scene) -> None:
        scene.interests.heard(f"reading {OTHER}")
        scene.interests.took("a")
        assert scene.elsewhere("a", "b") == [True, False]
        scene.now += module.TAKEN_FROM
        scene.interests.looked([OTHER])
        assert scene.elsewhere("a") == [False]

    def test_the_interests_of_a_frozen_replica_are_kept_for_a_minute(self, scene: Scene) -> None:
        scene.interests.heard(f"reading {OTHER} a")
        scene.now += module.FORGOTTEN_AFTER - 1
        scene.interests.looked([])
        assert scene.elsewhere("a", "b") == [True, False]
        scene.now += 2
        scene.interests.looked([])
        assert scene.elsewhere("a") == [False]
        scene.interests.looked([OTHER])
        assert scene.elsewhere("a") == [True], "it is back, and has to say what it reads"

    def test_whoever_says_that_it_reads_is_answered(self, scene: Scene) -> None:
        scene.interests.heard(f"reads {OTHER} a,b")
        scene.interests.heard(f"reading {THIRD} c")
        scene.interests.heard(f"reads {MINE} d")
        assert scene.wanted == ["a", "b", "c"]

    def test_what_was_written_before_a_stranger_was_seen_is_announced(self, scene: Scene) -> None:
        scene.interests.heard(f"reading {OTHER}")
        before = scene.strangers
        scene.interests.looked([OTHER])
        assert scene.strangers == before
        scene.interests.looked([OTHER, THIRD])
        scene.interests.looked([OTHER, THIRD])
        assert scene.strangers == before + 1

    def test_what_another_attempt_has_taken_is_passed_on(self, scene: Scene) -> None:
        scene.interests.heard("taken a 2")
        assert scene.moved == ["a"]


class TestChannels:
    """Who hears of a response on a channel of its own."""

    def hearing(self, scene: Scene, response_id: str = "a") -> list[str]:
        return sorted(scene.interests.who_hears(response_id))

    def test_its_readers_if_all_of_them_have_one(self, scene: Scene) -> None:
        scene.interests.looked([MINE, OTHER, THIRD])
        scene.interests.heard(f"reading {OTHER} a")
        scene.interests.heard(f"reading {THIRD}")
        assert self.hearing(scene) == []
        scene.interests.heard(f"hears {OTHER}")
        assert self.hearing(scene) == [OTHER]
        scene.interests.heard(f"reads {THIRD} a")
        assert self.hearing(scene) == [], "older versions have none"
        scene.interests.heard(f"hears {THIRD}")
        assert self.hearing(scene) == [OTHER, THIRD]
        scene.interests.heard(f"left {THIRD} a")
        assert self.hearing(scene) == [OTHER]

    def test_nobody_alone_while_somebody_unknown_may_read_it(self, scene: Scene) -> None:
        scene.interests.heard(f"reading {OTHER} a")
        scene.interests.heard(f"hears {OTHER}")
        assert self.hearing(scene) == [OTHER]
        scene.hears = False
        assert self.hearing(scene) == []
        scene.hears = True
        scene.interests.looked([MINE, OTHER, THIRD])
        assert self.hearing(scene) == []

    def test_nobody_alone_where_many_read_it(self, scene: Scene) -> None:
        many = [f"replica_{n}" for n in range(module.MANY + 1)]
        scene.interests.looked([MINE, *many])
        for replica in many:
            scene.interests.heard(f"reading {replica} a")
            scene.interests.heard(f"hears {replica}")
        assert self.hearing(scene) == []
        scene.interests.heard(f"left {many[0]} a")
        assert self.hearing(scene) == many[1:]

    def test_each_tells_who_is_new(self, scene: Scene) -> None:
        async def play() -> list[list[str]]:
            said = []
            scene.interests.reconnected()
            for replica in (OTHER, MINE, OTHER, THIRD):
                scene.interests.heard(f"hears {replica}")
                said.append([m for m in scene.interests.messages() if m.startswith("hears")])
            return said

        assert asyncio.run(play()) == [[f"hears {MINE}"], [], [], [f"hears {MINE}"]]


class TestMessages:
    def said(self, scene: Scene, *steps: Callable[[], Any]) -> list[str]:
        async def play() -> list[str]:
            for step in steps:
                step()
            return scene.interests.messages()

        return asyncio.run(play())

    def test_what_joins_is_said_and_what_is_executed_here_is_not(self, scene: Scene) -> None:
        self.said(scene)
        scene.local.add("b")
        told: list[bool] = []
        join = scene.interests.join
        said = self.said(scene, lambda: told.extend((join("a"), join("b"))))
        assert told == [True, False]
        assert said == [f"reads {MINE} a"]
        assert self.said(scene) == []

    async def test_what_joins_is_said_soon_and_all_that_joined_meanwhile(
        self, scene: Scene, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.undo()  # the clock goes on
        for _ in range(2):
            before = scene.wakes
            for name in ("a", "b", "c"):
                scene.interests.join(name)
            assert scene.wakes == before, "what they begin with is read first"
            await eventually(lambda before=before: scene.wakes > before)  # type: ignore[misc]
            assert scene.wakes == before + 1

    def test_what_leaves_is_said_if_it_was_said_before(self, scene: Scene) -> None:
        self.said(scene)
        join, leave = scene.interests.join, scene.interests.leave
        assert self.said(scene, lambda: join("a"), lambda: leave("a")) == []
        assert self.said(scene, lambda: join("a")) == [f"reads {MINE} a"]
        assert self.said(scene, lambda: leave("a"), lambda: join("a")) == [f"reads {MINE} a"]
        assert self.said(scene, lambda: leave("a")) == [f"left {MINE} a"]

    def test_strangers_are_asked_now_and_then(self, scene: Scene) -> None:
        assert self.said(scene) == [f"who {OTHER}"]
        scene.interests.looked([OTHER])
        assert self.said(scene) == []
        scene.now += module.ASK_EVERY
        scene.interests.looked([OTHER])
        assert self.said(scene) == [f"who {OTHER}"]

    @pytest.mark.parametrize("asked", ["who", f"who {MINE}"])
    def test_who_is_asked_says_all(self, scene: Scene, asked: str) -> None:
        self.said(scene)
        scene.read = ["a", "b"]
        scene.local.add("b")
        assert self.said(scene, lambda: scene.interests.heard(f"who {OTHER}")) == []
        assert self.said(scene, lambda: scene.interests.heard(asked)) == [f"reading {MINE} a"]

    def test_all_is_said_once_a_second_however_many_ask(self, scene: Scene) -> None:
        self.said(scene)
        ask = scene.interests.heard
        assert self.said(scene, lambda: ask("who"), lambda: ask("who")) == [f"reading {MINE}"]
        assert self.said(scene, lambda: ask("who")) == []
        scene.now += module.SAY_EVERY
        assert self.said(scene) == [f"reading {MINE}"]

    def test_long_lists_are_split_and_understood(self, scene: Scene) -> None:
        self.said(scene)
        scene.read = [f"resp_{n:032x}" for n in range(1000)]
        said = self.said(scene, lambda: scene.interests.heard("who"))
        assert max(map(len, said)) <= module.MESSAGE_BYTES
        assert len(said) == 5
        other = Scene()
        other.interests._own_id = OTHER
        other.interests.looked([MINE])
        for message in said:
            other.interests.heard(message)
        assert all(other.elsewhere(*scene.read))
        assert other.elsewhere("resp_x") == [False]
