"""Replicas behind a load balancer, under load, while one after the other is restarted or killed.

The balancers have the configurations that `longrun deploy` prints, the clients are OpenAI's SDK
with its own retries, and `longrun.client`. `python -m tests.faults.rolling --help` does it at any
size.
"""

import argparse
import asyncio
import collections
import contextlib
import json
import signal
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
from openai import AsyncOpenAI, OpenAIError

from longrun.client import GaveUp, follow
from longrun.deploy.printing import Wanted, printed
from longrun.settings import Settings
from tests import haproxy, nginx, postgres, servers
from tests.faults.ground import Ground, ground, script
from tests.servers import Replica

BALANCERS: Final = {"nginx": nginx.running, "haproxy": haproxy.running}


@contextlib.contextmanager
def balanced(name: str, replicas: list[Replica]) -> Iterator[str]:
    """The URL of a balancer before these, with its configuration as a newcomer has it."""
    places = tuple(each.url.removeprefix("http://") for each in replicas)
    with BALANCERS[name](printed(name, Wanted(servers=places), Settings())) as url:
        yield url


class Noting(httpx.AsyncHTTPTransport):
    """Notes what goes wrong on the wire, whether or not the SDK tries it again."""

    def __init__(self, troubles: collections.Counter[str]) -> None:
        super().__init__(limits=httpx.Limits(max_connections=1000, max_keepalive_connections=100))
        self._troubles = troubles

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        try:
            answer = await super().handle_async_request(request)
        except httpx.TransportError as error:
            self._troubles[f"{request.method} {type(error).__name__}"] += 1
            raise
        if answer.status_code >= 400:
            self._troubles[f"{request.method} {answer.status_code}"] += 1
        return answer


@dataclass
class Load:
    """What the clients did.

    Attributes:
        ids: of the responses that they know of.
        failures: what their users saw.
        troubles: what went wrong on the wire, by kind.
        requests: how many responses were asked for: plain, streamed by a POST, followed.
        slowest: seconds that the slowest plain answer took.
    """

    url: str
    ids: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    troubles: collections.Counter[str] = field(default_factory=collections.Counter)
    requests: collections.Counter[str] = field(default_factory=collections.Counter)
    slowest: float = 0.0

    async def run(
        self, stop: asyncio.Event, *, streams: int, posts: float, streaming: bool, deltas: int
    ) -> None:
        """Ask until `stop`, then wait for the answers.

        Args:
            streams: how many are followed at any time.
            posts: a second.
            streaming: every other POST wants a stream; it is not resumed.
            deltas: of a response that is followed, ten a second.
        """
        transport = Noting(self.troubles)
        async with (
            httpx.AsyncClient(transport=transport, timeout=60) as http,
            AsyncOpenAI(base_url=f"{self.url}/v1", api_key="none", http_client=http) as client,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(streams):
                group.create_task(self._follow_all(client, stop, deltas))
            number = 0
            while not stop.is_set():
                number += 1
                ask = self._stream if streaming and number % 2 else self._post
                group.create_task(self._noted(ask(client)))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), 1 / posts)

    async def _noted(self, asking: Any) -> None:
        try:
            await asking
        except (OpenAIError, httpx.HTTPError, GaveUp, AssertionError) as error:
            self.failures.append(f"{asking.__name__}: {type(error).__name__}: {error}")

    async def _post(self, client: AsyncOpenAI) -> None:
        self.requests["plain"] += 1
        began = time.monotonic()
        text = json.dumps(script(deltas=3, pause=0.05))
        answer = await client.responses.create(model="gated", input=text)
        self.slowest = max(self.slowest, time.monotonic() - began)
        self.ids.append(answer.id)
        assert answer.status == "completed", answer.status

    async def _stream(self, client: AsyncOpenAI) -> None:
        self.requests["streamed"] += 1
        text = json.dumps(script(deltas=4, pause=0.1))
        stream = await client.responses.create(model="gated", input=text, stream=True)
        events: list[Any] = [event async for event in stream]
        self.ids.append(events[0].response.id)
        self._check(events)

    async def _follow_all(self, client: AsyncOpenAI, stop: asyncio.Event, deltas: int) -> None:
        while not stop.is_set():
            await self._noted(self._follow(client, deltas))

    async def _follow(self, client: AsyncOpenAI, deltas: int) -> None:
        self.requests["followed"] += 1
        text = json.dumps(script(deltas=deltas, pause=0.1))
        made = await client.responses.create(model="gated", input=text, background=True)
        self.ids.append(made.id)
        self._check([event async for event in follow(client, made.id)])

    def _check(self, events: list[Any]) -> None:
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert events[-1].type == "response.completed", events[-1].type

    def told(self) -> str:
        """For people."""
        return (
            f"{dict(self.requests)} asked for, {len(self.failures)} failed; tried again on the "
            f"wire: {dict(self.troubles)}; slowest plain answer {self.slowest:.1f} s"
        )


