"""What blocks the event loop is named."""

import asyncio
import subprocess
import time
from collections.abc import Callable

import pytest

from longrun.serving import blocked


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocked, "LONG", 0.3)
    monkeypatch.setattr(blocked, "LOOK", 0.02)


def run(scene: Callable[[], object]) -> None:
    async def whole() -> None:
        await asyncio.sleep(0.05)
        scene()
        await asyncio.sleep(0.05)

    with asyncio.Runner() as runner, blocked.named(runner.get_loop()):
        runner.run(whole())


def blocks() -> None:
    until = time.monotonic() + 1
    while time.monotonic() < until:
        time.sleep(0.01)


def test_who_blocks_it_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    run(blocks)
    [record] = caplog.records
    assert "in blocks (" in record.getMessage()
    assert f"{__file__}:" in record.getMessage()


def test_who_called_what_blocks_is_named_too(caplog: pytest.LogCaptureFixture) -> None:
    def calls() -> None:
        subprocess.run(["sleep", "1.5"], check=True, capture_output=True)

    run(calls)
    [record] = caplog.records
    assert "calls (" in record.getMessage()


def test_a_loop_that_turns_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    async def turns() -> None:
        until = time.monotonic() + 0.6
        while time.monotonic() < until:
            await asyncio.sleep(0.01)

    with asyncio.Runner() as runner, blocked.named(runner.get_loop()):
        runner.run(turns())
    assert not caplog.records


def test_one_that_does_not_run_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    with asyncio.Runner() as runner, blocked.named(runner.get_loop()):
        time.sleep(0.5)
    assert not caplog.records
