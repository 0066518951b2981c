"""The log's lines about runs: one when a run starts, is taken over, is steered, is handed over, or
ends. What has a line here is counted here, too.

Nothing of an input or an output is in them.
"""

import logging
from typing import Any, Final

from longrun import ids, metrics
from longrun.assembly.usage import UsageSum
from longrun.execution.outcomes import CANCELLED, Outcome
from longrun.loglines import tell
from longrun.protocol import RunRequest

log: Final = logging.getLogger("longrun.runs")


def run_started(request: RunRequest, attempt: int, replica: str, *, alone: bool = False) -> None:
    """An attempt begins here: a response's first one, or one of a run that another replica has
    left.

    Args:
        alone: it was under way in two deaths, so nothing else is executed here meanwhile.
    """
    what = "run started" if attempt == 1 else "run taken over"
    metrics.runs_started.labels(request.agent, "first" if attempt == 1 else "takeover").inc()
    level = logging.WARNING if alone else logging.INFO
    _tell(what, request.response_id, request.agent, attempt, replica, level, alone=alone or None)


def run_steered(request: RunRequest, attempt: int, replica: str, messages: int) -> None:
    """A run has taken messages that were put into it."""
    metrics.steers.labels("taken").inc(messages)
    _tell("run steered", request.response_id, request.agent, attempt, replica, messages=messages)


def run_handed_over(response_id: str, agent: str, attempt: int, replica: str) -> None:
    """An attempt ended here, and any replica may go on with the run."""
    metrics.handovers.labels(agent).inc()
    _tell("run handed over", response_id, agent, attempt, replica)


def run_ended(
    request: RunRequest, attempt: int, replica: str, outcome: Outcome, usage: UsageSum
) -> None:
    """A response has its terminal event: the last line about it."""
    _count(request, outcome, usage)
    level = logging.INFO
    what = "run cancelled" if outcome.status == CANCELLED.status else "run ended"
    if outcome.given_up:
        what, level = "run given up", logging.WARNING
        metrics.runs_given_up.labels(request.agent).inc()
    _tell(
        what,
        request.response_id,
        request.agent,
        attempt,
        replica,
        level,
        status=outcome.status,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
    )


def _count(request: RunRequest, outcome: Outcome, usage: UsageSum) -> None:
    agent = request.agent
    metrics.runs_finished.labels(agent, outcome.status).inc()
    metrics.run_seconds.labels(agent, outcome.status).observe(ids.age(request.response_id))
    for kind, tokens in usage.by_kind().items():
        metrics.tokens.labels(agent, kind).inc(tokens)


def _tell(
    what: str,
    response_id: str,
    agent: str,
    attempt: int,
    replica: str,
    level: int = logging.INFO,
    **more: Any,
) -> None:
    tell(
        log,
        what,
        level,
        response_id=response_id,
        agent=agent,
        attempt=attempt,
        replica=replica,
        duration=ids.age(response_id),
        **more,
    )
