"""What a request says of a response that is not created: its context, and what would bound it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.requests import Request

from longrun.http.access import caller_of
from longrun.http.bodies import Bodies
from longrun.http.creations import Creations
from longrun.http.limits import Limits
from longrun.http.requests import CreateResponse
from longrun.protocol import RunRequest
from longrun.store.responses import Responses

Parse = Callable[[Any, Limits], CreateResponse]
"""Checks a body, and reads it as that of `POST /responses`."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Reads such requests."""

    bodies: Bodies
    creations: Creations
    responses: Responses

    async def of(self, request: Request, parse: Parse) -> RunRequest:
        """What would be run, with its context.

        Raises:
            LongrunError: what it asks for, continues or refers to is not there, or not theirs.
        """
        caller = caller_of(request)
        read = partial(self.creations.parse, caller, parse=parse)
        body = await self.bodies.read(request, read)
        asked = await self.creations.request_of(body, caller, request)
        return (
            asked
            if asked.context is not None
            else await self.responses.histories.with_context(asked)
        )
