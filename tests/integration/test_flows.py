"""What is written faster than it is announced, among many busy replicas, is not announced: its
readers look by themselves, whatever breaks."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest

from longrun.store.announcements import FLOWING, own_channel
from longrun.store.database import Database
from longrun.store.flows import SAID_EVERY, SILENCE, Flows
from longrun.store.log_writer import LogWriter
from longrun.store.run_log import RunLog
from tests.announcing import Following, Half, all_look, following, halves_of
from tests.postgres import Server
from tests.reading import eventually
from tests.storing import add_response, connected, event, log_of

REPLICAS = 32

COMMITS = 60


class Pair:
    """One that writes, one that reads; each knows the other."""

    def __init__(self, one: Half, two: Half, heard: list[str]) -> None:
        self.one, self.two, self.heard = one, two, heard
        self.writer = LogWriter(one.database, one.hub.committed, one.announcer)

    def be_busy(self) -> None:
        """Announce as among many replicas on a Postgres that has much to do."""
        announcer = self.one.announcer
        announcer.replicas = REPLICAS
        for _ in range(100):
            announcer.sent(commits=100, seconds=0.1, took=0.004)
        announcer._may_go_along = lambda: False  # type: ignore[method-assign]
        # What a NOTIFY takes here and now is none of this test's.
        announcer.sent = lambda *_: None  # type: ignore[method-assign, assignment]

    def be_idle(self) -> None:
        self.one.announcer.replicas = 2

    async def write(self, log: RunLog, count: int = COMMITS, pause: float = 0.005) -> None:
        for _ in range(count):
            log.append([event(0, type="response.queued")])
            await log.flush()
            await asyncio.sleep(pause)


@pytest.fixture
async def pair(store: Database, database: Server) -> AsyncIterator[Pair]:
    async with contextlib.AsyncExitStack() as stack:
        one, two = await stack.enter_async_context(
            halves_of(database.url, store.settings.db_schema, 2)
        )
        spy = await stack.enter_async_context(connected(database.url))
        heard: list[str] = []
        channel = own_channel(store.settings.db_schema, two.id)
        await spy.add_listener(channel, lambda *args: heard.append(str(args[3])))
        both, stop = Pair(one, two, heard), asyncio.Event()
        looking = asyncio.create_task(keep_looking(one, two))
        async with asyncio.TaskGroup() as group:
            group.create_task(both.writer.run(stop))
            try:
                yield both
            finally:
                looking.cancel()
                stop.set()


async def keep_looking(*halves: Half) -> None:
    while True:
        all_look(*halves)
        await asyncio.sleep(0.5)


@contextlib.asynccontextmanager
async def reading(pair: Pair, response_id: str) -> AsyncIterator[Following]:
    async with following(pair.two, response_id) as reader:
        await eventually(lambda: pair.one.interests.is_read(response_id), every=0.005)
        yield reader


async def until_it_flows(pair: Pair, log: RunLog) -> None:
    """Write one event after the other while there is much to do."""
    await pair.write(log, 20)
    await eventually(lambda: log.response_id in pair.one.announcer._flows)


async def test_what_flows_is_said_now_and_then_and_read_at_once(
    store: Database, pair: Pair
) -> None:
    response_id = await add_response(store)
    log = log_of(pair.writer, response_id)
    pair.be_busy()
    async with reading(pair, response_id) as reader:
        await until_it_flows(pair, log)
        pair.heard.clear()
        began = time.monotonic()
        await pair.write(log)
        await reader.has(log.next_sequence - 1, within=SAID_EVERY)
        took = time.monotonic() - began
        assert len(pair.heard) <= took / SAID_EVERY + 2 < COMMITS / 2
        assert all(message.startswith(f"{FLOWING},") for message in pair.heard)


async def test_what_is_written_at_a_human_pace_flows_too(store: Database, pair: Pair) -> None:
    """Slower than it would be announced, but each time all replicas would be woken."""
    response_id = await add_response(store)
    log = log_of(pair.writer, response_id)
    pair.be_busy()
    async with reading(pair, response_id) as reader:

        async def flows() -> bool:
            await pair.write(log, 1, pause=0.05)
            return response_id in pair.one.announcer._flows

        await eventually(flows)
        await reader.has(log.next_sequence - 1)


async def test_what_comes_after_a_pause_is_announced(store: Database, pair: Pair) -> None:
    response_id = await add_response(store)
    log = log_of(pair.writer, response_id)
    pair.be_busy()
    async with reading(pair, response_id) as reader:
        await pair.write(log, 20)
        await reader.has(log.next_sequence - 1)
        # The reader has stopped looking.
        await eventually(lambda: not pair.two.hub._flowing)
        await pair.write(log, 1)
        await reader.has(log.next_sequence - 1)
        assert pair.two.reached[response_id] == log.next_sequence - 1


@pytest.mark.parametrize("hears", ["the first in vain", "as the version before"])
async def test_a_reader_that_does_not_know_has_it_with_the_next_announcement(
    store: Database, pair: Pair, hears: str
) -> None:
    response_id = await add_response(store)
    log = log_of(pair.writer, response_id)
    pair.be_busy()
    if hears == "as the version before":
        pair.two.listener._flows = None
    async with reading(pair, response_id) as reader:
        pair.two.deaf = hears == "the first in vain"
        await until_it_flows(pair, log)
        pair.two.hub._flowing.clear()
        pair.two.deaf = False
        await pair.write(log)
        await reader.has(log.next_sequence - 1)


async def test_who_joins_what_flows_is_told_so(store: Database, pair: Pair) -> None:
    response_id = await add_response(store)
    log = log_of(pair.writer, response_id)
    pair.be_busy()
    async with reading(pair, response_id):
        await until_it_flows(pair, log)
        writing = asyncio.create_task(pair.write(log))
        pair.heard.clear()
        pair.one.announcer.announce_again(response_id)
        await eventually(lambda: bool(pair.heard), timeout=SAID_EVERY)
        assert pair.heard[0].startswith(f"{FLOWING},{response_id}:")
        await writing


async def test_once_announcing_costs_little_it_is_announced_again(
    store: Database, pair: Pair
) -> None:
    response_id = await add_response(store)
    log = log_of(pair.writer, response_id)
    pair.be_busy()
    async with reading(pair, response_id) as reader:
        await until_it_flows(pair, log)
        pair.be_idle()
        writing = asyncio.create_task(pair.write(log))
        await eventually(lambda: response_id not in pair.one.announcer._flows)
        await writing
        await eventually(lambda: pair.two.reached[response_id] == log.next_sequence - 1)
        await reader.has(log.next_sequence - 1)


async def test_who_stops_says_all(store: Database, pair: Pair) -> None:
    announcer = pair.one.announcer
    announcer._flows.told([("resp_1", 1)])
    announcer._flows.written("resp_1", 5)
    stop = asyncio.Event()
    stop.set()
    other = type(announcer)(store)
    other._flows = announcer._flows
    announcer._flows = Flows()
    other.announce("resp_2", 1)
    await other.run(stop)
    await eventually(lambda: pair.two.reached.get("resp_1") == 5)


def test_a_log_flows_until_it_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    flows = Flows()
    assert flows.due is None
    flows.told([("a", 1), ("b", 1)])
    assert flows.due == now + SAID_EVERY
    now += SILENCE / 2
    assert flows.written("a", 2)
    assert not flows.written("c", 1)
    now += SILENCE * 0.9
    assert flows.written("a", 3)
    assert not flows.written("b", 2)
    assert flows.tend(1.0) == {"a": 3}
    flows.told([("a", 3)])
    assert flows.tend(1.0) == {}
    assert flows.written("a", 4)
    now += 2 * SILENCE
    assert flows.tend(1.0) == {"a": 4}
    assert flows.due is None
