"""The promise to who asked for a response, for every way in which its replica may be lost.

The table is what the README says; each of its cells is tried with real signals.
"""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import pytest

from tests import postgres
from tests.faults.database import OwnPostgres
from tests.faults.ground import Follower, Ground, ground, script
from tests.reading import Wire, eventually, parse
from tests.servers import REPOSITORY, Replica

REQUESTS: Final = {
    "foreground, not stored": {"store": False},
    "foreground, stored": {},
    "background, stored": {"background": True},
    "foreground stream, stored": {"stream": True},
    "background stream, stored": {"background": True, "stream": True},
}

FINISHES = "the request is answered"
ENDS = "the stream goes on to its end"
HANDED = "the answer, begun by then, is as it stands; it goes on elsewhere, uses up no attempt"
HANDED_LOST = "the same; the run goes on elsewhere to its end, and nothing of it is kept"
SENT_AWAY = "the stream ends between two events; it goes on elsewhere, and resumes there by GET"
BREAKS = "the connection breaks; the run goes on elsewhere from its last finished step"
BREAKS_LOST = "the connection breaks; the run goes on elsewhere, and nothing of it is kept"
RESUMES = "the connection breaks, and resumes elsewhere by GET; the run goes on from its last step"
WAITS = "the connection is silent for the freeze; the run goes on elsewhere after the lease"
STAYS = "the connection stays, and the run waits; it goes on where it is"
GOES_ON = "the run goes on elsewhere from its last finished step"
GOES_ON_LEASE = "the run goes on elsewhere after the lease; who wakes writes nothing"
POLLED = "the run goes on where it is"

FAULTS: Final = ("drain", "grace over", "SIGKILL", "frozen", "Postgres restart")
"""drain: SIGTERM, and the run ends within LONGRUN_DRAIN_SECONDS; grace over: it does not."""

PROMISE: Final[dict[str, tuple[str, str, str, str, str]]] = {
    "foreground, not stored": (FINISHES, HANDED_LOST, BREAKS_LOST, WAITS, STAYS),
    "foreground, stored": (FINISHES, HANDED, BREAKS, WAITS, STAYS),
    "background, stored": (POLLED, GOES_ON, GOES_ON, GOES_ON_LEASE, POLLED),
    "foreground stream, stored": (ENDS, SENT_AWAY, RESUMES, RESUMES, STAYS),
    "background stream, stored": (ENDS, SENT_AWAY, RESUMES, RESUMES, STAYS),
}

ATTEMPTS: Final = dict(zip(FAULTS, (1, 2, 2, 2, 1), strict=True))


@dataclass
class Asked:
    """One request, on its way."""

    kind: str
    wire: Wire
    id: str = ""

    @property
    def streams(self) -> bool:
        return "stream" in REQUESTS[self.kind]

    async def finish(self) -> None:
        """What there is to come; a broken connection is no error here."""
        async with asyncio.timeout(60):
            while await self.wire.more():
                pass
        self.wire.close()

    def answer(self) -> dict[str, Any]:
        return dict(json.loads(bytes(self.wire.body)))


@dataclass
class Scene:
    ground: Ground
    own: OwnPostgres
    one: Replica
    two: Replica
    asked: dict[str, Asked]
    logs: dict[str, list[bytes]]


@pytest.fixture(scope="module")
def own() -> Iterator[OwnPostgres]:
    with postgres.embedded() as server:
        yield OwnPostgres(server)


@pytest.fixture(scope="module", params=FAULTS)
def scene(request: pytest.FixtureRequest, own: OwnPostgres) -> Iterator[tuple[str, Scene]]:
    """All kinds of requests at once, in the middle of a tool, when the fault comes."""
    schema = "promise_" + request.param.replace(" ", "_").lower()
    with ground(own.server, schema, LONGRUN_DRAIN_SECONDS="4") as found:
        one, two = found.start(2)
        told = Scene(found, own, one, two, {}, {})
        asyncio.run(play(told, request.param))
        yield request.param, told


async def play(scene: Scene, fault: str) -> None:
    for kind in REQUESTS:
        scene.asked[kind] = await ask(scene, kind)
    ids = [asked.id for asked in scene.asked.values()]
    await scene.ground.reach(ids, "in b")
    async with copying(scene, ids):
        await hurt(scene, fault, ids)


async def ask(scene: Scene, kind: str) -> Asked:
    """Send the request, and do not wait for its answer."""
    known = {row["id"] for row in await _ids(scene)}
    body = {"model": "gated", "input": json.dumps(script(gates=("in b",))), **REQUESTS[kind]}
    wire = Wire(await _connect(scene.one))
    asked = Asked(kind, wire)
    await _send(wire, scene.one, body)

    async def is_there() -> bool:
        found = {row["id"] for row in await _ids(scene)} - known
        asked.id = found.pop() if found else ""
        return bool(asked.id)

    await eventually(is_there)
    return asked


async def _ids(scene: Scene) -> list[Any]:
    return await scene.ground.sql("SELECT id FROM responses")


