"""Tokens for browsers: to read one response, and to run one agent."""

import time
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from longrun import ids
from longrun.access.callers import Caller
from longrun.access.keys import new_key
from longrun.access.stream_tokens import StreamTokens
from longrun.errors import BadRequest, Forbidden, NotFound
from longrun.http.access import caller_of, principal_of
from longrun.http.answers import JSONAnswer
from longrun.http.bodies import Bodies
from longrun.http.problems import bad_request, response_not_found, shortened
from longrun.http.query import Text
from longrun.operations import operation
from longrun.store.keys import Keys, KeyToStore
from longrun.store.responses import Responses

DAY: Final = 86_400

_CHAT_SCOPES: Final = frozenset({"read", "write"})


class CreateChatToken(BaseModel):
    """The body of `POST /chat_tokens`.

    Attributes:
        model: the only agent that may be run.
        user: whom the page is for; owns what it starts, under the caller's principal.
        expires_in: seconds.
        max_runs: how many runs may be started.
    """

    model_config = ConfigDict(extra="ignore", strict=True)

    model: Text
    user: Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f/]+$")]
    expires_in: Annotated[int, Field(ge=1, le=DAY)] = 3600
    max_runs: Annotated[int, Field(ge=1, le=10_000)] = 20

    @classmethod
    def parse(cls, body: Any) -> "CreateChatToken":
        """Check a body.

        Raises:
            BadRequest: names the parameter.
        """
        try:
            return cls.model_validate(body)
        except ValidationError as error:
            raise bad_request(error, body) from None


class GivenStreamToken(BaseModel):
    """The answer of `POST /responses/{id}/stream_token`; `expires_at` in seconds since 1970."""

    object: Literal["stream_token"] = "stream_token"
    response_id: str
    token: str
    expires_at: int


class GivenChatToken(BaseModel):
    """The answer of `POST /chat_tokens`; `expires_at` in seconds since 1970."""

    object: Literal["chat_token"] = "chat_token"
    token: str
    expires_at: int
    model: str
    principal: str
    max_runs: int


class Tokens:
    """The endpoints that give tokens to browsers.

    Args:
        models: the names of the served agents.
    """

    def __init__(
        self,
        *,
        keys: Keys,
        stream_tokens: StreamTokens,
        responses: Responses,
        models: Sequence[str],
        bodies: Bodies,
    ) -> None:
        self._keys = keys
        self._stream_tokens = stream_tokens
        self._responses = responses
        self._models = models
        self._bodies = bodies

    def routes(self) -> list[BaseRoute]:
        """The routes, the same at the root and under `/v1`."""
        return [
            Route(prefix + path, endpoint, methods=["POST"])
            for prefix in ("", "/v1")
            for path, endpoint in (
                ("/responses/{id}/stream_token", self.create_stream_token),
                ("/chat_tokens", self.create_chat_token),
            )
        ]

    @operation(GivenStreamToken)
    async def create_stream_token(self, request: Request) -> Response:
        """`POST /responses/{id}/stream_token`: a token for EventSource, as `?token=`."""
        response_id, principal = request.path_params["id"], principal_of(request)
        known = ids.is_response_id(response_id)
        if not known or await self._responses.get(response_id, principal) is None:
            raise response_not_found(response_id)
        token = await self._stream_tokens.issue(response_id, principal)
        return JSONAnswer(
            GivenStreamToken(
                response_id=response_id, token=token.text, expires_at=token.expires_at
            ).model_dump()
        )

    @operation(GivenChatToken, body=CreateChatToken, errors=(404,))
    async def create_chat_token(self, request: Request) -> Response:
        """`POST /chat_tokens`: a key for a page that starts runs of one agent for one user."""
        caller = caller_of(request)
        if caller.agent is not None:
            raise Forbidden("A chat token cannot create other tokens.")
        body = await self._bodies.read(request, CreateChatToken.parse)
        if body.model not in self._models:
            raise NotFound(
                f"The model {shortened(body.model)!r} does not exist.",
                param="model",
                code="model_not_found",
            )
        key, owner = new_key(), _owner(caller, body.user)
        await self._keys.create(
            KeyToStore(
                key.prefix,
                key.hash,
                name=f"chat token of {caller.key or caller.principal or 'anyone'}",
                principal=owner.principal,
                scopes=_CHAT_SCOPES,
                expires_in=body.expires_in,
                agent=body.model,
                runs=body.max_runs,
            )
        )
        return JSONAnswer(
            GivenChatToken(
                token=key.text,
                expires_at=int(time.time()) + body.expires_in,
                model=body.model,
                principal=owner.principal,
                max_runs=body.max_runs,
            ).model_dump()
        )


def _owner(caller: Caller, user: str) -> Caller:
    """Whoever owns what a chat token's user starts.

    Raises:
        BadRequest: there can be no such principal.
    """
    try:
        return Caller(f"{caller.principal}/{user}")
    except ValueError as error:
        raise BadRequest(f"user, below the caller's principal: {error}.", param="user") from None
