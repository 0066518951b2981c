"""How a response ends: its terminal status, and what its client is told if it failed."""

import re
from math import inf
from typing import Any, Final, NamedTuple

import openai
from agents import (
    InputGuardrailTripwireTriggered,
    MaxTurnsExceeded,
    OutputGuardrailTripwireTriggered,
)

from longrun.errors import LongrunError, ReplayMismatch, Unreadable
from longrun.execution.served import Served
from longrun.protocol import Status
from longrun.settings import Settings
from longrun.store.claims import Claim


class Outcome(NamedTuple):
    """A terminal status, and the `error` or `incomplete_details` of the Response object.

    `reason` is for the operator alone: JSON text, as `failures.reason_of` makes it.
    `input_refused`: a guardrail refused the input, which is then left out of later contexts.
    `given_up`: it failed because it was interrupted, or handed over, too often.
    """

    status: Status
    error: dict[str, Any] | None = None
    details: dict[str, Any] | None = None
    reason: str | None = None
    input_refused: bool = False
    given_up: bool = False


COMPLETED: Final = Outcome("completed")
INCOMPLETE: Final = Outcome("incomplete")
CANCELLED: Final = Outcome("cancelled")


def failed(message: str, code: str = "server_error") -> Outcome:
    """A failure, with a code of openai's `ResponseError`."""
    return Outcome("failed", {"code": code, "message": message})


def incomplete(reason: str) -> Outcome:
    """An end by a budget of the request's. OpenAI names but two reasons, of which
    `max_output_tokens` is one; its clients take others as they are."""
    return Outcome("incomplete", details={"reason": reason})


def instead_of_a_run(
    claim: Claim, settings: Settings, served: Served | None = None
) -> Outcome | None:
    """How a claimed response is to be ended at once; None if it is to be run.

    Args:
        served: what holds for the runs of its agent.
    """
    own = served.timeout if served is not None else None
    limit = settings.run_timeout if own is None else own
    if claim.cancelled:
        return CANCELLED
    if claim.unreadable:
        return failed(Unreadable().message)
    if claim.overdue and (claim.request.timeout or inf) <= limit:
        return incomplete("timeout")
    if claim.overdue:
        whose = "LONGRUN_RUN_TIMEOUT" if own is None else "the limit of its agent"
        return failed(f"The response took longer than {limit:g} seconds ({whose}).")
    attempts = served.attempts if served is not None else None
    if claim.spent > (attempts or settings.max_attempts):
        return _given_up(f"The run was interrupted {claim.spent - 1} times and was given up.")
    if claim.handovers > settings.max_handovers:
        times = claim.handovers
        return _given_up(
            f"The run was handed over {times} times without making progress, and was given up."
        )
    return None


def _given_up(message: str) -> Outcome:
    return failed(message)._replace(given_up=True)


_KEY: Final = re.compile(r"\b[A-Z][A-Z0-9_]*_API_KEY\b")
"""The variable that a client of a provider names when it has no key."""


def of_exception(error: BaseException, max_turns: int) -> Outcome:
    """What a client is told of an exception: never its text, unless it is an error of ours."""
    match error:
        case ReplayMismatch():
            return failed(
                "The run was interrupted, and cannot be resumed because the agent's code was "
                "changed."
            )
        case LongrunError():
            return failed(error.message)
        case MaxTurnsExceeded():
            return failed(f"The run took more than {max_turns} model turns.")
        case InputGuardrailTripwireTriggered():
            words = "The input was refused by a guardrail of the agent."
            return failed(words, "invalid_prompt")._replace(input_refused=True)
        case OutputGuardrailTripwireTriggered():
            return failed("The output was refused by a guardrail of the agent.")
        case openai.RateLimitError():
            message = "The model's provider refused: too many requests."
            return failed(message, "rate_limit_exceeded")
        case openai.AuthenticationError():
            return failed("The model's provider refused the API key of this server.")
        case openai.OpenAIError() if key := _KEY.search(str(error)):
            return failed(f"The model has no API key: {key[0]} is not set on this server.")
        case _:
            return failed("The agent failed.")
