"""Answers to requests for approvals: looked at when they come, so that what is wrong is a 400."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from longrun import ids
from longrun.errors import AlreadyAnswered, BadRequest
from longrun.history.approvals import RESPONSE
from longrun.history.cleaning import kind_of
from longrun.http.problems import shortened
from longrun.http.requests import CreateResponse
from longrun.store.approvals import Approvals, Asked

CheckReadable = Callable[[Asked], None]
"""Raises `BadRequest` where this server cannot go on from what was parked."""


class _Answer(NamedTuple):
    """One answer of a request: where it is, and what it names."""

    param: str
    request_id: str
    place: tuple[str, int]


class Answers:
    """The answers that requests bring.

    Args:
        approvals: what was asked.
        readable: see `CheckReadable`.
    """

    def __init__(self, approvals: Approvals, readable: CheckReadable) -> None:
        self._approvals = approvals
        self._readable = readable

    async def goes_on(self, body: CreateResponse, agent: str, principal: str) -> str | None:
        """The response from which the run of a request goes on, since it brings answers to what
        that one asked; None if it brings none.

        Raises:
            BadRequest: one was given already, or cannot be given (here).
        """
        answers = _answers(body.items())
        if not answers:
            return None
        asked = await self._approvals.find([answer.place for answer in answers], principal)
        # A request that a model's provider made in a response that was not parked is that
        # provider's affair.
        known = [(answer, asked[answer.place]) for answer in answers if answer.place in asked]
        seen: set[str] = set()
        for answer, request in known:
            _check(answer, request, body, agent)
            if request.answered or answer.request_id in seen:
                raise AlreadyAnswered(answer.request_id, request.answered_by, answer.param)
            if request.answered_by is not None:
                raise BadRequest(
                    f"The approval request with id {answer.request_id!r} is no longer pending: "
                    f"the response {request.answered_by} continued, and asked again for those "
                    "without an answer.",
                    param=answer.param,
                    code="approval_passed",
                )
            seen.add(answer.request_id)
        if not known:
            return None
        self._readable(known[0][1])
        return known[0][1].response_id


def _answers(items: Sequence[dict[str, Any]]) -> list[_Answer]:
    found = []
    for place, item in enumerate(items):
        if kind_of(item) == RESPONSE:
            request_id = item["approval_request_id"]
            of = ids.place_of_item(request_id)
            if of is not None and request_id == ids.item_id(*of, "mcp_approval_request"):
                param = f"input[{place}].approval_request_id"
                found.append(_Answer(param, request_id, of))
    return found


def _check(answer: _Answer, asked: Asked, body: CreateResponse, agent: str) -> None:
    """Whether a request may bring this answer."""
    of, which = asked.response_id, shortened(answer.request_id)
    on = body.conversation_id
    if body.previous_response_id is None and on is None:
        raise BadRequest(
            f"An approval must be answered in a request that continues the response that asked "
            "for it: "
            f"set previous_response_id to {of!r}, or its conversation.",
            param="previous_response_id",
            code="approval_not_continued",
        )
    if body.previous_response_id not in (None, of) or on not in (None, asked.conversation_id):
        raise BadRequest(
            f"The approval request with id {which!r} belongs to the response {of}, which this "
            "request does not continue.",
            param=answer.param,
            code="approval_not_continued",
        )
    if on is not None and asked.passed:
        raise BadRequest(
            f"The approval request with id {which!r} is no longer pending: its conversation "
            "continued without an answer.",
            param=answer.param,
            code="approval_passed",
        )
    if asked.agent != agent:
        raise BadRequest(
            f"The approval request with id {which!r} belongs to the model {asked.agent!r}: answer "
            "it with the same model.",
            param="model",
            code="approval_of_another_model",
        )
