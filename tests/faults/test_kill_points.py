"""A replica is lost while its runs are at every point that matters, many at each.

Three ways to be lost: killed, frozen beyond its lease (and thawed later), told to stop while its
runs cannot finish. The runs go on elsewhere from their last finished step; nobody who reads sees
a gap, a repeat, or anything that is not in the log.
"""

import asyncio
import json
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from tests import postgres
from tests.faults.ground import Follower, Ground, following, ground
from tests.reading import eventually, read, stream_url
from tests.servers import Replica

RUNS = 10
"""At each point."""

POINTS = {
    "before the first event": "model 0",
    "after the first turn's items, before its end": "turn 0",
    "after a model turn, before its tools": "tool a",
    "one of two parallel tools done": "in b",
    "in a tool": "in a",
    "between deltas": "delta 3",
    "before the last turn's end": "turn 1",
    "between the last event and the terminal one": "end",
}
COMMIT = "in the commit of the terminal event"
OPEN_ITEM = ("between deltas",)
FAULTS = ("SIGKILL", "SIGSTOP", "SIGTERM")


@dataclass
class Story:
    """What happened: the responses that were at each point, and the clients that followed."""

    ground: Ground
    ids: dict[str, list[str]] = field(default_factory=dict)
    followers: list[Follower] = field(default_factory=list)
    victim: Replica | None = None

    @property
    def all(self) -> list[str]:
        return [id_ for ids in self.ids.values() for id_ in ids]


@pytest.fixture(scope="module", params=FAULTS)
def story(request: pytest.FixtureRequest, database: postgres.Server) -> Iterator[Story]:
    with ground(database, f"kill_points_{request.param.lower()}") as found:
        told = Story(found)
        asyncio.run(tell(told, request.param))
        yield told


async def tell(story: Story, fault: str) -> None:
    victim, other = story.ground.start(2)
    story.victim = victim
    for name, point in POINTS.items():
        story.ids[name] = await story.ground.submit(victim, RUNS, gates=(point,))
    story.ids[COMMIT] = await story.ground.submit(victim, RUNS, gates=("end",))
    async with following([victim, other], story.all) as story.followers:
        await all_there(story)
        async with held(story, story.ids[COMMIT]):
            if fault == "SIGTERM":
                # What is in its commit is allowed to finish: without a lock in its way.
                story.ground.open("end")
            else:
                await reach_commit(story)
            victim.signal(signal.Signals[fault])
            if fault == "SIGKILL":
                victim.wait()
        if fault == "SIGTERM":
            victim.wait()
        story.ground.open(*POINTS.values())
    await story.ground.all_finished(story.all)
    if fault == "SIGSTOP":
        await thaw(story, victim)


async def all_there(story: Story) -> None:
    """Every run is where it is to be hurt, and what it has done is committed."""
    found = story.ground
    for name, point in POINTS.items():
        await found.reach(story.ids[name], point)
    await found.reach(story.ids[COMMIT], "end")
    tools = "SELECT count(*) FROM steps WHERE response_id = ANY($1) AND kind = 'tool'"
    done = story.ids["one of two parallel tools done"]

    async def one_is_done() -> bool:
        return bool(await found.value(tools, done) == RUNS)

    await eventually(one_is_done)
    for follower in story.followers:
        if follower.response_id in story.ids["between deltas"]:
            await follower.until(lambda f=follower: any(b"word2 " in line for line in f.lines[-1:]))


class held:  # noqa: N801
    """Rows locked, as by a commit that takes its time."""

    def __init__(self, story: Story, ids: list[str]) -> None:
        self._story, self._ids = story, ids

    async def __aenter__(self) -> None:
        self._connected = self._story.ground.connected()
        connection = await self._connected.__aenter__()
        self._transaction = connection.transaction()
        await self._transaction.start()
        await connection.fetch("SELECT FROM responses WHERE id = ANY($1) FOR UPDATE", self._ids)

    async def __aexit__(self, *_: object) -> None:
        await self._transaction.rollback()
        await self._connected.__aexit__(None, None, None)


