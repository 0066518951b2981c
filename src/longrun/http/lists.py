"""Lists, page by page: responses, of a principal or of all, and the input items of one response.

A page is what comes after an id, in the order of the ids, so that it stays the same while new
responses come in (keyset paging).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, NamedTuple, Self

from openai.types.responses import Response as ResponseObject
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from longrun import ids
from longrun.errors import BadRequest
from longrun.history.cleaning import kind_of
from longrun.history.continuation import Stored
from longrun.history.conversation import Before
from longrun.http.access import for_everybody, principal_of, reader_of
from longrun.http.answers import as_response
from longrun.http.long_answers import Room
from longrun.http.pages import MOST, answered, as_page, fitting
from longrun.http.problems import bad_request, response_not_found
from longrun.http.query import OF_DIGITS, Text
from longrun.jsontext import loads
from longrun.operations import PageOf, operation
from longrun.protocol import Status
from longrun.store.inputs import Input
from longrun.store.responses import Page, Responses
from longrun.store.steers import Steers

Item = dict[str, Any]

_WITH_STATUS: Final = frozenset({"message", "function_call", "function_call_output"})
"""Types of items that clients send without a status and get with one."""

_METADATA: Final = re.compile(r"metadata\[(.*)\]", re.DOTALL)


class ListedItem(BaseModel):
    """An item as lists show it: what a client sent of it, with an id."""

    model_config = ConfigDict(extra="allow")

    id: str
    type: str


class ListQuery(BaseModel):
    """The query of a list."""

    model_config = ConfigDict(extra="ignore")

    after: Text | None = None
    limit: Annotated[int, Field(ge=1, le=100), OF_DIGITS] = 20
    order: Literal["asc", "desc"] = "desc"

    @classmethod
    def parse(cls, request: Request) -> Self:
        """Check a query.

        Raises:
            BadRequest: names the parameter.
        """
        query = cls.given(request)
        try:
            return cls.model_validate(query)
        except ValidationError as error:
            raise bad_request(error, query) from None

    @classmethod
    def given(cls, request: Request) -> dict[str, Any]:
        """What a query says, by name. An empty value counts as not given."""
        return {key: value for key, value in request.query_params.items() if value != ""}


class ByMetadata(ListQuery):
    """The query of a list that has filters of metadata, each `metadata[key]=value`."""

    metadata: dict[str, str] = {}

    @classmethod
    def given(cls, request: Request) -> dict[str, Any]:
        """What a query says, by name; the value of a filter may be empty."""
        pairs = ((_METADATA.fullmatch(key), value) for key, value in request.query_params.items())
        metadata = {match[1]: value for match, value in pairs if match}
        return {**super().given(request), "metadata": metadata}


class ListResponses(ByMetadata):
    """The query of the list of responses, which has filters."""

    status: Status | None = None
    model: Text | None = None


class _Given(NamedTuple):
    """An item of an input by its place; None: it was not read yet. `name`: what it leads to has
    another id than that place gives. `bytes`: of the item, or of what it `leads` to: it is a
    reference, which is shown as that."""

    place: int
    name: str | None = None
    item: Item | None = None
    bytes: int = 0
    leads: bool = False


@dataclass(frozen=True, slots=True)
class Lists:
    """The endpoints that list."""

    responses: Responses
    steers: Steers
    room: Room

    def routes(self) -> list[BaseRoute]:
        """The routes, the same at the root and under `/v1`."""
        return [
            Route(prefix + path, endpoint, methods=["GET"])
            for prefix in ("", "/v1")
            for path, endpoint in (
                ("/responses", self.list_responses),
                ("/responses/{id}/input_items", self.list_input_items),
            )
        ]

    @operation(PageOf[ResponseObject], query=ListResponses)
    async def list_responses(self, request: Request) -> ASGIApp:
        """`GET /responses`: a page of the caller's responses."""
        query = ListResponses.parse(request)
        if query.after is not None and not ids.is_response_id(query.after):
            raise BadRequest("after must be the id of a response.", param="after")
        everybodys = for_everybody(request)
        wanted = Page(
            principal="" if everybodys else principal_of(request),
            # One more than is shown tells whether there are more.
            limit=query.limit + 1,
            newest_first=query.order == "desc",
            after=query.after,
            status=query.status,
            agent=query.model,
            metadata=query.metadata,
        )
        responses = self.responses
        found = await (responses.listed_unscoped if everybodys else responses.listed)(wanted)
        count = fitting([each.bytes for each in found], query.limit)
        listed = [each.id for each in found[:count]]

        async def read() -> dict[str, Any]:
            if everybodys:
                pairs = await responses.all_of_unscoped(listed)
                data = [{**as_response(stored), "principal": whose} for whose, stored in pairs]
            else:
                theirs = await responses.all_of(listed, wanted.principal)
                data = [as_response(stored) for stored in theirs]
            return as_page(data, has_more=len(found) > count)

        return await answered(self.room, sum(each.bytes for each in found[:count]), read)

    @operation(PageOf[ListedItem], query=ListQuery)
    async def list_input_items(self, request: Request) -> ASGIApp:
        """`GET /responses/{id}/input_items`: what its own request brought, with what it referred
        to in the place of references, and then what was put into its run."""
        query = ListQuery.parse(request)
        response_id = request.path_params["id"]
        given = None
        if ids.is_response_id(response_id):
            reader = await reader_of(request, response_id, self.responses.owner_unscoped)
            given = await self.responses.inputs.of(response_id, reader)
        if given is None:
            raise response_not_found(response_id)
        listed = await self._given(given, reader)
        if query.order == "desc":
            listed.reverse()
        found = _after(listed, query.after, response_id)
        page = await self._measured(given, found[: query.limit])

        async def read() -> dict[str, Any]:
            references = [each.item for each in page if each.leads and each.item is not None]
            histories = self.responses.histories
            named = await histories.named_items(Before.of([], []), references, reader)
            data = [_shown(each, named, response_id) for each in page]
            return as_page(data, has_more=len(found) > len(page))

        return await answered(self.room, sum(each.bytes for each in page), read)

    async def _given(self, given: Input, reader: str) -> list[_Given]:
        """What the input of a response shows, in its order. What a reference leads to has the id by
        which it is named, the first time; of what comes again, each has an id of its own."""
        references = given.references
        sizes = await self.responses.histories.measured([*references.values()], reader)
        listed: list[_Given] = []
        seen: set[str] = set()
        for place in range(given.count):
            item = references.get(place)
            name = None if item is None else item["id"]
            if name is None or name not in sizes:
                listed.append(_Given(place))
                continue
            named = None if name in seen else name
            listed.append(_Given(place, named, item, sizes[name], leads=True))
            seen.add(name)
        for steer in await self.steers.of(given.response_id, reader):
            listed.append(_Given(ids.steer_place(steer.number), item=loads(steer.item)))
        return listed

    async def _measured(self, given: Input, wanted: list[_Given]) -> list[_Given]:
        """What of these fits on a page, the first in any case. What the request brought itself is
        read for that, as far as it fits."""
        places = [each.place for each in wanted if each.item is None]
        read = await self.responses.inputs.read(given, places, MOST) if places else []
        items = dict(zip(places, read, strict=False))
        page: list[_Given] = []
        for each in wanted:
            if each.item is None:
                if each.place not in items:
                    break
                item, size = items[each.place]
                each = each._replace(item=item, bytes=size)
            page.append(each)
        return page[: fitting([each.bytes for each in page], len(page))]


