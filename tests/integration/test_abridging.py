"""Event retention: streams without deltas are whole, and readers of before find the end."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from openai import AsyncOpenAI

from longrun.client import follow
from longrun.errors import Unreadable
from longrun.fanout.hub import Hub
from longrun.fanout.tail import Tail
from longrun.store import abridging
from longrun.store.abridging import Abridging
from longrun.store.database import Database
from longrun.store.events import EventLog
from longrun.store.responses import Responses
from tests import servers
from tests.postgres import Server
from tests.reading import (
    DONE,
    Reading,
    Wire,
    check_complete,
    create,
    eventually,
    finished,
    in_background,
    parse,
    read,
    retrieve,
    script,
    stream_url,
)
from tests.servers import Replica
from tests.storing import add_history, connected, locked, logged, opened

SLOW: dict[str, Any] = {
    "turns": [["a text", ["echo", {"text": "a"}], ["echo", {"text": "b"}]], [["echo", {}]]],
    "deltas": 30,
    "pause": 0.003,
}
"""Some items, and a text of which each delta is an event."""


@pytest.fixture(scope="module")
def two(database: Server) -> Iterator[list[Replica]]:
    """Two replicas that merge no deltas, however slow commits are."""
    environment = {"LONGRUN_MERGE_DELTAS": "false"}
    with servers.replicas(2, database.url, schema="abridging", environment=environment) as started:
        yield started


@pytest.fixture
async def store_of_two(two: list[Replica], database: Server) -> AsyncIterator[Database]:
    schema = two[0].environment["LONGRUN_SCHEMA"]
    async with opened(database.url, schema) as found:
        yield found


async def streamed(replica: Replica, response_id: str) -> Reading:
    return check_complete(await read(stream_url(replica, response_id)), with_ids=True)


async def before_and_after(
    two: list[Replica], store: Database, **fields: Any
) -> tuple[str, Reading, Reading]:
    """A finished response; its stream, and its stream when its deltas are gone."""
    response_id = await in_background(two[0], **(fields or SLOW))
    await finished(two[0], response_id)
    before = await streamed(two[1], response_id)
    assert await Abridging(store, 0.001).abridge(response_id)
    return response_id, before, await streamed(two[1], response_id)


def without_numbers(reading: Reading) -> list[dict[str, Any]]:
    """All events but deltas, without their numbers."""
    found = [event for event in reading.events if not event["type"].endswith(".delta")]
    return [{k: v for k, v in event.items() if k != "sequence_number"} for event in found]


def texts(reading: Reading) -> dict[tuple[str, int], list[str]]:
    """The deltas by kind and item."""
    found: dict[tuple[str, int], list[str]] = {}
    for event in reading.events:
        if event["type"].endswith(".delta"):
            found.setdefault((event["type"], event["output_index"]), []).append(event["delta"])
    return found


class TestStreams:
    async def test_items_are_replayed_whole(
        self, two: list[Replica], store_of_two: Database
    ) -> None:
        response_id, before, after = await before_and_after(two, store_of_two)
        assert len(after.frames) < len(before.frames) - 20
        assert without_numbers(after) == without_numbers(before)
        assert texts(after) == {part: ["".join(each)] for part, each in texts(before).items()}
        assert (await retrieve(two[0], response_id))["output"] == after.events[-1]["response"][
            "output"
        ]
        shown = await Responses(store_of_two).inspect_unscoped(response_id)
        assert shown is not None
        assert shown["events"] == len(after.frames)

    async def test_whoever_comes_back_gets_the_end_whatever_the_cursor_is(
        self, two: list[Replica], store_of_two: Database
    ) -> None:
        """The terminal event, which has everything, as it was numbered before; and after that,
        nothing. A browser's EventSource is told to stay away."""
        response_id, before, after = await before_and_after(two, store_of_two)
        last = before.numbers[-1]
        for cursor in (0, 3, after.numbers[-1], len(after.frames), last - 1):
            for url, headers in (
                (stream_url(two[0], response_id, cursor), {}),
                (stream_url(two[1], response_id, 0), {"Last-Event-ID": str(cursor)}),
            ):
                rest = parse(await read(url, headers))
                assert rest.done
                assert rest.numbers == [last]
                assert rest.frames[0].id == last
                assert rest.events == before.events[-1:]
        for cursor in (last, last + 1, 1 << 31, (last + 1 << 31) + 3, (1 << 63) - 1):
            assert await read(stream_url(two[0], response_id, cursor)) == DONE
            headers = {"Last-Event-ID": str(cursor)}
            async with await Wire.open(stream_url(two[0], response_id), headers=headers) as wire:
                await wire.rest()
                assert wire.status == 204

    @pytest.mark.parametrize("place", [0.0, 0.1, 0.5, 0.9])
    async def test_the_stream_of_openai(
        self,
        two: list[Replica],
        store_of_two: Database,
        clients: list[AsyncOpenAI],
        place: float,
    ) -> None:
        """It asks for everything, adds it up, and shows what comes after the cursor. Past the new
        end it shows nothing, and has the final response all the same."""
        response_id, before, after = await before_and_after(two, store_of_two)
        cursor = int(place * before.numbers[-1])
        async with clients[1].responses.stream(
            response_id=response_id, starting_after=cursor
        ) as stream:
            shown = [event.sequence_number async for event in stream]
            final = await stream.get_final_response()
        assert shown == [number for number in after.numbers if number > cursor]
        stored = before.events[-1]["response"]["output"]
        assert [item.id for item in final.output] == [item["id"] for item in stored]
        assert final.output_text == "a text" + "".join(f"word{n} " for n in range(30))

    async def test_our_client_that_was_away(
        self, two: list[Replica], store_of_two: Database, clients: list[AsyncOpenAI]
    ) -> None:
        response_id, before, after = await before_and_after(two, store_of_two)
        for cursor in (5, before.numbers[-1] - 1):
            rest = [
                each.sequence_number async for each in follow(clients[0], response_id, after=cursor)
            ]
            assert rest == before.numbers[-1:]
        whole = [each.sequence_number async for each in follow(clients[0], response_id)]
        assert whole == after.numbers

    async def test_a_response_of_which_nothing_can_be_left_out(
        self, two: list[Replica], store_of_two: Database
    ) -> None:
        response = await create(two[0], script(deltas=1))
        before = await streamed(two[0], response["id"])
        assert await Abridging(store_of_two, 0.001).abridge(response["id"])
        assert await streamed(two[0], response["id"]) == before

    async def test_twice_is_as_once(self, two: list[Replica], store_of_two: Database) -> None:
        response_id, _, after = await before_and_after(two, store_of_two)
        assert await Abridging(store_of_two, 0.001).abridge(response_id)
        assert await streamed(two[0], response_id) == after


