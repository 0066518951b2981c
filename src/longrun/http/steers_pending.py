"""What a connection is told of its messages that a response has ended without taking: they wait for
what its client has to bring (`response.steer.pending`; contract, "Steering")."""

import asyncio
import contextlib
from typing import Any, Final, NamedTuple

from longrun.errors import LongrunError
from longrun.jsontext import dumps, loads
from longrun.store.steers import Steers

_COMPLETED: Final = b'{"type":"response.completed"'

_REASON: Final = "waiting_for_required_input"


class Put(NamedTuple):
    """Messages that were put in together: their id, and the number of the first."""

    id: str
    first: int


class LaneSteers:
    """What was put into the response that a lane produces just now, by its connection.

    Attributes:
        under_way: held while something is put in and its client is told of it: the response does
            not end for that client before.
    """

    def __init__(self, steers: Steers) -> None:
        self.under_way = asyncio.Lock()
        self._steers = steers
        self._put: list[Put] = []

    def begin(self) -> None:
        """Another response begins."""
        self._put.clear()

    def note(self, put: Put) -> None:
        """It was accepted."""
        self._put.append(put)

    async def pending(
        self, response_id: str, principal: str, last: bytes, stream_id: str | None
    ) -> list[str]:
        """Events for what waits, to be sent behind the response's last one, which is `last`.

        It is asked for before a response that is not stored is deleted.
        """
        async with self.under_way:
            if not self._put or not last.startswith(_COMPLETED):
                return []
            required = required_input(loads(last)["response"]["output"])
            if not required:
                return []
            with contextlib.suppress(LongrunError):
                waiting = await self._steers.waiting(response_id, principal)
                return [
                    steer_event(
                        "pending",
                        stream_id,
                        each.first,
                        steer={"id": each.id, "previous_response_id": response_id},
                        reason=_REASON,
                        required_input=required,
                    )
                    for each in self._put
                    if each.first in waiting
                ]
            return []


def required_input(output: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a client has to bring for a response to be continued: the results of its own calls, and
    answers to approvals, each without what it says."""
    given = {item.get("call_id") for item in output if item["type"] == "function_call_output"}
    required = []
    for item in output:
        if item["type"] == "function_call" and item["call_id"] not in given:
            call = {"call_id": item["call_id"], "name": item["name"]}
            required.append({"type": "function_call_output", **call})
        elif item["type"] == "mcp_approval_request":
            required.append({"type": "mcp_approval_response", "approval_request_id": item["id"]})
    return required


def steer_event(what: str, stream_id: str | None, number: int, **more: Any) -> str:
    """An event about messages that were put in, as JSON.

    Args:
        number: of the first message; its `sequence_number`.
    """
    event = {"type": f"response.steer.{what}", "sequence_number": number, **more}
    return dumps({**event, **({"stream_id": stream_id} if stream_id else {})}).decode()
