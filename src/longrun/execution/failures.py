"""Why a run failed, for its operator: the exception, where it was raised, in which attempt.

Its client is told what `outcomes` says. This is kept with the response, and goes with it.
"""

import traceback
from typing import Any, Final

from agents import InputGuardrailTripwireTriggered, OutputGuardrailTripwireTriggered

from longrun.errors import BadRequest, LongrunError, OutputMismatch
from longrun.execution.contained import step_of
from longrun.execution.outcomes import Outcome, of_exception
from longrun.jsontext import dumps
from longrun.settings import Settings

LONGEST_MESSAGE: Final = 2_000
LONGEST_TRACEBACK: Final = 16_000
"""Characters; of a traceback the last ones, which say what was raised where."""

SHOWN_FRAMES: Final = 3

OF_REQUEST: Final = (
    BadRequest,
    OutputMismatch,
    InputGuardrailTripwireTriggered,
    OutputGuardrailTripwireTriggered,
)
"""How a run ends because of what its request asks for, or says: nothing is wrong with the agent."""


def of_failure(error: BaseException, attempt: int, settings: Settings) -> Outcome:
    """How a run ends for an exception, with the reason as it is kept."""
    outcome = of_exception(error, settings.max_turns)
    outcome = outcome._replace(reason=dumps(reason_of(error, attempt)).decode())
    if outcome.error is None or not settings.show_errors or isinstance(error, LongrunError):
        return outcome
    message = f"{outcome.error['message']} {shown(error)}"
    return outcome._replace(error={**outcome.error, "message": message})


def reason_of(error: BaseException, attempt: int) -> dict[str, Any]:
    """The reason of a failure, as it is stored: all of it text, but for the attempt."""
    lines = "".join(traceback.format_exception(error))
    return {
        "exception": _name(error),
        "message": _said(error)[:LONGEST_MESSAGE],
        "step": step_of(error),
        "attempt": attempt,
        "traceback": lines if len(lines) <= LONGEST_TRACEBACK else "…" + lines[-LONGEST_TRACEBACK:],
    }


def shown(error: BaseException) -> str:
    """An exception in a few lines: what it says, in which step, its last frames."""
    step = step_of(error)
    where = f" (in {step})" if step else ""
    lines = [f"{_name(error)}: {_said(error)[:LONGEST_MESSAGE]}{where}"]
    for frame in traceback.extract_tb(error.__traceback__)[-SHOWN_FRAMES:]:
        lines.append(f"  {frame.filename}, line {frame.lineno}, in {frame.name}: {frame.line}")
    return "\n".join(lines)


def _name(error: BaseException) -> str:
    kind = type(error)
    builtin = kind.__module__ == "builtins"
    return kind.__qualname__ if builtin else f"{kind.__module__}.{kind.__qualname__}"


def _said(error: BaseException) -> str:
    """Its text, whatever its own `__str__` does."""
    try:
        return str(error)
    except Exception as wrong:
        return f"(its text cannot be made: {type(wrong).__name__})"
