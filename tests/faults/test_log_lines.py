"""What the logs of replicas say of runs and of each other: one line each, with fields."""

import asyncio
import json
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests import postgres
from tests.faults.ground import Ground, ground
from tests.reading import Wire, eventually

CANARY = "canary5a1c"
TOLD = {"canary": f"{CANARY} in", "delta": f"{CANARY}{{n}} "}
"""In the input, and in the output."""

Line = dict[str, Any]


@dataclass
class Story:
    """Each kind of thing that happens to a run, once or twice.

    Attributes:
        text: of all logs.
        lines: of each replica's log.
    """

    completed: str = ""
    cancelled: str = ""
    taken: list[str] = field(default_factory=list)
    given_up: str = ""
    handed_over: str = ""
    text: str = ""
    lines: list[list[Line]] = field(default_factory=list)

    def of(self, response_id: str) -> list[Line]:
        """The lines about a run, by attempt."""
        found = [line for line in self._all("longrun.runs") if line["response_id"] == response_id]
        return sorted(found, key=lambda line: (line["attempt"], line["time"]))

    def saying(self, what: str) -> list[Line]:
        """The lines about replicas that say this, in the order of time."""
        found = [line for line in self._all("longrun.replicas") if line["message"] == what]
        return sorted(found, key=lambda line: str(line["time"]))

    def _all(self, logger: str) -> list[Line]:
        return [line for lines in self.lines for line in lines if line["logger"] == logger]


@pytest.fixture(scope="module")
def story(database: postgres.Server) -> Iterator[Story]:
    with ground(
        database,
        "log_lines",
        LONGRUN_LOG_FORMAT="json",
        LONGRUN_MAX_ATTEMPTS="1",
        LONGRUN_DRAIN_SECONDS="1.5",
    ) as found:
        yield asyncio.run(_told(found))


async def _told(found: Ground) -> Story:
    story = Story()
    one, two, three, _four = found.start(4)
    story.completed, *_ = await found.submit(one, **TOLD)
    story.cancelled, *_ = await found.submit(one, gates=("in b",), **TOLD)
    await found.reach([story.cancelled], "in b")
    url = f"{two.base_url}/responses/{story.cancelled}/cancel"
    async with await Wire.open(url, method="POST") as wire:
        await wire.rest()
    await found.all_finished([story.completed, story.cancelled])

    story.taken = await found.submit(one, 2, gates=("in a",), **TOLD)
    # One that was alone when its replica died uses up an attempt by it.
    story.given_up, *_ = await found.submit(two, gates=("in a",), **TOLD)
    story.handed_over, *_ = await found.submit(three, gates=("in a",), **TOLD)
    going_on = [*story.taken, story.handed_over]
    await found.reach([*going_on, story.given_up], "in a")
    one.signal(signal.SIGKILL)
    two.signal(signal.SIGKILL)
    three.signal(signal.SIGTERM)
    await found.reach(going_on, "in a", attempt=2)
    found.open("in a")
    await found.all_finished([*going_on, story.given_up])
    three.wait()

    # The last lines are written a moment after what they tell of is committed.
    await eventually(lambda: found.logs().count('"status": "completed"') == 1 + len(going_on))
    await eventually(lambda: '"run given up"' in found.logs())
    await eventually(lambda: '"run cancelled"' in found.logs())
    story.text = found.logs()
    story.lines = [
        [json.loads(line) for line in replica.output().splitlines()] for replica in found.replicas
    ]
    return story


def kinds(lines: list[Line]) -> list[str]:
    return [line["message"] for line in lines]


def test_a_run_that_completes_has_a_line_at_its_start_and_its_end(story: Story) -> None:
    start, end = story.of(story.completed)
    assert (start["message"], end["message"]) == ("run started", "run ended")
    for line in (start, end):
        assert (line["level"], line["agent"], line["attempt"]) == ("info", "gated", 1)
        assert line["replica"].startswith("replica_")
    assert end["status"] == "completed"
    assert end["duration"] >= start["duration"] >= 0
    assert end["input_tokens"] > 0
    assert end["output_tokens"] > 0


def test_a_cancelled_run_says_so_once_where_it_was_cancelled(story: Story) -> None:
    start, end = story.of(story.cancelled)
    assert (start["message"], end["message"]) == ("run started", "run cancelled")
    assert (end["status"], end["attempt"]) == ("cancelled", 2)
    assert end["replica"] != start["replica"]
    assert end["input_tokens"] > 0, "of the turn that was finished"


def test_a_takeover_is_one_line_of_who_takes_over(story: Story) -> None:
    for id_ in story.taken:
        start, taken, end = story.of(id_)
        assert kinds([start, taken, end]) == ["run started", "run taken over", "run ended"]
        assert [line["attempt"] for line in (start, taken, end)] == [1, 2, 2]
        assert start["replica"] != taken["replica"] == end["replica"]


def test_a_run_that_is_given_up_ends_in_a_warning(story: Story) -> None:
    start, end = story.of(story.given_up)
    assert (start["message"], end["message"]) == ("run started", "run given up")
    assert (end["level"], end["status"]) == ("warning", "failed")


def test_a_handover_is_a_line_of_who_gives_and_one_of_who_takes(story: Story) -> None:
    lines = story.of(story.handed_over)
    assert kinds(lines) == ["run started", "run handed over", "run taken over", "run ended"]
    start, left, taken, end = lines
    assert start["replica"] == left["replica"] != taken["replica"] == end["replica"]
    assert [line["attempt"] for line in lines] == [1, 1, 2, 2]
    assert left["agent"] == "gated"


def test_replicas_come_go_and_die_in_a_line_each(story: Story) -> None:
    one, two, three, four = [
        next(line["replica"] for line in lines if line["message"] == "replica started")
        for lines in story.lines
    ]
    assert len(story.saying("replica started")) == 4
    dead = story.saying("replica died")
    assert {(line["replica"], line["runs"]) for line in dead} == {(one, 2), (two, 1)}
    assert len(dead) == 2
    assert all(line["seen_by"] in (three, four) for line in dead)
    assert [line["replica"] for line in story.saying("replica stopped")] == [three]


def test_what_was_said_is_in_no_line_and_probes_are_not_either(story: Story) -> None:
    assert CANARY not in story.text
    assert '"path": "/v1/responses"' in story.text
    assert "/readyz" not in story.text
