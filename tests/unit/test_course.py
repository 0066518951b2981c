"""What a client that follows a response does next, whatever its connections do."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import httpx2
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longrun.client.course import (
    FIRST_PAUSE,
    LASTING,
    LONGEST_PAUSE,
    Course,
    GaveUp,
    asked_pause,
)

REQUEST = httpx2.Request("GET", "http://replica/v1/responses/resp_1")


def event(number: int, last: int) -> Any:
    kind = "response.completed" if number == last else "response.output_text.delta"
    return SimpleNamespace(type=kind, sequence_number=number)


def created() -> Any:
    response = SimpleNamespace(id="resp_1")
    return SimpleNamespace(type="response.created", sequence_number=0, response=response)


def broken(cause: Exception | None = None) -> openai.APIConnectionError:
    failure = openai.APIConnectionError(request=REQUEST)
    failure.__cause__ = cause
    return failure


def refused(status: int, headers: Mapping[str, str] | None = None) -> openai.APIStatusError:
    response = httpx2.Response(status, headers=headers, request=REQUEST)
    return openai.APIStatusError("no", response=response, body=None)


@dataclass(frozen=True)
class Connection:
    """What becomes of one: how far the log has grown by then, how much is sent, how it ends."""

    grown: int
    sent: int
    end: str


connections = st.builds(
    Connection,
    grown=st.integers(0, 3),
    sent=st.integers(0, 4),
    end=st.sampled_from(["clean", "broken", "503", "refused"]),
)


@given(
    last=st.integers(0, 12),
    after=st.integers(-1, 16),
    there=st.integers(0, 13),
    fates=st.lists(connections, max_size=12),
)
def test_each_event_after_the_cursor_is_taken_once_whatever_becomes_of_connections(
    last: int, after: int, there: int, fates: list[Connection]
) -> None:
    """After those at random come connections that send all there is, and the run ends."""
    course, taken, now = Course("resp_1", after, give_up_after=None), [], 0.0
    healthy = Connection(grown=20, sent=20, end="clean")
    for count, fate in enumerate(itertools.chain(fates, itertools.repeat(healthy))):
        assert count < len(fates) + 4, "does not find the end"
        failure: openai.APIError | None = None
        there = min(there + fate.grown, last + 1)
        if fate.end == "503":
            failure = refused(503)
        elif fate.end == "refused":
            failure = broken(httpx2.ConnectError(""))
        else:
            course.opened(now)
            first = course.starting_after()
            first = 0 if first is None else first + 1
            for number in range(first, min(first + fate.sent, there)):
                if course.takes(event(number, last)):
                    taken.append(number)
                if course.ended:
                    break
            failure = broken() if fate.end == "broken" else None
        if course.ended:
            break
        now += course.pause(failure, now)
    assert taken == list(range(after + 1, last + 1))


@given(st.lists(st.sampled_from(["clean", "broken", "503"]), min_size=1, max_size=60))
def test_pauses_grow_and_are_bounded_and_trouble_ends_in_giving_up(ends: list[str]) -> None:
    course, now = Course("resp_1", 5, give_up_after=60.0), 0.0
    expected = FIRST_PAUSE
    for end in itertools.cycle(ends):
        failure = {"clean": None, "broken": broken(), "503": refused(503)}[end]
        gave_up: GaveUp | None = None
        try:
            seconds = course.pause(failure, now)
        except GaveUp as error:
            gave_up = error
            break
        assert expected / 2 <= seconds <= expected * 1.5
        expected = min(2 * expected, LONGEST_PAUSE)
        now += seconds
        assert now <= 60.0
    assert now > 60.0 - 1.5 * LONGEST_PAUSE
    assert gave_up is not None
    assert (gave_up.response_id, gave_up.cursor) == ("resp_1", 5)
    assert gave_up.__cause__ is failure


def test_a_run_that_is_silent_behind_a_proxy_that_cuts_is_never_given_up() -> None:
    course, now = Course("resp_1", 5, give_up_after=60.0), 0.0
    for _ in range(100):
        course.opened(now)
        now += LASTING + 1
        seconds = course.pause(None, now)
        assert seconds <= 1.5 * FIRST_PAUSE
        now += seconds


def test_a_new_event_ends_the_trouble() -> None:
    course, now = Course("resp_1", give_up_after=20.0), 0.0
    for number in range(30):
        for _ in range(4):
            now += course.pause(broken(), now)
        course.opened(now)
        assert course.takes(event(number, 100))


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 410, 422])
def test_what_no_other_try_changes_is_raised_at_once(status: int) -> None:
    failure = refused(status)
    with pytest.raises(openai.APIStatusError) as raised:
        Course("resp_1").pause(failure, 0.0)
    assert raised.value is failure


def test_so_is_what_the_server_says_not_to_try_again() -> None:
    with pytest.raises(openai.APIStatusError):
        Course("resp_1").pause(refused(503, {"x-should-retry": "false"}), 0.0)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_what_passes_is_waited_for(status: int) -> None:
    assert Course("resp_1").pause(refused(status, {"retry-after": "3"}), 0.0) > 3.0


def test_a_wait_beyond_what_is_left_gives_up_at_once() -> None:
    failure = refused(429, {"retry-after": "100"})
    with pytest.raises(GaveUp) as raised:
        Course("resp_1", give_up_after=60.0).pause(failure, 0.0)
    assert raised.value.__cause__ is failure


class TestCreating:
    @pytest.mark.parametrize(
        "failure",
        [
            refused(429),
            refused(503),
            broken(httpx2.ConnectError("")),
            broken(httpx2.ConnectTimeout("")),
        ],
        ids=["429", "503", "refused", "unreachable"],
    )
    def test_is_tried_again_where_there_is_none_yet(self, failure: openai.APIError) -> None:
        assert Course(None).pause(failure, 0.0) > 0

    @pytest.mark.parametrize(
        "failure",
        [
            refused(500),
            refused(502),
            refused(504),
            refused(503, {"x-should-retry": "false"}),
            broken(httpx2.ReadError("")),
            broken(httpx2.ReadTimeout("")),
        ],
        ids=["500", "502", "504", "503 that runs", "reset", "silent"],
    )
    def test_never_makes_two(self, failure: openai.APIError) -> None:
        with pytest.raises(openai.APIError) as raised:
            Course(None).pause(failure, 0.0)
        assert raised.value is failure

    def test_an_end_before_the_first_event_is_the_caller_s_to_judge(self) -> None:
        course = Course(None)
        course.opened(0.0)
        with pytest.raises(GaveUp) as raised:
            course.pause(None, 1.0)
        assert raised.value.response_id is None

    def test_the_first_event_says_what_to_follow(self) -> None:
        course = Course(None)
        course.opened(0.0)
        assert course.takes(created())
        assert course.response_id == "resp_1"
        assert course.pause(broken(httpx2.ReadError("")), 1.0) > 0
        assert course.starting_after() == 0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 0.0),
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": "1", "retry-after-ms": "1500"}, 1.5),
        ({"retry-after": "-1"}, 0.0),
        ({"retry-after": "nan"}, 0.0),
        ({"retry-after": "1e300"}, 86_400.0),
        ({"retry-after": "soon"}, 0.0),
        (
            {
                "date": "Wed, 25 Nov 2026 10:00:00 GMT",
                "retry-after": "Wed, 25 Nov 2026 10:00:30 GMT",
            },
            30.0,
        ),
        ({"retry-after": "Wed, 25 Nov 2026 10:00:30 GMT"}, 0.0),
    ],
)
def test_what_a_server_asks_for(headers: dict[str, str], seconds: float) -> None:
    assert asked_pause(headers) == seconds
