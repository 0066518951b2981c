"""Approvals that handlers wait for. The run ends, and waits as a row; the response that brings the
answer executes the handler again, with all that was recorded until then."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from longrun.errors import LongrunError
from longrun.execution.approving import GONE
from longrun.execution.contained import Parks
from longrun.execution.parked import FORMAT, unreadable
from longrun.execution.replay.once import Once
from longrun.execution.replay.references import resolve
from longrun.execution.run_states import NO_LONGER_FITS
from longrun.history.approvals import Answer as Given
from longrun.history.approvals import answers_to
from longrun.jsontext import dumps, loads
from longrun.protocol import RunRequest
from longrun.store.approvals import Approvals
from longrun.store.claims import Claims
from longrun.store.records import Parked, Step
from longrun.store.responses import Responses

WRITTEN_BY: Final = "longrun handler"

ROUNDS: Final = 10
"""Turns of the event loop in which nothing is done any more before a run ends to wait."""


@dataclass(frozen=True, slots=True)
class Approval:
    """What a handler asks whether it may do.

    Attributes:
        name: of what is to be done, as of a tool.
        arguments: what with: JSON.
    """

    name: str
    arguments: Any = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What was answered; true if it was granted.

    Attributes:
        reason: why it was refused, if that was said.
    """

    granted: bool
    reason: str | None = None

    def __bool__(self) -> bool:
        return self.granted


@dataclass(frozen=True, slots=True)
class Waited:
    """What the run of a handler goes on from.

    Attributes:
        began: what it was asked when it began.
        earlier: the responses that it was in so far.
        steps: what was recorded of them.
        answers: by the keys of what waited.
    """

    began: RunRequest
    earlier: Sequence[str]
    steps: Sequence[Step]
    answers: Mapping[str, Given]

    @property
    def recorded(self) -> list[Step]:
        """The steps, as they stand for work that was done for other responses."""
        return [_without_usage(step) for step in self.steps]


async def read_waited(
    request: RunRequest,
    response_id: str,
    approvals: Approvals,
    responses: Responses,
    claims: Claims,
) -> Waited:
    """What the run of a request goes on from, as it stands now.

    Raises:
        LongrunError: it was deleted, or cannot be read by this version.
        Unavailable: Postgres is away.
    """
    parked = await approvals.parked_unscoped(response_id)
    if parked is None:
        raise LongrunError(GONE)
    problem = unreadable(parked.format, parked.written_by)
    if problem is not None:
        raise LongrunError(problem)
    state = loads(parked.state).get("handler")
    if state is None:
        raise LongrunError(NO_LONGER_FITS)
    steps: list[Step] = []
    asked: list[RunRequest] = []
    for earlier in state["earlier"]:
        found = await approvals.asked(earlier, request.principal)
        if found is None:
            raise LongrunError(GONE)
        asked.append(found)
        steps += resolve(await claims.steps(earlier), await claims.items(earlier))
    given = answers_to(request.input, response_id)
    return Waited(
        await responses.histories.with_context(asked[0]),
        state["earlier"],
        steps,
        {key: given[int(n)] for n, key in state["waits"].items() if int(n) in given},
    )


def _without_usage(step: Step) -> Step:
    """What it used counts for the response in which it was used."""
    if step.kind != "model":
        return step
    result = loads(step.result)
    result["response"].pop("usage", None)
    return step._replace(result=dumps(result).decode())


class Waits:
    """What one run of a handler waits for.

    Attributes:
        asked: the approvals that it waits for, by their keys.
        parks: the run is to end, and to wait.
    """

    def __init__(self, request: RunRequest, waited: Waited | None, once: Once) -> None:
        self.asked: dict[str, Approval] = {}
        self.parks = False
        self._request = request
        self._waited = waited
        self._once = once
        self._answers = dict(waited.answers) if waited is not None else {}

    def is_answered(self, key: str) -> bool:
        return key in self._answers

    def take(self, key: str) -> Answer:
        """The answer that this request brings."""
        given = self._answers[key]
        return Answer(given.approve, given.reason)

    def passed(self, key: str) -> None:
        """The handler has its answer, now or from the record."""
        self._answers.pop(key, None)

    @property
    def left(self) -> list[str]:
        """The keys of answers that nobody has asked for."""
        return list(self._answers)

    async def ask(self, key: str, approval: Approval) -> None:
        """End the run, once nothing else is done in it.

        Raises:
            Parks: it ends here.
            LongrunError: it cannot wait.
        """
        if not self._request.stored:
            raise LongrunError(
                f"{approval.name!r} needs an approval, for which only a stored response can wait: "
                "leave store out of the request."
            )
        self.asked[key] = approval
        for _ in range(ROUNDS):
            await self._once.idle()
            await asyncio.sleep(0)
        self.parks = True
        raise Parks

    def parked(self, requests: Mapping[int, str]) -> Parked:
        """What waits.

        Args:
            requests: by the output index of each request, the key of what it is for.
        """
        earlier = list(self._waited.earlier) if self._waited is not None else []
        waits = {str(index): key for index, key in requests.items()}
        state = {"handler": {"earlier": [*earlier, self._request.response_id], "waits": waits}}
        return Parked(list(requests), FORMAT, WRITTEN_BY, dumps(state).decode())
