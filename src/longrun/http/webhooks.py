"""`/webhook_endpoints` and `/webhook_event_types`: where a principal's ends of background responses
are posted, as OpenAI's clients manage it."""

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal, Never, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from longrun import ids
from longrun.errors import BadRequest, Forbidden, NotFound, TooManyRequests
from longrun.http.access import caller_of, principal_of
from longrun.http.answers import JSONAnswer
from longrun.http.bodies import Bodies, Body
from longrun.http.pages import as_page
from longrun.http.problems import bad_request, shortened
from longrun.http.query import OF_DIGITS, Text
from longrun.operations import ListOf, PageOf, operation
from longrun.protocol import WebhookEvent
from longrun.settings.webhooks import EVENTS
from longrun.store.webhooks import Document, Endpoint, WebhookEndpoints
from longrun.webhooks.posts import new_secret
from longrun.webhooks.sending import Sent
from longrun.webhooks.targets import LONGEST_URL, Network, UnusableURL, read_url

OVERLAP: Final = 24 * 3600.0
"""Seconds for which a secret that was rotated signs besides, where that is asked for."""

TESTS_AT_ONCE: Final = 2
"""Tests of one principal that a replica has under way."""

HINT_CHARACTERS: Final = 4

Test = Callable[[Endpoint, str], Awaitable[Sent]]
"""Sends a sample event of a type to an endpoint (`Delivering.test`)."""

_EventTypes = Annotated[list[WebhookEvent], Field(min_length=1, max_length=len(EVENTS))]
_Name = Annotated[Text, Field(min_length=1, max_length=200)]
_URL = Annotated[Text, Field(min_length=1, max_length=LONGEST_URL)]


class CreateWebhookEndpoint(Body):
    """The body of `POST /webhook_endpoints`."""

    name: _Name
    url: _URL
    event_types: _EventTypes


class UpdateWebhookEndpoint(Body):
    """The body of `POST /webhook_endpoints/{id}`; what is left out stays as it is."""

    name: _Name | None = None
    url: _URL | None = None
    event_types: _EventTypes | None = None


class RotateWebhookSecret(Body):
    """The body of `POST /webhook_endpoints/{id}/rotate_secret`."""

    keep_old_secret_active_for_24_hours: bool = False


class TestWebhookEndpoint(Body):
    """The body of `POST /webhook_endpoints/{id}/test`."""

    __test__ = False

    event_type: WebhookEvent


class ListWebhookEndpoints(BaseModel):
    """The query of `GET /webhook_endpoints`."""

    model_config = ConfigDict(extra="ignore")

    after: Text | None = None
    limit: Annotated[int, Field(ge=1, le=100), OF_DIGITS] = 20

    @classmethod
    def parse(cls, request: Request) -> Self:
        """Check a query. An empty value counts as not given.

        Raises:
            BadRequest: names the parameter.
        """
        query = {key: value for key, value in request.query_params.items() if value != ""}
        try:
            return cls.model_validate(query)
        except ValidationError as error:
            raise bad_request(error, query) from None


class GivenWebhookEndpoint(BaseModel):
    """A webhook endpoint; times in seconds since 1970. `status` is an extension."""

    id: str
    object: Literal["webhook_endpoint"] = "webhook_endpoint"
    created_at: int
    updated_at: int
    name: str
    url: str
    event_types: list[WebhookEvent]
    signing_secret_hint: str
    status: Literal["enabled", "disabled"]


class GivenWebhookSecret(GivenWebhookEndpoint):
    """A webhook endpoint with the secret that it has from now on, which is never shown again."""

    signing_secret: str


class GivenWebhookTest(BaseModel):
    """What an endpoint answered to a sample event."""

    object: Literal["webhook_endpoint.test"] = "webhook_endpoint.test"
    webhook_endpoint_id: str
    event_type: WebhookEvent
    status_code: int
    success: Literal[True] = True


class GivenWebhookDeletion(BaseModel):
    """The answer of `DELETE /webhook_endpoints/{id}`."""

    id: str
    object: Literal["webhook_endpoint.deleted"] = "webhook_endpoint.deleted"
    deleted: bool = True


