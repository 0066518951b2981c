"""What nobody reads elsewhere is not announced; what somebody does always is, whatever breaks."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager

import asyncpg

from longrun import ids
from longrun.store.announcements import control_channel, events_channel
from longrun.store.announcer import Announcer
from longrun.store.database import Database
from longrun.store.log_writer import LogWriter
from longrun.store.records import Chunk
from longrun.store.responses import NewResponse, Responses
from longrun.store.run_log import RunLog
from tests.announcing import Half, all_look, following, halves_of
from tests.postgres import Server
from tests.reading import eventually
from tests.storing import connected, opened, request_for, terminate


def halves(database: Database, count: int) -> AbstractAsyncContextManager[list[Half]]:
    """Halves of replicas that know each other."""
    return halves_of(database._url, database.settings.db_schema, count)


@contextlib.asynccontextmanager
async def writing(database: Database, half: Half) -> AsyncIterator[RunLog]:
    """The log of a response that this half executes."""
    response_id = ids.new_response_id()
    first = b'{"type":"response.created","sequence_number":0,"response":{}}'
    request = request_for(response_id, agent="agent")
    await Responses(database).create(NewResponse(request, [first], replica_id=half.id))

    def committed(id_: str, chunks: list[Chunk]) -> None:
        half.hub.committed(id_, chunks)
        half.announcer.announce(id_, chunks[-1].last)

    writer, stop = LogWriter(database, committed), asyncio.Event()
    half.local.add(response_id)
    async with asyncio.TaskGroup() as group:
        group.create_task(writer.run(stop))
        yield writer.open(response_id, 1, 1)
        stop.set()


async def append(log: RunLog) -> int:
    """Commit an event. Returns its number."""
    number = log.next_sequence
    log.append([b'{"type":"response.queued","sequence_number":0}'])
    await log.flush()
    return number


async def test_what_nobody_reads_elsewhere_is_not_announced(store: Database) -> None:
    async with halves(store, 3) as (one, two, three), writing(store, one) as log:
        async with following(one, log.response_id) as local:
            await local.has(await append(log))
            one.announcer.announce("read by nobody", 5)
            async with following(two, log.response_id) as reader:
                await reader.has(await append(log))
                await reader.has(await append(log))
            assert two.reached == {log.response_id: log.next_sequence - 1}
            assert "read by nobody" not in three.reached
            await eventually(lambda: not one.interests.elsewhere(log.response_id))
            last = await append(log)
            await local.has(last)
        one.announcer.announce("read by nobody", 6)
        three.interests.join("read by nobody")
        await eventually(lambda: three.reached.get("read by nobody") == 6)
        assert two.reached[log.response_id] < last


async def test_what_is_committed_while_an_interest_is_on_its_way_is_announced(
    store: Database,
) -> None:
    async with halves(store, 2) as (one, two), writing(store, one) as log:
        for _ in range(10):
            async with following(two, log.response_id) as reader:
                # At this moment, the one that writes may have heard of it or not.
                await reader.has(await append(log))


async def test_a_lost_interest_costs_a_moment(store: Database) -> None:
    async with halves(store, 2) as (one, two), writing(store, one) as log:
        one.deaf = True
        async with following(two, log.response_id) as reader:
            await asyncio.sleep(0)
            for _ in range(3):
                await reader.has(await append(log))
            one.deaf = False
            await eventually(lambda: one.interests.elsewhere(log.response_id))
            await reader.has(await append(log))


async def test_the_listen_connection_of_the_one_that_writes_is_cut(
    store: Database, database: Server
) -> None:
    async with halves(store, 2) as (one, two), writing(store, one) as log:
        async with following(two, log.response_id) as reader:
            await reader.has(await append(log))
            for _ in range(3):
                await terminate(database.url, application="longrun listener")
                await reader.has(await append(log))
                await reader.has(await append(log))
        # Both have told each other anew, and nothing is announced without need again.
        await eventually(lambda: one.listener.connected and two.listener.connected)
        all_look(one, two)
        await eventually(lambda: not one.interests.elsewhere(log.response_id), timeout=20)


async def test_a_frozen_replica_reads_on_when_it_is_back(store: Database) -> None:
    async with (
        halves(store, 2) as (one, two),
        writing(store, one) as log,
        following(two, log.response_id) as reader,
    ):
        await reader.has(await append(log))
        two.deaf = True
        one.interests.looked([one.id])
        last = await append(log)
        two.deaf = False
        one.interests.looked([one.id, two.id])
        await reader.has(await append(log))
        assert reader.cursor > last


async def test_a_replica_of_the_previous_version_gets_everything(
    store: Database, database: Server
) -> None:
    """It says nothing of what it reads, and understands nothing of what is said of it."""
    old_id = ids.new_replica_id()
    heard: list[str] = []
    async with halves(store, 2) as (one, two), connected(database.url) as connection:
        channel = events_channel(store.settings.db_schema)
        await connection.add_listener(channel, lambda *args: heard.append(str(args[3])))
        one.announcer.announce("before it was seen", 3)
        all_look(one, two, also=(old_id,))
        one.announcer.announce("after", 4)
        two.announcer.announce("of the other", 5)
        for said in ("before it was seen:3", "after:4", "of the other:5"):
            await eventually(lambda said=said: said in ",".join(heard))  # type: ignore[misc]
        # What it writes itself, it announces, whoever reads it.
        async with opened(database.url, store.settings.db_schema) as own:
            old, stop = Announcer(own), asyncio.Event()
            old.announce("its own", 6)
            stop.set()
            await old.run(stop)
        await eventually(lambda: one.reached.get("its own") == 6)
        # Once it is gone, nothing is announced without need.
        all_look(one, two)
        assert not one.interests.elsewhere("after")


async def test_a_run_that_moves_has_its_readers_where_it_was(store: Database) -> None:
    async with (
        halves(store, 2) as (one, two),
        writing(store, one) as log,
        following(one, log.response_id) as reader,
    ):
        await reader.has(await append(log))
        one.local.clear()
        two.local.add(log.response_id)
        two.announcer.tell_taken(log.response_id, 2)
        assert two.interests.elsewhere(log.response_id)
        two.announcer.announce(log.response_id, 1000)
        await eventually(lambda: one.reached.get(log.response_id) == 1000)
        await eventually(lambda: log.response_id in two.interests._readers)


async def test_a_full_notification_queue_loses_no_interest(
    store: Database, database: Server
) -> None:
    """NOTIFY is refused for a while: what is to be told is told later."""
    async with halves(store, 2) as (one, two), writing(store, one) as log:
        refused, send = [], two.announcer._lane.fetch

        async def full(query: str, *arguments: object) -> object:
            if len(refused) < 2 and query == two.announcer._query:
                refused.append(arguments)
                raise asyncpg.ProgramLimitExceededError("too many notifications")
            return await send(query, *arguments)

        two.announcer._lane.fetch = full  # type: ignore[method-assign,assignment]
        async with following(two, log.response_id) as reader:
            await reader.has(await append(log))
            await eventually(lambda: log.response_id in one.interests._readers, timeout=20)
            assert len(refused) == 2
            await reader.has(await append(log))


async def test_the_control_channel_carries_it_so_that_older_versions_pass_it_over(
    store: Database, database: Server
) -> None:
    said: list[str] = []
    async with halves(store, 1) as (one,), connected(database.url) as connection:
        channel = control_channel(store.settings.db_schema)
        await connection.add_listener(channel, lambda *args: said.append(str(args[3])))
        with one.hub.subscribe("resp_1"):
            # By itself, or in the list of all that is read here if that is due.
            await eventually(
                lambda: any(
                    message in (f"reads {one.id} resp_1", f"reading {one.id} resp_1")
                    for message in said
                )
            )


async def test_who_does_not_read_it_does_not_hear_of_it(store: Database) -> None:
    async with halves(store, 3) as (one, two, three), writing(store, one) as log:
        await eventually(lambda: len(one.interests._direct) == 2)
        async with following(two, log.response_id) as reader:
            await eventually(lambda: one.interests.elsewhere(log.response_id))
            for _ in range(3):
                await reader.has(await append(log))
        assert log.response_id not in three.reached
        # One that has no channel of its own, as versions before.
        one.interests._direct.discard(two.id)
        async with following(two, log.response_id) as reader:
            last = await append(log)
            await reader.has(last)
            await eventually(lambda: three.reached.get(log.response_id) == last)
