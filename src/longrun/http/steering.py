"""`POST /responses/{id}/steer`: put a message into a live run (contract, "Steering")."""

from collections.abc import Callable
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, WithJsonSchema
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from longrun import ids
from longrun.errors import BadRequest, NotSteerable
from longrun.http import idempotency
from longrun.http.access import principal_of
from longrun.http.answers import JSONAnswer
from longrun.http.bodies import Bodies
from longrun.http.items import checked_items
from longrun.http.limits import DEFAULT_LIMITS, Limits, is_too_deep
from longrun.http.lists import ListedItem, as_input_item
from longrun.http.problems import bad_request, response_not_found
from longrun.operations import operation
from longrun.store.steers import Accepted, Steers, Submission

_RETRIES: Final = "x-stainless-retry-count"
"""How often OpenAI's SDKs have sent a request before."""

_KEPT: Final = ("type", "role", "content")
"""What is taken of a message: the rest (`status`, say) is what SDKs add."""

_PART: Final = {"type": "object", "properties": {"type": {"type": "string"}}, "required": ["type"]}

_MESSAGE: Final = {
    "type": "object",
    "properties": {
        "type": {"const": "message"},
        "role": {"const": "user"},
        "content": {"anyOf": [{"type": "string"}, {"type": "array", "items": _PART}]},
    },
    "required": ["role", "content"],
}

UserMessages = Annotated[
    list[Any],
    WithJsonSchema({"type": "array", "items": _MESSAGE, "minItems": 1}, mode="validation"),
]


class SteerResponse(BaseModel):
    """The body of `POST /responses/{id}/steer`: a text, or messages of the user's."""

    model_config = ConfigDict(extra="ignore", strict=True)

    input: str | UserMessages

    @classmethod
    def parse(cls, body: Any, limits: Limits = DEFAULT_LIMITS) -> "SteerResponse":
        """Check a body.

        Raises:
            BadRequest: names the parameter, what is wrong and what is allowed.
        """
        if not isinstance(body, dict):
            raise BadRequest("The body must be a JSON object.")
        given = body.get("input")
        if isinstance(given, list):
            if len(given) > limits.input_items:
                raise BadRequest(
                    f"input: at most {limits.input_items} elements are allowed, got {len(given)}.",
                    param="input",
                    code="array_above_max_length",
                )
            if is_too_deep(given, limits.depth):
                raise BadRequest(f"input: nested deeper than {limits.depth} levels.", param="input")
        try:
            parsed = cls.model_validate(body)
        except ValidationError as error:
            raise bad_request(error, body) from None
        if not parsed.input:
            raise BadRequest(
                "input is required: a non-empty string or a list of messages.",
                param="input",
                code="missing_required_parameter",
            )
        if isinstance(parsed.input, list):
            _check_messages(checked_items(parsed.input))
        return parsed

    def items(self) -> list[dict[str, Any]]:
        """The messages, as input items."""
        if isinstance(self.input, str):
            return [{"role": "user", "content": self.input}]
        return [{name: item[name] for name in _KEPT if name in item} for item in self.input]


def _check_messages(items: list[dict[str, Any]]) -> None:
    for place, item in enumerate(items):
        if item.get("type", "message") != "message" or item.get("role") != "user":
            raise BadRequest(
                f"input[{place}]: only messages with the role user can be put into a live run.",
                param=f"input[{place}]",
                code="invalid_input",
            )


class Steer(BaseModel):
    """What was put into a run."""

    id: str
    object: Literal["response.steer"]
    response_id: str
    created_at: int
    input: list[ListedItem]


class Steering:
    """The endpoint, and the function behind it.

    Args:
        steerable: whether the runs of an agent can take messages, by its name.

    Attributes:
        bodies: reads what comes, within one budget.
    """

    def __init__(self, steers: Steers, bodies: Bodies, steerable: Callable[[str], bool]) -> None:
        self.bodies = bodies
        self._steers = steers
        self._steerable = steerable

    def routes(self) -> list[BaseRoute]:
        """The routes, the same at the root and under `/v1`."""
        return [
            Route(f"{prefix}/responses/{{id}}/steer", self.steer, methods=["POST"])
            for prefix in ("", "/v1")
        ]

    @operation(
        Steer,
        body=SteerResponse,
        headers={"idempotency-key": "A repeated message with the same key is put in once."},
        errors=(422, 429),
    )
    async def steer(self, request: Request) -> Response:
        """`POST /responses/{id}/steer`: put messages into a live run, on any replica."""
        limits = self.bodies.limits
        body = await self.bodies.read(request, lambda given: SteerResponse.parse(given, limits))
        retries = request.headers.get(_RETRIES, "0")
        new = Submission(
            body.items(), idempotency.key_of(request), again=retries.strip() not in ("", "0")
        )
        response_id = request.path_params["id"]
        first, given_at = await self.put_in(response_id, principal_of(request), new)
        steer = {
            "id": ids.steer_id(response_id, first),
            "object": "response.steer",
            "response_id": response_id,
            "created_at": given_at,
            "input": [
                as_input_item(item, response_id, ids.steer_place(first + place))
                for place, item in enumerate(new.items)
            ],
        }
        return JSONAnswer(steer)

    async def put_in(
        self, response_id: str, principal: str, new: Submission, *, kept: bool = True
    ) -> Accepted:
        """Put messages into a run of a principal's: they are committed when this returns.

        Args:
            kept: only into a response that is stored.

        Raises:
            NotFound: there is no such response, or it is another principal's.
            NotSteerable: it has ended, or its agent takes no messages.
            TooManyRequests: too many wait.
            BadRequest: it has too many.
            KeyReused: the key was another message's.
        """
        accepted = None
        if ids.is_response_id(response_id):
            accepted = await self._steers.accept(
                response_id, principal, new, kept=kept, check=self._check
            )
        if accepted is None:
            raise response_not_found(response_id)
        return accepted

    def _check(self, agent: str) -> None:
        if not self._steerable(agent):
            raise NotSteerable(
                f"The model {agent!r} does not accept messages while it runs.",
                param="id",
                code="steering_not_supported",
            )
