"""What a request says of a response that is not created: its context, and what would bound it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from pydantic import ConfigDict
from starlette.requests import Request

from longrun.http.access import caller_of
from longrun.http.bodies import Bodies
from longrun.http.creations import Creations
from longrun.http.items import CheckedItems
from longrun.http.limits import DEFAULT_LIMITS, Limits
from longrun.http.options import Options
from longrun.http.requests import CreateResponse
from longrun.operations import null_is_absent
from longrun.protocol import RunRequest
from longrun.store.responses import Responses

Parse = Callable[[Any, Limits], CreateResponse]
"""Checks a body, and reads it as that of `POST /responses`."""


class AskedBody(Options):
    """Those parameters of `POST /responses` that count for a request that creates none."""

    model_config = ConfigDict(json_schema_extra=null_is_absent)

    model: str | None = None
    input: str | CheckedItems | None = None
    previous_response_id: str | None = None

    @classmethod
    def parse(cls, body: Any, limits: Limits = DEFAULT_LIMITS) -> CreateResponse:
        """Check a body. What it may not have counts for nothing.

        Raises:
            BadRequest: names the parameter, what is wrong and what is allowed.
        """
        if isinstance(body, dict):
            body = {name: body[name] for name in cls.model_fields if name in body}
        return CreateResponse.parse(body, limits)


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
        if asked.context is None:
            asked = await self.responses.histories.with_context(asked)
        return asked