async def _connect(replica: Replica) -> Any:
    import socket

    connection = socket.socket()
    connection.setblocking(False)
    port = int(replica.url.rpartition(":")[2])
    await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", port))
    return connection


async def _send(wire: Wire, replica: Replica, body: dict[str, Any]) -> None:
    content = json.dumps(body).encode()
    head = (
        "POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    await asyncio.get_running_loop().sock_sendall(wire.connection, head.encode() + content)


@asynccontextmanager
async def copying(scene: Scene, ids: list[str]) -> AsyncIterator[None]:
    """The logs, copied before what was not to be stored is deleted."""
    yield
    for id_ in ids:
        scene.logs[id_] = await scene.ground.log_of(id_)


async def hurt(scene: Scene, fault: str, ids: list[str]) -> None:
    found = scene.ground
    if fault == "drain":
        scene.one.signal(signal.SIGTERM)
        await eventually(lambda: "stopping" in scene.one.output())
        found.open("in b")
    elif fault == "grace over":
        scene.one.signal(signal.SIGTERM)
        await found.all_at_attempt(ids, 2)
        # Only then: what ends while the other one still answers is answered as completed.
        await asyncio.to_thread(scene.one.wait, 30)
        found.open("in b")
    elif fault == "SIGKILL":
        scene.one.signal(signal.SIGKILL)
        found.open("in b")
    elif fault == "frozen":
        scene.one.signal(signal.SIGSTOP)
        found.open("in b")
        await found.all_at_attempt(ids, 2)
        await found.all_finished(ids)
        scene.one.signal(signal.SIGCONT)
    else:
        await asyncio.to_thread(scene.own.restart, "fast")
        found.open("in b")
    await all_ended(scene, ids)
    for asked in scene.asked.values():
        await asked.finish()


async def all_ended(scene: Scene, ids: list[str]) -> None:
    """Finished, or deleted after that."""
    left = "SELECT count(*) FROM responses WHERE id = ANY($1) AND finished_at IS NULL"

    async def ended() -> bool:
        return not await scene.ground.value(left, ids)

    await eventually(ended, 60, every=0.1)


@pytest.mark.parametrize("kind", REQUESTS)
async def test_the_promise_is_kept(scene: tuple[str, Scene], kind: str) -> None:
    fault, told = scene
    promise = PROMISE[kind][FAULTS.index(fault)]
    asked = told.asked[kind]
    wire = asked.wire
    await check_run(told, fault, asked)
    if promise in (FINISHES, STAYS, WAITS) and not asked.streams:
        assert (wire.status, wire.complete) == (200, True), bytes(wire.body)
        assert asked.answer()["status"] == "completed"
        assert asked.answer()["id"] == asked.id
    elif promise in (HANDED, HANDED_LOST):
        assert (wire.status, wire.complete) == (200, True), bytes(wire.body)
        assert wire.body.startswith(b" ")
        assert (asked.answer()["id"], asked.answer()["status"]) == (asked.id, "in_progress")
    elif promise in (BREAKS, BREAKS_LOST):
        assert wire.closed
        assert not wire.complete
        assert not wire.body.strip()
    elif promise in (POLLED, GOES_ON, GOES_ON_LEASE):
        assert (wire.status, asked.answer()["status"]) == (200, "in_progress")
    else:
        await check_stream(told, asked, promise)


async def check_run(told: Scene, fault: str, asked: Asked) -> None:
    """The run itself, and what is kept of it."""
    async with await Wire.open(f"{told.two.base_url}/responses/{asked.id}") as poll:
        await poll.rest()
    if "not stored" in asked.kind:
        assert poll.status == 404
        return
    assert poll.status == 200
    assert json.loads(bytes(poll.body))["status"] == "completed"
    await told.ground.check(asked.id)
    row = await told.ground.row(asked.id)
    # Each was one of several that a death interrupted: it uses up an attempt of none.
    assert (row["attempt"], row["spent"]) == (ATTEMPTS[fault], 1)


async def check_stream(told: Scene, asked: Asked, promise: str) -> None:
    reading = parse(asked.wire.body)
    got = [frame.data for frame in reading.frames]
    whole = await told.ground.log_of(asked.id)
    assert got == whole[: len(got)]
    assert len(got) > 5
    if promise in (STAYS, ENDS):
        assert reading.done
    if promise == SENT_AWAY:
        assert reading.rest == b""
        assert asked.wire.complete
    follower = Follower([told.two], asked.id)
    follower.lines = list(got)
    if not reading.done:
        async with asyncio.timeout(20):
            await follower.run()
    assert follower.lines == whole


def test_the_table_is_whole() -> None:
    assert PROMISE.keys() == REQUESTS.keys()
    section = (REPOSITORY / "README.md").read_text().split("\n## What is promised\n")[1]
    (header,) = [line for line in section.splitlines() if line.startswith("| | ")]
    assert len(header.strip("| ").split(" | ")) == len(FAULTS)