@dataclass(frozen=True, slots=True)
class WebhooksAPI:
    """The endpoints.

    Args:
        networks: that are not public, and to which webhooks may lead all the same.
        most: how many endpoints a principal may have.
        cell: the one in which they are made.
    """

    endpoints: WebhookEndpoints
    bodies: Bodies
    test_with: Test
    networks: tuple[Network, ...]
    most: int
    cell: str
    testing: Counter[str] = field(default_factory=Counter)

    def routes(self) -> list[BaseRoute]:
        """The routes, the same at the root and under `/v1`."""
        one = "/webhook_endpoints/{id}"
        endpoints = (
            ("GET", "/webhook_event_types", self.list_event_types),
            ("POST", "/webhook_endpoints", self.create),
            ("GET", "/webhook_endpoints", self.list_endpoints),
            ("GET", one, self.get),
            ("POST", one, self.update),
            ("DELETE", one, self.delete),
            ("POST", one + "/rotate_secret", self.rotate_secret),
            ("POST", one + "/test", self.test),
        )
        return [
            Route(prefix + path, endpoint, methods=[method])
            for prefix in ("", "/v1")
            for method, path, endpoint in endpoints
        ]

    @operation(ListOf[WebhookEvent])
    async def list_event_types(self, request: Request) -> Response:
        """`GET /webhook_event_types`: the events that an endpoint can be told of."""
        return JSONAnswer({"object": "list", "data": list(EVENTS)})

    @operation(GivenWebhookSecret, body=CreateWebhookEndpoint)
    async def create(self, request: Request) -> Response:
        """`POST /webhook_endpoints`: create an endpoint; its secret is shown here alone."""
        _check_caller(request)
        body = await self.bodies.read(request, CreateWebhookEndpoint.parse)
        self._check_url(body.url)
        made = await self.endpoints.create(
            ids.new_webhook_endpoint_id(self.cell),
            principal_of(request),
            _each_once(body.event_types),
            Document(body.name, body.url, new_secret()),
            self.most,
        )
        if made is None:
            raise BadRequest(
                f"There are {self.most} webhook endpoints already, which is the maximum.",
                code="too_many_webhook_endpoints",
            )
        return JSONAnswer(_with_secret(made))

    @operation(PageOf[GivenWebhookEndpoint], query=ListWebhookEndpoints)
    async def list_endpoints(self, request: Request) -> Response:
        """`GET /webhook_endpoints`: a page of the caller's endpoints, newest first."""
        query = ListWebhookEndpoints.parse(request)
        # One more than is shown tells whether there are more.
        found = await self.endpoints.page(principal_of(request), query.after, query.limit + 1)
        return JSONAnswer(
            as_page(
                [_shown(each) for each in found[: query.limit]], has_more=len(found) > query.limit
            )
        )

    @operation(GivenWebhookEndpoint)
    async def get(self, request: Request) -> Response:
        """`GET /webhook_endpoints/{id}`: an endpoint, without its secret."""
        found = await self.endpoints.get(_id_in(request), principal_of(request))
        return JSONAnswer(_shown(found or _missing(request)))

    @operation(GivenWebhookEndpoint, body=UpdateWebhookEndpoint)
    async def update(self, request: Request) -> Response:
        """`POST /webhook_endpoints/{id}`: change it; one that was disabled is enabled again."""
        _check_caller(request)
        body = await self.bodies.read(request, UpdateWebhookEndpoint.parse)
        if body.url is not None:
            self._check_url(body.url)
        found = await self.endpoints.update(
            _id_in(request),
            principal_of(request),
            event_types=None if body.event_types is None else _each_once(body.event_types),
            name=body.name,
            url=body.url,
        )
        return JSONAnswer(_shown(found or _missing(request)))

    @operation(GivenWebhookDeletion)
    async def delete(self, request: Request) -> Response:
        """`DELETE /webhook_endpoints/{id}`: delete it, with what was still to be delivered."""
        _check_caller(request)
        endpoint_id = _id_in(request)
        if not await self.endpoints.delete(endpoint_id, principal_of(request)):
            _missing(request)
        return JSONAnswer(GivenWebhookDeletion(id=endpoint_id).model_dump())

    @operation(GivenWebhookSecret, body=RotateWebhookSecret)
    async def rotate_secret(self, request: Request) -> Response:
        """`POST /webhook_endpoints/{id}/rotate_secret`: give it another secret. A body is optional;
        the old secret may go on signing for 24 hours."""
        _check_caller(request)
        body = RotateWebhookSecret()
        if _has_body(request):
            body = await self.bodies.read(request, RotateWebhookSecret.parse)
        found = await self.endpoints.rotate(
            _id_in(request),
            principal_of(request),
            new_secret(),
            OVERLAP if body.keep_old_secret_active_for_24_hours else 0.0,
        )
        return JSONAnswer(_with_secret(found or _missing(request)))

    @operation(GivenWebhookTest, body=TestWebhookEndpoint, errors=(429,))
    async def test(self, request: Request) -> Response:
        """`POST /webhook_endpoints/{id}/test`: post a sample event to it, once; `status_code` says
        what it answered."""
        _check_caller(request)
        body = await self.bodies.read(request, TestWebhookEndpoint.parse)
        principal = principal_of(request)
        found = await self.endpoints.get(_id_in(request), principal) or _missing(request)
        if self.testing[principal] >= TESTS_AT_ONCE:
            raise TooManyRequests(
                f"{TESTS_AT_ONCE} tests of webhook endpoints are under way; wait for one to end.",
                code="too_many_webhook_tests",
                retry_after=1,
            )
        self.testing[principal] += 1
        try:
            sent = await self.test_with(found, body.event_type)
        finally:
            self.testing[principal] -= 1
            if not self.testing[principal]:
                del self.testing[principal]
        if sent.status_code is None:
            raise BadRequest(
                f"The endpoint did not answer: {sent.problem}.", code="webhook_endpoint_unreachable"
            )
        return JSONAnswer(
            GivenWebhookTest(
                webhook_endpoint_id=found.id,
                event_type=body.event_type,
                status_code=sent.status_code,
            ).model_dump()
        )

    def _check_url(self, url: str) -> None:
        try:
            read_url(url, self.networks)
        except UnusableURL as error:
            raise BadRequest(
                f"url: webhooks cannot be posted there: {error}.", param="url", code="invalid_url"
            ) from None


