"""`response.steer` on a WebSocket: a message for a live run, answered as OpenAI's does (contract,
"Steering")."""

import contextlib
from functools import partial
from typing import Any, Final

from longrun import ids
from longrun.errors import BadRequest, LongrunError, NotFound, TooManyRequests
from longrun.http.access import caller_again
from longrun.http.frames import Frame
from longrun.http.rates import OtherRates
from longrun.http.sockets import OpenSocket
from longrun.http.steering import Steering, SteerResponse
from longrun.http.steers_pending import Put, steer_event
from longrun.store.steers import Submission

_TOLD: Final = (BadRequest, NotFound, TooManyRequests)
"""Errors that are about the message. Others are told as those of any event are."""

_CODES: Final = frozenset(
    {
        "response_already_completed",
        "response_not_active",
        "steering_not_supported",
        "too_many_pending_steers",
    }
)
"""What OpenAI's events say too; of anything else the input is at fault."""


class SteerEvents:
    """What is done for the event.

    Args:
        rates: counts it as a request that asks for no run.
    """

    def __init__(self, steering: Steering, rates: OtherRates) -> None:
        self._steering = steering
        self._rates = rates

    async def __call__(self, socket: OpenSocket, frame: Frame) -> None:
        """`response.steer`: `previous_response_id` names the response, `input` is as over HTTP. One
        that is not stored takes messages on its own connection alone."""
        caller = await caller_again(socket.connection)
        caller.require("write")
        await self._rates.count(caller)
        with frame.kept:
            response_id = frame.said.get("previous_response_id")
            if not isinstance(response_id, str):
                raise BadRequest(
                    "previous_response_id must name the response to be steered.",
                    param="previous_response_id",
                    code="invalid_type",
                )
            lane = socket.lane_of(response_id)
            name = None if lane is None else lane.name
            async with contextlib.nullcontext() if lane is None else lane.steers.under_way:
                try:
                    limits = self._steering.bodies.limits
                    parse = partial(SteerResponse.parse, frame.said, limits)
                    body = await self._steering.bodies.beside(frame.size, parse)
                    new = Submission(body.items())
                    first, _ = await self._steering.put_in(
                        response_id, caller.principal, new, kept=lane is None
                    )
                except _TOLD as error:
                    failed = _failed(error, response_id, frame.said.get("input"))
                    await socket.send(steer_event("failed", name, 0, **failed))
                    return
                put = Put(ids.steer_id(response_id, first), first)
                if lane is not None:
                    lane.steers.note(put)
                steer = {"id": put.id, "previous_response_id": response_id}
                await socket.send(steer_event("accepted", name, first, steer=steer))


def _failed(error: LongrunError, response_id: str, given: Any) -> dict[str, Any]:
    code = error.code if error.code in _CODES else "invalid_input"
    if isinstance(error, NotFound):
        code = "response_not_found"
    return {
        "steer": {"previous_response_id": response_id, "input": given},
        "error": {"type": "invalid_request_error", "code": code, "message": error.message},
    }
