"""Rates by a clock that jumps: what one replica allows, and what it makes of what others took."""

import asyncio
from collections.abc import Sequence

import pytest

from longrun.access.rates import Rates, Standing, Wanted
from longrun.errors import RateLimited, Unavailable
from longrun.http.answers import error_answer
from longrun.http.rates import as_duration
from longrun.store.limits import Told
from tests.unit import clock


class Board:
    """What Postgres would know."""

    def __init__(self, levels: dict[str, float] | None = None) -> None:
        self.levels = levels or {}
        self.at: dict[str, float] = {}
        self.told: list[Sequence[Told]] = []
        self.away = False

    async def share(self, told: Sequence[Told]) -> dict[str, float]:
        if self.away:
            raise Unavailable("away")
        self.told.append(told)
        now = asyncio.get_running_loop().time()
        for subject, taken, rate in told:
            worn_off = rate * (now - self.at.get(subject, now))
            self.levels[subject] = max(0, self.levels.get(subject, 0) - worn_off) + taken
            self.at[subject] = now
        return {each.subject: self.levels[each.subject] for each in told}


async def one(rates: Rates, limit: int, subject: str = "a") -> Standing:
    [standing] = await rates.take([Wanted(subject, limit)])
    return standing


class Running:
    """Rates that tell."""

    def __init__(self, board: Board) -> None:
        self.rates = Rates(board)
        self._stop = asyncio.Event()

    async def __aenter__(self) -> Rates:
        self._task = asyncio.ensure_future(self.rates.run(self._stop))
        return self.rates

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await self._task


def test_so_many_at_once_then_one_as_each_wears_off() -> None:
    async def play() -> None:
        async with Running(Board()) as rates:
            standings = [await one(rates, 60) for _ in range(60)]
            assert [s.remaining for s in standings] == [*range(59, -1, -1)]
            assert standings[-1].reset == pytest.approx(60)
            refused = await one(rates, 60)
            assert refused.wait == pytest.approx(1)
            assert refused.remaining == 0
            await asyncio.sleep(refused.wait + 0.01)
            assert (await one(rates, 60)).wait == 0
            assert (await one(rates, 60)).wait > 0
            await asyncio.sleep(120)
            assert (await one(rates, 60)).remaining == 59

    clock.run(play())


def test_what_is_refused_counts_for_none() -> None:
    async def play() -> None:
        async with Running(Board()) as rates:
            assert (await one(rates, 1, "full")).wait == 0
            for _ in range(5):
                both = await rates.take([Wanted("other", 10), Wanted("full", 1)])
                assert [s.wait > 0 for s in both] == [False, True]
            assert (await one(rates, 10, "other")).remaining == 9

    clock.run(play())


def test_others_are_heard_of_before_a_tenth_is_taken() -> None:
    async def play() -> None:
        async with Running(Board({"a": 1000})) as rates:
            allowed = 0
            while not (await one(rates, 1000)).wait:
                allowed += 1
            assert allowed <= 100

    clock.run(play())


def test_little_is_told_once_a_second_for_all_together() -> None:
    async def play() -> None:
        board = Board()
        async with Running(board) as rates:
            for subject in "abc":
                await one(rates, 1000, subject)
            await asyncio.sleep(1.1)
            assert [[each.subject for each in told] for told in board.told] == [["a", "b", "c"]]

    clock.run(play())


def test_without_postgres_it_decides_by_itself() -> None:
    async def play() -> None:
        board = Board()
        board.away = True
        rates, stop = Rates(board), asyncio.Event()
        with pytest.raises(Unavailable):
            await asyncio.gather(rates.run(stop), one(rates, 10))
        allowed = 1
        while not (await one(rates, 10)).wait:
            allowed += 1
        assert allowed == 10
        assert asyncio.get_running_loop().time() == 0, "requests waited for what does not answer"
        board.away = False
        task = asyncio.ensure_future(rates.run(stop))
        await asyncio.sleep(0.1)
        # Of what was not told for so long, all is.
        assert board.levels == {"a": 10}
        stop.set()
        await task

    clock.run(play())


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.12, "120ms"),
        (1, "1s"),
        (8.64, "8.64s"),
        (59.9996, "1m0s"),
        (360, "6m0s"),
        (3723, "1h2m3s"),
        (86_400, "24h0m0s"),
    ],
)
def test_durations_are_written_as_openai_does(seconds: float, text: str) -> None:
    assert as_duration(seconds) == text


def test_the_sdk_waits_as_long_as_it_is_told() -> None:
    answer = error_answer(RateLimited(60, "that ask for a run", 0.2504))
    assert answer.headers["retry-after"] == "1"
    assert answer.headers["retry-after-ms"] == "251"