def _shown(endpoint: Endpoint) -> dict[str, Any]:
    return _given(endpoint).model_dump()


def _with_secret(endpoint: Endpoint) -> dict[str, Any]:
    given = GivenWebhookSecret(
        **_given(endpoint).model_dump(), signing_secret=endpoint.document.secret
    )
    return given.model_dump()


def _given(endpoint: Endpoint) -> GivenWebhookEndpoint:
    return GivenWebhookEndpoint.model_validate(
        {
            "id": endpoint.id,
            "created_at": endpoint.created_at,
            "updated_at": endpoint.updated_at,
            "name": endpoint.document.name,
            "url": endpoint.document.url,
            # A later version may have others.
            "event_types": [each for each in endpoint.event_types if each in EVENTS],
            "signing_secret_hint": f"whsec_****{endpoint.document.secret[-HINT_CHARACTERS:]}",
            "status": "enabled" if endpoint.disabled_at is None else "disabled",
        }
    )


def _each_once(event_types: list[WebhookEvent]) -> list[str]:
    return [each for each in EVENTS if each in event_types]


def _has_body(request: Request) -> bool:
    """Whether a request says that it brings one: `curl -X POST` alone does not."""
    length = request.headers.get("content-length", "0")
    return length != "0" or not {"content-type", "transfer-encoding"}.isdisjoint(request.headers)


def _check_caller(request: Request) -> None:
    """A chat token is for a page, and runs one agent.

    Raises:
        Forbidden: the caller has one.
    """
    if caller_of(request).agent is not None:
        raise Forbidden("A chat token cannot change webhook endpoints.")


def _id_in(request: Request) -> str:
    endpoint_id: str = request.path_params["id"]
    return endpoint_id if ids.is_webhook_endpoint_id(endpoint_id) else _missing(request)


def _missing(request: Request) -> Never:
    """The same error whether it is unknown or another principal's."""
    endpoint_id = request.path_params["id"]
    raise NotFound(
        f"Webhook endpoint with id {shortened(endpoint_id)!r} not found.",
        param="id",
        lost=endpoint_id,
    )
