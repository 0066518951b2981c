"""Pauses between tries, on a clock that jumps (clock.py)."""

import asyncio

import pytest

from longrun.backoff import Backoff, jittered, sleep_unless
from tests.unit import clock


def now() -> float:
    return asyncio.get_running_loop().time()


def pauses(backoff: Backoff, count: int) -> list[float]:
    async def scene() -> list[float]:
        taken = []
        for _ in range(count):
            began = now()
            await backoff.pause()
            taken.append(now() - began)
        return taken

    return clock.run(scene())


def test_pauses_double_up_to_the_longest_and_never_agree() -> None:
    averages = [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    ones, others = pauses(Backoff(0.1, 1.0), 6), pauses(Backoff(0.1, 1.0), 6)
    for taken in (ones, others):
        for seconds, average in zip(taken, averages, strict=True):
            assert average / 2 <= seconds <= average * 1.5
    assert ones != others


def test_after_a_reset_the_first_comes_again() -> None:
    backoff = Backoff(0.1, 10.0)
    pauses(backoff, 5)
    backoff.reset()
    assert backoff.coming == 0.1
    assert pauses(backoff, 1)[0] <= 0.15


@pytest.mark.parametrize("spread", [0.0, 0.15, 0.5, 1.0])
def test_jitter_stays_within_its_spread(spread: float) -> None:
    for _ in range(200):
        assert 10 * (1 - spread) <= jittered(10, spread) <= 10 * (1 + spread)


def test_a_stop_cuts_a_pause_short() -> None:
    async def scene() -> tuple[float, bool, bool]:
        stop = asyncio.Event()
        slept = await sleep_unless(stop, 5)
        asyncio.get_running_loop().call_later(1, stop.set)
        await Backoff(100, 100).pause(stop)
        return now(), slept, await sleep_unless(stop, 100)

    assert clock.run(scene()) == (6, False, True)
