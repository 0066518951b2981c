"""Who begins a run: after a handoff, the next turn is for the agent that had the last word."""

from collections.abc import Iterable
from typing import Any

from agents import Agent

from longrun.execution.replay import sdk
from longrun.history.continuation import responses_in
from longrun.jsontext import loads
from longrun.protocol import RunRequest
from longrun.store.histories import Histories
from longrun.store.records import Step


async def who_begins(
    request: RunRequest, steps: Iterable[Step], histories: Histories, *, last: bool
) -> str | None:
    """The name of the agent that a run begins with, by what came before; None: the one that the
    request asks for.

    An attempt begins as the one before it did. Else it is the agent whose model spoke last in what
    the request continues, if that asked for the same `model`.

    Args:
        steps: those that earlier attempts recorded.
        last: the agent with the last word goes on; else always the one that is asked for.

    Raises:
        Unavailable: Postgres is away.
    """
    for step in steps:
        if (step.scope, step.kind, step.key) == ("", "model", "0"):
            return _agent_in(step.fingerprint)
    earlier = responses_in(request.context) if last and request.context else []
    if not earlier:
        return None
    spoken = await histories.last_spoken(earlier, request.principal)
    if spoken is None or spoken.asked_for != request.agent:
        return None
    return _agent_in(spoken.fingerprint)


def reached(agent: Agent[Any], name: str | None) -> Agent[Any]:
    """The agent of this name that this one hands over to, directly or through others; itself where
    there is none."""
    seen = {id(agent)}
    near = [agent]
    for each in near if name is not None else ():
        if each.name == name:
            return each
        for target in sdk.targets_of(each):
            if id(target) not in seen:
                seen.add(id(target))
                near.append(target)
    return agent


def _agent_in(fingerprint: str) -> str | None:
    """The agent whose model was asked in a step."""
    name = loads(fingerprint).get("agent")
    return name if isinstance(name, str) else None
