"""What a run holds while a long text is made, and what is left of it."""

import asyncio
import gc
import subprocess
import sys
import tracemalloc
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest
from agents import Agent, RunResultStreaming

import longrun
from longrun.assembly.assembler import Assembler
from longrun.execution.handling.handler import Handler
from longrun.execution.replay.references import _Sources
from longrun.pending import Delta, Pending, numbered
from longrun.serving import allocator
from longrun.store.run_log import ENVELOPE_BYTES, RunLog
from tests.scripted_model import Asked, ScriptedModel, begun, closed, completed, delta, opened
from tests.unit import runs
from tests.unit.streams import request

BUFFER = 64 * 1024
WORDS = "some words "


class Passing(runs.Commits):
    """A log writer that commits with the next turn of the loop, and keeps nothing."""

    def __init__(self) -> None:
        super().__init__(run_buffer_bytes=BUFFER, slowness=1)
        self.most = 0

    def open(self, response_id: str, attempt: int, next_sequence: int) -> RunLog:
        log = _Watched(
            response_id,
            attempt,
            next_sequence,
            wake=self.wake,
            buffer_bytes=self.run_buffer_bytes,
            max_item_bytes=self.max_item_bytes,
        )
        self.log = log
        return log

    def _take(self, run: RunLog, turns: int) -> None:
        if turns:
            super()._take(run, turns)
            return
        taken = run.next_entries(1 << 40)
        self.most = max(self.most, sum(len(event) for entry in taken for event in entry.events))
        run.settle(taken)


class _Watched(RunLog):
    """Knows how many of its events had to be copied to be numbered."""

    copied = 0

    def append(self, events: Sequence[Pending], **more: Any) -> None:
        for number, event in enumerate(events, self.next_sequence):
            if not isinstance(event, Delta) and numbered(event, number) is not event:
                self.copied += 1
        super().append(events, **more)


def long_text(deltas: int, traced: list[int] | None = None, size: int = len(WORDS)) -> Agent[Any]:
    """An agent whose model says so many deltas, and notes what is allocated in between."""

    async def say(asked: Asked) -> AsyncIterator[Any]:
        words = (WORDS * (1 + size // len(WORDS)))[:size]
        for event in (*begun(), *opened()):
            yield event
        for number in range(deltas):
            if traced is not None and number % (deltas // 4) == deltas // 8:
                traced.append(tracemalloc.get_traced_memory()[0])
            if number % 50 == 0:
                await asyncio.sleep(0)
            # A string of its own each time, as one that was read from a network.
            yield delta(f"{words[:-1]} ")
        *closing, done = closed(words * deltas)
        for event in (*closing, done):
            yield event
        yield completed([done.item])

    return Agent(name="agent", model=ScriptedModel(say))


async def test_a_long_text_waits_once_for_its_commit() -> None:
    """A model ends with it in four events; each has to be committed before the next is taken."""
    commits = Passing()
    text = 20 * BUFFER
    await runs.run(long_text(20, size=BUFFER), request(), commits=commits)
    assert text < commits.most < text + BUFFER + ENVELOPE_BYTES


async def test_no_event_is_copied_to_be_numbered() -> None:
    commits = Passing()
    await runs.run(long_text(3), request(), commits=commits)
    assert commits.log.next_sequence > 8
    assert commits.log.copied == 0


def long_handler(deltas: int, traced: list[int]) -> Handler:
    """The same as a handler, which yields what `long_text`'s model says."""

    async def say(_: Any) -> AsyncIterator[str]:
        for number in range(deltas):
            if number % (deltas // 4) == deltas // 8:
                traced.append(tracemalloc.get_traced_memory()[0])
            if number % 50 == 0:
                await asyncio.sleep(0)
            # A string of its own each time, as one that was read from a network.
            yield f"{number:05} words "

    made: Handler = longrun.agent(name="agent")(say)
    return made


@pytest.mark.parametrize("agent", [long_text, long_handler])
async def test_a_delta_leaves_nothing_but_its_text(agent: Callable[..., Any]) -> None:
    deltas = 4000
    traced: list[int] = []
    tracemalloc.start()
    try:
        await runs.run(agent(deltas, traced), request(), commits=Passing())
    finally:
        tracemalloc.stop()
    # The buffer in which it is gathered grows by a quarter at a time.
    assert traced[-1] - traced[1] < deltas / 2 * len(WORDS) * 1.25 + 20_000


async def test_nothing_of_a_run_that_has_ended_waits_for_the_collector() -> None:
    kinds = (RunResultStreaming, Assembler, _Sources)
    gc.collect()
    # Of other tests, which hold what they have seen fail.
    before = [each for each in gc.get_objects() if type(each) in kinds]
    gc.disable()
    try:
        await runs.run(long_text(3), request(), commits=Passing())
        found = [each for each in gc.get_objects() if type(each) in kinds]
        left = [each for each in found if not any(each is other for other in before)]
    finally:
        gc.enable()
    assert not [each for each in left if type(each) is RunResultStreaming and vars(each)]
    assert not [each for each in left if type(each) is Assembler and each.output]
    assert not [each for each in left if type(each) is _Sources]


async def test_a_stream_that_is_not_read_to_its_end_is_still_closed_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The SDK does that later, and still needs the run's result."""

    def fail(*_: Any) -> None:
        raise ValueError

    monkeypatch.setattr(Assembler, "raw_event", fail)
    failures: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: failures.append(context))
    await runs.run(long_text(100), request(), commits=Passing())
    gc.collect()
    for _ in range(20):
        await asyncio.sleep(0)
    gc.collect()
    assert not failures


FREED = """
import runpy, sys
if sys.argv[1] != "as it is":
    runpy.run_path(sys.argv[1])["bound"]()
for _ in range(3):
    bytearray(24 << 20)  # what is freed tells glibc what to keep
kept, large = [], []
for _ in range(60):
    large.append(bytearray(2 << 20))
    kept.append(bytearray(100_000))
del large
print(int(open("/proc/self/status").read().partition("VmRSS:")[2].split()[0]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's")
def test_what_is_large_is_the_systems_again_once_it_is_freed() -> None:
    def resident(how: str) -> int:
        """MiB."""
        ran = subprocess.run(
            [sys.executable, "-c", FREED, how], capture_output=True, check=True, timeout=60
        )
        return int(ran.stdout) // 1024

    assert resident(allocator.__file__) < 80 < resident("as it is")
