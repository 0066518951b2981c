"""`POST /responses/input_tokens`: how much a request would give its model, without a run."""

from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from longrun.http.answers import JSONAnswer
from longrun.http.asked import Asked
from longrun.http.items import CheckedItems
from longrun.http.limits import DEFAULT_LIMITS, Limits
from longrun.http.requests import (
    ConversationParam,
    CreateResponse,
    FunctionTool,
    JSONObject,
    Options,
    ReasoningOptions,
    TextOptions,
)
from longrun.operations import null_is_absent, operation
from longrun.protocol import RunRequest


class Count(Protocol):
    """What was counted."""

    @property
    def tokens(self) -> int: ...

    @property
    def estimated(self) -> bool: ...


class Counts(Protocol):
    """What counts; the application hands it in."""

    async def count(self, request: RunRequest) -> Count: ...


class CountInput(Options):
    """The body of `POST /responses/input_tokens`: those parameters of `POST /responses` that say
    what a model gets."""

    model_config = ConfigDict(json_schema_extra=null_is_absent)

    model: str | None = None
    input: str | CheckedItems | None = None
    previous_response_id: str | None = None
    conversation: str | ConversationParam | None = None
    instructions: str | None = None
    parallel_tool_calls: bool | None = None
    reasoning: ReasoningOptions | None = None
    text: TextOptions | None = None
    tools: list[FunctionTool] | None = None
    tool_choice: str | JSONObject | None = None
    truncation: Literal["auto", "disabled"] | None = None

    @classmethod
    def parse(cls, body: Any, limits: Limits = DEFAULT_LIMITS) -> CreateResponse:
        """Check a body. What it may not have counts for nothing.

        Raises:
            BadRequest: names the parameter, what is wrong and what is allowed.
        """
        if isinstance(body, dict):
            body = {name: body[name] for name in cls.model_fields if name in body}
        return CreateResponse.parse(body, limits)


class CountedInput(BaseModel):
    """The answer. `estimated`, an extension: the model's provider has not counted."""

    object: Literal["response.input_tokens"] = "response.input_tokens"
    input_tokens: int
    estimated: bool


class InputTokensAPI:
    """The endpoint.

    Args:
        asked: reads what is to be counted.
    """

    def __init__(self, asked: Asked, counts: Counts) -> None:
        self._asked = asked
        self._counts = counts

    def routes(self) -> list[BaseRoute]:
        """The route, the same at the root and under `/v1`."""
        return [
            Route(f"{prefix}/responses/input_tokens", self.count, methods=["POST"])
            for prefix in ("", "/v1")
        ]

    @operation(CountedInput, body=CountInput, errors=(404, 421, 429))
    async def count(self, request: Request) -> Response:
        """`POST /responses/input_tokens`: count what a request would give its model."""
        asked = await self._asked.of(request, CountInput.parse)
        counted = await self._counts.count(asked)
        found = CountedInput(input_tokens=counted.tokens, estimated=counted.estimated)
        return JSONAnswer(found.model_dump())