@contextlib.asynccontextmanager
async def loaded(
    url: str, *, streams: int, posts: float, streaming: bool = True, deltas: int = 30
) -> AsyncIterator[Load]:
    """A load within the block; after it, all is answered."""
    load, stop = Load(url), asyncio.Event()
    async with asyncio.timeout(300), asyncio.TaskGroup() as group:
        group.create_task(
            load.run(stop, streams=streams, posts=posts, streaming=streaming, deltas=deltas)
        )
        try:
            yield load
        finally:
            stop.set()


async def until_more(load: Load, answers: int) -> None:
    """Wait until so many more are answered."""
    enough = len(load.ids) + answers
    async with asyncio.timeout(60):
        while len(load.ids) < enough:
            await asyncio.sleep(0.05)


def started_again(found: Ground, old: Replica, tree: Path | None = None) -> Replica:
    """A replica on the port of one that has ended."""
    fresh = servers.start(
        found.database.url,
        schema=found.schema,
        agents=found.agents,
        environment=old.environment,
        port=int(old.url.rpartition(":")[2]),
        tree=tree,
    )
    found.replicas.append(fresh)
    return fresh


async def restart_all(
    found: Ground, replicas: list[Replica], load: Load, tree: Path | None = None
) -> list[float]:
    """One after the other: SIGTERM, its end, and another one on its port.

    Args:
        tree: of what is started, where that is another version.

    Returns:
        The seconds that each end took.
    """
    took = []
    for place, old in enumerate(replicas):
        began = time.monotonic()
        old.signal(signal.SIGTERM)
        assert await asyncio.to_thread(old.wait, 60) == 0
        took.append(time.monotonic() - began)
        replicas[place] = await asyncio.to_thread(started_again, found, old, tree)
        await until_more(load, 5)
    return took


async def kill_one(found: Ground, replicas: list[Replica], load: Load) -> None:
    """SIGKILL, and another one on its port once the others carry on."""
    old = replicas[0]
    old.signal(signal.SIGKILL)
    await asyncio.to_thread(old.wait)
    await until_more(load, 10)
    replicas[0] = await asyncio.to_thread(started_again, found, old)
    await until_more(load, 10)


async def check(found: Ground, load: Load, *, killed: bool = False) -> None:
    """Nobody saw a failure, and every run that is known of is whole and did everything once."""
    assert load.failures == [], f"{load.failures[:5]}; {load.told()}"
    await found.all_finished(load.ids)
    await found.check_all(load.ids)
    for response_id in load.ids:
        tools = [what for what, _, _ in found.effects_of(response_id, "tool")]
        assert killed or sorted(tools) == ["call_0_0", "call_0_1"], tools
    if not killed:
        # Nothing was asked for twice, either.
        stored = "SELECT count(*) FROM responses WHERE created_at >= $1::timestamptz"
        first = "SELECT min(created_at) FROM responses WHERE id = ANY($1)"
        since = await found.value(first, load.ids)
        assert await found.value(stored, since) == len(load.ids)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.rolling", description=__doc__)
    parser.add_argument("balancer", choices=BALANCERS)
    parser.add_argument("--streams", type=int, default=50, help="followed at any time")
    parser.add_argument("--posts", type=float, default=10, help="a second")
    parser.add_argument("--drain", default="20", help="LONGRUN_DRAIN_SECONDS")
    parser.add_argument("--deltas", type=int, default=60, help="of each followed, ten a second")
    parser.add_argument("--tree", type=Path, help="of another version, to be measured")
    parser.add_argument("--kill", action="store_true", help="kill one instead")
    asyncio.run(by_hand(parser.parse_args()))


def three_of(database: postgres.Server, drain: str) -> contextlib.AbstractContextManager[Ground]:
    """The ground of three replicas, with the lease that a newcomer has: a shorter one runs out on a
    machine that is busy."""
    lease = str(Settings.model_fields["lease_seconds"].default)
    return ground(database, "rolling", LONGRUN_DRAIN_SECONDS=drain, LONGRUN_LEASE_SECONDS=lease)


async def by_hand(given: argparse.Namespace) -> None:
    with (
        postgres.embedded() as database,
        three_of(database, given.drain) as found,
        balanced(given.balancer, replicas := found.start(3, tree=given.tree)) as url,
    ):
        size = {"streams": given.streams, "posts": given.posts, "deltas": given.deltas}
        async with loaded(url, streaming=not given.kill, **size) as load:
            await until_more(load, given.streams)
            if given.kill:
                await kill_one(found, replicas, load)
            else:
                took = await restart_all(found, replicas, load, given.tree)
                print("each end took", ", ".join(f"{each:.1f} s" for each in took))
        print(load.told())
        print(*load.failures[:10], sep="\n")
        await check(found, load, killed=given.kill)


if __name__ == "__main__":
    main()