class Readers:
    """Readers of one response on a replica that is not there otherwise."""

    def __init__(self, store: Database, response_id: str) -> None:
        self._log, self._id = EventLog(store), response_id
        self._hub = Hub(self._log, ring_bytes=1024, poll_interval=60)

    def tail(self, cursor: int = -1, page_bytes: int = 1) -> Tail:
        return Tail(
            self._hub, self._log, self._id, cursor=cursor, finished=True, page_bytes=page_bytes
        )

    async def rest(self, tail: Tail) -> list[int]:
        """The numbers of all that comes."""
        found: list[int] = []
        while block := await tail.next(10):
            for chunk in block:
                numbers = list(range(chunk.first, chunk.last + 1))
                lines = chunk.data.split(b"\n")
                for number, line in zip(numbers, lines, strict=True):
                    assert json.loads(line)["sequence_number"] == number
                found += numbers
        assert block is None
        assert tail.ended
        return found


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(abridging, "CHUNK_BYTES", 1000)
    monkeypatch.setattr(abridging, "PAGE_BYTES", 3000)


class TestLogs:
    async def test_a_reader_in_its_midst(self, store: Database, small: None) -> None:
        response_id = await add_history(store, 1)
        readers = Readers(store, response_id)
        with readers.tail() as slow, readers.tail(500) as resumed:
            first = await slow.next(10)
            assert first
            assert first[-1].last < 900
            assert await resumed.next(10)
            assert await Abridging(store, 0.001).abridge(response_id)
            assert await readers.rest(slow) == [1001]
            assert await readers.rest(resumed) == [1001]
        with readers.tail() as late:
            assert await readers.rest(late) == list(range(6))

    async def test_what_is_read_waits(self, store: Database) -> None:
        response_id = await add_history(store, 1)
        abridging_, responses = Abridging(store, 0.001), Responses(store)
        await responses.note_readers([response_id], 1)
        assert await abridging_.abridge(response_id) is False
        schema = store.settings.db_schema
        await store.execute(f'UPDATE "{schema}".responses SET read_until = now()')
        assert await abridging_.abridge(response_id)

    async def test_one_replica_at_a_time(self, store: Database, database: Server) -> None:
        response_id, schema = await add_history(store, 1), store.settings.db_schema
        abridging_ = Abridging(store, 0.001)
        async with connected(database.url) as other, other.transaction():
            turn = "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))"
            await other.execute(turn, f"longrun retention {schema}")
            assert await abridging_.abridge(response_id) is None
            assert await abridging_.abridge_due(asyncio.Event()) == 0
        async with locked(database.url, schema, response_id):
            assert await abridging_.abridge(response_id) is False
        assert await abridging_.abridge(response_id)

    async def test_one_that_breaks_off_has_changed_nothing(
        self, store: Database, small: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        response_id = await add_history(store, 1)
        before = await logged(store, response_id)
        opened_ = 0
        open_ = store.sealing.open

        def failing(*args: Any) -> bytes:
            nonlocal opened_
            opened_ += 1
            if opened_ == 3:
                raise Unreadable()
            return open_(*args)

        with monkeypatch.context() as patched:
            patched.setattr(store.sealing, "open", failing)
            assert await Abridging(store, 0.001).abridge(response_id)
        assert await logged(store, response_id) == before


async def ended_ago(store: Database, response_id: str, seconds: float) -> None:
    schema = store.settings.db_schema
    await store.execute(
        f'UPDATE "{schema}".responses SET finished_at = now() - make_interval(secs => $2) '
        "WHERE id = $1",
        response_id,
        seconds,
    )


async def is_abridged(store: Database, response_id: str) -> bool:
    end = await EventLog(store).end_unscoped(response_id)
    assert end is not None
    return end.first >= 1 << 31


async def test_all_that_ended_long_enough_ago_and_nothing_twice(
    store: Database, database: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(abridging, "PAUSE", 0.0)
    monkeypatch.setattr(abridging, "REST", 0.0)
    ids = [await add_history(store, 1, size=20_000) for _ in range(5)]
    for n, response_id in enumerate(ids):
        await ended_ago(store, response_id, 3600 - 600 * n)
    stop, hour = asyncio.Event(), Abridging(store, 1500)
    schema = store.settings.db_schema
    async with locked(database.url, schema, ids[1]):
        assert await hour.abridge_due(stop) == 3
    # The one that was locked is come back to.
    assert [await is_abridged(store, each) for each in ids] == [True, False, True, True, False]
    assert await hour.abridge_due(stop) == 1
    asked: list[str] = []

    async def abridge(self: Abridging, response_id: str) -> bool:
        asked.append(response_id)
        return True

    with monkeypatch.context() as patched:
        patched.setattr(Abridging, "abridge", abridge)
        await ended_ago(store, ids[4], 1501)
        await Abridging(store, 1500).abridge_due(stop)
        assert asked == [ids[4]]
        await Abridging(store, 1500).abridge_due(stop)
        assert asked == [ids[4]]


async def test_replicas_do_it_by_themselves(database: Server, schema: str) -> None:
    environment = {"LONGRUN_EVENT_RETENTION": "0.5", "LONGRUN_MERGE_DELTAS": "false"}
    with servers.replicas(1, database.url, schema=schema, environment=environment) as [replica]:
        response_id = await in_background(replica, deltas=200)
        await finished(replica, response_id)

        async def short() -> bool:
            with contextlib.suppress(AssertionError):
                return len((await streamed(replica, response_id)).frames) < 20
            return False

        await eventually(short)
        assert "Traceback" not in replica.output()
