"""Replicas are killed while a sink misbehaves, for what is an hour at the usual pace: each end is
told, none is lost, and the attempts of each come one after the other."""

import asyncio
import contextlib
import signal
from collections.abc import Iterator

import httpx2
from openai import AsyncOpenAI, OpenAI

from tests import servers
from tests.postgres import Server
from tests.reading import eventually, script
from tests.servers import Replica
from tests.webhooks.conftest import SCHEDULE, SECRET
from tests.webhooks.sink import Received, Sink, sinking

SCHEMA = "webhooks_faults"


def settings(sink: Sink) -> dict[str, str]:
    return {
        **SCHEDULE,
        "LONGRUN_WEBHOOK_TIMEOUT": "0.5",
        "LONGRUN_WEBHOOK_URL": f"{sink.url}/hook",
        "LONGRUN_WEBHOOK_SECRET": SECRET,
    }


@contextlib.contextmanager
def running(database: Server, sink: Sink) -> Iterator[list[Replica]]:
    with servers.replicas(2, database.url, schema=SCHEMA, environment=settings(sink)) as started:
        yield started


async def made(replica: Replica, count: int) -> list[str]:
    """Background responses that are created on a replica, the ids of those that were."""
    async with AsyncOpenAI(base_url=replica.base_url, api_key="none", max_retries=0) as client:
        given = await asyncio.gather(
            *(
                client.responses.create(
                    model="scripted",
                    input=script(deltas=3, pause=0.02 * (n % 5)),
                    background=True,
                )
                for n in range(count)
            )
        )
    return [each.id for each in given]


async def test_no_end_is_lost(database: Server) -> None:
    with sinking() as sink, running(database, sink) as (first, second):
        sink.behaviour["/hook"] = 500
        expected = [*await made(first, 5), *await made(second, 5)]
        await under_way(sink)
        sink.behaviour["/hook"] = "hang"
        third = servers.start(database.url, schema=SCHEMA, environment=settings(sink), wait=False)
        try:
            kill(first)
            await under_way(sink)
            sink.behaviour["/hook"] = "break"
            await eventually(lambda: is_ready(third))
            sink.behaviour["/hook"] = "redirect"
            expected += await made(second, 5)
            await under_way(sink)
            kill(second)
            sink.stop()
            expected += await made(third, 3)
            sink.behaviour.clear()
            sink.released.set()
            told = Told(sink, good_from=len(sink.received))
            sink.begin()
            await eventually(lambda: told.ids() >= set(expected), timeout=60)
            told.check()
        finally:
            third.end()
            third.log.unlink()


async def under_way(sink: Sink) -> None:
    """Wait until attempts come in: some are in the middle of it then."""
    known = len(sink.received)
    await eventually(lambda: len(sink.received) > known + 1)


def kill(replica: Replica) -> None:
    replica.signal(signal.SIGKILL)
    replica.wait()


def is_ready(replica: Replica) -> bool:
    with contextlib.suppress(httpx2.HTTPError):
        return httpx2.get(replica.url + "/readyz", timeout=5).status_code == 200
    return False


class Told:
    """What the sink took, since it takes all."""

    def __init__(self, sink: Sink, good_from: int) -> None:
        self._sink, self._good_from = sink, good_from

    def ids(self) -> set[str]:
        return {each.response_id for each in self._sink.received[self._good_from :]}

    def check(self) -> None:
        client = OpenAI(api_key="none", webhook_secret=SECRET)
        of: dict[str, list[Received]] = {}
        for each in list(self._sink.received):
            of.setdefault(each.response_id, []).append(each)
            client.webhooks.unwrap(each.body, each.headers)
        for attempts in of.values():
            assert len({each.headers["webhook-id"] for each in attempts}) == 1
            assert len({each.body for each in attempts}) == 1
            stamps = [int(each.headers["webhook-timestamp"]) for each in attempts]
            assert stamps == sorted(stamps)