async def reach_commit(story: Story) -> None:
    """The append with the first terminal events waits for the lock."""
    story.ground.open("end")
    waiting = (
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        " AND query LIKE '%WITH held AS MATERIALIZED%'"
    )

    async def is_waiting() -> bool:
        return bool(await story.ground.value(waiting))

    await eventually(is_waiting)


async def thaw(story: Story, victim: Replica) -> None:
    """The frozen replica wakes, finds its runs gone, and writes nothing."""
    before = {id_: await story.ground.log_of(id_) for id_ in story.all}
    victim.signal(signal.SIGCONT)
    await eventually(lambda: " longrun_runs 0.0" in " " + metrics(victim).replace("\n", " "))
    assert {id_: await story.ground.log_of(id_) for id_ in story.all} == before
    id_ = story.all[0]
    # And it serves what the other wrote.
    body = await read(stream_url(victim, id_))
    assert body.count(b"\n\n") == len(before[id_]) + 1


def metrics(replica: Replica) -> str:
    import urllib.request

    with urllib.request.urlopen(replica.url + "/metrics", timeout=20) as answer:
        return str(answer.read().decode())


@pytest.mark.parametrize("point", [*POINTS, COMMIT])
async def test_7_runs_go_on_from_their_last_finished_step(story: Story, point: str) -> None:
    followers = {follower.response_id: follower for follower in story.followers}
    for id_ in story.ids[point]:
        events = await story.ground.check(id_)
        assert followers[id_].lines == await story.ground.log_of(id_)
        row = await story.ground.row(id_)
        progressed = sum(event["type"] == "response.in_progress" for event in events)
        assert progressed == row["attempt"]
        if point in OPEN_ITEM:
            assert any(
                event["type"] == "response.output_item.done"
                and event["item"]["status"] == "incomplete"
                for event in events
            )


async def test_a_takeover_shows_the_items_so_far(story: Story) -> None:
    for id_ in story.ids["between deltas"]:
        events = await story.ground.check(id_)
        again = [e["response"] for e in events if e["type"] == "response.in_progress"][-1]
        *stay, withdrawn = again["output"]
        assert [item["type"] for item in stay] == ["mcp_call", "mcp_call"]
        assert stay == events[-1]["response"]["output"][:2]
        assert (withdrawn["type"], withdrawn["status"]) == ("message", "incomplete")
        assert withdrawn["content"] == [], "clients take away what they showed of it"


async def test_a_call_goes_on_being_open_while_its_tool_runs_again(
    story: Story, request: pytest.FixtureRequest
) -> None:
    """Of two parallel ones, one has ended: it ends once, and the other one in the next attempt, if
    not before a handover."""
    handed_over = "SIGTERM" in request.node.name
    for id_ in story.ids["one of two parallel tools done"]:
        events = await story.ground.check(id_)
        again = [e["response"] for e in events if e["type"] == "response.in_progress"][-1]
        if not handed_over:
            statuses = [(item["type"], item["status"]) for item in again["output"]]
            assert statuses == [("mcp_call", "completed"), ("mcp_call", "in_progress")]
            assert json.loads(again["output"][1]["arguments"])["name"] == "b"
        ends = [e["item"] for e in events if e["type"] == "response.output_item.done"]
        assert [(item["type"], item["status"]) for item in ends] == [
            *(("mcp_call", "completed"), ("mcp_call", "completed"), ("message", "completed")),
        ]


async def test_attempts_are_counted_as_promised(
    story: Story, request: pytest.FixtureRequest
) -> None:
    rows = await story.ground.sql("SELECT attempt, spent, deaths FROM responses")
    assert {row["spent"] for row in rows} == {1}, "neither a handover nor a death in company counts"
    died = "SIGTERM" not in request.node.name
    assert max(row["deaths"] for row in rows) == int(died)
    assert max(row["attempt"] for row in rows) == 2


async def test_a_tool_that_runs_again_has_the_same_key(
    story: Story, request: pytest.FixtureRequest
) -> None:
    for id_ in story.ids["in a tool"]:
        done = story.ground.effects_of(id_, "tool")
        assert [attempt for what, attempt, _ in done if what == "call_0_0"] == [1, 2]
        assert {key for what, _, key in done if what == "call_0_0"} == {f"{id_}/call_0_0"}
        assert json.dumps(done)
