"""Threads of tools that are plain functions: those that hang keep no others from starting."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Iterator

import pytest

from longrun import metrics
from longrun.execution.contained import Escaped
from longrun.serving.threads import ABANDONED, NAME, ToolThreads

SIZE = 4


@pytest.fixture
def threads() -> Iterator[ToolThreads]:
    made = ToolThreads(SIZE)
    yield made
    made.shutdown()


@pytest.fixture
async def release(threads: ToolThreads) -> AsyncIterator[threading.Event]:
    """What functions that hang wait for; the loop's functions run in `threads`."""
    asyncio.get_running_loop().set_default_executor(threads)
    event = threading.Event()
    yield event
    event.set()
    await ended(0, "abandoned")


def gauge(state: str) -> float:
    return metrics.tool_threads.labels(state)._value.get()


async def ended(count: int, state: str) -> None:
    async with asyncio.timeout(20):
        while gauge(state) != count:
            await asyncio.sleep(0.005)


async def hang(count: int, release: threading.Event) -> None:
    """So many calls that hang and are cancelled."""
    started = threading.Semaphore(0)

    def wait() -> None:
        started.release()
        release.wait(60)

    for _ in range(count):
        task = asyncio.create_task(asyncio.to_thread(wait))
        async with asyncio.timeout(20):
            while not started.acquire(blocking=False):
                await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_calls_that_hang_do_not_keep_others_from_starting(release: threading.Event) -> None:
    await hang(3 * SIZE, release)
    await ended(3 * SIZE, "abandoned")
    async with asyncio.timeout(20):
        assert await asyncio.gather(*(asyncio.to_thread(int, "7") for _ in range(10))) == [7] * 10


async def test_no_more_than_so_many_run_at_once(release: threading.Event) -> None:
    running = threading.Semaphore(SIZE)

    def work() -> bool:
        alone = running.acquire(blocking=False)
        threading.Event().wait(0.002)
        running.release()
        return alone

    assert all(await asyncio.gather(*(asyncio.to_thread(work) for _ in range(50))))


async def test_threads_that_were_replaced_end(
    threads: ToolThreads, release: threading.Event
) -> None:
    await hang(2 * SIZE, release)
    await asyncio.gather(*(asyncio.to_thread(release.wait, 0.001) for _ in range(20)))
    release.set()
    await ended(0, "abandoned")
    async with asyncio.timeout(20):
        while len([t for t in threading.enumerate() if t.name == NAME]) > SIZE:
            await asyncio.sleep(0.005)


async def test_at_the_bound_calls_wait_and_the_log_says_why(
    threads: ToolThreads, release: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    threads._most = 2 * SIZE
    assert ToolThreads(SIZE)._most == SIZE * (1 + ABANDONED)
    await hang(2 * SIZE, release)
    with caplog.at_level(logging.WARNING):
        tasks = [asyncio.create_task(asyncio.to_thread(int, "7")) for _ in range(3)]
        await asyncio.sleep(0.05)
    assert not any(task.done() for task in tasks)
    assert metrics.tool_calls_waiting._value.get() == 3
    [line] = [record.getMessage() for record in caplog.records]
    assert "8 hang in calls that nobody waits for, hang.<locals>.wait in 8" in line
    release.set()
    async with asyncio.timeout(20):
        assert await asyncio.gather(*tasks) == [7] * 3
    assert metrics.tool_calls_waiting._value.get() == 0


async def test_a_call_that_was_cancelled_before_it_started_is_not_made(
    threads: ToolThreads, release: threading.Event
) -> None:
    made: list[int] = []
    blockers = [asyncio.create_task(asyncio.to_thread(release.wait, 60)) for _ in range(SIZE)]
    await ended(SIZE, "busy")
    waiting = asyncio.create_task(asyncio.to_thread(made.append, 1))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    release.set()
    await asyncio.gather(*blockers)
    assert await asyncio.to_thread(int, "7") == 7
    assert made == []


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit, StopIteration])
async def test_what_a_function_raises_reaches_who_waits(
    error: type[BaseException], release: threading.Event
) -> None:
    def fail() -> None:
        raise error

    reached: BaseException | None = None
    try:
        async with asyncio.timeout(20):
            await asyncio.to_thread(fail)
    except BaseException as caught:
        reached = caught
    assert isinstance(reached, RuntimeError if error is StopIteration else error)
    assert not isinstance(reached, Escaped)