def _after(items: list[_Given], after: str | None, response_id: str) -> list[_Given]:
    if after is None:
        return items
    at = ids.place_of_item(after)
    own = ids.input_place(at[1]) if at is not None and at[0] == response_id else None
    for number, item in enumerate(items):
        if item.name == after or (item.name is None and item.place == own):
            return items[number + 1 :]
    raise BadRequest("after must be the id of one of the listed items.", param="after")


def _shown(given: _Given, named: Mapping[str, Stored], response_id: str) -> Item:
    item = given.item
    assert item is not None
    leads_to = named.get(item["id"]) if given.leads else None
    own_id = ids.input_item_id(response_id, given.place, kind_of(item))
    if leads_to is not None:
        return as_item(leads_to.item, given.name or own_id)
    return {**as_item(item, own_id), "id": given.name or own_id}


def as_input_item(item: Item, response_id: str, place: int) -> Item:
    """An input item in the shape in which the API lists it, with an id that stays."""
    kind = item.get("type", "message")
    return as_item(item, ids.input_item_id(response_id, place, kind))


def as_item(item: Item, item_id: str) -> Item:
    """An item as clients send it, in the shape in which the API lists it."""
    kind = item.get("type", "message")
    shown = {**item, "type": kind, "id": item_id}
    if kind in _WITH_STATUS:
        shown["status"] = item.get("status") or "completed"
    if kind == "message" and isinstance(item.get("content"), str):
        shown["content"] = [_text_part(item)]
    return shown


def _text_part(item: Item) -> Item:
    if item.get("role") == "assistant":
        return {"type": "output_text", "text": item["content"], "annotations": [], "logprobs": []}
    return {"type": "input_text", "text": item["content"]}
