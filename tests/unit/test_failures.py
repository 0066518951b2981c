"""The reason of a failure, as it is kept; and who is shown it."""

from typing import Any

import pytest
from agents import Agent

from longrun.app import create_app
from longrun.errors import OutputMismatch
from longrun.execution.contained import contained
from longrun.execution.failures import (
    LONGEST_MESSAGE,
    LONGEST_TRACEBACK,
    of_failure,
    reason_of,
)
from longrun.settings import Settings


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise ValueError("no")


def raised(error: Exception) -> Exception:
    with pytest.raises(type(error)) as found, contained("agent 'a'"), contained("tool 't'"):
        raise error
    return found.value


async def test_it_is_bounded_and_keeps_the_end_of_the_traceback() -> None:
    reason = reason_of(raised(ValueError("x" * 100_000 + "!")), 3)
    assert len(reason["message"]) == LONGEST_MESSAGE
    assert len(reason["traceback"]) == LONGEST_TRACEBACK + 1
    assert reason["traceback"].rstrip().endswith("!")
    assert (reason["exception"], reason["attempt"]) == ("ValueError", 3)


async def test_the_step_is_the_innermost_of_the_first_cause() -> None:
    error = RuntimeError("wrapped")
    error.__cause__ = raised(ValueError("x"))
    assert reason_of(error, 1)["step"] == "tool 't'"
    assert reason_of(ValueError("x"), 1)["step"] is None


async def test_an_exception_whose_text_cannot_be_made() -> None:
    assert reason_of(raised(Unspeakable()), 1)["message"] == (
        "(its text cannot be made: ValueError)"
    )


async def test_clients_are_shown_it_only_where_wanted() -> None:
    error = raised(ValueError("secret"))
    hidden, shown = (of_failure(error, 1, Settings(show_errors=each)) for each in (False, True))
    assert hidden.error is not None
    assert shown.error is not None
    assert hidden.error["message"] == "The agent failed."
    assert shown.error["message"].startswith("The agent failed. ValueError: secret (in tool 't')\n")
    ours = of_failure(OutputMismatch("In words."), 1, Settings(show_errors=True))
    assert ours.error is not None
    assert ours.error["message"] == "In words."


@pytest.mark.parametrize(
    ("agents", "given", "shown"),
    [
        (None, {}, True),
        (None, {"host": "0.0.0.0"}, False),
        ([Agent(name="mine")], {}, False),
        ([Agent(name="mine")], {"show_errors": True}, True),
        (None, {"show_errors": False}, False),
    ],
)
def test_by_default_of_the_demo_agents_alone(
    agents: Any, given: dict[str, Any], shown: bool
) -> None:
    assert create_app(agents, Settings(**given)).settings.show_errors is shown
