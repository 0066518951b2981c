"""`POST /responses/input_tokens`: how much a request would give its model, without a run."""

from typing import Literal, Protocol

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from longrun.http.answers import JSONAnswer
from longrun.http.asked import Asked, AskedBody
from longrun.http.options import (
    ConversationParam,
    FunctionTool,
    JSONObject,
    ReasoningOptions,
    TextOptions,
)
from longrun.operations import operation
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


class CountInput(AskedBody):
    """The body of `POST /responses/input_tokens`: those parameters of `POST /responses` that say
    what a model gets."""

    conversation: str | ConversationParam | None = None
    instructions: str | None = None
    parallel_tool_calls: bool | None = None
    reasoning: ReasoningOptions | None = None
    text: TextOptions | None = None
    tools: list[FunctionTool] | None = None
    tool_choice: str | JSONObject | None = None
    truncation: Literal["auto", "disabled"] | None = None


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
