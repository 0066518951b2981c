"""The floor of a durable path: plain asyncpg, with no agent and no HTTP.

One process emits at the given pace, inserts all that is pending in one statement and NOTIFYs, each
as fast as it can; another LISTENs and fetches. No stream on Postgres can be faster than this.
"""

import asyncio
import contextlib
import time
from collections.abc import Sequence
from typing import Any, Final

import asyncpg

from tests.bench import processes
from tests.bench.agents import Pace
from tests.bench.gate import Gate

CHANNEL: Final = "bench_plain"
TABLE: Final = """
CREATE TABLE IF NOT EXISTS bench_plain (id bigserial PRIMARY KEY, data bytea NOT NULL);
TRUNCATE bench_plain"""
PADDING: Final = b" " + b"x" * 180
SETTLE: Final = 0.3
"""Seconds for the last notification to arrive."""


def latencies(url: str, gate: Gate, paces: Sequence[Pace]) -> list[float]:
    """Seconds from each emission to its arrival at the listening process."""
    texts = [pace.as_text() for pace in paces]
    with (
        processes.started(_listen, url=url) as listening,
        processes.started(_emit, url=url, paces=texts) as emitting,
    ):
        listening.ready()
        emitting.ready()
        gate.open()
        emitting.result()
        time.sleep(SETTLE)
        listening.stop()
        return [float(each) for each in listening.result()]


async def _listen(parent: processes.Parent, url: str) -> list[float]:
    news, found, last = asyncio.Event(), [], 0
    listening, fetching = await asyncpg.connect(url), await asyncpg.connect(url)
    await fetching.execute(TABLE)
    await listening.add_listener(CHANNEL, lambda *_: news.set())
    parent.ready()
    stopped = asyncio.ensure_future(parent.stopped())
    stopped.add_done_callback(lambda _: news.set())
    while not stopped.done():
        await news.wait()
        news.clear()
        rows = await fetching.fetch(
            "SELECT id, data FROM bench_plain WHERE id > $1 ORDER BY id", last
        )
        now = time.monotonic_ns()
        for number, data in rows:
            last = number
            found += [(now - int(line[: line.index(b" ")])) / 1e9 for line in data.split(b"\n")]
    return found


async def _emit(parent: processes.Parent, url: str, paces: list[str]) -> None:
    pending: list[bytes] = []
    work, written = asyncio.Event(), asyncio.Event()
    inserting, notifying = await asyncpg.connect(url), await asyncpg.connect(url)

    async def stream(pace: Pace) -> None:
        async for _ in pace.ticks():
            pending.append(b"%d%b" % (time.monotonic_ns(), PADDING))
            work.set()

    async def write() -> None:
        while await _next(work):
            data = b"\n".join(pending)
            pending.clear()
            await inserting.execute("INSERT INTO bench_plain (data) VALUES ($1)", data)
            written.set()

    async def notify() -> None:
        while await _next(written):
            await notifying.execute(f"NOTIFY {CHANNEL}")

    parent.ready()
    background: list[Any] = [asyncio.ensure_future(part()) for part in (write, notify)]
    await asyncio.gather(*(stream(Pace.parse(text)) for text in paces))
    await asyncio.sleep(SETTLE)
    for part in background:
        part.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await part


async def _next(event: asyncio.Event) -> bool:
    await event.wait()
    event.clear()
    return True
