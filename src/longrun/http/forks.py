"""`longrun.fork`: a request that goes on from a step of a stored response."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol

from longrun import ids
from longrun.errors import BadRequest
from longrun.http.problems import response_not_found
from longrun.http.requests import CreateResponse
from longrun.parameters import FORWARDED_HEADERS, TRACEPARENT
from longrun.protocol import GOES_ON, INSERTS, Forking, RunRequest
from longrun.store.forks import Copied, Forks, Numbered, Source

PARAM: Final = "longrun.fork.response_id"

_OF_ITS_OWN: Final = frozenset(
    {FORWARDED_HEADERS, TRACEPARENT, GOES_ON, INSERTS, "longrun", "store"}
)
"""Beside the parameters of a run: what a fork does not take over from its source."""

_SAID_OF_ITS_OWN: Final = frozenset(
    {
        *("id", "object", "created_at", "completed_at", "status", "error", "incomplete_details"),
        *("usage", "output", "background", "store", "model", "conversation", "longrun"),
    }
)
"""The same of the fields of a Response object."""


class Course(Protocol):
    """The numbered steps of a response, and what a fork takes along of them."""

    @property
    def steps(self) -> Sequence[Numbered]: ...

    def fork(self, number: int) -> Copied: ...


CourseOf = Callable[[Source], Course]
"""Reads the steps of a response; raises `BadRequest` where they are none of an agent's."""


class Sources:
    """The responses that requests go on from.

    Args:
        forks: reads them.
        course_of: see `CourseOf`.
    """

    def __init__(self, forks: Forks, course_of: CourseOf) -> None:
        self._forks = forks
        self._course_of = course_of

    async def of(self, body: CreateResponse, principal: str) -> Source | None:
        """The response that a request goes on from; None if it is no fork.

        Raises:
            NotFound: it is not there, or not theirs.
            BadRequest: it was of another `model`, or went on from approvals itself.
        """
        if body.fork is None:
            return None
        response_id = body.fork.response_id
        source = None
        if ids.is_response_id(response_id):
            source = await self._forks.source(response_id, principal)
        if source is None:
            error = response_not_found(response_id)
            error.param = PARAM
            raise error
        of = source.request
        if body.model not in (None, of.agent):
            raise BadRequest(
                f"The response was created with the model {of.agent!r}: fork it with the same "
                "model, or without a model.",
                param="model",
                code="fork_of_another_model",
            )
        if of.goes_on is not None:
            raise BadRequest(
                f"The response brought answers to approvals, and continues {of.goes_on}: fork "
                "that one.",
                param=PARAM,
                code="fork_of_answers",
            )
        return source

    async def steps(self, response_id: str, principal: str) -> Sequence[Numbered]:
        """The numbered steps of a response; empty for a handler's.

        Raises:
            NotFound: it is not there, or not theirs.
        """
        source = None
        if ids.is_response_id(response_id):
            source = await self._forks.source(response_id, principal)
        if source is None:
            raise response_not_found(response_id)
        try:
            course = await asyncio.to_thread(self._course_of, source)
        except BadRequest:
            return ()
        return course.steps

    async def forked(
        self, source: Source, run_request: RunRequest, body: CreateResponse, most_items: int
    ) -> RunRequest:
        """A request as it goes on from a response: with the parameters of that one which it does
        not name itself, and its own input behind the recorded steps.

        Args:
            most_items: how many its input may have, that of its source included.

        Raises:
            BadRequest: there is no such step, or it is not finished.
        """
        assert body.fork is not None
        step, of = body.fork.step, source.request
        copied = Copied([], -1)
        if step:
            course = await asyncio.to_thread(self._course_of, source)
            copied = course.fork(step)
        own = run_request.input
        inserts = [(turn, place) for turn, place in of.inserts if turn < copied.turn]
        before = of.input
        if len(inserts) < len(of.inserts):
            before = of.input[: of.inserts[len(inserts)][1]]
        if own and step == 0:
            before = []
        elif own:
            inserts.append((copied.turn, len(before)))
        if len(before) + len(own) > most_items:
            raise BadRequest(
                f"input: at most {most_items} elements are allowed, those of the response that it "
                f"goes on from included, got {len(before) + len(own)}.",
                param="input",
                code="array_above_max_length",
            )
        conversation_id, end = source.reads
        return replace(
            run_request,
            input=[*before, *own],
            input_text=None,
            document=_document(run_request, of, body),
            parameters={
                **_parameters(run_request, of, body),
                **({INSERTS: inserts} if inserts else {}),
            },
            previous_id=of.previous_id,
            context=None,
            forking=Forking(copied.steps, conversation_id, end),
        )


def _parameters(fork: RunRequest, of: RunRequest, body: CreateResponse) -> dict[str, Any]:
    """What a run acts upon."""
    kept = {name: value for name, value in of.parameters.items() if name not in _OF_ITS_OWN}
    own = {
        name: value
        for name, value in fork.parameters.items()
        if name in _OF_ITS_OWN or body.names(name) or name not in kept
    }
    if not body.names("tools") and "tools" not in kept:
        own.pop("tools", None)
    longrun = _of_longrun(fork, of.parameters.get("longrun") or {}, body)
    return {**kept, **own, "longrun": longrun}


def _document(fork: RunRequest, of: RunRequest, body: CreateResponse) -> dict[str, Any]:
    """The Response object of a fork, without its output."""
    kept = {
        name: value
        for name, value in of.document.items()
        if name not in _SAID_OF_ITS_OWN and not body.names(name)
    }
    longrun = _of_longrun(fork, of.document.get("longrun") or {}, body)
    return {**fork.document, **kept, "longrun": longrun}


def _of_longrun(fork: RunRequest, kept: dict[str, Any], body: CreateResponse) -> dict[str, Any]:
    own: dict[str, Any] = fork.parameters["longrun"]
    named = {name: value for name, value in own.items() if body.names(f"longrun.{name}")}
    return {**own, **kept, **named}
